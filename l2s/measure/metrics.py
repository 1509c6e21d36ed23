"""autoPET's metrics with their exact rules for empty masks, from one labelling of truth and prediction.

Components are 18-connected, as in the challenge's own evaluation. An undefined figure is NaN and is left out of means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from l2s.components import label
from l2s.errors import InputError

FOUND_IOU = 0.1  # autoPET V: a true component is found when some predicted one overlaps it with at least this


@dataclass(frozen=True)
class Overlap:
    """Truth and prediction as tables of their components, which is all that the metrics need.

    Attributes:
        truth_voxels, prediction_voxels: int64 (components,), voxels of each component.
        pairs: int64 (n, 3): true component, predicted component (both from 0), voxels they share (1 or more).
    """

    truth_voxels: np.ndarray
    prediction_voxels: np.ndarray
    pairs: np.ndarray


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case; NaN where undefined.

    Attributes:
        case: its name.
        dice: of the foreground, 0..1; NaN where the truth is empty.
        fpv_ml: volume of predicted components that share no voxel with the truth.
        fnv_ml: volume of true components that share no voxel with the prediction; NaN where the truth is empty.
        truth_ml, prediction_ml: volumes of the masks.
        truth_lesions, prediction_lesions: their components.
        found: true components that some predicted one overlaps with an IoU of 0.1 or more.
        missed: the other true components.
        false_lesions: predicted components that overlap no true one so.
        lesion_f1: 2 found / (2 found + missed + false_lesions); NaN where both masks are empty.
    """

    case: str
    dice: float
    fpv_ml: float
    fnv_ml: float
    truth_ml: float
    prediction_ml: float
    truth_lesions: int
    prediction_lesions: int
    found: int
    missed: int
    false_lesions: int
    lesion_f1: float


def overlap(truth: np.ndarray, prediction: np.ndarray) -> Overlap:
    """Component tables of two bool masks (z, y, x) of one shape."""
    if truth.shape != prediction.shape:
        raise InputError(
            f"the truth has shape {truth.shape}, the prediction {prediction.shape}: bring the prediction to the truth's grid"
        )
    true, predicted = label(truth), label(prediction)
    _, in_true, in_predicted = np.intersect1d(true.voxels, predicted.voxels, assume_unique=True, return_indices=True)
    codes, shared = np.unique(true.owner[in_true] * predicted.count + predicted.owner[in_predicted], return_counts=True)
    count = max(predicted.count, 1)
    return Overlap(true.sizes, predicted.sizes, np.stack([codes // count, codes % count, shared], axis=1))


def dice_of(o: Overlap) -> float:
    total = int(o.truth_voxels.sum()) + int(o.prediction_voxels.sum())
    return 2 * int(o.pairs[:, 2].sum()) / total if len(o.truth_voxels) else math.nan


def alone(voxels: np.ndarray, touched: np.ndarray) -> int:
    """Voxels in components that are not among the touched ones."""
    return int(np.delete(voxels, np.unique(touched)).sum())


def found_pairs(o: Overlap) -> np.ndarray:
    """Those rows of o.pairs whose IoU is at least FOUND_IOU."""
    union = o.truth_voxels[o.pairs[:, 0]] + o.prediction_voxels[o.pairs[:, 1]] - o.pairs[:, 2]
    return o.pairs[o.pairs[:, 2] / union >= FOUND_IOU]


def dice(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice of two bool masks (z, y, x), 0..1; NaN where the truth is empty (autoPET)."""
    return dice_of(overlap(truth, prediction))


def fpv_ml(truth: np.ndarray, prediction: np.ndarray, voxel_volume_ml: float) -> float:
    """Volume in ml of predicted components that share no voxel with the truth; 0 for an empty prediction (autoPET)."""
    o = overlap(truth, prediction)
    return alone(o.prediction_voxels, o.pairs[:, 1]) * voxel_volume_ml


def fnv_ml(truth: np.ndarray, prediction: np.ndarray, voxel_volume_ml: float) -> float:
    """Volume in ml of true components that share no voxel with the prediction; NaN where the truth is empty (autoPET)."""
    o = overlap(truth, prediction)
    return alone(o.truth_voxels, o.pairs[:, 0]) * voxel_volume_ml if len(o.truth_voxels) else math.nan


def evaluate_masks(truth: np.ndarray, prediction: np.ndarray, voxel_volume_ml: float, case: str = "case") -> CaseScores:
    """All scores of one case.

    Args:
        truth, prediction: bool (z, y, x) on one grid; either may be empty.
        voxel_volume_ml: product of the spacing / 1000.
        case: its name.

    Raises:
        InputError: the shapes differ.
    """
    o = overlap(truth, prediction)
    hits = found_pairs(o)
    found = len(np.unique(hits[:, 0]))
    missed = len(o.truth_voxels) - found
    false_lesions = len(o.prediction_voxels) - len(np.unique(hits[:, 1]))
    decided = 2 * found + missed + false_lesions
    return CaseScores(
        case=case,
        dice=dice_of(o),
        fpv_ml=alone(o.prediction_voxels, o.pairs[:, 1]) * voxel_volume_ml,
        fnv_ml=alone(o.truth_voxels, o.pairs[:, 0]) * voxel_volume_ml if len(o.truth_voxels) else math.nan,
        truth_ml=int(o.truth_voxels.sum()) * voxel_volume_ml,
        prediction_ml=int(o.prediction_voxels.sum()) * voxel_volume_ml,
        truth_lesions=len(o.truth_voxels),
        prediction_lesions=len(o.prediction_voxels),
        found=found,
        missed=missed,
        false_lesions=false_lesions,
        lesion_f1=2 * found / decided if decided else math.nan,
    )


def mean(values) -> float:
    """Mean of the defined values; NaN where none is."""
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan


def summarize(scores: list[CaseScores]) -> dict[str, float]:
    """Means over cases; NaN where no case defines a figure.

    mDice comes by three conventions, as the paper does not name its own. With an empty truth a case
        mdice: is left out;
        mdice_empty_is_one: counts 1 where the prediction is empty too, else 0;
        mdice_false_positive_is_zero: counts 0 where the prediction is not empty, else is left out.
    """
    empty = [(1.0 if s.prediction_lesions == 0 else 0.0) if s.truth_lesions == 0 else s.dice for s in scores]
    return {
        "cases": len(scores),
        "cases_without_lesion": sum(s.truth_lesions == 0 for s in scores),
        "mdice": mean(s.dice for s in scores),
        "mdice_empty_is_one": mean(empty),
        "mdice_false_positive_is_zero": mean(
            math.nan if s.truth_lesions == s.prediction_lesions == 0 else d for s, d in zip(scores, empty)
        ),
        "mean_fpv_ml": mean(s.fpv_ml for s in scores),
        "mean_fnv_ml": mean(s.fnv_ml for s in scores),
        "mean_lesion_f1": mean(s.lesion_f1 for s in scores),
        "found": sum(s.found for s in scores),
        "missed": sum(s.missed for s in scores),
        "false_lesions": sum(s.false_lesions for s in scores),
    }
