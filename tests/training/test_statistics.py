"""Means, intervals, folds, differences, sizes and detection: figures worked out by hand, the bootstrap against a literal loop."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import permutation_test

from l2s.measure.metrics import CaseScores
from training import statistics
from training.scores import Lesion, Row

NAN = math.nan


def row(case, dice=0.5, fpv=0.0, fnv=0.0, method="A", fold="f0", patient=None, lesions=(), predicted=(), hits=(0, 0, 0)):
    found, false = sum(v.found for v in lesions), sum(not v.found for v in predicted)
    missed = len(lesions) - found
    scores = CaseScores(case, dice, fpv, fnv, 1.0, 1.0, len(lesions), len(predicted), found, missed, false, NAN)
    return Row("d", fold, patient or case, method, scores, tuple(lesions), tuple(predicted), hits)


def literal_interval(values, patients, draws, seed):
    """The bootstrap as it is told: draw patients, pool their cases, take the mean, sort."""
    rng = np.random.default_rng(seed)
    names = sorted(set(patients))
    means = []
    for _ in range(draws):
        pool = [
            value
            for k in rng.integers(0, len(names), len(names))
            for value, patient in zip(values, patients)
            if patient == names[k] and not math.isnan(value)
        ]
        if pool:
            means.append(sum(pool) / len(pool))
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize(
    ("values", "patients"),
    [
        ([0.1, 0.5, 0.9, 0.4, 0.8], ["a", "b", "c", "d", "e"]),
        ([0.1, 0.5, 0.9, NAN, 0.8, 0.3], ["b", "a", "b", "c", "d", "a"]),
        ([NAN, NAN, 0.2, 0.6], ["a", "b", "c", "d"]),
    ],
)
def test_the_bootstrap_is_its_literal_loop(values, patients):
    estimate = statistics.mean_interval(values, patients, draws=300, seed=5)
    np.testing.assert_allclose([estimate.low, estimate.high], literal_interval(values, patients, 300, 5), rtol=1e-12)
    defined = [v for v in values if not math.isnan(v)]
    assert estimate.value == pytest.approx(sum(defined) / len(defined))
    assert estimate.n == len(defined)


def test_each_draw_takes_as_many_patients_as_there_are():
    counts = statistics.draw_counts(7, 50, 1)
    assert counts.shape == (50, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert len({tuple(c) for c in counts.tolist()}) > 40


def test_two_patients_give_their_own_values_as_interval():
    # draws: both first (1/4), both second (1/4), one of each (1/2): the 2.5th percentile is the smaller value
    estimate = statistics.mean_interval([0.2, 0.6], ["a", "b"])
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (pytest.approx(0.4), 0.2, 0.6, 2)


def test_one_patient_or_none_has_no_interval():
    one = statistics.mean_interval([0.2, 0.4], ["a", "a"])
    assert one.value == pytest.approx(0.3)
    assert math.isnan(one.low)
    assert math.isnan(statistics.mean_interval([NAN, NAN], ["a", "b"]).value)
    assert math.isnan(statistics.mean_interval([], []).value)


def test_resampling_patients_is_wider_than_resampling_studies_of_like_patients():
    values = [0.1] * 10 + [0.9] * 10 + [0.5] * 10
    together = statistics.mean_interval(values, ["a"] * 10 + ["b"] * 10 + ["c"] * 10)
    apart = statistics.mean_interval(values, [str(k) for k in range(30)])
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_folds_spread_by_their_own_means():
    rows = [row("1", 0.2, fold="f0"), row("2", 0.4, fold="f0"), row("3", 0.5, fold="f1"), row("4", NAN, fold="f2")]
    spread = statistics.over_folds(rows, "dice")
    assert spread.folds == 2
    assert spread.mean == pytest.approx(0.4)  # (0.3 + 0.5) / 2
    assert spread.sd == pytest.approx(math.sqrt(0.02))  # 0.1 and -0.1 off, over 2 - 1
    assert math.isnan(statistics.over_folds(rows[:2], "dice").sd)


def test_a_difference_is_taken_case_by_case():
    first = [row(str(k), d) for k, d in enumerate((0.9, 0.5, 0.7, 0.6, 0.6, 0.6, NAN))] + [row("alone", 0.0)]
    second = [row(str(k), d) for k, d in enumerate((0.8, 0.3, 0.4, 0.5, 0.4, 0.3, 0.1))]
    found = statistics.paired(first, second[::-1], "dice")
    assert found.estimate.value == pytest.approx(0.2)
    assert found.estimate.n == 6
    assert found.verdict == "better"
    assert statistics.paired(second, first, "dice").verdict == "worse"


def test_less_false_volume_is_better():
    first = [row(str(k), fpv=v) for k, v in enumerate((1.0, 2.0, 3.0, 1.0, 2.0, 3.0))]
    second = [row(str(k), fpv=v) for k, v in enumerate((2.0, 4.0, 4.0, 2.0, 3.0, 4.0))]
    assert statistics.paired(first, second, "fpv_ml").verdict == "better"
    assert statistics.paired(second, first, "fpv_ml").verdict == "worse"


@pytest.mark.parametrize(("patients", "verdict"), [(5, "not decided"), (6, "better")])
def test_fewer_than_six_patients_decide_nothing(patients, verdict):
    first = [row(f"{k}{study}", 0.6, patient=str(k)) for k in range(patients) for study in "ab"]
    second = [row(f"{k}{study}", 0.5, patient=str(k)) for k in range(patients) for study in "ab"]
    assert statistics.paired(first, second, "dice").verdict == verdict


@pytest.mark.parametrize("deltas", [(0.1, -0.1, 0.05, 0.1, -0.1, 0.0, 0.02), (0.0,) * 8, (0.3,)])
def test_an_interval_that_holds_zero_decides_nothing(deltas):
    first = [row(str(k), 0.5 + d) for k, d in enumerate(deltas)]
    second = [row(str(k), 0.5) for k in range(len(deltas))]
    assert statistics.paired(first, second, "dice").verdict == "not decided"


def test_sign_flips_are_the_literal_loop():
    deltas, patients = [0.3, -0.1, NAN, 0.2, 0.05, 0.4, 0.1], ["a", "b", "b", "a", "c", "d", "e"]
    sums = {"a": 0.5, "b": -0.1, "c": 0.05, "d": 0.4, "e": 0.1}
    seen = abs(sum(sums.values()))
    ways = [abs(sum(s * v for s, v in zip(signs, sums.values()))) for signs in itertools.product((1, -1), repeat=5)]
    assert statistics.sign_flips(deltas, patients) == pytest.approx(sum(way >= seen - 1e-12 for way in ways) / len(ways))
    assert statistics.sign_flips([0.2, 0.1], ["a", "a"]) == 1.0
    assert math.isnan(statistics.sign_flips([NAN], ["a"]))


@pytest.mark.parametrize("patients", [9, 40])
def test_sign_flips_are_scipys(patients):
    deltas = np.random.default_rng(patients).normal(0.2, 1, patients)
    theirs = permutation_test((deltas,), np.mean, permutation_type="samples", n_resamples=99_999, rng=np.random.default_rng(1))
    ours = statistics.sign_flips(list(deltas), [str(k) for k in range(patients)])
    assert ours == pytest.approx(theirs.pvalue, abs=1e-12 if patients == 9 else 0.02)


def test_chance_is_called_a_difference_once_in_twenty():
    """At n = 8 the interval alone calls one in eight."""
    rng, called, outside = np.random.default_rng(4), 0, 0
    for _ in range(300):
        found = statistics.paired(
            [row(str(k), d) for k, d in enumerate(rng.normal(size=8))], [row(str(k), 0.0) for k in range(8)], "dice"
        )
        called += found.verdict != "not decided"
        outside += not found.estimate.low <= 0 <= found.estimate.high
    assert called <= 0.07 * 300 < 0.1 * 300 < outside


def test_lesions_fall_into_their_size_class():
    true = [Lesion(0.5, False, False), Lesion(1.0, True, True), Lesion(4.9, False, True), Lesion(100.0, True, True)]
    seen = [Lesion(0.2, False, False), Lesion(0.3, False, True), Lesion(7.0, False, False), Lesion(120.0, True, True)]
    classes = statistics.size_classes([row("1", lesions=true, predicted=seen)])
    counts = [(c.lesions, c.found, c.touched, c.missed_ml, c.false_lesions, c.false_ml) for c in classes]
    assert counts == [
        (1, 0, 0, 0.5, 2, 0.2),
        (2, 1, 2, 0, 0, 0),
        (0, 0, 0, 0, 1, 7.0),
        (0, 0, 0, 0, 0, 0),
        (1, 1, 1, 0, 0, 0),
    ]
    assert [c.low_ml for c in classes] == [0, 1, 5, 20, 100]


def test_detection_counts_lesions_of_all_cases_together():
    hit, lost = Lesion(2.0, True, True), Lesion(2.0, False, False)
    rows = [
        row("1", lesions=[hit, hit, lost], predicted=[hit, hit, lost], hits=(1, 2, 2)),
        row("2", lesions=[hit], predicted=[hit, lost, lost], hits=(1, 0, 2)),
    ]
    found = statistics.detection(rows)
    assert (found.found, found.missed, found.false_lesions) == (3, 1, 3)
    assert found.precision == pytest.approx(3 / 6)
    assert found.recall == pytest.approx(3 / 4)
    assert found.f1.value == pytest.approx(6 / 10)
    # the cases alone: 4 / 6 and 2 / 4
    assert (found.f1.low, found.f1.high) == (pytest.approx(0.5), pytest.approx(2 / 3))
    assert found.centre_hits == (2, 2, 4)
    assert found.centre_f1 == pytest.approx(4 / 10)


def test_without_lesions_detection_is_undefined():
    found = statistics.detection([row("1")])
    assert math.isnan(found.precision)
    assert math.isnan(found.f1.value)
    assert math.isnan(found.centre_f1)


def test_positives_and_negatives_part_by_the_truth():
    positive, negative = row("1", lesions=[Lesion(1.0, True, True)]), row("2", NAN)
    assert statistics.by_lesion([negative, positive]) == ([positive], [negative])
