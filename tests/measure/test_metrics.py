"""Masks are drawn by hand, one text row a line of x, one block a plane; '#' is foreground."""

import math

import numpy as np
import pytest
from scipy import ndimage

from l2s.errors import InputError
from l2s.measure.metrics import CaseScores, dice, evaluate_masks, fnv_ml, fpv_ml, summarize

ML = 0.5  # a voxel's volume in these tests


def drawn(*planes: str) -> np.ndarray:
    return np.array([[[c == "#" for c in row] for row in plane.split()] for plane in planes])


TRUTH = drawn(
    """
    ###.......
    ###.....#.
    ..........
    ......##..
    """,
    """
    ..........
    ..........
    ..........
    ......##..
    """,
)
PREDICTION = drawn(
    """
    .##.......
    .##.......
    ..........
    .........#
    """,
    """
    ...#......
    ..........
    ..........
    ##........
    """,
)
# Truth: A 6 voxels, B 1 voxel, C 4 voxels (both planes). Prediction: D 5 voxels (its voxel in the second plane joins by an edge),
# E 1 voxel, F 2 voxels. Only A and D meet, in 4 voxels; their IoU is 4 / (6 + 5 - 4).


def test_drawn_masks_give_the_numbers_worked_out_by_hand():
    assert evaluate_masks(TRUTH, PREDICTION, ML, "drawn") == CaseScores(
        case="drawn",
        dice=2 * 4 / (11 + 8),
        fpv_ml=3 * ML,
        fnv_ml=5 * ML,
        truth_ml=11 * ML,
        prediction_ml=8 * ML,
        truth_lesions=3,
        prediction_lesions=3,
        found=1,
        missed=2,
        false_lesions=2,
        lesion_f1=2 / (2 + 2 + 2),
    )
    assert dice(TRUTH, PREDICTION) == 8 / 19
    assert fpv_ml(TRUTH, PREDICTION, ML) == 1.5
    assert fnv_ml(TRUTH, PREDICTION, ML) == 2.5


def test_components_that_touch_by_a_corner_are_two():
    # the second plane's voxel shares only a corner with the first plane's: it is a component of its own and a false positive
    truth = drawn("#.. ... ...", "... ... ...")
    prediction = drawn("#.. ... ...", "... .#. ...")
    assert fpv_ml(truth, prediction, ML) == ML
    joined = drawn("#.. ... ...", ".#. ... ...")
    assert fpv_ml(truth, joined, ML) == 0


@pytest.mark.parametrize(
    ("truth", "prediction", "dice_", "fpv", "fnv", "f1"),
    [
        ("....", "....", math.nan, 0.0, math.nan, math.nan),
        ("....", "##.#", math.nan, 1.5, math.nan, 0.0),
        ("##.#", "....", 0.0, 0.0, 1.5, 0.0),
        ("##.#", "##.#", 1.0, 0.0, 0.0, 1.0),
        ("##..", "...#", 0.0, 0.5, 1.0, 0.0),
    ],
)
def test_rules_for_empty_masks(truth, prediction, dice_, fpv, fnv, f1):
    scores = evaluate_masks(drawn(truth), drawn(prediction), ML)
    assert np.array_equal([scores.dice, scores.fpv_ml, scores.fnv_ml, scores.lesion_f1], [dice_, fpv, fnv, f1], equal_nan=True)
    single = [
        dice(drawn(truth), drawn(prediction)),
        fpv_ml(drawn(truth), drawn(prediction), ML),
        fnv_ml(drawn(truth), drawn(prediction), ML),
    ]
    assert np.array_equal(single, [dice_, fpv, fnv], equal_nan=True)


@pytest.mark.parametrize(("truth", "prediction", "found"), [("#.........", "##########", 1), ("#..........", "###########", 0)])
def test_a_lesion_is_found_from_an_iou_of_a_tenth_on(truth, prediction, found):
    scores = evaluate_masks(drawn(truth), drawn(prediction), ML)
    assert (scores.found, scores.missed, scores.false_lesions) == (found, 1 - found, 1 - found)
    assert scores.fpv_ml == scores.fnv_ml == 0  # one shared voxel is enough for the volumes


