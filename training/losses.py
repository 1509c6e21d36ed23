"""The losses of paper section 2.3, from logits, in fp32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTH = 1e-5  # defines the Dice of a lesion-free sample


def bce_dice(
    logits: Tensor,
    truth: Tensor,
    cue: Tensor | None = None,
    dice_weight: float = 1.0,
    pool: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """BCE + dice_weight * Dice loss, each voxel weighed by 1 + cue.

    Args:
        logits: (n, 1, ...).
        truth: (n, 1, ...) of 0 and 1.
        cue: (n, 1, ...) P_loc in 0..1 for stage 2 (paper equation 2), None for stage 1 (equation 1).
        dice_weight: the paper's lambda.
        pool: None: the Dice loss of each sample, averaged. Otherwise one Dice of all samples together, pool being what adds up
            the sums of several processes. The Dice of a lesion-free sample is 1 whatever is marked in it, so that only BCE, which is
            small, tells it from silence; pooled, marks in it cost what marks beside a lesion cost, if the batch shows any lesion.

    Returns:
        A scalar. BCE is sum(w*bce)/sum(w): the normalisation is our reading, the paper states none.
    """
    logits, truth = logits.float().flatten(1), truth.float().flatten(1)  # (n, voxels)
    weight = torch.ones_like(truth) if cue is None else 1.0 + cue.float().flatten(1)
    bce = (weight * F.binary_cross_entropy_with_logits(logits, truth, reduction="none")).sum(1) / weight.sum(1)
    p = logits.sigmoid()
    overlap, total = (weight * p * truth).sum(1), (weight * p).sum(1) + (weight * truth).sum(1)
    if pool is not None:
        overlap, total = pool(torch.stack([overlap.sum(), total.sum()]))
    dice = 1.0 - (2.0 * overlap + SMOOTH) / (total + SMOOTH)
    return (bce + dice_weight * dice).mean()
