"""All training commands in order on two small phantoms and three patients: from nothing to weights that inference loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from l2s import weights
from l2s.errors import InputError
from l2s.phantom.sample import make_case
from l2s.study import Grid
from training import evaluate, export, make_cues, prepare, train_localizer, train_segmenter
from training.cases import open_case, read_index
from training.recipe import load_recipe

RECIPE = """
name = "tiny"
seed = 3
spacing_mm_zyx = [10.0, 10.0, 10.0]
folds = 2
cues = "{cues}"
fusion = "voxelwise"
phantoms = 2
phantom_shape_zyx = [60, 40, 48]
sources = [{{ name = "sts", share = 0.5 }}, {{ name = "phantom", share = 0.5 }}]

[localizer]
crop = [32, 32]
lesion_share = 0.5
hot_share = 0.2
dice_weight = 1.0
network = {{ neighbours = 2, encoder = "test_resnet", decoder_channels = [16, 16, 8, 8, 8] }}
planes = {{ plane = "coronal", suv_high = 35.0, clip = false }}
augment = {{ rotation_deg = 10.0, zoom = 0.1, flip = 0.5, intensity = 0.1, noise = 0.0 }}
schedule = {schedule}

[segmenter]
lesion_share = 0.5
hot_share = 0.2
cue_weights = true
network = {{ channels = [4, 4, 8, 8], norm = "batch" }}
windows = {{ pet_suv_high = 15.0, ct_hu_low = -100.0, ct_hu_high = 250.0, windows = "tiles", patch_zyx = [16, 16, 16], overlap = 0.5 }}
augment = {{ rotation_deg = 10.0, zoom = 0.1, flip = 0.5, intensity = 0.1, noise = 0.02 }}
schedule = {schedule}
"""
SCHEDULE = (
    '{ epochs = 2, steps_per_epoch = 2, batch = 2, optimizer = "adamw", learning_rate = 1e-3, momentum = 0.9, '
    "weight_decay = 1e-4, poly_power = 0.9, warmup_steps = 1, clip_norm = 5.0, average = 0.9 }"
)


def write_patient(folder: Path, seed: int) -> None:
    """A phantom laid out as an STS patient, its CT on a grid of its own."""
    sample = make_case(seed, Grid((30, 24, 26), (10.0, 10.0, 10.0), (0.0, 0.0, 0.0)), lesions=2)
    folder.mkdir(parents=True)
    for name, array in (("PET", sample.study.pet_suv), ("CT", sample.study.ct_hu), ("GTV", sample.truth.astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((10.0, 10.0, 10.0))
        if name == "CT":
            image = sitk.Expand(image, (2, 2, 1))
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(run folder, flags) after the whole chain for fold 0, in-fold cues."""
    root = tmp_path_factory.mktemp("training")
    for k in range(4):
        write_patient(root / "sts" / f"STS_{k:03d}", 40 + k)
    (root / "sts" / "STS_002" / "CT.nii.gz").write_bytes(b"broken")
    (root / "recipe.toml").write_text(RECIPE.format(cues="in-fold", schedule=SCHEDULE))
    common = ["--recipe", str(root / "recipe.toml"), "--run", str(root / "run")]
    prepare.main([*common, "--sts", str(root / "sts"), "--workers", "1"])
    train_localizer.main([*common, "--fold", "0", "--device", "cpu"])
    make_cues.main([*common, "--fold", "0", "--device", "cpu"])
    train_segmenter.main([*common, "--fold", "0", "--device", "cpu"])
    export.main([*common, "--fold", "0", "--out", str(root / "weights")])
    return root, common


def test_prepare_refuses_a_broken_case_and_deals_patients_into_folds(trained):
    root, _ = trained
    index = json.loads((root / "run/cases/cases.json").read_text())
    assert [name for name, _ in index["refused"]] == ["STS_002"]
    folds = {row["name"]: row["fold"] for row in index["cases"]}
    assert sorted(folds) == ["STS_000", "STS_001", "STS_003", "phantom_0000", "phantom_0001"]
    assert folds["phantom_0000"] is None
    assert {folds[name] for name in folds if name.startswith("STS")} == {0, 1}


def test_cases_are_cut_alike_and_cues_fit_them(trained):
    root, _ = trained
    rows = [row for row in read_index(root / "run/cases") if row["fold"] != 0]
    for row in rows:
        case = open_case(root / "run/cases", row, root / "run/fold_0/cues")
        assert case.pet_suv.shape == case.ct_hu.shape == case.truth.shape == case.cue.shape
        assert case.truth.dtype == bool
        assert 0 <= case.cue.min() <= case.cue.max() <= 1
        assert (row["lesion_ml"] > 0) == (len(case.lesion_voxels) > 0)


def test_a_second_prepare_keeps_what_is_there(trained):
    root, common = trained
    path = root / "run/cases/STS_000/pet_suv.npy"
    before = path.stat().st_mtime_ns
    prepare.main([*common, "--sts", str(root / "sts"), "--workers", "1"])
    assert path.stat().st_mtime_ns == before


def test_the_exported_weights_load_and_say_where_they_come_from(trained):
    root, _ = trained
    model = weights.load(root / "weights")
    fold = model.manifest.training["folds"]["fold_0"]
    assert fold["trained_on"]["phantom"] == 2
    assert evaluate.held_out_patients(model.manifest) == fold["held_out_patients"] != []
    assert fold["segmenter"]["step"] == 4
    assert "held_out_dice" in fold["segmenter"]


def test_evaluate_prints_every_method(trained, tmp_path, capsys):
    root, _ = trained
    evaluate.main(
        ["--weights", str(root / "weights"), "--sts", str(root / "sts"), "--out", str(tmp_path), "--device", "cpu"]
        + ["--windows", "tiles", "gaussian"]
    )
    text = capsys.readouterr().out
    for row in ("SUV > 2.5", "SUV > 4.0", "stage 1 alone", "none, tiles", "voxelwise, gaussian", "componentwise, tiles"):
        assert f"| sts | {row}" in text
    assert "research use only" in text
    assert len((tmp_path / "cases.csv").read_text().splitlines()) > 9


def test_out_of_fold_cues_want_every_fold(trained):
    root, common = trained
    (root / "oof.toml").write_text(RECIPE.format(cues="out-of-fold", schedule=SCHEDULE))
    with pytest.raises(InputError, match="fold_1"):
        make_cues.main(["--recipe", str(root / "oof.toml"), *common[2:], "--fold", "0", "--device", "cpu"])


def test_a_recipe_with_a_stray_number_is_refused(tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.format(cues="in-fold", schedule=SCHEDULE) + "speed = 3\n")
    with pytest.raises(InputError, match="speed"):
        load_recipe(tmp_path / "r.toml")


def test_the_shipped_recipes_are_whole():
    for path in (Path(__file__).parents[2] / "training/recipes").glob("*.toml"):
        assert load_recipe(path).name
