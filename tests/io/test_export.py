"""`l2s export`: a mask file and the PET's study to DICOM objects."""

import shutil

import numpy as np
import pydicom
import pytest
from dicom_samples import ct_series, pet_series, save
from test_dicom_results import groups_of

from l2s.cli import main
from l2s.errors import InputError
from l2s.io import sr_out
from l2s.io.images import write_image, write_mask
from l2s.study import Grid

GRID = Grid((12, 10, 14), (3.0, 4.0, 5.0), (-30.0, -20.0, 100.0))  # of dicom_samples: voxels of 0.06 ml
SUV, VOLUME, TLG = "126401", ("118565006", None), "126033"


def pet(**changes):
    """A PET of SUV 1, 4 and 7 beside each other, and 3 elsewhere: ADMIN, 80 kg and 400 MBq are 5000 Bq/ml for each SUV."""
    volume = np.full(GRID.shape_zyx, 2500, np.int16)
    volume[1, 2, 3:5] = 10000, 17500
    volume[6, 7, 8] = 7500
    return pet_series(volume=volume, DecayCorrection="ADMIN", RescaleSlope="2", **changes)


@pytest.fixture
def case(tmp_path):
    """A folder with mask.nii.gz and study/, which has a CT and a NAC series too."""
    mask = np.zeros(GRID.shape_zyx, bool)
    mask[1, 2, 3:5] = mask[6, 7, 8] = True
    write_mask(tmp_path / "mask.nii.gz", mask, GRID)
    save(tmp_path / "study/pet", pet())
    save(tmp_path / "study/nac", pet(SeriesInstanceUID="1.2.9", CorrectedImage=["DECY"]))
    save(tmp_path / "study/ct", ct_series())
    return tmp_path


def export(folder, *flags):
    return main(["export", str(folder / "mask.nii.gz"), str(folder / "out"), "--dicom", str(folder / "study"), *flags])


def totals(folder):
    return groups_of(folder / "out/sr.dcm")["All FDG-avid lesions"]["numbers"]


def test_all_three_with_uptake_from_the_headers(case, capsys):
    assert export(case) == 0
    assert sorted(p.name for p in (case / "out").iterdir()) == ["rtstruct.dcm", "seg.dcm", "sr.dcm"]
    assert "2 lesions, 0.18 ml" in capsys.readouterr().out
    groups = groups_of(case / "out/sr.dcm")
    first, second, total = (groups[k]["numbers"] for k in ("FDG-avid lesion 1", "FDG-avid lesion 2", "All FDG-avid lesions"))
    assert first[VOLUME][0] == pytest.approx(0.12)
    assert first[SUV, "56851009"][0] == pytest.approx(7.0)
    assert first[SUV, "373098007"][0] == pytest.approx(5.5)
    assert first[TLG, None][0] == pytest.approx(0.66)
    assert second[TLG, None][0] == pytest.approx(0.18)
    assert total[TLG, "255619001"][0] == pytest.approx(0.84)
    assert total["246206008", None][0] == 2
    assert total[SUV, "56851009"][0] == pytest.approx(7.0)
    seg = pydicom.dcmread(case / "out/seg.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.4.5.7"  # not the NAC


def test_a_zip_and_a_given_weight(case):
    assert export(case, "--weight-kg", "160", "--dicom", shutil.make_archive(str(case / "z"), "zip", case / "study")) == 0
    assert totals(case)[SUV, "56851009"][0] == pytest.approx(14.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PatientWeight": None}, "PatientWeight is absent"),
        ({"drug": {"RadionuclideTotalDose": "1E5"}}, "largest SUV"),
    ],
)
def test_without_suv_volumes_alone_and_a_warning(case, caplog, changes, words):
    shutil.rmtree(case / "study/pet")
    save(case / "study/pet", pet(**changes))
    assert export(case) == 0
    assert f"the SR has volumes alone: {'the ' * words.startswith('largest')}{words}" in caplog.text
    total = totals(case)
    assert total["126032", "255619001"][0] == pytest.approx(0.18)
    assert not [key for key in total if key[0] in (SUV, TLG)]
    assert export(case, "--weight-kg", "80", "--dose-bq", "4e8") == 0
    assert totals(case)[SUV, "56851009"][0] == pytest.approx(7.0)


def test_small_ones_can_be_left_out(case, capsys):
    for weight in ("80", None):
        shutil.rmtree(case / "study/pet")
        save(case / "study/pet", pet(PatientWeight=weight))
        assert export(case, "--min-volume-ml", "0.12") == 0  # two voxels of 0.06 ml are as much
        assert len(pydicom.dcmread(case / "out/seg.dcm").SegmentSequence) == 1
        assert totals(case)["246206008", None] == (1, "1")
        assert "1 lesions, 0.12 ml" in capsys.readouterr().out


