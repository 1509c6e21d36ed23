"""All training commands in order on two small phantoms and three patients: from nothing to weights that inference loads."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.special import expit

from l2s import engine, weights
from l2s.errors import InputError
from l2s.localize.planes import cue_logits
from l2s.phantom.sample import make_case
from l2s.study import Grid
from training import compare, evaluate, export, held_out, make_cues, prepare, thresholds, train_localizer, train_segmenter
from training import run as run_module
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
    assert {path.stat().st_mode & 0o777 for path in (root / "weights").glob("*.safetensors")} == {0o644}
    model = weights.load(root / "weights")
    fold = model.manifest.training["folds"]["fold_0"]
    assert fold["trained_on"]["phantom"] == 1
    assert held_out.held_out_patients(model.manifest) == fold["held_out_patients"] != []
    assert fold["segmenter"]["step"] == 4
    for stage in ("localizer", "segmenter"):
        assert {"held_out_dice_sts", "held_out_fpv_ml_sts", "held_out_fpv_ml_phantom"} <= set(fold[stage])


def test_the_manifest_names_whom_the_weights_have_trained_on(trained):
    root, _ = trained
    fold = weights.load(root / "weights").manifest.training["folds"]["fold_0"]
    patients = {row["patient"] for row in read_index(root / "run/cases") if row["source"] == "sts"}
    assert set(fold["trained_patients"]) | set(fold["held_out_patients"]) == patients
    assert fold["trained_patients"]
    assert not set(fold["trained_patients"]) & set(fold["held_out_patients"])


@pytest.mark.parametrize(
    "change",
    [
        "localizer.planes.clip=true",
        "localizer.planes.suv_high=20.0",
        "segmenter.windows.ct_hu_low=-500.0",
        "spacing_mm_zyx=[9.0,9.0,9.0]",
    ],
)
def test_another_input_than_the_training_s_is_not_exported(trained, tmp_path, change):
    field, _, value = change.partition("=")
    with pytest.raises(InputError, match=f"{field}.*: give the --recipe and --set of then"):
        export.main([*trained[1], "--fold", "0", "--out", str(tmp_path / "w"), "--set", change])
    assert not (tmp_path / "w").exists()
    if field.startswith("localizer"):
        with pytest.raises(InputError, match=field):
            make_cues.main([*trained[1], "--fold", "0", "--device", "cpu", "--set", change])


def test_how_windows_are_laid_may_change(trained, tmp_path):
    export.main([*trained[1], "--fold", "0", "--out", str(tmp_path), "--set", "segmenter.windows.overlap=0.75"])
    assert weights.read_manifest(tmp_path)[0].segmenter.windows.overlap == 0.75


def test_weights_say_what_they_are_for():
    assert "on no patient" in export.intended_use(["phantom"])
    assert "sarcoma" in export.intended_use(["phantom", "sts"])
    assert export.intended_use(["autopet", "sts"]).endswith("trained on autopet, sts")


def test_patients_of_a_start_reach_the_manifest_and_cues_of_such_a_network_are_warned_of(trained, tmp_path, tiny_recipe, caplog):
    root, common = trained
    run, begun = tmp_path / "run", ["--init", str(root / "weights"), "--device", "cpu", "--workers", "0"]
    run.mkdir()
    (run / "cases").symlink_to(root / "run/cases")
    (tmp_path / "oof.toml").write_text(tiny_recipe(cues="out-of-fold"))
    flags = ["--recipe", str(tmp_path / "oof.toml"), "--run-folder", str(run)]
    for fold in ("0", "1"):
        train_localizer.main([*flags, "--fold", fold, *begun])
    make_cues.main([*flags, "--device", "cpu"])
    first = weights.read_manifest(root / "weights")[0].training["folds"]["fold_0"]["trained_patients"]
    assert f"have trained on {first[0]}: that cue is not out of fold" in caplog.text
    train_segmenter.main([*flags, "--fold", "1", *begun])
    export.main([*flags, "--fold", "1", "--out", str(tmp_path / "w")])
    fold = weights.read_manifest(tmp_path / "w")[0].training["folds"]["fold_1"]
    assert set(first) <= set(fold["trained_patients"])
    assert not set(first) & set(fold["held_out_patients"])


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


@pytest.fixture(scope="module")
def out_of_fold(trained, tmp_path_factory, tiny_recipe):
    """(flags, run) of a run of the same cases with every fold's stage 1 and out-of-fold cues."""
    run = tmp_path_factory.mktemp("out-of-fold")
    (run / "cases").symlink_to(trained[0] / "run/cases")
    (run / "recipe.toml").write_text(tiny_recipe(cues="out-of-fold"))
    flags = ["--recipe", str(run / "recipe.toml"), "--run-folder", str(run)]
    for fold in (0, 1):
        train_localizer.main([*flags, "--fold", str(fold), "--device", "cpu", "--workers", "0"])
    make_cues.main([*flags, "--device", "cpu"])
    return flags, run


