"""Folds by patient: whole, balanced in lesion load, the same for the same seed; or a file's, if no patient leaks in it."""

import json

import numpy as np
import pytest

from l2s.errors import InputError
from training.splits import assign_folds, changed_folds, make_folds, read_splits, splits_files, write_splits

CASES = [{"patient": f"p{k // 2:02d}", "lesion_ml": float(k)} for k in range(80)]  # two studies a patient


def test_each_patient_is_in_one_fold_and_folds_are_even():
    folds = make_folds(CASES, 5, seed=1)
    assert sorted(folds) == sorted({case["patient"] for case in CASES})
    assert np.bincount(list(folds.values())).tolist() == [8] * 5


def test_every_fold_gets_its_share_of_every_rank():
    folds = make_folds(CASES, 5, seed=1)
    for rank in range(8):
        assert sorted(folds[f"p{k:02d}"] for k in range(5 * rank, 5 * rank + 5)) == [0, 1, 2, 3, 4]


def test_the_seed_decides_and_the_order_of_cases_does_not():
    assert make_folds(CASES, 5, seed=1) == make_folds(CASES[::-1], 5, seed=1)
    assert make_folds(CASES, 5, seed=1) != make_folds(CASES, 5, seed=2)


def test_no_cases_no_folds():
    assert make_folds([], 5, seed=1) == {}


def test_lesion_free_patients_are_shared_out_evenly():
    cases = [{"patient": f"p{k:02d}", "lesion_ml": 0.0 if k < 23 else float(k)} for k in range(60)]
    folds = make_folds(cases, 5, seed=1)
    free = np.bincount([folds[f"p{k:02d}"] for k in range(23)], minlength=5)
    assert free.sum() == 23
    assert free.max() - free.min() <= 1


def row(name, patient=None, source="autopet", lesion_ml=1.0) -> dict:
    return {"name": name, "patient": patient or name, "source": source, "lesion_ml": lesion_ml}


def write_file(path, *vals, train=()):
    """nnU-Net's splits of the names in vals, each fold training on all that it does not hold out, and on `train`."""
    names = [n for val in vals for n in val]
    path.write_text(json.dumps([{"train": [n for n in names if n not in val] + list(train), "val": list(val)} for val in vals]))
    return path


def test_phantoms_are_dealt_in_turn_and_implants_follow_their_donor():
    rows = [row(f"c{k}") for k in range(4)]
    rows += [row(f"phantom_{k}", source="phantom") for k in range(3)] + [
        row("i0", "c0", "implant", 500.0),
        row("i9", "gone", "implant"),
    ]
    assign_folds(rows, 2, 1, [])
    fold = {r["name"]: r["fold"] for r in rows}
    assert [fold[f"phantom_{k}"] for k in range(3)] == [0, 1, 0]
    assert fold["i0"] == fold["c0"] is not None
    assert fold["i9"] is None
    # an implant's volume does not move its donor among the ranks
    assert {n: f for n, f in fold.items() if n[0] == "c"} == make_folds(rows[:4], 2, 1)


def test_a_file_decides_and_what_it_leaves_out_only_trains(tmp_path, caplog):
    path = write_file(tmp_path / "s.json", ["fdg_a_x y"], ["fdg_b_z"], train=["fdg_t_u"])
    rows = [row("fdg_a_x_y", "a"), row("fdg_a_later", "a"), row("fdg_b_z", "b"), row("fdg_t_u", "t"), row("fdg_new_s", "new")]
    rows += [row(f"sts{k}", source="sts") for k in range(4)] + [row("i", "b", "implant"), row("j", "t", "implant")]
    assign_folds(rows, 2, 1, [path])
    fold = {r["name"]: r["fold"] for r in rows}
    assert [fold[n] for n in ("fdg_a_x_y", "fdg_a_later", "fdg_b_z", "fdg_t_u", "fdg_new_s")] == [0, 0, 1, None, None]
    assert sorted(fold[f"sts{k}"] for k in range(4)) == [0, 0, 1, 1]
    assert (fold["i"], fold["j"]) == (1, None)
    assert "1 cases are not in the splits' files and only train, such as fdg_new_s" in caplog.text


def test_files_that_leak_are_refused(tmp_path):
    path = write_file(tmp_path / "s.json", ["a1"], ["a2"])
    with pytest.raises(InputError, match="patient a is in two folds .a1 in fold 0, a2 in fold 1"):
        assign_folds([row("a1", "a"), row("a2", "a")], 2, 1, [path])
    path = write_file(tmp_path / "s.json", ["a1"], ["b1"], train=["a2"])
    with pytest.raises(InputError, match="a1 in fold 0, a2 in training only"):
        assign_folds([row("a1", "a"), row("a2", "a"), row("b1")], 2, 1, [path])
    with pytest.raises(InputError, match="has 2 folds, the recipe 5"):
        read_splits(path, 5)
    with pytest.raises(InputError, match="b is in folds 0 and 1"):
        read_splits(write_file(tmp_path / "s.json", ["b"], ["b"]), 2)
    path.write_text(json.dumps([{"train": ["b", "c"], "val": ["b"]}]))
    with pytest.raises(InputError, match="b both trains and validates in fold 0"):
        read_splits(path, 1)


@pytest.mark.parametrize("text", ["{", "[1]", '[{"train": []}]', '{"train": [], "val": []}'])
def test_what_is_no_splits_file_is_refused(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match="is no list of"):
        read_splits(tmp_path / "s.json", 1)
    with pytest.raises(InputError, match="no such file"):
        read_splits(tmp_path / "none.json", 1)


def test_written_splits_are_read_back_as_the_same_folds(tmp_path):
    rows = [row(f"c{k}", lesion_ml=k) for k in range(7)] + [row("phantom_1", source="phantom")]
    assign_folds(rows, 3, 1, [])
    write_splits(tmp_path / "splits.json", rows, 3)
    again = [{k: v for k, v in r.items() if k != "fold"} for r in rows]
    assign_folds(again, 3, 99, [tmp_path / "splits.json"])
    assert again == rows
    assert len(json.loads((tmp_path / "splits.json").read_text())) == 3


def test_splits_beside_the_data_are_found_once_and_can_be_turned_off(tmp_path):
    data = [(name, tmp_path / name) for name in ("a", "b")]
    for _, folder in data:
        folder.mkdir()
    assert splits_files(None, data) == []
    write_file(tmp_path / "splits_final.json", ["x"])
    write_file(tmp_path / "b/splits_final.json", ["y"])
    assert [p.parent.name for p in splits_files(None, data)] == [tmp_path.name, "b"]
    assert splits_files(["dealt"], data) == []
    assert splits_files(["mine.json"], data)[0].name == "mine.json"


def test_a_moved_case_is_noticed():
    before = [row("a") | {"fold": 0}, row("b") | {"fold": 1}, row("i", source="implant") | {"fold": 1}]
    now = [row("a") | {"fold": 0}, row("b") | {"fold": 0}, row("i", source="implant") | {"fold": 0}, row("c") | {"fold": 1}]
    assert changed_folds(before, now) == ["b"]