def test_formats_algorithm_and_seed(case):
    flags = ("--format", "seg,rtstruct", "--algorithm", "Other", "2.0", "--uid-seed", "x", "--one-region", "--labelmap")
    found = []
    for _ in range(2):
        assert export(case, *flags) == 0
        assert sorted(p.name for p in (case / "out").iterdir()) == ["rtstruct.dcm", "seg.dcm"]
        seg, rtstruct = (pydicom.dcmread(case / f"out/{n}.dcm") for n in ("seg", "rtstruct"))
        assert seg.SegmentSequence[-1].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "Other"
        assert (seg.SegmentationType, len(rtstruct.StructureSetROISequence)) == ("LABELMAP", 1)
        found.append((seg.SOPInstanceUID, rtstruct.SOPInstanceUID))
    assert found[0] == found[1]


def test_an_empty_mask_is_reported_by_the_sr(case, capsys):
    write_mask(case / "mask.nii.gz", np.zeros(GRID.shape_zyx, bool), GRID)
    assert export(case, "--format", "seg") == 0
    assert [p.name for p in (case / "out").iterdir()] == ["sr.dcm"]
    assert "no seg.dcm: no lesion" in capsys.readouterr().out
    assert totals(case)["246206008", None] == (0, "1")


@pytest.mark.parametrize("formats", ["sr", "seg", "seg,rtstruct"])
def test_no_lesion_leaves_no_former_lesions(case, formats):
    assert export(case) == 0
    (case / "out/notes.txt").write_text("mine")
    write_mask(case / "mask.nii.gz", np.zeros(GRID.shape_zyx, bool), GRID)
    assert export(case, "--format", formats) == 0
    assert {p.name for p in (case / "out").iterdir()} == {"sr.dcm", "notes.txt"}


def test_a_former_result_that_is_not_written_anew_is_said(case, caplog):
    assert export(case) == 0
    before = (case / "out/sr.dcm").read_bytes()
    assert export(case, "--format", "seg,rtstruct") == 0
    assert "holds sr.dcm of an earlier export; it may be of another mask" in caplog.text
    assert (case / "out/sr.dcm").read_bytes() == before


def test_a_failing_sr_leaves_what_was_there(case, capsys, monkeypatch):
    assert export(case) == 0
    before = {p.name: p.read_bytes() for p in (case / "out").iterdir()}
    capsys.readouterr()

    def full(path, *others):
        raise InputError(f"{path.name} cannot be written (No space left on device)")

    monkeypatch.setattr(sr_out, "write_sr", full)
    assert export(case) == 2
    assert capsys.readouterr().out == ""
    assert {p.name: p.read_bytes() for p in (case / "out").iterdir()} == before
    shutil.rmtree(case / "out")
    assert export(case) == 2
    assert not (case / "out").exists()


def test_a_mask_of_another_series_needs_its_name(case, capsys):
    """A second reconstruction that covers less: the mask lies on it, the first one is what l2s would segment."""
    small = pet_series(volume=np.ones((9, 10, 14), np.int16), SeriesInstanceUID="1.2.8", DecayCorrection="ADMIN")
    save(case / "study/small", small)
    grid = Grid((9, 10, 14), GRID.spacing_mm_zyx, GRID.origin_mm_xyz)
    mask = np.zeros(grid.shape_zyx, bool)
    mask[4, 5, 6] = True
    write_mask(case / "mask.nii.gz", mask, grid)
    assert export(case) == 2
    assert "--pet-series UID names another one" in capsys.readouterr().err
    assert export(case, "--pet-series", "1.2.8") == 0
    seg = pydicom.dcmread(case / "out/seg.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.8"


def test_an_irregular_series_takes_a_mask_of_its_own_regular_grid_alone(case, capsys):
    shutil.rmtree(case / "study/pet")
    offsets = np.arange(12) * 3.0
    offsets[5] += 0.6  # a fifth of a slice
    save(case / "study/pet", pet(geometry={"offsets_mm": offsets}))
    assert export(case, "--format", "seg") == 0
    write_mask(case / "mask.nii.gz", np.ones(GRID.shape_zyx, bool), Grid(GRID.shape_zyx, (3.0, 4.0, 5.0), (-30.0, -20.0, 100.4)))
    assert export(case) == 2
    assert "0.13 voxels off" in capsys.readouterr().err


def test_a_folder_that_is_a_file(case, capsys):
    (case / "out").write_text("mine")
    assert export(case) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (case / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--format", "seg,pdf"), "pdf is no format"),
        (("--format", ","), "nothing is no format"),
        (("--pet-series", "1.2"), "no such series"),
        (("--pet-series", "1.2.9"), "not attenuation corrected"),
        (("--algorithm", "a\\b", "1"), "plain characters"),
        (("--min-volume-ml", "-1"), "0 or more"),
        (("--weight-kg", "9000", "--injection-datetime", "noon"), "no time"),
        (("--dicom", "{}/absent"), "no such file or folder"),
        (("--dicom", "{}/other.mha"), "neither a folder, a zip nor a DICOM file"),
    ],
)
def test_bad_input_is_one_line(case, capsys, flags, words):
    write_image(case / "other.mha", np.ones(GRID.shape_zyx, np.float32), GRID)
    assert export(case, *(flag.format(case) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (case / "out").exists()
