"""`l2s export`: a mask file and a PET folder to DICOM objects."""

import generated_pet
import numpy as np
import pydicom
import pytest
from test_dicom_results import groups_of

from l2s.cli import main
from l2s.io.images import write_image, write_mask


@pytest.fixture
def case(tmp_path):
    """A folder with mask.nii.gz, suv.mha and pet/."""
    grid = generated_pet.grid((8, 9, 11))
    mask = np.zeros(grid.shape_zyx, bool)
    mask[1, 2, 3:5] = mask[6, 7, 8] = True
    suv = np.ones(grid.shape_zyx, np.float32)
    suv[1, 2, 3:5] = 4.0, 7.0
    suv[6, 7, 8] = 3.0
    write_mask(tmp_path / "mask.nii.gz", mask, grid)
    write_image(tmp_path / "suv.mha", suv, grid)
    generated_pet.write(tmp_path / "pet", generated_pet.series(grid))
    return tmp_path


def export(folder, *flags):
    return main(["export", str(folder / "mask.nii.gz"), str(folder / "out"), "--dicom", str(folder / "pet"), *flags])


def test_all_three(case, capsys):
    assert export(case, "--suv", str(case / "suv.mha")) == 0
    assert sorted(p.name for p in (case / "out").iterdir()) == ["rtstruct.dcm", "seg.dcm", "sr.dcm"]
    assert "2 lesions, 0.04 ml" in capsys.readouterr().out  # three voxels of 0.015 ml
    groups = groups_of(case / "out/sr.dcm")
    suv, volume = "126401", ("118565006", None)
    # by hand: voxels of 0.015 ml with 4 and 7 g/ml, and one with 3
    first, second, total = (groups[k]["numbers"] for k in ("FDG-avid lesion 1", "FDG-avid lesion 2", "All FDG-avid lesions"))
    assert first[volume][0] == pytest.approx(0.03)
    assert (first[suv, "56851009"][0], first[suv, "373098007"][0]) == (7.0, 5.5)
    assert first["126033", None][0] == pytest.approx(0.165)
    assert second["126033", None][0] == pytest.approx(0.045)
    assert total["126033", "255619001"][0] == pytest.approx(0.21)
    assert (total["246206008", None][0], total[suv, "56851009"][0]) == (2, 7.0)


def test_small_ones_can_be_left_out(case, capsys):
    for flags in ((), ("--suv", str(case / "suv.mha"))):
        assert export(case, "--min-volume-ml", "0.03", *flags) == 0  # two voxels of 0.015 ml are as much
        assert len(pydicom.dcmread(case / "out/seg.dcm").SegmentSequence) == 1
        assert groups_of(case / "out/sr.dcm")["All FDG-avid lesions"]["numbers"]["246206008", None] == (1, "1")
        assert "1 lesions, 0.03 ml" in capsys.readouterr().out


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
    grid = generated_pet.grid((8, 9, 11))
    write_mask(case / "mask.nii.gz", np.zeros(grid.shape_zyx, bool), grid)
    assert export(case, "--format", "seg", "--suv", str(case / "suv.mha")) == 0
    assert [p.name for p in (case / "out").iterdir()] == ["sr.dcm"]
    assert "no seg.dcm: no lesion" in capsys.readouterr().out
    assert groups_of(case / "out/sr.dcm")["All FDG-avid lesions"]["numbers"]["246206008", None] == (0, "1")


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
        (("--series", "1.2"), "no PET series 1.2"),
        (("--algorithm", "a\\b", "1"), "plain characters"),
        (("--min-volume-ml", "-1"), "0 or more"),
        (("--suv", "{}/other.mha"), "its grid is not that of"),
        (("--suv", "{}/absent.mha"), "no such file"),
        (("--dicom", "{}/absent"), "no such folder"),
    ],
)
def test_bad_input_is_one_line(case, capsys, flags, words):
    other = generated_pet.grid((8, 9, 12))
    write_image(case / "other.mha", np.ones(other.shape_zyx, np.float32), other)
    assert export(case, *(flag.format(case) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (case / "out").exists()
