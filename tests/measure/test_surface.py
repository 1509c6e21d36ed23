import math

import numpy as np
import pytest

from l2s.measure.metrics import dice
from l2s.measure.surface import surface_scores

SPACING_MM_ZYX = (7.0, 3.0, 2.0)  # three different numbers: any swap of axes shows


def cube(shift_zyx=(0, 0, 0), edge=5) -> np.ndarray:
    mask = np.zeros((20, 20, 20), bool)
    mask[tuple(slice(6 + s, 6 + s + edge) for s in shift_zyx)] = True
    return mask


@pytest.mark.parametrize(("shift", "hausdorff_mm"), [((1, 0, 0), 7), ((0, 2, 0), 6), ((0, 0, 1), 2), ((0, 0, 0), 0)])
def test_a_shifted_cube_is_its_shift_away(shift, hausdorff_mm):
    scores = surface_scores(cube(), cube(shift), SPACING_MM_ZYX)
    assert scores.hausdorff_mm == hausdorff_mm
    assert scores.dice_evalutils == pytest.approx(dice(cube(), cube(shift)), abs=1e-6)


def test_mean_and_percentile_of_a_rod_worked_out_by_hand():
    # truth: one voxel; prediction: 21 voxels in a row from it on, 2 mm apart: distances 0, 2, .. 40 mm one way, 0 the other
    truth, prediction = np.zeros((3, 3, 30), bool), np.zeros((3, 3, 30), bool)
    truth[1, 1, 4] = True
    prediction[1, 1, 4:25] = True
    scores = surface_scores(truth, prediction, SPACING_MM_ZYX)
    assert scores.hausdorff_mm == 40
    assert scores.hd95_mm == 38  # the 20th of 21 sorted distances
    assert scores.surface_mm == pytest.approx(20)
    assert scores.dice_evalutils == pytest.approx(2 / 22)


def test_equals_distances_of_all_pairs_of_surface_voxels():
    rng = np.random.default_rng(3)
    for _ in range(10):
        truth, prediction = (rng.random((6, 7, 8)) < 0.3 for _ in range(2))

        def surface(mask):
            padded = np.pad(mask, 1)
            inner = padded.copy()
            for axis in range(3):
                inner &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
            return (np.argwhere(padded & ~inner)) * SPACING_MM_ZYX

        a, b = surface(truth), surface(prediction)
        distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
        one, other = np.sort(distance.min(axis=1)), np.sort(distance.min(axis=0))
        scores = surface_scores(truth, prediction, SPACING_MM_ZYX)
        assert scores.hausdorff_mm == pytest.approx(max(one[-1], other[-1]))
        assert scores.surface_mm == pytest.approx(max(one.mean(), other.mean()))
        assert scores.hd95_mm == pytest.approx(max(d[int((len(d) - 1) * 0.95)] for d in (one, other)))
        assert scores.dice_evalutils == pytest.approx(dice(truth, prediction), abs=1e-6)


def test_empty_masks_have_no_surface():
    empty = np.zeros_like(cube())
    assert all(math.isnan(v) for v in vars(surface_scores(empty, cube(), SPACING_MM_ZYX)).values())
    assert all(math.isnan(v) for v in vars(surface_scores(empty, empty, SPACING_MM_ZYX)).values())
    missed = surface_scores(cube(), empty, SPACING_MM_ZYX)
    assert math.isnan(missed.hausdorff_mm)
    assert missed.dice_evalutils == 0


def test_a_mask_that_fills_its_volume():
    full = np.ones((3, 3, 3), bool)
    scores = surface_scores(full, full, SPACING_MM_ZYX)
    assert (scores.hausdorff_mm, scores.dice_evalutils) == (0, 1)


def test_equals_evalutils_own_distance_maps():
    """The slow twin: evalutils on whole volumes, with lesions at the border, inside one another and far apart."""
    from evalutils import stats

    rng = np.random.default_rng(7)
    for _ in range(15):
        shape = rng.integers(5, 25, 3)
        masks = []
        for _ in range(2):
            mask = np.zeros(shape, bool)
            for _ in range(rng.integers(1, 5)):
                start = [int(rng.integers(0, n)) for n in shape]
                mask[tuple(slice(a, a + int(rng.integers(1, 8))) for a in start)] = True
            masks.append(mask)
        expected = stats.hausdorff_distance_measures(
            *(np.pad(mask, 1) for mask in masks), voxelspacing=SPACING_MM_ZYX, percentile=0.95
        )
        scores = surface_scores(*masks, SPACING_MM_ZYX)
        assert scores.hausdorff_mm == pytest.approx(expected.distance, abs=1e-9)
        assert scores.hd95_mm == pytest.approx(expected.percentile_distance, abs=1e-9)
        assert scores.surface_mm == pytest.approx(expected.modified_distance, abs=1e-9)