def test_each_cue_is_by_the_network_that_held_its_case_out(out_of_fold):
    flags, run = out_of_fold
    recipe, plan = load_recipe(Path(flags[1])), engine.choose("cpu")
    networks = [make_cues.load_localizer(run, fold, recipe, "cpu")[0] for fold in (0, 1)]
    rows = read_index(run / "cases")
    assert {row["fold"] for row in rows} == {0, 1}
    for row in rows:
        case = open_case(run / "cases", row, run / "cues")
        own, other = (
            expit(cue_logits(case.pet_suv[...], networks[k], recipe.localizer.planes, plan))
            for k in (row["fold"], 1 - row["fold"])
        )
        assert np.abs(case.cue[...] - own).max() <= 0.5 / 255 + 1e-6
        assert np.abs(case.cue[...] - other).max() > 2 / 255
        assert row["name"] not in run_module.noted_cases(run / f"fold_{row['fold']}/localizer")["training"]


def test_a_cue_by_a_network_that_has_trained_on_its_case_is_refused(out_of_fold):
    flags, run = out_of_fold
    path = run / "fold_0/localizer/cases.json"
    before = path.read_text()
    held_out = next(row["name"] for row in read_index(run / "cases") if row["fold"] == 0)
    noted = json.loads(before)
    path.write_text(json.dumps(noted | {"training": [*noted["training"], held_out]}))
    try:
        with pytest.raises(InputError, match=f"has trained on {held_out}, whose cue must be out of fold"):
            make_cues.main([*flags, "--device", "cpu"])
    finally:
        path.write_text(before)


def test_a_cue_that_is_older_than_its_network_is_made_anew(out_of_fold):
    flags, run = out_of_fold
    cues = {row["fold"]: run / "cues" / f"{row['name']}.b2nd" for row in read_index(run / "cases")}
    before = {fold: path.stat().st_mtime_ns for fold, path in cues.items()}
    (run / "fold_0/localizer/last.pt").touch()
    make_cues.main([*flags, "--device", "cpu"])
    assert [cues[fold].stat().st_mtime_ns > before[fold] for fold in (0, 1)] == [True, False]


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


def test_means_of_two_evaluations_are_of_the_cases_that_both_have(trained, tmp_path):
    root, _ = trained
    common = ["--weights", str(root / "weights"), "--data", f"sts={root / 'sts'}", "--device", "cpu"]
    evaluate.main([*common, "--out", str(tmp_path / "more")])
    rows = [r for r in compare.read_cases(tmp_path / "more") if r.method == "SUV > 2.5"]
    first, *rest = [r for r in rows if r.data == "sts"]
    doubled = [
        dataclasses.replace(r, scores=dataclasses.replace(r.scores, case=r.scores.case + "b", fpv_ml=1e6)) for r in (first, *rest)
    ]
    cells = compare.compare([first, *doubled], [first], "sts")
    assert cells[0] == "1"
    assert not any("1000000" in cell for cell in cells)
    (tmp_path / "other").mkdir()
    text = (tmp_path / "more/cases.csv").read_text()
    (tmp_path / "other/cases.csv").write_text(text.replace("\nsts,", "\nelsewhere,"))
    with pytest.raises(InputError, match="have no case in common"):
        compare.main([str(tmp_path / "more"), str(tmp_path / "other"), "--method", "SUV > 2.5"])


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