def test_one_prediction_may_find_two_lesions():
    scores = evaluate_masks(drawn("##.##"), drawn("#####"), ML)
    assert (scores.found, scores.missed, scores.false_lesions, scores.lesion_f1) == (2, 0, 0, 1.0)


def test_shapes_must_agree():
    with pytest.raises(InputError, match=r"\(1, 1, 4\), the prediction \(1, 1, 3\)"):
        evaluate_masks(drawn("...."), drawn("..."), ML)


def twin(truth: np.ndarray, prediction: np.ndarray, voxel_ml: float) -> list[float]:
    """Every figure by one full-size mask a component."""
    structure = [[[abs(a) + abs(b) + abs(c) <= 2 for c in (-1, 0, 1)] for b in (-1, 0, 1)] for a in (-1, 0, 1)]

    def parts(mask):
        labels, count = ndimage.label(mask, structure)
        return [labels == k for k in range(1, count + 1)]

    true_parts, parts_ = parts(truth), parts(prediction)

    def iou(a, b):
        return (a & b).sum() / (a | b).sum()

    found = sum(any(iou(t, p) >= 0.1 for p in parts_) for t in true_parts)
    false = sum(not any(iou(t, p) >= 0.1 for t in true_parts) for p in parts_)
    fpv = sum(p.sum() for p in parts_ if not (p & truth).any()) * voxel_ml
    if not true_parts:
        return [math.nan, fpv, math.nan, 0, len(parts_), 0, 0, false]
    fnv = sum(t.sum() for t in true_parts if not (t & prediction).any()) * voxel_ml
    score = 2 * (truth & prediction).sum() / (truth.sum() + prediction.sum())
    return [score, fpv, fnv, len(true_parts), len(parts_), found, len(true_parts) - found, false]


def test_equals_the_twin_on_random_masks():
    rng = np.random.default_rng(5)
    for _ in range(150):
        shape = tuple(rng.integers(3, 9, 3))
        truth, prediction = (rng.random(shape) < rng.choice([0, 0.02, 0.1, 0.3, 0.6]) for _ in range(2))
        s = evaluate_masks(truth, prediction, 0.0124)
        got = [s.dice, s.fpv_ml, s.fnv_ml, s.truth_lesions, s.prediction_lesions, s.found, s.missed, s.false_lesions]
        np.testing.assert_allclose(got, twin(truth, prediction, 0.0124), rtol=1e-12, atol=0)


def test_summary_by_three_conventions():
    cases = [
        evaluate_masks(drawn("##.."), drawn("##.."), ML),  # Dice 1
        evaluate_masks(drawn("##.."), drawn("...#"), ML),  # Dice 0, FPV 0.5, FNV 1
        evaluate_masks(drawn("...."), drawn("...."), ML),
        evaluate_masks(drawn("...."), drawn("##.."), ML),  # FPV 1
    ]
    summary = summarize(cases)
    assert summary["mdice"] == (1 + 0) / 2
    assert summary["mdice_empty_is_one"] == (1 + 0 + 1 + 0) / 4
    assert summary["mdice_false_positive_is_zero"] == pytest.approx((1 + 0 + 0) / 3)
    assert summary["mean_fpv_ml"] == (0 + 0.5 + 0 + 1) / 4
    assert summary["mean_fnv_ml"] == (0 + 1) / 2
    assert (summary["cases"], summary["cases_without_lesion"]) == (4, 2)
    assert (summary["found"], summary["missed"], summary["false_lesions"]) == (1, 1, 2)


def test_a_summary_of_lesion_free_cases_is_undefined_where_nothing_defines_it():
    summary = summarize([evaluate_masks(drawn("...."), drawn("...."), ML)])
    assert math.isnan(summary["mdice"])
    assert math.isnan(summary["mean_fnv_ml"])
    assert math.isnan(summary["mdice_false_positive_is_zero"])
    assert (summary["mdice_empty_is_one"], summary["mean_fpv_ml"]) == (1.0, 0.0)
