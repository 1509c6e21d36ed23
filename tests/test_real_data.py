"""The bundled weights on real PET/CT; skipped where ../shared/data is absent."""

import numpy as np
import pytest
import SimpleITK as sitk

from l2s import challenge, engine, pipeline, weights
from l2s.io.images import read_image
from l2s.io.studies import read_study
from l2s.measure.metrics import evaluate_masks


@pytest.fixture(scope="module")
def model():
    return weights.load(weights.BUNDLED_FOLDER)


def test_the_lung_tumour_of_acrin042_is_marked(data, tmp_path):
    case = data / "acrin042_case"
    assert challenge.main(["--input", str(case), "--output", str(tmp_path), "--device", "cpu"]) == 0
    mask = sitk.ReadImage(str(tmp_path / "images/automated-petct-lesion-segmentation/acrin042.mha"))
    pet = sitk.ReadImage(str(case / "images/pet/acrin042.mha"))
    for part in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, part)() == getattr(pet, part)()
    marked, suv = sitk.GetArrayFromImage(mask) > 0, sitk.GetArrayFromImage(pet)
    # slices 60..85 hold the tumour and no other uptake above SUV 10
    tumour = np.zeros_like(marked)
    tumour[60:85] = suv[60:85] > 10
    assert tumour.sum() > 300
    assert marked[tumour].mean() > 0.8
    # most of the body is not lesion
    assert marked.sum() * np.prod(pet.GetSpacing()) / 1000 < 150


@pytest.mark.parametrize(("patient", "least"), [("STS_001", 0.75), ("STS_046", 0.7)])
def test_sarcomas_are_outlined(data, model, patient, least):
    # the training has seen them: this checks the way from files to mask and is no score
    folder = data / "sts" / patient
    study, _ = read_study(folder / "PET.nii.gz", folder / "CT.nii.gz", patient)  # the CT has a grid of its own
    truth, grid, _, _ = read_image(folder / "GTV.nii.gz")
    assert grid.matches(study.grid)
    result = pipeline.segment(study, model, engine.choose("cpu"))
    assert evaluate_masks(truth > 0, result.mask, grid.voxel_volume_ml).dice > least
