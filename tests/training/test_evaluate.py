"""Which weights score which case, what is kept of it, and the tables: small masks and random weights, no training."""

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from safetensors.torch import load_file, save_file

from l2s import engine, pipeline, weights
from l2s.components import label
from l2s.errors import InputError
from l2s.measure.metrics import evaluate_masks, overlap
from l2s.study import Grid, Study
from l2s.working import to_working
from training import evaluate, held_out, readers, scores, thresholds
from training.readers import find_studies, load_study
from training.scores import Lesion, Row

GRID = Grid((12, 10, 14), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0))
METHODS = ["SUV > 2.5", "SUV > 4", "2D U-Net", "3D U-Net", "L2SNet", "L2SNet + voxelwise", "L2SNet + componentwise"]


def mask(*boxes):
    """A bool mask of GRID's shape with boxes ((z0, z1), (y0, y1), (x0, x1))."""
    out = np.zeros(GRID.shape_zyx, bool)
    for box in boxes:
        out[tuple(slice(a, b) for a, b in box)] = True
    return out


TRUTH = mask(((0, 2), (0, 2), (0, 2)), ((5, 7), (5, 7), (5, 9)), ((10, 11), (0, 1), (12, 13)))
SEEN = mask(((0, 2), (0, 2), (0, 1)), ((6, 9), (5, 7), (8, 14)), ((10, 12), (8, 10), (0, 2)))


def test_lesions_are_told_from_both_sides():
    part = scores.score(TRUTH, label(TRUTH), SEEN, GRID, "case")
    # voxels of 12 mm3; the second pair shares 1x2x1 of 16 + 36 voxels: touched, but an IoU of 0.04
    voxel = 0.012
    assert part["lesions"] == (
        Lesion(8 * voxel, True, True),
        Lesion(16 * voxel, False, True),
        Lesion(voxel, False, False),
    )
    assert part["predicted"] == (Lesion(4 * voxel, True, True), Lesion(36 * voxel, False, True), Lesion(8 * voxel, False, False))
    assert part["scores"] == evaluate_masks(TRUTH, SEEN, voxel, "case")


def test_lesions_add_up_to_the_metrics_on_random_masks():
    rng = np.random.default_rng(3)
    for density in (0.0, 0.02, 0.1):
        truth, seen = rng.random((2, *GRID.shape_zyx)) < density
        part = scores.score(truth, label(truth), seen, GRID, "case")
        s = part["scores"]
        assert sum(v.found for v in part["lesions"]) == s.found
        assert sum(not v.found for v in part["predicted"]) == s.false_lesions
        assert sum(v.volume_ml for v in part["predicted"] if not v.touched) == pytest.approx(s.fpv_ml)
        if truth.any():
            assert sum(v.volume_ml for v in part["lesions"] if not v.touched) == pytest.approx(s.fnv_ml)
        expected = overlap(truth, seen)
        for a, b in zip(dataclasses.astuple(scores.shared_voxels(label(truth), label(seen))), dataclasses.astuple(expected)):
            np.testing.assert_array_equal(a, b)


def test_centres_are_compared_in_mm():
    # centres at z 0.5 and 6 voxels: the first pair is 1 mm apart, the second (5.5, 5.5, 6.5) against (7, 5.5, 10.5) 9.2 mm,
    # the third truth has none within 10 mm
    found = scores.centres_mm(label(TRUTH), GRID.shape_zyx, GRID.spacing_mm_zyx)
    np.testing.assert_allclose(found, [[1.5, 1, 1], [16.5, 11, 13], [30, 0, 24]])
    assert scores.score(TRUTH, label(TRUTH), SEEN, GRID, "case")["centre_hits"] == (2, 1, 1)


def test_a_second_prediction_at_one_lesion_is_false_for_evalutils():
    assert scores.centre_hits(np.array([[0.0, 0, 0]]), np.array([[1.0, 0, 0], [2.0, 0, 0]])) == (1, 0, 1)
    assert scores.centre_hits(np.empty((0, 3)), np.array([[1.0, 0, 0]])) == (0, 0, 1)
    assert scores.centre_hits(np.array([[0.0, 0, 0]]), np.array([[10.5, 0, 0]])) == (0, 1, 1)


def test_rows_come_back_as_they_were_and_only_for_the_same_origin(tmp_path):
    empty = mask()
    rows = [
        Row("d", "f", "p", name, **scores.score(truth, label(truth), SEEN, GRID, "case"))
        for name, truth in (("A", TRUTH), ("B", empty))
    ]
    scores.save_rows(tmp_path / "c.json", {"weights": "x", "shape": (1, 2)}, "cpu", rows)
    device, kept = scores.load_rows(tmp_path / "c.json", {"weights": "x", "shape": (1, 2)})
    assert device == "cpu"
    assert kept[0] == rows[0]
    assert math.isnan(kept[1].scores.dice)
    assert "NaN" not in (tmp_path / "c.json").read_text()
    assert scores.load_rows(tmp_path / "c.json", {"weights": "y", "shape": (1, 2)}) is None
    assert scores.load_rows(tmp_path / "none.json", {}) is None
    (tmp_path / "old.json").write_text('{"made_from": {}}')
    assert scores.load_rows(tmp_path / "old.json", {}) is None


