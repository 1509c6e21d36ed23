"""Folds by patient: whole, balanced in lesion load, the same for the same seed."""

import numpy as np

from training.splits import make_folds

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
