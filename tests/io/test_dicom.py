"""DICOM folders -> Study: which series, which geometry, which voxels; and what is refused, with its reason."""

import copy
import json
import os
import random
import shutil
import struct
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_samples import ct_series, header, pet_series, pet_volume, save, series, study
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from l2s.errors import InputError
from l2s.io import dicom_files
from l2s.io.dicom import inspect_dicom, pet_headers, pseudonym, read_dicom, read_pet, record
from l2s.io.dicom_files import find_dicom
from l2s.io.images import read_image
from l2s.io.suv import Overrides, suv_facts
from l2s.study import from_lps, to_lps

FACTOR = 80000 / (4e8 * 2 ** (-3600 / 6586.2))
PET, CT = "1.2.3.4.5.7", "1.2.3.4.5.8"


def refused(folder, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_dicom(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reason(folder, uid, **options) -> str:
    return inspect_dicom(folder, **options).choice.reasons[uid]


# --- voxels and geometry ---


def test_a_study(tmp_path):
    case = read_dicom(study(tmp_path))
    np.testing.assert_allclose(case.study.pet_suv, pet_volume() * FACTOR, rtol=1e-6)
    assert case.study.grid.spacing_mm_zyx == (3.0, 4.0, 5.0)
    assert case.study.grid.origin_mm_xyz == (-30.0, -20.0, 100.0)
    assert case.ct_hu.shape == (14, 24, 30)
    assert case.ct_hu.min() == -1000
    assert case.study.ct_hu.shape == case.study.pet_suv.shape
    assert (case.suv.factor, case.suv.weight_kg, case.suv.age_years) == (pytest.approx(FACTOR), 80, 74)
    assert case.study.name == pseudonym(PET)
    assert (case.pet.uid, case.ct.uid) == (PET, CT)
    heights = [float(header.ImagePositionPatient[2]) for header in case.pet_headers]
    assert heights == [100.0 + 3 * k for k in range(12)]


def test_every_slice_has_its_own_slope(tmp_path):
    slopes = [f"{0.5 + 0.1 * k:.1f}" for k in range(12)]
    save(tmp_path, pet_series(geometry={"slopes": slopes}, RescaleIntercept="-3"))
    found = read_pet(tmp_path)
    np.testing.assert_allclose(
        found.pet_suv, (pet_volume() * np.array(slopes, float)[:, None, None] - 3) * FACTOR, rtol=1e-6, atol=1e-6
    )


ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "feet first": (1, 0, 0, 0, -1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.98480775, 0.17364818, 0, -0.17364818, 0.98480775, 0),
}


def itk_reading(paths):
    """SimpleITK's own reading of a series: stored values, as its rescaling knows one slope for all slices."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent)))
    return reader.Execute()


@pytest.mark.parametrize("orientation", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_geometry_is_simpleitks(tmp_path, orientation):
    paths = save(tmp_path, random.Random(1).sample(pet_series(geometry={"orientation": orientation}), 12))
    found, itk = read_pet(tmp_path), itk_reading(paths)
    assert found.stored.size_xyz == itk.GetSize()
    np.testing.assert_allclose(found.stored.spacing_mm_xyz, itk.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(found.stored.origin_mm_xyz, itk.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(found.stored.direction9, itk.GetDirection(), atol=1e-6)
    own = from_lps(found.pet_suv, found.stored)
    np.testing.assert_allclose(own, sitk.GetArrayFromImage(itk) * FACTOR, rtol=1e-6)
    # every voxel's place in the patient by ITK holds the same value in LPS
    for index in ((0, 0, 0), (3, 2, 1), (13, 9, 11)):
        place = found.grid.mm_to_index_zyx(itk.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose(found.pet_suv[tuple(np.rint(place).astype(int))], itk[index] * FACTOR, rtol=1e-6)
    assert [Path(h.filename).name for h in found.headers] == [
        Path(p).name for p in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    ]


def test_orientation_phantom(data, tmp_path):
    # IBSI's: the value of voxel (i, j, k) is i + j + k, so any flip or swap shows
    truth, grid, _, _ = read_image(data / "ibsi2_orientation" / "image" / "orientation.nii.gz")
    volume = truth.astype(np.int16)
    geometry = {"spacing_mm": grid.spacing_mm_zyx, "origin_mm": grid.origin_mm_xyz}
    save(tmp_path, pet_series(volume=volume, geometry=geometry, Units="GML"))
    found = read_pet(tmp_path)
    np.testing.assert_array_equal(found.pet_suv, truth)
    assert found.grid.matches(grid)


def test_bed_joints_are_accepted_and_larger_ones_resampled(tmp_path):
    volume = np.repeat(np.arange(10, 130, 10, dtype=np.int16), 140).reshape(12, 10, 14)
    joints = 3.0 * np.arange(12) + np.where(np.arange(12) > 5, 0.1, 0.0)
    save(tmp_path / "small", pet_series(volume=volume, geometry={"offsets_mm": joints}, Units="GML"))
    found = read_pet(tmp_path / "small")
    assert found.grid.spacing_mm_zyx[0] == pytest.approx(33.1 / 11)
    np.testing.assert_array_equal(found.pet_suv, volume)
    assert not any("resampled" in line for line in found.warnings)

    joints = 3.0 * np.arange(12) + np.where(np.arange(12) > 5, 1.0, 0.0)
    save(tmp_path / "large", pet_series(volume=volume, geometry={"offsets_mm": joints}, Units="GML"))
    found = read_pet(tmp_path / "large")
    assert any("resampled" in line for line in found.warnings)
    # value 10 a slice: at a place z the truth is what a line through the neighbours gives
    wanted = np.interp(np.linspace(0, joints[-1], 12), joints, volume[:, 0, 0])
    np.testing.assert_allclose(found.pet_suv[:, 4, 4], wanted, rtol=1e-6)
    assert found.grid.spacing_mm_zyx[0] == pytest.approx(34 / 11)


def test_missing_and_doubled_slices_are_refused_with_their_places(tmp_path):
    slices = pet_series()
    save(tmp_path / "missing", slices[:5] + slices[6:])
    assert "slices are missing: between (-30, -20, 112) and (-30, -20, 118) mm" in refused(tmp_path / "missing")
    again = copy.deepcopy(slices[4])
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = "1.9.9"
    save(tmp_path / "doubled", [*slices, again])
    assert "share a place, first at (-30, -20, 112) mm" in refused(tmp_path / "doubled")


def test_mixed_orientations_sizes_and_tilt_are_refused(tmp_path):
    slices = pet_series()
    slices[3].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    save(tmp_path / "mixed", slices)
    line = refused(tmp_path / "mixed")
    assert "mixed orientations: at (" in line
    slices = pet_series()
    slices[3].PixelSpacing = [4.0, 5.1]
    save(tmp_path / "spacing", slices)
    assert "differ in spacing_mm" in refused(tmp_path / "spacing")
    slices = pet_series()
    for k, ds in enumerate(slices):
        ds.ImagePositionPatient = [-30.0, -20.0 + 0.5 * k, 100.0 + 3 * k]
    save(tmp_path / "tilt", slices)
    assert "tilted gantry" in refused(tmp_path / "tilt")
    save(tmp_path / "few", pet_series()[:5])
    assert "5 slices" in refused(tmp_path / "few")
    slices = pet_series()
    del slices[2].ImagePositionPatient
    save(tmp_path / "nowhere", slices)
    assert "ImagePositionPatient" in refused(tmp_path / "nowhere")


# --- files ---


def test_a_nested_mess(tmp_path):
    slices = [*pet_series(), *ct_series()]
    random.Random(3).shuffle(slices)
    for k, ds in enumerate(slices):
        save(tmp_path / "x" / str(k % 4) / "y", [ds], name=f"{k}.txt")
    (tmp_path / "x" / "readme.dcm").write_text("no DICOM")
    (tmp_path / "x" / "empty").touch()
    (tmp_path / "x" / "._000").write_bytes(os.urandom(500))
    os.mkfifo(tmp_path / "x" / "pipe")
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    case = read_dicom(tmp_path)
    np.testing.assert_allclose(case.study.pet_suv, pet_volume() * FACTOR, rtol=1e-6)
    assert inspect_dicom(tmp_path).others == 3
    assert not dicom_files.is_dicom(tmp_path / "x" / "readme.dcm")


def test_copies_are_dropped_and_lookalikes_refused(tmp_path):
    study(tmp_path)
    shutil.copytree(tmp_path / "a", tmp_path / "again")
    found = inspect_dicom(tmp_path)
    assert found.problem is None
    assert "12 files are copies" in " ".join(found.warnings)
    other = pydicom.dcmread(tmp_path / "again" / "003")
    other.RescaleSlope = "2"
    other.save_as(tmp_path / "again" / "003")
    assert "same SOPInstanceUID but differ" in refused(tmp_path)
    assert any("again/003" in line or "a/003" in line for line in inspect_dicom(tmp_path).table.passed_over)


def test_damaged_files_are_passed_over_or_named(tmp_path):
    study(tmp_path)
    whole = (tmp_path / "b" / "003").read_bytes()
    (tmp_path / "b" / "damaged").write_bytes(whole[:140] + b"\xff" * 300)
    found = inspect_dicom(tmp_path)
    assert found.problem is None
    assert "1 DICOM files cannot be read" in found.warnings[0]
    (tmp_path / "a" / "003").write_bytes((tmp_path / "a" / "003").read_bytes()[:-40])
    assert "a/003: its voxels cannot be read" in refused(tmp_path)


def test_nothing_breaks_with_a_traceback(tmp_path):
    draw = random.Random(5)
    study(tmp_path / "whole")
    for k in range(40):
        folder = tmp_path / str(k)
        shutil.copytree(tmp_path / "whole", folder)
        for path in draw.sample(sorted((folder / "a").iterdir()), 6):
            content = bytearray(path.read_bytes())
            for _ in range(draw.randint(1, 8)):
                content[draw.randrange(132, len(content))] = draw.randrange(256)
            path.write_bytes(content)
        try:
            read_dicom(folder)
        except InputError as error:
            assert "\n" not in str(error)
        shutil.rmtree(folder)


def test_zips(tmp_path, monkeypatch):
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    folder = study(tmp_path / "s")
    archive = shutil.make_archive(str(tmp_path / "case"), "zip", folder)
    case = read_dicom(archive)
    np.testing.assert_allclose(case.study.pet_suv, pet_volume() * FACTOR, rtol=1e-6)
    assert [header.SeriesInstanceUID for header in case.pet_headers] == [PET] * 12  # without their files
    assert not list((tmp_path / "t").iterdir())


def test_zips_that_reach_out_or_blow_up_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("../evil", "/etc/evil", "a/../../evil", "..\\evil", "C:\\evil"):
        path = tmp_path / "out.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), b"x")
        assert "outside its folder" in refused(path)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(5):
            archive.writestr(str(k), bytes(2**24))
    assert "zip bomb" in refused(path)
    # a directory that promises less than comes: python's zipfile stops at what was promised and finds the checksum wrong
    lie = bytearray(path.read_bytes())
    at = lie.rfind(b"PK\x01\x02")
    lie[at + 24 : at + 28] = struct.pack("<I", 1000)
    at = lie.rfind(b"PK\x03\x04")
    path.write_bytes(lie)
    monkeypatch.setattr(dicom_files, "MAX_RATIO", 10**9)
    refused(path)
    monkeypatch.setattr(dicom_files, "MAX_UNPACKED_BYTES", 1000)
    assert "zip bomb" in refused(path)
    (tmp_path / "broken.zip").write_bytes(path.read_bytes()[:-30] + bytes(8))
    refused(tmp_path / "broken.zip")
    assert list((tmp_path / "t").iterdir()) == []  # nothing is left behind


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "LZMA"])
def test_a_damaged_zip_is_told_from_a_full_disk(tmp_path, monkeypatch, method):
    path = tmp_path / "case.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a", random.Random(0).randbytes(2000))
    data = bytearray(path.read_bytes())
    data[60:160] = bytes(100)
    path.write_bytes(data)
    assert "is damaged" in refused(path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dicom_files, "_unpack_member", full)
    with pytest.raises(InputError, match="set TMPDIR to a roomier disk") as caught:
        find_dicom(path)
    assert caught.value.__cause__.errno == 28


def test_inputs_without_dicom(tmp_path):
    assert "no such file" in refused(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("x")
    assert "none of 1 files is DICOM" in refused(tmp_path)
    assert "neither a folder, a zip nor a DICOM file" in refused(tmp_path / "notes.txt")
    (tmp_path / "s.zip").write_bytes(b"PK")
    assert "1 zips: name one" in refused(tmp_path)


def test_a_dicomdir_stands_for_its_folder(tmp_path):
    from pydicom.fileset import FileSet

    files = FileSet()
    for ds in [*pet_series(), *ct_series()]:
        ds.StudyTime, ds.StudyID = "100000", "1"
        files.add(ds)
    files.write(tmp_path / "media")
    assert (tmp_path / "media" / "DICOMDIR").is_file()
    for place in (tmp_path / "media", tmp_path / "media" / "DICOMDIR"):
        np.testing.assert_allclose(read_dicom(place).study.pet_suv, pet_volume() * FACTOR, rtol=1e-6)


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=["implicit", "big endian", "deflated"],
)
def test_plain_transfer_syntaxes(tmp_path, syntax):
    private = [("SIEMENS MED PT", 0x22, "DT", "20240531095000")]
    for k, ds in enumerate(pet_series(private=private)):
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
        ds.save_as(tmp_path / str(k), enforce_file_format=True)
    found = read_pet(tmp_path)
    np.testing.assert_allclose(found.pet_suv, pet_volume() * found.suv.factor, rtol=1e-6)
    assert found.suv.uptake_s == 3000  # the private time is found in both


def test_files_without_preamble(tmp_path):
    for k, ds in enumerate(pet_series()):
        del ds.file_meta
        pydicom.dcmwrite(tmp_path / str(k), ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert (tmp_path / "0").read_bytes()[128:132] != b"DICM"
    assert len(find_dicom(tmp_path).files) == 12
    np.testing.assert_allclose(read_pet(tmp_path).pet_suv, pet_volume() * FACTOR, rtol=1e-6)


@pytest.mark.parametrize("name", ["RLE", "JPEG lossless", "JPEG-LS", "JPEG 2000 lossless"])
def test_compressed_transfer_syntaxes(tmp_path, name):
    import gdcm

    kinds = {
        "RLE": gdcm.TransferSyntax.RLELossless,
        "JPEG lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
        "JPEG 2000 lossless": gdcm.TransferSyntax.JPEG2000Lossless,
    }
    volume = pet_volume()
    volume[0, 0, 0] = -7  # signed all the way
    for path in save(tmp_path, pet_series(volume=volume)):
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(kinds[name]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    assert pydicom.dcmread(tmp_path / "000").file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_allclose(read_pet(tmp_path).pet_suv, volume * FACTOR, rtol=1e-6)


def failing(monkeypatch, names, error, after=0):
    """Opening a file of one of these names raises error, after it went well some times."""
    real, seen = Path.open, Counter()

    def opened(self, *arguments, **options):
        seen[self.name] += self.name in names
        if seen[self.name] > after:
            raise error
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("after", [0, 1], ids=["rights", "a bad disk"])
def test_files_that_cannot_be_read_are_no_other_files(tmp_path, monkeypatch, after):
    study(tmp_path)
    error = OSError(5, "Input/output error") if after else PermissionError(13, "Permission denied")
    failing(monkeypatch, ("009", "010", "011"), error, after)
    assert f"009 cannot be read ({error.strerror})" in refused(tmp_path)
    with pytest.raises(InputError, match="009 cannot be read"):
        inspect_dicom(tmp_path)


def test_folders_that_cannot_be_read_are_told(tmp_path, monkeypatch):
    study(tmp_path)
    real = os.scandir

    def scan(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert "/b cannot be read (Permission denied)" in refused(tmp_path)


def test_links_are_counted(tmp_path):
    study(tmp_path / "real")
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "a").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "link" / "nowhere").symlink_to(tmp_path / "gone")
    assert "none of 0 files is DICOM (2 links to folders or to nowhere were not followed)" in refused(tmp_path / "link")
    (tmp_path / "real" / "more").symlink_to(tmp_path / "link")
    assert "1 links to folders or to nowhere were not followed" in read_dicom(tmp_path / "real").warnings
    assert "1 links to folders or to nowhere were not followed" in read_pet(tmp_path / "real").warnings


def test_a_deflated_bomb_is_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr("l2s.io.dicom_series.SMALL_BYTES", 2**20)
    slices = pet_series()
    slices[4].private_block(0x0011, "RAW", create=True).add_new(0, "OB", bytes(2**23))
    for k, ds in enumerate(slices):
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        ds.save_as(tmp_path / str(k), enforce_file_format=True)
    assert (tmp_path / "4").stat().st_size < 2**23 / 200
    real = pydicom.dcmread

    def read(path, *arguments, **options):
        assert Path(path).name != "4"
        return real(path, *arguments, **options)

    monkeypatch.setattr(pydicom, "dcmread", read)
    assert any("looks like a bomb" in line for line in inspect_dicom(tmp_path).table.passed_over)


def test_headers_are_kept_without_their_ballast(tmp_path):
    big = bytes(2**17)
    slices = pet_series(private=[("GEMS_PETD_01", 0x0D, "DT", "20240531095000.00"), ("GEMS_PETD_01", 0x77, "OB", big)])
    for ds in slices:
        ds.private_block(0x0013, "RAW", create=True).add_new(0, "OB", b"small")
        ds.add_new(0x00282000, "OB", big)  # ICCProfile
        item = pydicom.Dataset()
        item.add_new(0x00282000, "OB", big)
        ds.ReferencedImageSequence = [item]
        ds["ReferencedImageSequence"].is_undefined_length = True
    save(tmp_path, slices)
    headers = pet_headers(inspect_dicom(tmp_path).choice.pet_stack)
    assert suv_facts(headers).uptake_s == 3000
    for header_ in headers:
        assert sum(len(e.value) for e in header_.iterall() if isinstance(e.value, bytes)) < 2**10
        assert not [e for e in header_.iterall() if e.tag.group == 0x0013]
        assert len(header_.ReferencedImageSequence) == 1
    assert read_pet(tmp_path).pet_suv.max() > 1


# --- the choice ---


def add(folder, datasets, uid, **changes):
    """Another series beside the study."""
    for ds in datasets:
        ds.SeriesInstanceUID = uid
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{ds.InstanceNumber}"
        for keyword, value in changes.items():
            setattr(ds, keyword, value)
    save(folder / uid, datasets)


def test_series_that_are_no_pet_are_passed_over(tmp_path):
    study(tmp_path)
    add(tmp_path, pet_series(CorrectedImage=["NORM", "DECY"]), "1.1")
    add(tmp_path, pet_series(SeriesDescription="WB_NAC"), "1.2")
    add(tmp_path, pet_series(ImageType=["DERIVED", "SECONDARY", "MIP"]), "1.3")
    add(tmp_path, pet_series(SeriesType=["WHOLE BODY", "REPROJECTION"]), "1.4")
    add(tmp_path, pet_series(ImageType=["DERIVED", "PRIMARY"]), "1.5")
    add(tmp_path, pet_series(Units="PROPCNTS"), "1.6")
    add(tmp_path, pet_series(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "1.7")
    add(tmp_path, pet_series(SOPClassUID="1.2.840.10008.5.1.4.1.1.130"), "1.8")
    add(tmp_path, pet_series(), "1.9", Modality="SR")
    reasons = inspect_dicom(tmp_path).choice.reasons
    for uid, word in {
        "1.1": "NAC", "1.2": "NAC", "1.3": "MIP", "1.4": "MIP", "1.5": "derived", "1.6": "PROPCNTS", "1.7": "Secondary Capture",
        "1.8": "Enhanced PET", "1.9": "neither PET nor CT",
    }.items():  # fmt: skip
        assert word in reasons[uid], (uid, reasons[uid])
    assert read_dicom(tmp_path).pet.uid == PET


def test_alone_they_are_refused_with_their_reason(tmp_path):
    add(tmp_path / "nac", pet_series(CorrectedImage=["DECY"]), "1.1")
    assert "NAC" in refused(tmp_path / "nac")
    add(tmp_path / "enhanced", pet_series(SOPClassUID="1.2.840.10008.5.1.4.1.1.130"), "1.1")
    assert "Enhanced PET (multi-frame) is not read" in refused(tmp_path / "enhanced")
    save(tmp_path / "ct", ct_series())
    assert "no PET series among 1 (CT)" in refused(tmp_path / "ct")


def test_series_that_are_no_ct_are_passed_over(tmp_path):
    study(tmp_path)
    add(tmp_path, ct_series(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "1.1")
    add(tmp_path, ct_series(ImageType=["DERIVED", "SECONDARY", "MPR"]), "1.2")
    add(tmp_path, ct_series(FrameOfReferenceUID="1.9"), "1.3")
    add(tmp_path, ct_series(StudyInstanceUID="1.9"), "1.4")
    add(tmp_path, ct_series(geometry={"origin_mm": (-31.0, -22.0, 900.0)}), "1.5")
    add(tmp_path, ct_series(SeriesDescription="AC CT Topogram 0.6"), "1.6")
    add(tmp_path, ct_series(SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1"), "1.7")
    reasons = inspect_dicom(tmp_path).choice.reasons
    for uid, word in {
        "1.1": "scout", "1.2": "derived", "1.3": "frame of reference", "1.4": "study", "1.5": "overlap", "1.6": "scout",
        "1.7": "Enhanced CT",
    }.items():  # fmt: skip
        assert word in reasons[uid], (uid, reasons[uid])
    assert read_dicom(tmp_path).ct.uid == CT


def test_the_ct_that_covers_most_is_taken(tmp_path):
    study(tmp_path)
    half = np.full((10, 24, 30), 24, np.int16)
    add(tmp_path, ct_series(volume=half, geometry={"origin_mm": (-31.0, -22.0, 112.0)}), "1.1", SeriesNumber="1")
    assert read_dicom(tmp_path).ct.uid == CT
    assert "covers" in reason(tmp_path, "1.1")
    # of two that cover the same the one on the PET's slices
    thin = np.full((40, 24, 30), 24, np.int16)
    add(tmp_path, ct_series(volume=thin, geometry={"spacing_mm": (1.0, 2.0, 2.5)}), "1.2", SeriesNumber="1")
    case = read_dicom(tmp_path)
    assert case.ct.uid == CT
    assert any("--ct-series" in line for line in case.warnings)
    assert read_dicom(tmp_path, ct_series="1.2").ct.uid == "1.2"


def test_the_pet_that_covers_most_is_taken(tmp_path):
    study(tmp_path)
    add(tmp_path, pet_series(volume=pet_volume((9, 10, 14))), "1.1", SeriesNumber="1")
    case = read_dicom(tmp_path)
    assert case.pet.uid == PET
    assert "covers less" in case.reasons["1.1"]
    add(tmp_path, pet_series(), "1.2", SeriesNumber="9")
    case = read_dicom(tmp_path)
    assert case.pet.uid == PET
    assert any("--pet-series" in line for line in case.warnings)
    assert read_dicom(tmp_path, pet_series="1.2").pet.uid == "1.2"
    assert "no such series" in refused(tmp_path, pet_series="1.77")


def test_several_studies_need_a_name(tmp_path):
    study(tmp_path)
    add(tmp_path, pet_series(StudyInstanceUID="1.9"), "1.1")
    assert "PET series of 2 studies" in refused(tmp_path)
    assert read_dicom(tmp_path, pet_series=PET).pet.uid == PET


def test_named_series_may_be_doubtful_but_not_wrong(tmp_path):
    study(tmp_path)
    add(tmp_path, pet_series(ImageType=["DERIVED", "SECONDARY"]), "1.1")
    add(tmp_path, pet_series(CorrectedImage=["DECY"]), "1.2")
    add(tmp_path, ct_series(FrameOfReferenceUID="1.9"), "1.3")
    case = read_dicom(tmp_path, pet_series="1.1", ct_series="1.3")
    assert (case.pet.uid, case.ct.uid) == ("1.1", "1.3")
    assert sum("named by the user although" in line for line in case.warnings) == 2
    assert "NAC" in refused(tmp_path, pet_series="1.2")
    assert "is not PET Image Storage" in refused(tmp_path, pet_series=CT)


def test_a_missing_ct_is_told_and_may_come_from_a_file(tmp_path):
    save(tmp_path / "p", pet_series())
    assert "there is no CT for the PET" in refused(tmp_path / "p")
    image = sitk.GetImageFromArray(np.full((14, 24, 30), -900, np.int16))
    image.SetSpacing((2.5, 2.0, 3.0))
    image.SetOrigin((-31.0, -22.0, 97.0))
    sitk.WriteImage(image, str(tmp_path / "ct.mha"))
    case = read_dicom(tmp_path / "p", ct=tmp_path / "ct.mha")
    assert case.ct is None
    assert case.study.ct_hu.max() == -900
    image[:, :3] = -3024
    sitk.WriteImage(image, str(tmp_path / "ct.mha"))
    case = read_dicom(tmp_path / "p", ct=tmp_path / "ct.mha")
    assert (case.ct_hu.min(), case.study.ct_hu.min()) == (-1024, -1024)


def test_slices_missing_at_an_end_are_known_by_their_number(tmp_path):
    save(tmp_path / "p", pet_series(NumberOfSlices=12)[:9])
    save(tmp_path / "c", ct_series())
    assert "NumberOfSlices is 12, but 9 slices are here" in refused(tmp_path)
    case = read_dicom(tmp_path, pet_series=PET)
    assert any("NumberOfSlices is 12" in line for line in case.warnings)
    for number in (12, 9):  # of a dynamic series it counts the slices of one frame
        save(tmp_path / f"whole{number}", pet_series(NumberOfSlices=number))
        assert read_pet(tmp_path / f"whole{number}").warnings == ()


def test_two_patients_are_not_mixed(tmp_path):
    slices = pet_series()
    slices[3].PatientID = "SECRET-2"
    save(tmp_path / "mixed", slices)
    line = refused(tmp_path / "mixed")
    assert "disagree on PatientID (2 values)" in line
    save(tmp_path / "two" / "p", pet_series())
    save(tmp_path / "two" / "c", ct_series(PatientID="SECRET-2"))
    for options in ({}, {"ct_series": CT}):
        both = refused(tmp_path / "two", **options)
        assert "of another patient (PatientID) than the PET" in both
        assert "SECRET" not in line + both
    save(tmp_path / "two" / "c", ct_series(PatientID=None))  # a header that lost its ID is no other patient
    assert read_dicom(tmp_path / "two").ct.uid == CT


def test_a_ct_that_is_not_in_hu_is_named_only(tmp_path):
    save(tmp_path / "p", pet_series())
    save(tmp_path / "c", ct_series(RescaleType="US"))
    line = refused(tmp_path)
    assert "none of 1 CT series goes with the PET (series 2: RescaleType is US, not HU" in line
    assert "l2s segment --ct FILE" in line
    assert "l2s convert --pet-only" in line
    assert any("RescaleType is US" in line for line in read_dicom(tmp_path, ct_series=CT).warnings)
    save(tmp_path / "c", ct_series(RescaleType=None))
    assert read_dicom(tmp_path).ct.uid == CT


@pytest.mark.parametrize(("kind", "value"), [("US", 65535), ("UL", 0xFFFFFFFF), ("DS", "1e300")])
def test_absurd_sizes_are_refused(tmp_path, kind, value):
    slices = pet_series()
    for ds in slices:
        for tag in (0x00280010, 0x00280011):
            ds.add_new(tag, kind, value)
    save(tmp_path, slices)
    assert "no image of a body" in refused(tmp_path)
    assert "no image of a body" in inspect_dicom(tmp_path).problem


# --- values ---


def test_what_no_pet_can_hold_is_refused(tmp_path):
    for k, ds in enumerate(slices := pet_series()):
        values = pet_volume()[k].astype("<f4")
        values[0, 0] = np.nan if k == 3 else 1
        ds.FloatPixelData, ds.BitsAllocated = values.tobytes(), 32
        del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    save(tmp_path / "nan", slices)
    with pytest.raises(InputError, match="the PET holds NaN"):
        read_pet(tmp_path / "nan")
    for spacing in (1000.0, 1e-30):
        save(tmp_path / str(spacing), pet_series(geometry={"spacing_mm": (3.0, spacing, spacing)}))
        assert "spacing of" in refused(tmp_path / str(spacing))
    save(tmp_path / "low", pet_series(Units="GML", RescaleIntercept="-500", RescaleSlope="0.05"))
    with pytest.raises(InputError, match="Hounsfield"):
        read_pet(tmp_path / "low")


def test_ct_outside_its_field_of_view_is_air(tmp_path):
    volume = np.full((14, 24, 30), 24, np.int16)
    volume[:, :3] = -2000  # -3024 HU with the intercept: what GE writes outside its round field
    save(tmp_path / "a", pet_series())
    save(tmp_path / "b", ct_series(volume=volume))
    case = read_dicom(tmp_path)
    assert case.ct_hu.min() == -1024
    assert case.study.ct_hu.min() >= -1024


def test_values_that_cannot_be_suv_are_refused(tmp_path):
    save(tmp_path / "hot", pet_series(drug={"RadionuclideTotalDose": "400000"}))
    with pytest.raises(InputError, match=r"largest SUV would be .* --dose-bq"):
        read_pet(tmp_path / "hot")
    save(tmp_path / "cold", pet_series(volume=np.zeros((12, 10, 14), np.int16)))
    with pytest.raises(InputError, match="largest SUV would be 0"):
        read_pet(tmp_path / "cold")
    assert read_pet(tmp_path / "hot", overrides=Overrides(dose_bq=4e8)).suv.overrides == ("dose_bq",)
    for keyword, value in (("RescaleSlope", None), ("RescaleSlope", "0"), ("PhotometricInterpretation", "RGB")):
        folder = tmp_path / f"{keyword}{value}"
        save(folder, pet_series(**{keyword: value}))
        with pytest.raises(InputError, match=r"RescaleSlope|RGB"):
            read_pet(folder)


def test_records_hold_no_free_text(tmp_path):
    smith = "SMITH 19600101"
    with pydicom.config.disable_value_validation():
        drug = {"Radiopharmaceutical": smith, "RadiopharmaceuticalStartDateTime": smith}
        # "ORIGINAL" first, or the series would be named derived
        save(
            tmp_path / "a",
            pet_series(drug, Units="GML", RescaleSlope="0.01", Manufacturer=smith, ImageType=["ORIGINAL", "PRIMARY", smith]),
        )
        save(tmp_path / "b", ct_series())
        add(tmp_path, pet_series(Units=smith), "1.1")
        add(tmp_path, pet_series(), "1.2", Modality=smith)
        add(tmp_path, pet_series(ImageType=["DERIVED", smith]), "1.3")
        add(tmp_path, pet_series(DecayCorrection=smith), "1.4")
        add(tmp_path, ct_series(RescaleType=smith), "1.5")
        add(tmp_path, ct_series(SOPClassUID="1.2.19600101"), "1.6")
        mixed = pet_series()
        mixed[2].FrameOfReferenceUID = "1.2.19600101"
        add(tmp_path, mixed, "1.7")
        crooked = pet_series()
        crooked[2].add_new(0x00200032, "CS", ["1", smith, "2"])
        add(tmp_path, crooked, "1.8")
    case = read_dicom(tmp_path)
    facts = record(case)
    shown = json.dumps(facts) + " ".join(case.warnings)
    assert "SMITH" not in shown.upper()
    assert "1960" not in shown
    assert "1.2.3.4.5" not in shown
    assert facts["pet"]["image_type"] == "ORIGINAL/PRIMARY/OTHER"
    assert (facts["suv"]["manufacturer"], facts["suv"]["tracer"]) == ("other", "other")
    assert len(facts["not_taken"]) == 8
    assert "disagree on FrameOfReferenceUID (2 values)" in case.reasons["1.7"]


def test_records_hold_nothing_that_leads_to_a_patient(tmp_path):
    study(tmp_path / "Doe_John")
    (tmp_path / "Doe_John" / "b" / "bad").write_bytes(bytes(128) + b"DICM" + b"\xff" * 200)
    case = read_dicom(tmp_path / "Doe_John")
    shown = str(record(case)) + " ".join(case.warnings) + case.study.name
    for secret in ("SECRET", "Doe", PET, CT, "1.2.3.4.5", "2024", "19500102"):
        assert secret not in shown
    assert record(case)["suv"]["injection_time"] == "09:00:00"


# --- real studies ---


def test_acrin042(data):
    case = read_dicom(data / "acrin042")
    assert case.suv.factor == pytest.approx(0.00042111007, abs=5e-12)
    assert case.study.pet_suv.max() == pytest.approx(51.093, abs=5e-4)
    assert {case.pet.description, case.ct.description} == {"PET AC", "CT IMAGES"}
    assert any("NAC" in r for r in case.reasons.values())
    assert any("scout" in r for r in case.reasons.values())
    # the same patient, converted by others
    pet, grid, _, _ = read_image(data / "acrin042_case" / "images" / "pet" / "acrin042.mha")
    assert grid.matches(case.study.grid)
    assert np.abs(pet - case.study.pet_suv).max() < 1e-4
    ct, _, _, _ = read_image(data / "acrin042_case" / "images" / "ct" / "acrin042.mha")
    # they let the mark outside the CT's field of view bleed into its rim: 0.4 % of the voxels
    assert (np.abs(ct - case.study.ct_hu) > 0.51).mean() < 0.005


def test_acrin042s_nac_series_alone_is_refused(data):
    assert "NAC" in refused(data / "acrin042" / "PT_NAC")


def test_acrin042s_ct_is_simpleitks(data):
    paths = sorted((data / "acrin042" / "CT").iterdir())
    itk = itk_reading(paths)
    case = read_dicom(data / "acrin042")
    assert case.ct_stored.size_xyz == itk.GetSize()
    np.testing.assert_allclose(case.ct_stored.spacing_mm_xyz, itk.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(case.ct_stored.origin_mm_xyz, itk.GetOrigin(), atol=1e-5)
    wanted, _ = to_lps(sitk.GetArrayFromImage(itk), case.ct_stored)
    np.testing.assert_array_equal(case.ct_hu, np.maximum(wanted, -1024))


def test_sts001_whole_body(data):
    found = read_pet(data / "sts001_wholebody")
    assert found.suv.factor == pytest.approx(0.000242902977, abs=5e-13)
    assert found.pet_suv.max() == pytest.approx(66.5215, abs=5e-5)
    assert found.stored.spacing_mm_zyx[0] == pytest.approx(3.27, abs=1e-5)  # bed joints of 3.19 and 3.29 mm
    crop, grid, _, _ = read_image(data / "sts" / "STS_001" / "PET.nii.gz")
    start = np.rint(found.grid.mm_to_index_zyx(grid.index_to_mm_xyz((0, 0, 0)))).astype(int)
    same = found.pet_suv[tuple(slice(a, a + n) for a, n in zip(start, grid.shape_zyx))]
    assert len(same) == 59
    assert np.abs(same - crop).max() == pytest.approx(0.0008, abs=5e-5)
    assert same.max() == pytest.approx(25.4123, abs=5e-5)


def test_header_helper_is_not_the_reader():
    # the samples name a patient, or the privacy test would prove nothing
    assert header({"PatientName": "SECRET^NAME"}).PatientName == "SECRET^NAME"
    assert series(header({"SeriesInstanceUID": "1", "SOPClassUID": "1.2"}), pet_volume())[0].Rows == 10
