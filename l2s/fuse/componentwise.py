"""The released code's fusion: components are kept, trimmed or reduced to their maximum, by the cue and by their certainty.

It serves challenges that count a lesion as found when one voxel of it is marked: unsure components and unmatched cues become
tokens of a voxel or so, which mean nothing to a physician. All components are treated at once (components.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2s.components import Components, count_inside, label, maximum

VOXEL_ML = 2.036425 * 2.036425 * 3.0 / 1000  # autoPET's PET grid, 0.0124 ml: the rule counts voxels of this size
VOXEL_TOLERANCE = 0.1  # grids within 10 % of it count as autoPET's; a tenth more or less decides no component but by luck


@dataclass(frozen=True)
class Rule:
    """Constants of the authors' released code, in probabilities and in voxels of VOXEL_ML. All comparisons are in float32.

    Attributes:
        high: a voxel above it is sure.
        low: a voxel above it is a candidate.
        cue: stage 1 sees a lesion above it.
        least_high_voxels, least_low_voxels: a study whose largest components are below both has no lesion.
        sure_voxels: a candidate with fewer sure voxels becomes a token.
        spread: a candidate with more voxels than this many times its sure ones is trimmed to them.
        weak: the maximum above which an unmatched cue becomes a token whatever its size.
        nothing: the maximum below which an unmatched cue, however large, is dropped.
        cue_voxels: an unmatched cue of at most this size needs a maximum above weak.
        spare_cues: with this many more cues than candidates, the size limit follows the cues' own sizes.
    """

    high: float = 0.9
    low: float = 0.5
    cue: float = 0.5
    least_high_voxels: int = 50
    least_low_voxels: int = 150
    sure_voxels: int = 20
    spread: float = 2.25
    weak: float = 0.1
    nothing: float = 1e-5
    cue_voxels: int = 35
    spare_cues: int = 4


def fuse(probability: np.ndarray, cue: np.ndarray, rule: Rule = Rule()) -> np.ndarray:
    """Lesions by the component-wise rule.

    Args:
        probability: float32 (z, y, x), stage 2, 0..1.
        cue: float32 (z, y, x), stage 1, 0..1.
        rule: the released code's.

    Returns:
        bool (z, y, x); all False where both the sure and the candidate components are too small.
    """
    mask = np.zeros(probability.shape, dtype=bool)
    high_mask = probability > np.float32(rule.high)
    high, low = label(high_mask), label(probability > np.float32(rule.low))
    if high.largest < rule.least_high_voxels and low.largest < rule.least_low_voxels:
        return mask
    cue_mask = cue > np.float32(rule.cue)
    keep_candidates(mask, low, probability, high_mask, cue_mask, rule)
    add_unmatched_cues(mask, label(cue_mask), probability, low.count, rule)
    return mask


def keep_candidates(
    mask: np.ndarray, low: Components, probability: np.ndarray, high_mask: np.ndarray, cue_mask: np.ndarray, rule: Rule
) -> None:
    """Step 2: writes into mask what remains of each candidate: a token, its sure voxels, or all of it."""
    sure = count_inside(low, high_mask)
    token = (sure < rule.sure_voxels) | (count_inside(low, cue_mask) == 0)
    trimmed = ~token & (low.sizes / np.maximum(sure, 1) > rule.spread)
    whole = ~token & ~trimmed
    is_sure = high_mask.reshape(-1)[low.voxels]
    keep = whole[low.owner] | (trimmed[low.owner] & is_sure) | (token[low.owner] & at_maximum(low, probability))
    mask.reshape(-1)[low.voxels[keep]] = True


def add_unmatched_cues(mask: np.ndarray, cues: Components, probability: np.ndarray, candidates: int, rule: Rule) -> None:
    """Step 3: writes into mask a token, the probability's maximum, for each cue component that it lacks and that has cause."""
    unmatched = count_inside(cues, mask) == 0
    peak = maximum(cues, probability)
    large = (cues.sizes > size_limit(cues.sizes, candidates, rule)) & (peak >= np.float32(rule.nothing))
    token = unmatched & ((peak > np.float32(rule.weak)) | large)
    keep = token[cues.owner] & at_maximum(cues, probability)
    mask.reshape(-1)[cues.voxels[keep]] = True


def size_limit(cue_sizes: np.ndarray, candidates: int, rule: Rule) -> int:
    """The size in voxels that an unmatched cue with a weak maximum must exceed.

    Where stage 1 sees many more places than stage 2, only about as many cues as there are candidates (and spare_cues) are let in.
    """
    rank = candidates + rule.spare_cues
    if len(cue_sizes) + 1 < rank:
        return rule.cue_voxels
    return int(np.sort(np.append(cue_sizes, 0))[::-1][rank - 1])


def at_maximum(components: Components, probability: np.ndarray) -> np.ndarray:
    """bool (n,): which of the table's voxels have their component's maximum; every tie counts."""
    return probability.reshape(-1)[components.voxels] == maximum(components, probability)[components.owner]


def voxel_size_warning(voxel_volume_ml: float) -> str | None:
    """A line for the record where a grid's voxel is not that of autoPET, for which the rule counts voxels; else None."""
    if abs(voxel_volume_ml / VOXEL_ML - 1) <= VOXEL_TOLERANCE:
        return None
    return (
        f"componentwise fusion counts voxels of {VOXEL_ML:.4f} ml (autoPET's grid), this grid has {voxel_volume_ml:.4f} ml: "
        "its size limits mean other volumes here; use fusion voxelwise"
    )
