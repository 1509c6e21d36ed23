"""Fusion: stage 2's probability and stage 1's cue -> lesion mask, by a named policy.

`voxelwise` is the paper's adaptive threshold and the default; `componentwise` is the rule of the authors' released code, made for
the FPV and FNV of the autoPET challenges and not for people; `none` ignores the cue.
"""

from __future__ import annotations

import numpy as np

from l2s.errors import InputError
from l2s.fuse import componentwise, voxelwise
from l2s.fuse.componentwise import voxel_size_warning

__all__ = ["POLICIES", "apply", "check", "voxel_size_warning"]

POLICIES = {"voxelwise": voxelwise.fuse, "componentwise": componentwise.fuse, "none": voxelwise.ignore_cue}


def check(policy: str) -> None:
    """Raises InputError where the policy is unknown: before the networks run, not after."""
    if policy not in POLICIES:
        raise InputError(f"fusion {policy!r}: one of {', '.join(POLICIES)}")


def apply(policy: str, probability: np.ndarray, cue: np.ndarray) -> np.ndarray:
    """The lesion mask by the named policy.

    Args:
        policy: 'voxelwise', 'componentwise' or 'none'.
        probability: float32 (z, y, x), stage 2, 0..1.
        cue: float32 (z, y, x), stage 1, 0..1, on the same grid.

    Returns:
        bool (z, y, x); all False where nothing is above the thresholds.

    Raises:
        InputError: the policy is unknown or the shapes differ.
    """
    check(policy)
    if probability.shape != cue.shape:
        raise InputError(f"probability has shape {probability.shape}, the cue {cue.shape}: bring both to one grid first")
    return POLICIES[policy](probability, cue)
