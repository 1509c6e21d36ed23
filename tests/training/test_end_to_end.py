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
from training import compare, evaluate, export, held_out, make_cues, prepare, thresholds, train_localizer, train_segmenter
from training.cases import open_case, read_index
from training.recipe import load_recipe


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
def trained(tmp_path_factory, tiny_recipe):
    """(run folder, flags) after the whole chain for fold 0, in-fold cues."""
    root = tmp_path_factory.mktemp("training")
    for k in range(4):
        write_patient(root / "sts" / f"STS_{k:03d}", 40 + k)
    (root / "sts" / "STS_002" / "CT.nii.gz").write_bytes(b"broken")
    (root / "recipe.toml").write_text(tiny_recipe())
    common = ["--recipe", str(root / "recipe.toml"), "--run-folder", str(root / "run")]
    prepare.main([*common, "--data", f"sts={root / 'sts'}", "--workers", "1"])
    train_localizer.main([*common, "--fold", "0", "--device", "cpu", "--workers", "0"])
    make_cues.main([*common, "--fold", "0", "--device", "cpu"])
    train_segmenter.main([*common, "--fold", "0", "--device", "cpu", "--workers", "0"])
    export.main([*common, "--fold", "0", "--out", str(root / "weights")])
    return root, common


def test_prepare_refuses_a_broken_case_and_deals_patients_into_folds(trained):
    root, _ = trained
    index = json.loads((root / "run/cases/cases.json").read_text())
    assert [name for name, _ in index["refused"]] == ["STS_002"]
    folds = {row["name"]: row["fold"] for row in index["cases"]}
    assert sorted(folds) == ["STS_000", "STS_001", "STS_003", "phantom_0000", "phantom_0001"]
    assert [folds[f"phantom_000{k}"] for k in (0, 1)] == [0, 1]
    assert {folds[name] for name in folds if name.startswith("STS")} == {0, 1}


def test_cases_are_cut_alike_and_cues_fit_them(trained):
    root, _ = trained
    rows = [row for row in read_index(root / "run/cases") if row["fold"] != 0]
    for row in rows:
        case = open_case(root / "run/cases", row, root / "run/fold_0/cues")
        assert case.pet_suv.shape == case.ct_hu.shape == case.truth.shape == case.cue.shape
        assert case.truth.dtype == bool
        assert 0 <= case.cue[...].min() <= case.cue[...].max() <= 1
        assert (row["lesion_ml"] > 0) == (len(case.lesion_voxels) > 0)


def test_a_second_prepare_keeps_what_is_there(trained):
    root, common = trained
    path = root / "run/cases/STS_000/pet_suv.b2nd"
    before = path.stat().st_mtime_ns
    prepare.main([*common, "--data", f"sts={root / 'sts'}", "--workers", "1"])
    assert path.stat().st_mtime_ns == before


def test_the_exported_weights_load_and_say_where_they_come_from(trained):
    root, _ = trained
    model = weights.load(root / "weights")
    fold = model.manifest.training["folds"]["fold_0"]
    assert fold["trained_on"]["phantom"] == 1
    assert held_out.held_out_patients(model.manifest) == fold["held_out_patients"] != []
    assert fold["segmenter"]["step"] == 4
    for stage in ("localizer", "segmenter"):
        assert {"held_out_dice_sts", "held_out_fpv_ml_sts", "held_out_fpv_ml_phantom"} <= set(fold[stage])


def test_evaluate_prints_every_method(trained, tmp_path, capsys):
    root, _ = trained
    evaluate.main(
        ["--weights", str(root / "weights"), "--data", f"sts={root / 'sts'}", "--out", str(tmp_path), "--device", "cpu"]
        + ["--windows", "tiles", "gaussian"]
    )
    text = capsys.readouterr().out
    for row in ("SUV > 2.5", "SUV > 4", "2D U-Net", "L2SNet", "L2SNet + voxelwise, gaussian", "L2SNet + componentwise"):
        assert f"| {row} | " in text
    assert "| 3D U-Net" not in text
    assert "| L2SNet + voxelwise, gaussian - L2SNet + voxelwise | " in text
    assert "## sts: " in text
    assert "research use only" in text
    assert len((tmp_path / "cases.csv").read_text().splitlines()) > 9


def test_out_of_fold_cues_want_every_fold(trained, tiny_recipe):
    root, common = trained
    (root / "oof.toml").write_text(tiny_recipe(cues="out-of-fold"))
    with pytest.raises(InputError, match="fold_1"):
        make_cues.main(["--recipe", str(root / "oof.toml"), *common[2:], "--fold", "0", "--device", "cpu"])


def test_a_recipe_with_a_stray_number_is_refused(tmp_path, tiny_recipe):
    (tmp_path / "r.toml").write_text(tiny_recipe() + "speed = 3\n")
    with pytest.raises(InputError, match="speed"):
        load_recipe(tmp_path / "r.toml")


def test_the_shipped_recipes_are_whole():
    for path in (Path(__file__).parents[2] / "training/recipes").glob("*.toml"):
        assert load_recipe(path).name


def test_a_change_by_flag_reaches_the_recipe_and_a_stray_one_is_refused(tmp_path, tiny_recipe):
    path = tmp_path / "r.toml"
    path.write_text(tiny_recipe())
    changed = load_recipe(path, ['segmenter.network.norm="layer"', "localizer.planes.clip=true"])
    assert (changed.segmenter.network.norm, changed.localizer.planes.clip) == ("layer", True)
    for change, word in (("segmenter.nrom=1", "field of the recipe"), ("seed", "VALUE"), ("cues=in-fold", "quotes")):
        with pytest.raises(InputError, match=word):
            load_recipe(path, [change])


def test_two_evaluations_are_compared_case_by_case(trained, tmp_path, capsys):
    root, _ = trained
    for name in ("a", "b"):
        flags = [
            "--weights",
            str(root / "weights"),
            "--data",
            f"sts={root / 'sts'}",
            "--out",
            str(tmp_path / name),
            "--device",
            "cpu",
        ]
        evaluate.main(flags)
    capsys.readouterr()
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--method", "SUV > 2.5", "--against", "SUV > 4"])
    text = capsys.readouterr().out
    assert "| sts | 1 | " in text or "| sts | 2 | " in text
    assert "not decided" in text
    with pytest.raises(InputError, match="it has SUV > 2.5, SUV > 4"):
        compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--method", "nnU-Net"])


def test_thresholds_hold_the_papers_pair_to_what_evaluate_says(trained, tmp_path, capsys):
    root, _ = trained
    common = ["--weights", str(root / "weights"), "--data", f"sts={root / 'sts'}", "--device", "cpu"]
    thresholds.main(common)
    cells = [
        [c.strip() for c in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines() if line.startswith("| 0.")
    ]
    assert len(cells) == 25 == len({(c[0], c[1]) for c in cells})
    assert all(float(c[0]) <= float(c[1]) for c in cells)
    (paper,) = [c for c in cells if c[:2] == ["0.1", "0.9"]]
    assert "(0.000 [0.000, 0.000] not decided)" in paper[2]
    evaluate.main([*common, "--out", str(tmp_path)])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| L2SNet + voxelwise | ")][:1]
    assert row.split("|")[2].split()[0] == paper[2].split()[0]
