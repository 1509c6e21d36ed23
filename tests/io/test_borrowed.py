"""What a scanner or a de-identification leaves in headers, and what DICOM results make of it."""

import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path

import generated_pet
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from test_dicom_results import PRODUCER, complaints

from l2s.errors import InputError
from l2s.io import dicom_out, dicom_series, slices
from l2s.io.sr_out import volumes_of

NAMES = ("seg", "sr", "rtstruct")


def read_headers(files) -> list[Dataset]:
    return [dicom_series.read_slice_header(path) for path in files]


def written(folder: Path, syntax=ImplicitVRLittleEndian, preamble=True, **raw: bytes) -> list[Path]:
    """Files of a series in which elements hold these very bytes: an implicit syntax has no types, so nothing checks them."""
    folder.mkdir(parents=True)
    paths = []
    for k, header in enumerate(generated_pet.series(generated_pet.grid())):
        for keyword, value in raw.items():
            charset = keyword == "SpecificCharacterSet"  # pydicom looks at it while it writes
            header.add_new(keyword, "CS" if charset else "OB", value.decode() if charset else value)
        header.file_meta = FileMetaDataset()
        header.file_meta.TransferSyntaxUID = syntax
        paths.append(folder / f"{k}.dcm")
        if preamble:
            header.save_as(paths[-1], enforce_file_format=True)
        else:
            del header.file_meta
            header.save_as(paths[-1], implicit_vr=True, little_endian=True)
    return paths


