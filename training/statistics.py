"""Pure functions on an evaluation's rows: means with bootstrap intervals, folds, paired differences, lesions by size, detection.

Intervals resample patients, not voxels, lesions or studies: two studies of one patient are no independent evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from l2s.measure.metrics import mean
from training.scores import Lesion, Row

DRAWS, SEED = 10_000, 20230911  # any fixed seed; the same draws serve every method, so that rows compare
LEVEL = 0.95
SIZE_EDGES_ML = (0.0, 1.0, 5.0, 20.0, 100.0, math.inf)
HIGHER_IS_BETTER = {"dice": True, "fpv_ml": False, "fnv_ml": False}
UNDECIDED = "not decided"


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN where undefined (an interval needs two patients). n: the cases that define it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean paired difference, first method minus second; p: see sign_flips; verdict: 'better', 'worse' (of the first), 'not decided'."""

    field: str
    estimate: Estimate
    p: float
    verdict: str


@dataclass(frozen=True)
class FoldSpread:
    """Mean and sample standard deviation of the folds' means; NaN for the deviation of a single fold."""

    mean: float
    sd: float
    folds: int


@dataclass(frozen=True)
class SizeClass:
    """Lesions of low_ml <= volume < high_ml.

    Attributes:
        lesions: true ones.
        found: of them, met by a predicted component with an IoU of 0.1 or more.
        touched: of them, sharing any voxel with the prediction.
        missed_ml: volume of those not touched (they make up FNV).
        false_lesions: predicted ones of this size that meet no true one with such an IoU.
        false_ml: volume of predicted ones that share no voxel with the truth (they make up FPV).
    """

    low_ml: float
    high_ml: float
    lesions: int
    found: int
    touched: int
    missed_ml: float
    false_lesions: int
    false_ml: float


@dataclass(frozen=True)
class Detection:
    """Lesions of all cases counted together: autoPET V's rule (IoU of 0.1), and centres within a radius by evalutils.

    precision = found / (found + false), recall = found / (found + missed), f1 = 2 found / (2 found + missed + false).
    """

    found: int
    missed: int
    false_lesions: int
    precision: float
    recall: float
    f1: Estimate
    centre_hits: tuple[int, int, int]
    centre_f1: float


@lru_cache(maxsize=2)
def draw_counts(patients: int, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """float64 (draws, patients): how often each draw, with replacement, takes each patient; a row sums to patients."""
    taken = np.random.default_rng(seed).integers(0, patients, (draws, patients))
    taken += np.arange(draws)[:, None] * patients
    return np.bincount(taken.ravel(), minlength=draws * patients).reshape(draws, patients).astype(np.float64)


def ratio(numerators, denominators, patients: list[str], draws: int = DRAWS, seed: int = SEED) -> Estimate:
    """Sum of numerators / sum of denominators with a percentile bootstrap over patients.

    Args:
        numerators, denominators: one figure a case; a case whose denominator is 0 says nothing.
        patients: whose case it is; a patient is drawn with all cases.
        draws, seed: of the resampling.

    Draws in which no case says anything are left out of the interval.
    """
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    n = int((bottom > 0).sum())
    value = float(top.sum() / bottom.sum()) if n else math.nan
    names, owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    sums = np.stack([np.bincount(owner, weights=part, minlength=len(names)) for part in (top, bottom)], axis=1)
    if (sums[:, 1] > 0).sum() < 2:
        return Estimate(value, math.nan, math.nan, n)
    drawn = draw_counts(len(names), draws, seed) @ sums
    drawn = drawn[drawn[:, 1] > 0]
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), n)


def mean_interval(values: list[float], patients: list[str], draws: int = DRAWS, seed: int = SEED) -> Estimate:
    """Mean over cases of the defined values, with its interval."""
    array = np.asarray(values, np.float64)
    return ratio(np.nan_to_num(array), ~np.isnan(array), patients, draws, seed)


def field_interval(rows: list[Row], field: str) -> Estimate:
    """Mean of one of CaseScores' fields over the rows of one method, with its interval."""
    return mean_interval([getattr(r.scores, field) for r in rows], [r.patient for r in rows])


def over_folds(rows: list[Row], field: str) -> FoldSpread:
    """Mean and deviation of the folds' means of a field; a fold in which no case defines it is left out."""
    means = [mean(getattr(r.scores, field) for r in rows if r.fold == fold) for fold in dict.fromkeys(r.fold for r in rows)]
    means = [m for m in means if not math.isnan(m)]
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else math.nan
    return FoldSpread(mean(means), spread, len(means))


