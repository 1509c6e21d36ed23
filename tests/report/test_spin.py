import math

import numpy as np
import pytest

from l2s.report.mip import mip
from l2s.report.spin import columns, pool, project, steps, turns


def slow(volume, spacing_yx, bin_mm, angle, width):
    """Each voxel by itself."""
    out = np.zeros((volume.shape[0], width), volume.dtype)
    for z in range(volume.shape[0]):
        for y in range(volume.shape[1]):
            for x in range(volume.shape[2]):
                u = (x - (volume.shape[2] - 1) / 2) * spacing_yx[1] * math.cos(angle)
                u += (y - (volume.shape[1] - 1) / 2) * spacing_yx[0] * math.sin(angle)
                place = u / bin_mm + width // 2
                for b in {math.floor(place + 0.25), math.ceil(place - 0.25)}:
                    b = min(max(b, 0), width - 1)
                    out[z, b] = max(out[z, b], volume[z, y, x])
    return out[::-1]


@pytest.mark.parametrize("spacing_yx", [(2.0, 2.0), (3.0, 2.0)])
def test_projections_equal_the_literal_ones(spacing_yx):
    volume = np.random.default_rng(0).random((3, 7, 8), dtype=np.float32)
    for k, turn in enumerate(turns(volume.shape[1:], spacing_yx, 2.0, 7)):
        expected = slow(volume, spacing_yx, 2.0, math.pi * k / 7, turn.width)
        assert np.array_equal(project(columns(volume), turn), expected), k


def test_it_starts_from_the_front_and_walks_to_the_patient_s_left():
    volume = np.random.default_rng(1).random((4, 9, 11), dtype=np.float32)
    made = turns(volume.shape[1:], (2.0, 2.0), 2.0, 2)
    front, side = (project(columns(volume), turn) for turn in made)
    middle = made[0].width // 2
    assert np.array_equal(front[:, middle - 5 : middle + 6], mip(volume, 1))
    assert np.array_equal(side[:, middle - 4 : middle + 5], mip(volume, 2))
    assert not front[:, : middle - 5].any()


def test_a_slanted_view_of_a_full_body_has_no_holes():
    for turn in turns((40, 60), (2.0, 2.0), 2.0, 9):
        seen = np.flatnonzero(project(columns(np.ones((1, 40, 60), np.float32)), turn)[0])
        assert len(seen) == seen[-1] - seen[0] + 1


def test_pooling_keeps_the_maximum():
    volume = np.random.default_rng(2).random((5, 4, 7))
    pooled = pool(volume, (2, 1, 3))
    assert pooled.shape == (3, 4, 3)
    assert pooled[2, 1, 2] == volume[4, 1, 6]
    assert pooled[0, 3, 1] == volume[0:2, 3, 3:6].max()


def test_steps_may_be_taken_before_the_maximum():
    volume = np.random.default_rng(3).normal(4, 5, (4, 9, 11)).astype(np.float32)
    volume[0, 0, 0] = np.nan
    assert steps(np.array([-1.0, 0, 5, 10, 99, np.nan]), 10).tolist() == [0, 0, 128, 255, 255, 0]  # 127.5 rounds to even
    filled = np.nan_to_num(volume)
    for turn in turns((9, 11), (2.0, 2.0), 2.0, 5):
        early = project(columns(steps(volume, 10)), turn)
        assert early.dtype == np.uint8
        assert np.array_equal(early, steps(project(columns(filled), turn), 10))