def test_masks_come_back_as_they_were(tmp_path):
    pet = np.random.default_rng(0).uniform(0, 9, GRID.shape_zyx).astype(np.float32)
    study = Study(pet, np.zeros_like(pet), GRID)
    scores.save_masks(tmp_path / "m.npz", study, {"truth": TRUTH, "A": SEEN})
    kept = scores.load_masks(tmp_path / "m.npz")
    assert list(kept.masks) == ["truth", "A"]
    assert (kept.masks["truth"] == TRUTH).all()
    assert (kept.masks["A"] == SEEN).all()
    assert kept.spacing_mm_zyx == (3.0, 2.0, 2.0)
    np.testing.assert_array_equal(kept.front_suv[0], pet[-1].max(axis=0))
    assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]


def weights_of(folder, base, held, cue_weights=True, fold="fold_0", name="w", gain=1.0, middles=(0.0, 0.0)):
    """A copy of weights whose manifest holds these patients out; both stages' logits become gain * (logit - middle)."""
    folder.mkdir()
    manifest = json.loads((base / weights.MANIFEST).read_text())
    for stage, middle in zip(("localizer", "segmenter"), middles):
        (file,) = manifest[stage]["files"]
        state = load_file(base / file["file"])
        state["head.weight"] *= gain
        state["head.bias"] = gain * (state["head.bias"] - middle)
        save_file(state, folder / file["file"])
        file["sha256"] = weights.file_sha256(folder / file["file"])
    recipe = {"recipe": {"segmenter": {"cue_weights": cue_weights}}}
    manifest |= {"name": name, "training": {"folds": {fold: {"held_out_patients": held, "segmenter": {"recipes": [recipe]}}}}}
    (folder / weights.MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_a_patient_held_out_by_two_folders_is_refused(weights_folder, tmp_path):
    first = weights_of(tmp_path / "a", weights_folder, ["P1", "P2"])
    second = weights_of(tmp_path / "b", weights_folder, ["P2", "P3"], fold="fold_1")
    with pytest.raises(InputError, match="P2 is held out by"):
        evaluate.open_folds([first, second], [])
    with pytest.raises(InputError, match="P1 is held out by"):
        evaluate.open_folds([first, first], [])


@pytest.mark.parametrize(
    ("held", "cue_weights", "count", "reason"),
    [(["P1"], False, 2, "2 --plain for 1"), (["P1"], True, 1, "with cue weights"), (["P9"], False, 1, "other patients")],
)
def test_plain_weights_that_do_not_pair_are_refused(weights_folder, tmp_path, held, cue_weights, count, reason):
    main = weights_of(tmp_path / "main", weights_folder, ["P1"])
    plain = weights_of(tmp_path / "plain", weights_folder, held, cue_weights)
    with pytest.raises(InputError, match=reason):
        evaluate.open_folds([main], [plain] * count)


def test_plain_weights_are_no_l2snet(weights_folder, tmp_path):
    plain = weights_of(tmp_path / "plain", weights_folder, ["P1"], cue_weights=False)
    with pytest.raises(InputError, match="without cue weights"):
        evaluate.open_folds([plain], [])


def test_phantoms_are_dealt_to_folds_with_running_seeds(weights_folder, tmp_path):
    folds = evaluate.open_folds([weights_of(tmp_path / n, weights_folder, [n], fold=f"fold_{k}") for k, n in enumerate("ab")], [])
    jobs = held_out.phantom_jobs(2, [tmp_path / "map"], folds)
    assert [(j.fold.label, j.source - held_out.PHANTOM_SEED, len(j.organ_maps)) for j in jobs] == [
        ("fold_0", 0, 0),
        ("fold_0", 1, 1),
        ("fold_1", 2, 0),
        ("fold_1", 3, 1),
    ]
    assert len({j.stem for j in jobs}) == 4


@pytest.fixture(scope="module")
def study_folders(tmp_path_factory):
    """Three patients of 24 mm planes, one of them without lesion."""
    root = tmp_path_factory.mktemp("patients")
    rng = np.random.default_rng(1)
    for k in range(3):
        pet = rng.uniform(0.5, 1.5, (16, 14, 18)).astype(np.float32)
        pet[4:7, 5:8, 4 + k : 8 + k] = 9
        truth = (pet > 5).astype(np.uint8) * (k != 2)
        ct = np.full(pet.shape, 40, np.float32)
        ct[:, :2] = -1000
        (root / f"P{k}").mkdir()
        for name, array in (("PET", pet), ("CT", ct), ("SEG", truth)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((8.0, 8.0, 8.0))
            sitk.WriteImage(image, str(root / f"P{k}" / f"{name}.nii.gz"))
    return root


def patient(study_folders, number):
    return load_study(find_studies("made-up", study_folders)[0][number])[0]


@pytest.fixture(scope="module")
def evaluated(weights_folder, study_folders, tmp_path_factory):
    """(flags, output folder) of an evaluation with two folds and plain weights.

    The first fold's weights and the second's plain ones mark a part, the second's mark all, the first's plain ones nothing.
    """
    root = tmp_path_factory.mktemp("evaluated")
    model, plan = weights.load(weights_folder), engine.choose("cpu")
    working = to_working(patient(study_folders, 0), model.manifest.spacing_mm_zyx)
    cue = pipeline.cue_logits(working, model, plan)
    logits = pipeline.lesion_logits(working, model, plan, pipeline.windows_config(model, None))
    part = {"gain": 1000.0, "middles": [float(np.median(np.asarray(values))) for values in (cue, logits)]}
    flags = []
    for flag, letter, heads in (
        ("--weights", "w", (part, {"middles": (-99.0, -99.0)})),
        ("--plain", "p", ({"middles": (99.0, 99.0)}, part)),
    ):
        flags.append(flag)
        for k, (held, head) in enumerate(zip((["P0", "P2"], ["P1"]), heads)):
            flags.append(str(weights_of(root / f"{letter}{k}", weights_folder, held, letter == "w", f"fold_{k}", **head)))
    flags += ["--data", f"made-up={study_folders}", "--device", "cpu", "--out", str(root / "out")]
    evaluate.main(flags)
    return flags, root / "out"


def test_each_patient_is_scored_once_by_the_fold_that_held_it_out(evaluated):
    with (evaluated[1] / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["method"] for r in rows if r["case"] == "P1"] == METHODS
    assert {(r["case"], r["fold"]) for r in rows} == {("P0", "fold_0"), ("P1", "fold_1"), ("P2", "fold_0")}
    threshold = {r["case"]: r for r in rows if r["method"] == "SUV > 2.5"}
    assert threshold["P0"]["dice"] == "1.0"
    assert threshold["P2"]["dice"] == ""
    # 3 x 3 x 4 voxels of 0.512 ml, all of it false where the truth has no lesion
    assert float(threshold["P2"]["fpv_ml"]) == pytest.approx(36 * 0.512)


def test_each_row_is_of_its_own_networks(evaluated, study_folders):
    kept = {k: scores.load_masks(evaluated[1] / f"masks/made-up_P{k}.npz").masks for k in range(3)}
    for k in (0, 2):  # by the first fold, whose plain twin says nothing
        assert not kept[k]["3D U-Net"].any()
        assert 0 < kept[k]["L2SNet"].mean() < 1
    assert kept[1]["2D U-Net"].all()
    assert kept[1]["L2SNet"].all()
    plain = weights.load(Path(evaluated[0][5]))
    result = pipeline.segment(patient(study_folders, 1), plain, engine.choose("cpu"), pipeline.Settings(fusion="none"))
    assert (kept[1]["3D U-Net"] == result.mask).all()
    assert 0 < result.mask.mean() < 1


def test_patients_that_were_held_out_and_are_not_there_are_said(evaluated, study_folders, tmp_path, caplog):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/P1").symlink_to(study_folders / "P1")
    flags = [*evaluated[0][: evaluated[0].index("--data")], "--data", f"made-up={tmp_path / 'data'}", "--device", "cpu"]
    evaluate.main([*flags, "--out", str(tmp_path / "out")])
    assert "2 patients that the weights held out are not in --data, such as P0" in caplog.text


def test_the_table_has_every_part(evaluated):
    text = (evaluated[1] / "table.md").read_text()
    for part in (
        "Table 1",
        "Paired differences",
        "mDice by convention",
        "with and without lesion",
        "Over folds",
        "Detection",
        "by size",
    ):
        assert part in text
    for method in METHODS:
        assert f"| {method} | " in text
    for line in (
        "L2SNet - 3D U-Net",
        "L2SNet + voxelwise - SUV > 2.5",
        "research use only",
        "made-up: cases 3, patients 3, cases without lesion 1",
    ):
        assert line in text
    assert (evaluated[1] / "figure.png").stat().st_size > 10_000
    lesions = (evaluated[1] / "lesions.csv").read_text()
    assert "made-up,fold_0,SUV > 2.5,P0,truth,18.4320,1,1" in lesions


def test_a_second_run_scores_nothing_again_but_a_lost_case(evaluated, monkeypatch):
    flags, out = evaluated
    before = (out / "cases.csv").read_text()
    (out / "scores/made-up_P1.json").unlink()
    (out / "masks/made-up_P2.npz").unlink()
    seen = []
    original = pipeline.cue_logits
    monkeypatch.setattr(pipeline, "cue_logits", lambda working, *rest: seen.append(working) or original(working, *rest))
    evaluate.main(flags)
    # once a case, although two stage 2 networks are scored
    assert len(seen) == 2
    assert (out / "cases.csv").read_text() == before
    evaluate.main(flags)
    assert len(seen) == 2


def test_the_masks_of_the_table_are_those_of_segment(evaluated, study_folders):
    study = patient(study_folders, 0)
    kept = scores.load_masks(evaluated[1] / "masks/made-up_P0.npz").masks
    model, plan = weights.load(Path(evaluated[0][1])), engine.choose("cpu")
    for method, policy in (("L2SNet", "none"), ("L2SNet + voxelwise", "voxelwise"), ("L2SNet + componentwise", "componentwise")):
        result = pipeline.segment(study, model, plan, pipeline.Settings(fusion=policy))
        assert (kept[method] == result.mask).all()
    assert len({kept[method].sum() for method in METHODS[4:]}) == 3  # or a mixed-up policy would pass
    assert (kept["2D U-Net"] == (result.cue > 0.5)).all()


def test_a_named_patient_that_is_nowhere_is_refused(evaluated):
    with pytest.raises(InputError, match="P7"):
        evaluate.main([*evaluated[0], "--patients", "P1", "P7"])


def test_a_patient_that_the_weights_may_have_seen_is_scored_and_named(evaluated, tmp_path):
    flags = [evaluated[0][0], evaluated[0][1], *evaluated[0][evaluated[0].index("--data") : -1], str(tmp_path)]
    evaluate.main([*flags, "--patients", "P1"])
    assert "**Not held out**, the weights may have trained on them: P1." in (tmp_path / "table.md").read_text()
    assert "Not held out" not in (evaluated[1] / "table.md").read_text()


def test_a_file_that_goes_after_the_search_refuses_its_study_alone(evaluated, study_folders, tmp_path, monkeypatch):
    shutil.copytree(study_folders, tmp_path / "data")
    search = held_out.find_studies

    def search_and_lose(*arguments):
        found = search(*arguments)
        (tmp_path / "data/P1/CT.nii.gz").unlink()
        return found

    monkeypatch.setattr(held_out, "find_studies", search_and_lose)
    flags = [*evaluated[0][: evaluated[0].index("--data")], "--data", f"made-up={tmp_path / 'data'}", "--device", "cpu"]
    evaluate.main([*flags, "--out", str(tmp_path / "out")])
    text = (tmp_path / "out/table.md").read_text()
    assert f"Refused: P1: {tmp_path}/data/P1/CT.nii.gz: No such file or directory; copy or fetch the study again" in text
    with (tmp_path / "out/cases.csv").open() as file:
        assert {row["case"] for row in csv.DictReader(file)} == {"P0", "P2"}


def test_a_file_that_breaks_its_reader_is_refused(weights_folder, study_folders, monkeypatch):
    def broken(_found):
        raise ZeroDivisionError("slope")

    monkeypatch.setattr(readers, "load_study", broken)
    (fold,) = held_out.open_folds([weights_folder], [])
    (job, *_), refused = held_out.patient_jobs("made-up", study_folders, [fold], ["P0"], "all"), []
    assert held_out.read_or_refuse(job, refused) is None
    assert refused == ["P0: reading failed with ZeroDivisionError: slope; copy the study again"]


def test_thresholds_read_each_folds_networks_once_and_keep_data_sets_apart(evaluated, study_folders, monkeypatch, capsys):
    loaded, original = [], weights.load
    monkeypatch.setattr(weights, "load", lambda folder: loaded.append(folder) or original(folder))
    data = [part for name in ("one", "two") for part in ("--data", f"{name}={study_folders}")]
    thresholds.main([*evaluated[0][:3], *data, "--device", "cpu"])
    assert loaded == [Path(folder) for folder in evaluated[0][1:3]]
    text = capsys.readouterr().out
    for name in ("one", "two"):
        assert f"{name}: 3 held-out cases; in brackets" in text
    assert sum(line.startswith("| 0.1 | 0.9 |") for line in text.splitlines()) == 2


def test_nothing_to_evaluate_is_refused(weights_folder, tmp_path):
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate.main(["--weights", str(weights_folder), "--out", str(tmp_path)])