def results(folder: Path, headers) -> tuple[dicom_out.Findings, dict[str, Dataset]]:
    grid = generated_pet.grid()
    findings = dicom_out.prepare(generated_pet.lesions(grid), grid, headers, PRODUCER)
    dicom_out.write_results(folder, findings, volumes_of(findings), NAMES)
    return findings, {name: pydicom.dcmread(folder / f"{name}.dcm") for name in NAMES}


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientBirthDate", b"00000000", ""),
        ("PatientBirthDate", b"19500000", ""),
        ("PatientBirthDate", b"1950-1-2", ""),
        ("PatientBirthDate", b"1950.01.02", "19500102"),
        ("StudyDate", b"00000000", ""),
        ("StudyTime", b"250000", ""),
        ("StudyTime", b"ab", ""),
        ("StudyTime", b"10:11:12", "101112.000000"),
        ("StudyTime", b"101112.25 ", "101112.25"),
        ("PatientName", b"Secret\\Name ", ""),
        ("ReferringPhysicianName", b"Secret\\Name ", ""),
        ("PatientWeight", b"heavy ", None),
        ("PatientWeight", b"70\\80 ", None),
        ("PatientAge", b"old ", None),
        ("PatientBirthTime", b"noon", None),
        ("TimezoneOffsetFromUTC", b"+2500 ", None),
        ("TimezoneOffsetFromUTC", b"CEST", None),
        ("SpecificCharacterSet", b"ISO_IR 999", None),
        ("SliceThickness", b"x ", 3),
        ("SliceThickness", b"", 3),
        ("SpacingBetweenSlices", b"x ", 3),
        ("SpacingBetweenSlices", b"7 ", 3),
    ],
)
def test_a_malformed_value_is_mended(tmp_path, capfd, caplog, keyword, value, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = written(tmp_path / "pet", **{keyword: value})
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        headers = read_headers(files)
        findings, made = results(tmp_path, headers)
    assert caught == []
    assert capfd.readouterr().err == ""
    assert not any(word in caplog.text for word in ("Secret", "1950", "999", "heavy"))
    if keyword.startswith("S") and keyword.endswith(("Thickness", "Slices")):
        measures = made["seg"].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert measures[keyword].value == expected
    else:
        for dataset in made.values():
            assert dataset.get(keyword) == expected
        assert (keyword in caplog.text) == (keyword in " ".join(findings.warnings)) == (not expected)
    for name in NAMES:
        assert complaints(tmp_path / f"{name}.dcm") == []


def test_a_name_of_two_lines_is_quoted_nowhere(tmp_path, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, made = results(tmp_path, read_headers(written(tmp_path / "pet", PatientName=b"Secret\nName ")))
    assert caught == []
    assert capfd.readouterr().err == ""


def test_bytes_that_the_character_set_does_not_know_are_said(tmp_path):
    name = "Müller^Jörg".encode("latin-1") + b" "
    findings, made = results(
        tmp_path, read_headers(written(tmp_path / "pet", SpecificCharacterSet=b"ISO_IR 192", PatientName=name))
    )
    assert ["PatientName holds bytes" in line for line in findings.warnings] == [True]
    good = "Müller^Jörg".encode() + b" "
    findings, made = results(
        tmp_path, read_headers(written(tmp_path / "good", SpecificCharacterSet=b"ISO_IR 192", PatientName=good))
    )
    assert findings.warnings == []
    assert {str(dataset.PatientName) for dataset in made.values()} == {"Müller^Jörg"}


def test_what_no_mending_helps_is_one_line(monkeypatch):
    grid = generated_pet.grid()
    found = slices.match(generated_pet.series(grid), grid)

    def broken(*_):
        raise TypeError("Secret^Name")

    from l2s.io import seg_out

    monkeypatch.setattr(seg_out.hd.seg, "Segmentation", broken)
    with pytest.raises(InputError, match=r"a DICOM SEG cannot be made .*\(TypeError\)") as caught:
        dicom_out.rehearse(found, grid, ("seg",))
    assert "Secret" not in str(caught.value)
    dicom_out.rehearse(found, grid, ("sr", "rtstruct"))


def test_all_three_tell_time_in_the_scanners_zone(tmp_path):
    zone = timezone(timedelta(hours=9))
    headers = generated_pet.series(generated_pet.grid(), TimezoneOffsetFromUTC="+0900")
    before = datetime.now(zone).replace(microsecond=0)
    _, made = results(tmp_path, headers)
    after = datetime.now(zone)
    for name, kinds in (("seg", ("Content",)), ("sr", ("Content",)), ("rtstruct", ("StructureSet",))):
        dataset = made[name]
        assert dataset.TimezoneOffsetFromUTC == "+0900"
        for kind in ("InstanceCreation", *kinds):
            words = str(dataset[f"{kind}Date"].value) + str(dataset[f"{kind}Time"].value)[:6]
            assert before <= datetime.strptime(words, "%Y%m%d%H%M%S").replace(tzinfo=zone) <= after
        assert complaints(tmp_path / f"{name}.dcm") == []


def test_a_lossy_compression_is_told_with_ratio_and_method(tmp_path):
    headers = generated_pet.series(generated_pet.grid())
    for header in headers[2:]:  # the first slices did without
        header.LossyImageCompression, header.LossyImageCompressionRatio = "01", "7.5"
        header.LossyImageCompressionMethod = "ISO_10918_1"
    _, made = results(tmp_path, headers)
    seg = made["seg"]
    assert (seg.LossyImageCompression, seg.LossyImageCompressionRatio, seg.LossyImageCompressionMethod) == (
        "01",
        7.5,
        "ISO_10918_1",
    )
    assert complaints(tmp_path / "seg.dcm") == []
    assert "LossyImageCompression" not in headers[0]


def test_headers_without_preamble_are_read(tmp_path):
    headers = read_headers(written(tmp_path / "pet", preamble=False))
    assert results(tmp_path, headers)[0].count == 3


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_private_and_large_elements_are_not_kept(tmp_path, syntax):
    header = generated_pet.series(generated_pet.grid())[0]
    header.private_block(0x0019, "SOMEONE", create=True).add_new(1, "OB", bytes(10))
    header.add_new("EncapsulatedDocument", "OB", bytes(dicom_series.LARGE_BYTES + 2))
    icon = Dataset()
    icon.PixelData = bytes(dicom_series.LARGE_BYTES + 2)
    icon["PixelData"].VR = "OW"
    header.IconImageSequence = [icon]
    header["IconImageSequence"].is_undefined_length = True
    header.ProcedureCodeSequence = [Dataset()]
    header.ProcedureCodeSequence[0].CodeMeaning = "kept"
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.save_as(tmp_path / "a", enforce_file_format=True)
    (read,) = read_headers([tmp_path / "a"])
    assert not any(tag.is_private for tag in read.keys())  # noqa: SIM118 - a dataset iterates over elements
    assert "EncapsulatedDocument" not in read
    assert "PixelData" not in read.IconImageSequence[0]
    assert read.ProcedureCodeSequence[0].CodeMeaning == "kept"
    assert read.PatientName == header.PatientName


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("ImagePositionPatient", b"1\\2\\x "), ("PixelSpacing", b"3 "), ("Rows", b""), ("FrameOfReferenceUID", b"")],
)
def test_geometry_that_is_none_is_one_line(tmp_path, keyword, value):
    headers = read_headers(written(tmp_path / "pet", **{keyword: value}))
    with pytest.raises(InputError, match=keyword):
        slices.match(headers, generated_pet.grid())


def test_no_refusal_names_a_uid():
    grid = generated_pet.grid()
    for spoil in ("StudyInstanceUID", "ImagePositionPatient", "SOPClassUID", "none"):
        headers = generated_pet.series(grid)
        if spoil == "StudyInstanceUID":
            headers[2].StudyInstanceUID = "1.2.3"
        elif spoil == "none":
            del headers[2]
        else:
            del headers[2][spoil]
        with pytest.raises(InputError) as caught:
            slices.match(headers, grid)
        assert not any(uid in str(caught.value) for h in headers for uid in ("1.2.3", h.SeriesInstanceUID, h.SOPInstanceUID))


def test_how_far_slices_lie_off_is_told():
    grid = generated_pet.grid()
    headers = generated_pet.series(grid)
    assert slices.match(headers, grid).off_planes == pytest.approx(0, abs=1e-6)
    headers[3].ImagePositionPatient[2] += 0.24 * 3.0
    found = slices.match(headers, grid, plane_tolerance=0.5)
    assert (found.off_planes, found.plane_mm) == (pytest.approx(0.24), 3.0)
