"""Folders of cases: both layouts, what is passed over, what is refused; truths that are none."""

import numpy as np
import pytest
import SimpleITK as sitk

from l2s.errors import InputError
from l2s.io.cases import find_cases, read_truth
from l2s.io.images import read_image


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root):
    return [(c.name, *(p and str(p.relative_to(root / c.name)) for p in (c.pet, c.ct, c.truth))) for c in find_cases(root)]


def test_both_layouts_are_found(tmp_path):
    touch(tmp_path, "b/images/pet/x.mha", "b/images/ct/y.mha", "b/truth.mha", "a/PET.nii.gz", "a/CT.nii.gz", "a/GTV.nii.gz")
    touch(
        tmp_path,
        "c/SUV.nii.gz",
        "c/PET.nii.gz",
        "c/CTres.nii.gz",
        "c/CT.nii.gz",
        "notes/readme.txt",
        ".hidden/PET.mha",
        "list.csv",
    )
    assert found(tmp_path) == [
        ("a", "PET.nii.gz", "CT.nii.gz", "GTV.nii.gz"),
        ("b", "images/pet/x.mha", "images/ct/y.mha", "truth.mha"),
        ("c", "SUV.nii.gz", "CTres.nii.gz", None),
    ]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["a/PET.mha"], "no CT"),
        (["a/truth.mha"], "no PET and no CT"),
        (["a/images/pet/1.mha", "a/images/pet/2.mha", "a/CT.mha"], "no PET"),
        (["a/readme.txt"], "no case"),
    ],
)
def test_what_is_incomplete_is_refused(tmp_path, names, line):
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=line):
        find_cases(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_cases(tmp_path / "absent")


def test_a_truth_is_whole_numbers_on_the_pet_s_grid(tmp_path):
    labels = np.zeros((9, 10, 11), np.float32)
    labels[4, 5, 6] = 2
    for name, array in (("truth", labels), ("soft", labels / 4), ("other", labels[1:])):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.mha"))
    _, grid, _, _ = read_image(tmp_path / "truth.mha")
    mask = read_truth(tmp_path / "truth.mha", grid)
    assert mask.dtype == bool
    assert np.argwhere(mask).tolist() == [[4, 5, 6]]
    with pytest.raises(InputError, match="no label image"):
        read_truth(tmp_path / "soft.mha", grid)
    with pytest.raises(InputError, match="not on the PET's grid"):
        read_truth(tmp_path / "other.mha", grid)
