"""`l2s segment` from a scanner's folder to SEG, SR and RTSTRUCT, through the real parts; small random weights."""

import csv
import json
import shutil
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

import l2s
from l2s import cli
from l2s.errors import InputError
from l2s.io.images import read_image
from l2s.io.rtstruct import read_rtstruct
from l2s.io.suv import Overrides

sys.path.insert(0, str(Path(__file__).parent / "io"))
from dicom_samples import FRAME, STUDY, hot_study, save  # noqa: E402
from test_dicom_results import complaints, groups_of  # noqa: E402

DICOM = {"seg.dcm", "sr.dcm", "rtstruct.dcm"}
ALL = "nii.gz,seg,sr,rtstruct"
LEAN_KG = 9270 * 80 / (6680 + 216 * 80 / 1.75**2)  # Janmahasatian: a man of 80 kg and 1.75 m


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return hot_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def weights_folder(study, tmp_path_factory, make_marking_weights) -> Path:
    return make_marking_weights(tmp_path_factory.mktemp("weights"), study)


@pytest.fixture(scope="module")
def segmented(study, weights_folder, tmp_path_factory) -> Path:
    """A result with all formats; no test may change it."""
    out = tmp_path_factory.mktemp("result") / "out"
    assert segment(study, out, weights_folder, "--format", ALL, "--uid-seed", "one") == 0
    return out


def segment(source, out, weights, *flags) -> int:
    words = ["segment", source, out, "--weights", weights, "--device", "cpu", "--fusion", "none", *flags]
    return cli.main([str(w) for w in words])


def failed(capsys, *words) -> str:
    """The one line of a run that must exit with 2."""
    capsys.readouterr()
    assert segment(*words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:7]) == ("", 1, "error: ")
    return err


