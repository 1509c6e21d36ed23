"""What a user may point l2s segment at, and what is refused."""

import os

import numpy as np
import pytest
import SimpleITK as sitk

from l2s.errors import InputError
from l2s.io.cases import find_cases
from l2s.io.inputs import read_input

SHAPE = (9, 10, 12)


def write(path, low, high, spacing=(4.0, 4.0, 4.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.linspace(low, high, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE))
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return path


def suv(path, high=8.0):
    return write(path, 0, high)


def hu(path, high=300.0):
    return write(path, -1000, high)


def test_a_grand_challenge_folder(tmp_path):
    pet, ct = suv(tmp_path / "images" / "pet" / "p.mha"), hu(tmp_path / "images" / "ct" / "c.mha")
    case = read_input(tmp_path)
    assert (case.name, case.kind, case.files) == ("c", "grand-challenge", {"pet": pet, "ct": ct})
    assert (case.study.name, case.study.pet_suv.max(), case.study.ct_hu.min()) == ("c", 8, -1000)


def test_an_autopet_folder_prefers_suv_and_the_resampled_ct(tmp_path):
    folder = tmp_path / "04-21-2003-NA-PET CT-12345"
    suv(folder / "PET.nii.gz", 30000.0)
    hu(folder / "CT.nii.gz")
    ct, pet = hu(folder / "CTres.nii.gz", 200.0), suv(folder / "SUV.nii.gz")
    suv(folder / "SEG.nii.gz", 1.0)
    case = read_input(folder)
    assert (case.name, case.kind, case.files) == (folder.name, "autopet", {"pet": pet, "ct": ct})


def test_pet_and_ct_alone_are_taken_too_and_a_ct_on_another_grid_is_resampled(tmp_path):
    suv(tmp_path / "pet.nii.gz")
    write(tmp_path / "Ct.mha", -1000, 200, spacing=(3.0, 3.0, 3.0))
    case = read_input(tmp_path)
    assert case.study.ct_hu.shape == SHAPE
    assert {k: p.name for k, p in case.files.items()} == {"pet": "pet.nii.gz", "ct": "Ct.mha"}


def test_a_pet_file_with_its_ct(tmp_path):
    pet, ct = suv(tmp_path / "patient7.nii.gz"), hu(tmp_path / "other" / "x.mha")
    case = read_input(pet, ct)
    assert (case.name, case.kind, case.files) == ("patient7", "files", {"pet": pet, "ct": ct})
    pet = suv(tmp_path / "STS_002" / "PET.nii.gz")
    assert read_input(pet, ct).name == "STS_002", "PET is no name"


def test_names_that_are_no_utf8_are_spelt_out(tmp_path):
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    pet, ct = suv(tmp_path / "SUV.nii.gz"), hu(tmp_path / "CT.nii.gz")
    folder.mkdir()
    pet, ct = pet.rename(folder / pet.name), ct.rename(folder / ct.name)
    assert read_input(folder).name == read_input(pet, ct).name == find_cases(tmp_path)[0].name == r"M\xfcller"


def test_a_dicom_export_with_a_folder_of_images_is_dicom(tmp_path):
    from dicom_samples import study

    study(tmp_path / "images")
    (tmp_path / "images" / "readme.txt").write_text("x")
    assert read_input(tmp_path).kind == "dicom"
    (tmp_path / "images" / "pet").mkdir()
    with pytest.raises(InputError, match="pet holds 0 images"):
        read_input(tmp_path)


def test_what_is_no_case(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        read_input(tmp_path / "nowhere")
    pet, ct = suv(tmp_path / "a" / "SUV.nii.gz"), hu(tmp_path / "b.nii.gz")
    with pytest.raises(InputError, match="PET file without its CT; name it with --ct"):
        read_input(pet)
    with pytest.raises(InputError, match="is a folder"):
        read_input(tmp_path / "a", ct)
    with pytest.raises(InputError, match="holds no CT; expected .* it holds SUV.nii.gz"):
        read_input(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty is empty; expected images/pet"):
        read_input(tmp_path / "empty")
    suv(tmp_path / "a" / "suv.mha")
    with pytest.raises(InputError, match="SUV.nii.gz and suv.mha: which one"):
        read_input(tmp_path / "a")
    suv(tmp_path / "gc" / "images" / "pet" / "1.mha")
    suv(tmp_path / "gc" / "images" / "pet" / "2.mha")
    with pytest.raises(InputError, match=r"holds 2 images \(1.mha, 2.mha\); exactly one"):
        read_input(tmp_path / "gc")
    with pytest.raises(InputError, match="no such file"):
        read_input(pet, tmp_path / "absent.mha")
