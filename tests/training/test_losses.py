"""The losses against sums written out by hand."""

import math

import pytest
import torch

from training.losses import bce_dice

LOGITS = torch.tensor([[[0.0, 2.0, -1.0, 3.0]]])
TRUTH = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]])


def by_hand(weights, dice_weight=1.0):
    bce = total = overlap = size = 0.0
    for w, x, g in zip(weights, LOGITS.flatten().tolist(), TRUTH.flatten().tolist()):
        p = 1 / (1 + math.exp(-x))
        bce += -w * (g * math.log(p) + (1 - g) * math.log(1 - p))
        total += w
        overlap += w * p * g
        size += w * p + w * g
    return bce / total + dice_weight * (1 - (2 * overlap + 1e-5) / (size + 1e-5))


def test_stage_1():
    assert bce_dice(LOGITS, TRUTH).item() == pytest.approx(by_hand([1, 1, 1, 1]), abs=1e-6)
    assert bce_dice(LOGITS, TRUTH, dice_weight=0.0).item() == pytest.approx(by_hand([1, 1, 1, 1], 0.0), abs=1e-6)


def test_stage_2_weighs_each_voxel_by_one_plus_its_cue():
    cue = torch.tensor([[[0.0, 0.5, 1.0, 0.25]]])
    assert bce_dice(LOGITS, TRUTH, cue).item() == pytest.approx(by_hand([1, 1.5, 2, 1.25]), abs=1e-6)


def test_samples_are_averaged_not_pooled():
    two = bce_dice(torch.cat([LOGITS, -LOGITS]), torch.cat([TRUTH, TRUTH]))
    assert two.item() == pytest.approx((bce_dice(LOGITS, TRUTH) + bce_dice(-LOGITS, TRUTH)).item() / 2, abs=1e-6)


def test_a_lesion_free_sample_is_defined_and_rewards_silence():
    empty = torch.zeros_like(TRUTH)
    silent = bce_dice(torch.full_like(LOGITS, -20.0), empty)
    loud = bce_dice(LOGITS, empty)
    assert silent.item() < 0.01 < loud.item()


def test_half_precision_logits_are_computed_in_fp32():
    assert bce_dice(LOGITS.half(), TRUTH.half()).dtype == torch.float32