@lru_cache(maxsize=2)
def swaps(patients: int) -> np.ndarray:
    """float32 (ways, patients) of 1 and -1: all ways to swap two methods of each patient, or DRAWS drawn ones; the first swaps none."""
    if 2**patients <= DRAWS:
        signs = (np.arange(2**patients)[:, None] >> np.arange(patients)) & 1
    else:
        signs = np.random.default_rng(SEED).integers(0, 2, (DRAWS, patients))
        signs[0] = 0
    return (1 - 2 * signs).astype(np.float32)


def sign_flips(deltas: list[float], patients: list[str]) -> float:
    """Two-sided p of the mean of paired differences: the share of all ways to swap the two methods of each patient (10 000 drawn ones
    beyond 13 patients) that give a mean as far from 0. NaN where nothing is defined.
    """
    defined = [(delta, patient) for delta, patient in zip(deltas, patients) if not math.isnan(delta)]
    if not defined:
        return math.nan
    values, owner = zip(*defined)
    sums = np.bincount(np.unique(owner, return_inverse=True)[1], weights=values)
    swapped = np.abs(swaps(len(sums)) @ sums)
    return float((swapped >= abs(sums.sum()) * (1 - 1e-12)).mean())


def paired(first: list[Row], second: list[Row], field: str) -> Difference:
    """First method minus second on the cases that both have, where both define the field.

    The verdict stands where the interval leaves out 0 and the sign flips give less than 5 %. The interval alone is too narrow for few
    patients: of differences by chance it calls one in eight better or worse at n = 8, and the flips hold 5 % at any n (fewer than six
    patients never reach it).
    """
    others = {(r.data, r.scores.case): r for r in second}
    both = [(r, others[key]) for r in first if (key := (r.data, r.scores.case)) in others]
    deltas = [getattr(a.scores, field) - getattr(b.scores, field) for a, b in both]
    patients = [a.patient for a, _ in both]
    estimate, p = mean_interval(deltas, patients), sign_flips(deltas, patients)
    if not p < 1 - LEVEL or estimate.low <= 0 <= estimate.high:
        return Difference(field, estimate, p, UNDECIDED)
    return Difference(field, estimate, p, "better" if (estimate.low > 0) == HIGHER_IS_BETTER[field] else "worse")


def size_classes(rows: list[Row]) -> list[SizeClass]:
    """The lesions of one method's rows, true and false, by volume."""

    def of_size(part: Callable[[Row], tuple[Lesion, ...]], low: float, high: float) -> list[Lesion]:
        return [lesion for row in rows for lesion in part(row) if low <= lesion.volume_ml < high]

    classes = []
    for low, high in zip(SIZE_EDGES_ML, SIZE_EDGES_ML[1:]):
        true, seen = of_size(lambda r: r.lesions, low, high), of_size(lambda r: r.predicted, low, high)
        classes.append(
            SizeClass(
                low,
                high,
                lesions=len(true),
                found=sum(v.found for v in true),
                touched=sum(v.touched for v in true),
                missed_ml=sum(v.volume_ml for v in true if not v.touched),
                false_lesions=sum(not v.found for v in seen),
                false_ml=sum(v.volume_ml for v in seen if not v.touched),
            )
        )
    return classes


def detection(rows: list[Row]) -> Detection:
    """Lesion-level detection of one method's rows."""
    found, missed, false = (sum(getattr(r.scores, f) for r in rows) for f in ("found", "missed", "false_lesions"))
    hits, lost, spurious = (sum(r.centre_hits[k] for r in rows) for k in range(3))
    f1 = ratio(
        [2 * r.scores.found for r in rows],
        [2 * r.scores.found + r.scores.missed + r.scores.false_lesions for r in rows],
        [r.patient for r in rows],
    )
    return Detection(
        found,
        missed,
        false,
        precision=share(found, found + false),
        recall=share(found, found + missed),
        f1=f1,
        centre_hits=(hits, lost, spurious),
        centre_f1=share(2 * hits, 2 * hits + lost + spurious),
    )


def share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def by_lesion(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """(rows whose truth has lesions, rows whose truth has none)."""
    return [r for r in rows if r.scores.truth_lesions], [r for r in rows if not r.scores.truth_lesions]
