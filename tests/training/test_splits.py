"""Folds by patient: whole, balanced in lesion load, the same for the same seed; or a file's, if no patient leaks in it."""

import json
from pathlib import Path

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
    assert [fold[f"phantom_{k}"] for k in range(3)] == [0, 1, 1]
    assert fold["i0"] == fold["c0"] is not None
    assert fold["i9"] is None
    # an implant's volume does not move its donor among the ranks
    assert {n: f for n, f in fold.items() if n[0] == "c"} == make_folds(rows[:4], 2, 1)


@pytest.mark.parametrize("folds", [2, 3, 4, 5, 6])
def test_every_fold_has_phantoms_of_both_kinds(folds):
    """Drawn ones and those on organ maps alternate."""
    rows = [row(f"phantom_{k}", source="phantom") for k in range(4 * folds)]
    assign_folds(rows, folds, 1, [])
    of_fold = [[k % 2 for k, r in enumerate(rows) if r["fold"] == fold] for fold in range(folds)]
    assert [len(kinds) for kinds in of_fold] == [4] * folds
    assert [sum(kinds) for kinds in of_fold] == [2] * folds


@pytest.mark.parametrize("folds", [3, 5])
def test_an_odd_number_of_folds_deals_phantoms_in_turn(folds):
    rows = [row(f"phantom_{k}", source="phantom") for k in range(12)]
    assign_folds(rows, folds, 1, [])
    assert [r["fold"] for r in rows] == [k % folds for k in range(12)]


def test_a_fold_without_a_patient_is_refused_but_one_patient_may_train():
    assign_folds([row("alone")], 3, 1, [])
    with pytest.raises(InputError, match=r"fold \d of 3 holds out none of the 2 patients: set fewer folds"):
        assign_folds([row("a"), row("b"), row("b2", "b")], 3, 1, [])
    rows = [row("phantom_0", source="phantom")]
    assign_folds(rows, 3, 1, [])
    assert rows[0]["fold"] == 0


def test_a_file_beside_the_data_is_of_its_own_cases(tmp_path):
    rows = [row("c1", "p1"), row("c2", "p2"), row("other-c1", "q1", "other"), row("other-c2", "q2", "other")]
    labels = {"c1": "c1", "c2": "c2", "other-c1": "c1", "other-c2": "c2"}
    first = ("autopet", write_file(tmp_path / "a.json", ["c1"], ["c2"]))
    second = ("other", write_file(tmp_path / "b.json", ["c2"], ["c1"]))
    for files in ([first, second], [second, first]):
        assign_folds(rows, 2, 1, files, labels)
        assert [r["fold"] for r in rows] == [0, 1, 1, 0]
    # the other set is dealt, as no file is its own
    assign_folds(rows, 2, 1, [first], labels)
    assert sorted(r["fold"] for r in rows[2:]) == [0, 1]


def test_two_files_that_place_a_case_differently_are_refused_and_a_fold_overrules_training_only(tmp_path):
    rows = [row("a"), row("b")]
    one = (None, write_file(tmp_path / "one.json", ["a"], ["b"]))
    with pytest.raises(InputError, match="has a in fold 1, another splits file in fold 0: mend one"):
        assign_folds(rows, 2, 1, [one, (None, write_file(tmp_path / "two.json", ["b"], ["a"]))])
    only = (None, write_file(tmp_path / "only.json", ["b"], [], train=["a"]))
    again = (None, write_file(tmp_path / "again.json", ["a"], ["x"], train=["b"]))
    for files in ([one, again], [again, one]):
        assign_folds(rows, 2, 1, files)
        assert [r["fold"] for r in rows] == [0, 1]
    with pytest.raises(InputError, match="fold 1 of 2 holds out none of the 2 patients"):
        assign_folds(rows, 2, 1, [only])


def test_a_file_decides_and_what_it_leaves_out_only_trains(tmp_path, caplog):
    path = write_file(tmp_path / "s.json", ["fdg_a_x y"], ["fdg_b_z"], train=["fdg_t_u"])
    rows = [row("fdg_a_x_y", "a"), row("fdg_a_later", "a"), row("fdg_b_z", "b"), row("fdg_t_u", "t"), row("fdg_new_s", "new")]
    rows += [row(f"sts{k}", source="sts") for k in range(4)] + [row("i", "b", "implant"), row("j", "t", "implant")]
    assign_folds(rows, 2, 1, [(None, path)])
    fold = {r["name"]: r["fold"] for r in rows}
    assert [fold[n] for n in ("fdg_a_x_y", "fdg_a_later", "fdg_b_z", "fdg_t_u", "fdg_new_s")] == [0, 0, 1, None, None]
    assert sorted(fold[f"sts{k}"] for k in range(4)) == [0, 0, 1, 1]
    assert (fold["i"], fold["j"]) == (1, None)
    assert "1 cases are not in the splits' files and only train, such as fdg_new_s" in caplog.text


def test_files_that_leak_are_refused(tmp_path):
    path = write_file(tmp_path / "s.json", ["a1"], ["a2"])
    with pytest.raises(InputError, match="patient a is in two folds .a1 in fold 0, a2 in fold 1"):
        assign_folds([row("a1", "a"), row("a2", "a")], 2, 1, [(None, path)])
    path = write_file(tmp_path / "s.json", ["a1"], ["b1"], train=["a2"])
    with pytest.raises(InputError, match="a1 in fold 0, a2 in training only"):
        assign_folds([row("a1", "a"), row("a2", "a"), row("b1")], 2, 1, [(None, path)])
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
    assign_folds(again, 3, 99, [(None, tmp_path / "splits.json")])
    assert again == rows
    assert len(json.loads((tmp_path / "splits.json").read_text())) == 3


def test_splits_beside_the_data_are_found_and_can_be_turned_off(tmp_path):
    data = [(name, tmp_path / name) for name in ("a", "b")]
    for _, folder in data:
        folder.mkdir()
    assert splits_files(None, data) == []
    write_file(tmp_path / "splits_final.json", ["x"])
    write_file(tmp_path / "b/splits_final.json", ["y"])
    names = [(source, path.parent.name) for source, path in splits_files(None, data)]
    assert names == [("a", tmp_path.name), ("b", "b"), ("b", tmp_path.name)]
    assert splits_files(["dealt"], data) == []
    assert splits_files(["mine.json"], data) == [(None, Path("mine.json"))]


def test_a_moved_case_is_noticed():
    before = [row("a") | {"fold": 0}, row("b") | {"fold": 1}, row("i", source="implant") | {"fold": 1}]
    now = [row("a") | {"fold": 0}, row("b") | {"fold": 0}, row("i", source="implant") | {"fold": 0}, row("c") | {"fold": 1}]
    assert changed_folds(before, now) == ["b", "i"]
