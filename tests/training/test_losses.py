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


def test_a_pooled_dice_is_one_dice_of_all_voxels():
    cue = torch.tensor([[[0.0, 0.5, 1.0, 0.25]]])
    empty = torch.zeros_like(TRUTH)
    pooled = bce_dice(torch.cat([LOGITS, -LOGITS]), torch.cat([TRUTH, empty]), torch.cat([cue, cue]), pool=lambda sums: sums)
    flat = bce_dice(
        torch.cat([LOGITS, -LOGITS], 2), torch.cat([TRUTH, empty], 2), torch.cat([cue, cue], 2)
    )  # BCE: both samples have the same weights, so that their mean is the whole's
    assert pooled.item() == pytest.approx(flat.item(), abs=1e-6)


def test_only_a_pooled_dice_makes_marks_in_a_lesion_free_sample_costly():
    logits, truth = torch.full((2, 1, 1000), -6.0), torch.zeros(2, 1, 1000)
    logits[:, :, :40] = 1.0  # the same marks in both samples
    truth[0, :, :20] = 1.0

    def steepest(pool, dice_weight):
        marked = logits.clone().requires_grad_()
        bce_dice(marked, truth, None, dice_weight, pool).backward()
        return marked.grad[1].max().item()

    bce_alone = steepest(None, 0.0)
    assert steepest(None, 1.0) == pytest.approx(bce_alone, rel=0.01)
    assert steepest(lambda sums: sums, 1.0) > 2.5 * bce_alone


def test_a_lesion_free_sample_is_defined_and_rewards_silence():
    empty = torch.zeros_like(TRUTH)
    silent = bce_dice(torch.full_like(LOGITS, -20.0), empty)
    loud = bce_dice(LOGITS, empty)
    assert silent.item() < 0.01 < loud.item()


def test_half_precision_logits_are_computed_in_fp32():
    assert bce_dice(LOGITS.half(), TRUTH.half()).dtype == torch.float32
