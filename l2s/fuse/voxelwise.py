"""The paper's adaptive threshold: each voxel is judged by itself, leniently where stage 1 sees a lesion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Thresholds:
    """All comparisons are strict and in float32.

    Attributes:
        cue: stage 1 sees a lesion above it (paper section 2.3: 0.5).
        lenient: stage 2's threshold where it does (paper section 2.3: lowered from 0.5 to 0.1).
        strict: stage 2's threshold elsewhere (the paper says "vice versa" only; 0.9 is the released code's high threshold).
        plain: stage 2's threshold without a cue (paper Table 1, rows without post-processing).
    """

    cue: float = 0.5
    lenient: float = 0.1
    strict: float = 0.9
    plain: float = 0.5


def fuse(probability: np.ndarray, cue: np.ndarray, thresholds: Thresholds = Thresholds()) -> np.ndarray:
    """Lesion where the probability is above a threshold that the cue lowers.

    Args:
        probability: float32, any shape of one axis or more, 0..1.
        cue: float32, the same shape, 0..1.
        thresholds: the paper's.

    Returns:
        bool of that shape; all False where nothing is above its threshold.
    """
    mask = probability > np.float32(thresholds.strict)
    # plane by plane: a map of thresholds would take 640 MB of a total-body scan, one of where the cue sees a lesion 160
    for at in range(len(mask)):
        seen = cue[at] > np.float32(thresholds.cue)
        mask[at] = np.where(seen, probability[at] > np.float32(thresholds.lenient), mask[at])
    return mask


def ignore_cue(probability: np.ndarray, cue: np.ndarray, thresholds: Thresholds = Thresholds()) -> np.ndarray:
    """Policy `none`: lesion where the probability is above 0.5, whatever the cue says. Shapes as for fuse."""
    return probability > np.float32(thresholds.plain)
