"""Distances between the surfaces of truth and prediction, as evalutils defines them, and its second opinion on Dice."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

PERCENTILE = 0.95


@dataclass(frozen=True)
class SurfaceScores:
    """Figures as evalutils.stats defines them; a surface is the foreground voxels with a face on the background. NaN where a mask is empty.

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


def surface_points_mm(mask: np.ndarray, spacing_mm_zyx: tuple[float, float, float]) -> np.ndarray:
    """float (n, 3) in mm: foreground voxels with a face on the background; beyond the volume is background."""
    voxels = np.stack(np.nonzero(mask), axis=1)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    box = np.pad(mask[tuple(slice(a, b) for a, b in zip(low, high))], 1)
    at = np.ravel_multi_index((voxels - low + 1).T, box.shape)
    flat = box.reshape(-1)
    steps = (box.shape[1] * box.shape[2], box.shape[2], 1)
    inner = np.logical_and.reduce([flat[at + sign * step] for step in steps for sign in (-1, 1)])
    return voxels[~inner] * np.asarray(spacing_mm_zyx, dtype=float)


def surface_scores(truth: np.ndarray, prediction: np.ndarray, spacing_mm_zyx: tuple[float, float, float]) -> SurfaceScores:
    """Surface figures of two bool masks (z, y, x) of one shape.

    The distances come from a search tree over the surfaces' voxels: evalutils makes four distance maps of the masks' common box,
    half a minute and 50 bytes a voxel where lesions lie from head to foot. The definitions are its own.
    """
    from scipy.spatial import cKDTree

    if not truth.any():
        return SurfaceScores(math.nan, math.nan, math.nan, math.nan)
    dice = dice_by_evalutils(truth, prediction)
    if not prediction.any():
        return SurfaceScores(math.nan, math.nan, math.nan, dice)
    ends = [surface_points_mm(mask, spacing_mm_zyx) for mask in (truth, prediction)]
    one, other = (np.sort(cKDTree(b).query(a)[0]) for a, b in (ends, ends[::-1]))
    return SurfaceScores(
        float(max(one[-1], other[-1])),
        float(max(d[int((len(d) - 1) * PERCENTILE)] for d in (one, other))),
        float(max(one.mean(), other.mean())),
        dice,
    )


def dice_by_evalutils(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Dice of two bool masks from evalutils' confusion matrix of their foreground; neither true negatives nor order change it."""
    from evalutils import stats

    either = np.flatnonzero(truth | prediction)
    # a voxel of background: without any, evalutils' Dice of the background would be 0 / 0
    flat = [np.append(mask.reshape(-1)[either], False) for mask in (truth, prediction)]
    return float(stats.dice_from_confusion_matrix(stats.calculate_confusion_matrix(*flat, [0, 1]))[1])