def stored_mask(folder: Path) -> np.ndarray:
    """mask.nii.gz in the order of the PET's slices, rows and columns, by SimpleITK."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mask.nii.gz"))) > 0


def slices_of(folder: Path) -> list[pydicom.Dataset]:
    """The headers of a PET along the normal of its slices."""
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in folder.rglob("*") if p.is_file()]
    along = np.cross(*np.reshape(headers[0].ImageOrientationPatient, (2, 3)).astype(float))
    return sorted(headers, key=lambda h: float(np.dot(along, h.ImagePositionPatient)))


def seg_mask(path: Path, headers) -> np.ndarray:
    uids = [h.SOPInstanceUID for h in headers]
    seg = hd.seg.segread(path)
    return seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True) > 0


def uids_of(folder: Path) -> dict[str, str]:
    return {name: str(pydicom.dcmread(folder / name).SOPInstanceUID) for name in sorted(DICOM)}


def test_the_folder_of_a_result(segmented):
    names = {"mask.nii.gz", "SUV.nii.gz", "CTres.nii.gz", "record.json", "lesions.csv", "lesions.json"} | DICOM
    assert {p.name for p in segmented.iterdir()} == names
    record = json.loads((segmented / "record.json").read_text())
    assert set(record["files"]) == names - {"record.json"}
    assert record["case"]["kind"] == "dicom"
    assert record["dicom"]["suv"]["factor"] == pytest.approx(2e-4)
    pet = sitk.GetArrayFromImage(sitk.ReadImage(str(segmented / "SUV.nii.gz")))
    assert pet.max() == pytest.approx(14.0)
    assert (pet[8:12, 10:14, 12:16] == pet.max()).all()


def test_seg_and_rtstruct_are_the_mask_voxel_by_voxel(study, segmented):
    mask = stored_mask(segmented)
    assert 0 < mask.sum() < mask.size / 10
    assert np.array_equal(seg_mask(segmented / "seg.dcm", slices_of(study / "a")), mask)
    lps, grid, _, _ = read_image(segmented / "mask.nii.gz")
    path = segmented / "rtstruct.dcm"
    names = [region.ROIName for region in pydicom.dcmread(path).StructureSetROISequence]
    regions = [read_rtstruct(path, grid, name) for name in names]
    assert np.array_equal(np.logical_or.reduce(regions), lps > 0)
    rows = list(csv.DictReader((segmented / "lesions.csv").open()))
    assert [int(region.sum()) for region in regions] == [int(row["voxels"]) for row in rows]


def test_the_report_has_the_tables_figures(segmented):
    table = json.loads((segmented / "lesions.json").read_text())
    groups = groups_of(segmented / "sr.dcm")
    assert len(groups) == len(table["lesions"]) + 1
    for one in table["lesions"]:
        numbers = groups[f"FDG-avid lesion {one['number']}"]["numbers"]
        assert numbers["118565006", None][0] == pytest.approx(one["volume_ml"], rel=1e-5)
        assert numbers["126401", "56851009"][0] == pytest.approx(one["suv_max"], rel=1e-5)
    assert groups["All FDG-avid lesions"]["numbers"]["126032", "255619001"][0] == pytest.approx(
        table["patient"]["tmtv_ml"], rel=1e-5
    )


def test_results_belong_to_the_patients_study(segmented):
    for name in DICOM:
        one = pydicom.dcmread(segmented / name)
        assert (one.StudyInstanceUID, one.PatientID, str(one.PatientName)) == (STUDY, "SECRET-ID", "SECRET^NAME")
        if name != "sr.dcm":
            assert one.FrameOfReferenceUID == FRAME
        assert not [line for line in complaints(segmented / name) if line.startswith("Error")]


def test_the_body_reaches_percist(segmented):
    patient = json.loads((segmented / "lesions.json").read_text())["patient"]
    assert (patient["weight_kg"], patient["height_cm"], patient["sex"]) == (80, 175, "M")
    assert patient["percist"]["lean_mass_kg"] == pytest.approx(LEAN_KG)
    assert patient["percist"]["sul_peak"] == pytest.approx(patient["suv_peak"] * LEAN_KG / 80, rel=1e-5)


def test_texts_lead_back_to_no_patient(segmented):
    for name in ("record.json", "lesions.json", "lesions.csv"):
        text = (segmented / name).read_text()
        assert not [word for word in ("SECRET", STUDY, "20240531", "2024-05-31", "19500102", "1950") if word in text], name


def test_a_seed_repeats_uids_and_none_does_not(study, segmented, weights_folder, tmp_path):
    assert segment(study, tmp_path / "same", weights_folder, "--format", "seg,sr,rtstruct", "--uid-seed", "one") == 0
    assert uids_of(tmp_path / "same") == uids_of(segmented)
    assert segment(study, tmp_path / "new", weights_folder, "--format", "seg,sr,rtstruct") == 0
    assert not set(uids_of(tmp_path / "new").values()) & set(uids_of(segmented).values())


def test_a_zip_is_the_folder(study, segmented, weights_folder, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "case"), "zip", study)
    assert segment(archive, tmp_path / "out", weights_folder, "--format", ALL, "--uid-seed", "one") == 0
    assert np.array_equal(stored_mask(tmp_path / "out"), stored_mask(segmented))
    assert uids_of(tmp_path / "out") == uids_of(segmented)


def test_a_ct_file_beside_a_pet_in_dicom(study, segmented, weights_folder, tmp_path, capsys):
    assert cli.main(["convert", str(study), str(tmp_path / "images")]) == 0
    ct = tmp_path / "images" / "CT.nii.gz"
    assert "there is no CT" in failed(capsys, study / "a", tmp_path / "none", weights_folder, "--format", "seg")
    assert segment(study / "a", tmp_path / "out", weights_folder, "--ct", ct, "--format", ALL, "--uid-seed", "one") == 0
    assert np.array_equal(stored_mask(tmp_path / "out"), stored_mask(segmented))
    assert uids_of(tmp_path / "out") == uids_of(segmented)
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert (record["case"]["ct"], record["dicom"]["ct"]) == ("CT.nii.gz", {"source": "an image file"})


def test_an_empty_mask_is_a_report_alone(study, tmp_path, make_marking_weights, segmented):
    out = tmp_path / "out"
    shutil.copytree(segmented, out)  # a former result's SEG and RTSTRUCT may not stay
    folder = tmp_path / "weights"
    folder.mkdir()
    assert segment(study, out, make_marking_weights(folder, study, share=0), "--format", ALL) == 0
    assert not stored_mask(out).any()
    assert {p.name for p in out.iterdir()} & DICOM == {"sr.dcm"}
    assert groups_of(out / "sr.dcm")["All FDG-avid lesions"]["numbers"]["246206008", None] == (0, "1")
    assert set(json.loads((out / "record.json").read_text())["files"]) & DICOM == {"sr.dcm"}


def test_export_of_the_mask_says_the_same(study, segmented, tmp_path):
    mask = segmented / "mask.nii.gz"
    assert cli.main(["export", str(mask), str(tmp_path / "out"), "--dicom", str(study)]) == 0
    numbers, others = (
        {name: group["numbers"] for name, group in groups_of(folder / "sr.dcm").items()}
        for folder in (segmented, tmp_path / "out")
    )
    assert numbers == others
    assert np.array_equal(seg_mask(tmp_path / "out/seg.dcm", slices_of(study / "a")), stored_mask(segmented))


def test_an_irregular_series(tmp_path, make_marking_weights):
    """A slice a third out of its place: the PET is resampled, and each slice shows the plane next to it."""
    study = hot_study(tmp_path / "study")
    (moved,) = [h for h in map(pydicom.dcmread, (study / "a").iterdir()) if h.InstanceNumber == 9]
    moved.ImagePositionPatient[2] += 8 / 3
    save(study / "a", [moved], "{:03d}-moved")
    for path in (study / "a").iterdir():
        if pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID == moved.SOPInstanceUID and "moved" not in path.name:
            path.unlink()
    (tmp_path / "weights").mkdir()
    weights = make_marking_weights(tmp_path / "weights", study)
    assert segment(study, tmp_path / "out", weights, "--format", ALL) == 0
    assert np.array_equal(seg_mask(tmp_path / "out/seg.dcm", slices_of(study / "a")), stored_mask(tmp_path / "out"))
    assert any("resampled" in line for line in json.loads((tmp_path / "out/record.json").read_text())["warnings"])


def test_what_does_not_go_together(study, segmented, weights_folder, tmp_path, capsys):
    pet, ct = segmented / "SUV.nii.gz", segmented / "CTres.nii.gz"
    for words, message in (
        ((pet, "--ct", ct, "--format", "nii.gz,seg"), "need DICOM input"),
        ((pet, "--ct", ct, "--pet-series", "1.2"), "are for DICOM"),
        ((pet, "--ct", ct, "--weight-kg", "80"), "are for DICOM"),
        ((pet, "--ct", ct, "--injection-datetime", "09:00:00"), "are for DICOM"),
        ((study, "--ct", ct, "--ct-series", "1.2"), "one of the two"),
        ((study, "--pet-series", "1.2"), "no such series"),
        ((study, "--dose-bq", "400"), "MBq written as Bq"),
        ((study, "--format", "nii.gz,pdf"), "pdf is no format"),
        ((study, "--format", "nii.gz,mha"), "not both"),
    ):
        source, *flags = words
        assert message in failed(capsys, source, tmp_path / "o", weights_folder, *flags), message
    assert not (tmp_path / "o").exists()


def test_the_scanners_folder_stays_as_it_is(study, weights_folder, tmp_path, capsys):
    folder = tmp_path / "scan"
    shutil.copytree(study / "a", folder)
    shutil.copytree(study / "b", folder, copy_function=lambda one, other: shutil.copy(one, f"{other}-ct"), dirs_exist_ok=True)
    before = sorted(p.name for p in folder.iterdir())
    for source in (folder, folder / before[0]):
        assert "lies in the input folder" in failed(capsys, source, folder, weights_folder)
    assert sorted(p.name for p in folder.iterdir()) == before
    physicians = tmp_path / "other"
    physicians.mkdir()
    (physicians / "rtstruct.dcm").write_text("drawn by hand")
    assert "holds rtstruct.dcm but no record.json" in failed(capsys, study, physicians, weights_folder)
    archive = shutil.make_archive(str(tmp_path / "zips" / "case"), "zip", study)
    assert segment(archive, tmp_path / "zips", weights_folder) == 0


def test_the_parts_name_the_same_formats():
    from l2s import outdir
    from l2s.commands import segment as command
    from l2s.io import dicom_out

    assert command.DICOM_FORMATS == dicom_out.FORMATS
    assert tuple(f"{name}.dcm" for name in dicom_out.FORMATS) == outdir.DICOM_RESULTS
    assert command.IMAGE_FORMATS == outdir.FORMATS


def test_too_many_lesions_leave_nothing_half_written(study, weights_folder, tmp_path, capsys, monkeypatch):
    from l2s.io import dicom_out

    monkeypatch.setattr(dicom_out, "MAX_LESIONS", 0)
    assert "minimum volume" in failed(capsys, study, tmp_path / "o", weights_folder, "--format", ALL)
    assert not (tmp_path / "o").exists()


def test_a_real_scanners_folder(data, tmp_path, tmp_path_factory, make_marking_weights):
    folder = data / "acrin042"
    if not folder.is_dir():
        pytest.skip("no acrin042 at ../shared/data")
    weights = make_marking_weights(tmp_path_factory.mktemp("acrin"), folder, share=0.002)
    assert segment(folder, tmp_path / "out", weights, "--format", ALL, "--min-volume-ml", "1") == 0
    record = json.loads((tmp_path / "out/record.json").read_text())
    assert record["dicom"]["suv"]["factor"] == pytest.approx(0.00042111007, rel=1e-8)
    reasons = sorted(one["reason"] for one in record["dicom"]["not_taken"])
    assert len(reasons) == 2
    assert "scout" in reasons[0]
    assert "not attenuation corrected" in reasons[1]
    headers = slices_of(folder / "PT_AC")
    found = seg_mask(tmp_path / "out/seg.dcm", headers)
    mask = stored_mask(tmp_path / "out")
    assert found.any()
    assert not (found & ~mask).any()  # lesions below 1 ml stay in the mask alone
    rows = list(csv.DictReader((tmp_path / "out/lesions.csv").open()))
    assert found.sum() == sum(int(row["voxels"]) for row in rows)
    text = (tmp_path / "out/record.json").read_text()
    for keyword in (
        "PatientID",
        "PatientName",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
        "StudyDate",
        "SeriesDate",
    ):
        if value := str(headers[0].get(keyword, "")):
            assert value not in text, keyword
    for name in sorted(DICOM):
        assert complaints(tmp_path / "out" / name) == []


def test_python_takes_what_is_known_better_than_the_header(study, weights_folder):
    words = {"weights": weights_folder, "device": "cpu", "fusion": "none"}
    result = l2s.segment(study, overrides=Overrides(weight_kg=40.0), name="half", **words)
    assert result.study.pet_suv.max() == pytest.approx(7.0)  # 14 at the header's 80 kg
    assert (result.patient["weight_kg"], result.measures.case) == (40.0, "half")
    with pytest.raises(InputError, match="pet_series") as error:
        l2s.segment(study, pet_series="1.2.3", **words)
    assert "--" not in str(error.value)
