"""Distances between the surfaces of truth and prediction, and a second opinion on Dice, both by evalutils."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from l2s.measure.metrics import union_box


@dataclass(frozen=True)
class SurfaceScores:
    """Figures of evalutils.stats; a surface is the foreground voxels with a face on the background. NaN where a mask is empty.

    Attributes:
        hausdorff_mm: the largest distance from one surface to the other.
        hd95_mm: the same at the 95th percentile, the larger of both directions.
        surface_mm: mean distance from one surface to the other, the larger of both directions (modified Hausdorff).
        dice_evalutils: Dice from evalutils' confusion matrix; NaN where the truth is empty.
    """

    hausdorff_mm: float
    hd95_mm: float
    surface_mm: float
    dice_evalutils: float


def surface_scores(truth: np.ndarray, prediction: np.ndarray, spacing_mm_zyx: tuple[float, float, float]) -> SurfaceScores:
    """Surface figures of two bool masks (z, y, x) of one shape.

    They are computed in the masks' common box: nothing outside it is nearest to a surface, and evalutils' distance maps take
    about 50 bytes a voxel. evalutils takes the spacing in the order of the array's axes.
    """
    from evalutils import stats

    box = union_box(truth, prediction)
    # a rim of background: without any, evalutils' Dice of the background would be 0 / 0
    truth, prediction = np.pad(truth[box], 1), np.pad(prediction[box], 1)
    if not truth.any():
        return SurfaceScores(math.nan, math.nan, math.nan, math.nan)
    dice = float(stats.dice_from_confusion_matrix(stats.calculate_confusion_matrix(truth, prediction, [0, 1]))[1])
    if not prediction.any():
        return SurfaceScores(math.nan, math.nan, math.nan, dice)
    measures = stats.hausdorff_distance_measures(truth, prediction, voxelspacing=spacing_mm_zyx, percentile=0.95)
    return SurfaceScores(float(measures.distance), float(measures.percentile_distance), float(measures.modified_distance), dice)
