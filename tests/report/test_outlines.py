import re

import numpy as np
import pytest

from l2s.report.outlines import GROW_PX, MOST_NUMBERS, View, area, around, letters, mark_lesions, outline_path

VIEW = View(50, 40, 200.0, 500.0)  # a voxel is 10 px high, 5 px wide


def points(path: str) -> np.ndarray:
    return np.array(re.findall(r"-?[\d.]+", path), float).reshape(-1, 2)


def test_an_outline_runs_just_outside_its_pixels():
    rows, columns = np.mgrid[10:14, 20:26]
    path, box = outline_path(rows.ravel(), columns.ravel(), VIEW)
    # columns 20..25 are 100..130 px, rows 10..13 are 100..140 px
    assert box == pytest.approx((100, 100, 130, 140), abs=GROW_PX + 0.1)
    assert box[0] < 100 - 0.5
    assert box[3] > 140 + 0.5
    assert path.count("M") == path.count("Z") == 1
    assert points(path).mean(axis=0) == pytest.approx((115, 120), abs=2)


def test_one_pixel_keeps_its_size_and_a_hole_has_an_outline():
    _, box = outline_path(np.array([3]), np.array([3]), VIEW)
    assert box == pytest.approx((15, 30, 20, 40), abs=GROW_PX + 0.1)
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    rows, columns = np.nonzero(ring)
    assert outline_path(rows + 5, columns + 5, VIEW)[0].count("M") == 2


def test_numbers_lie_on_nothing():
    rng = np.random.default_rng(1)
    outlines = []
    for _ in range(25):
        z, x = rng.integers(2, 46), rng.integers(2, 36)
        rows, columns = np.mgrid[z : z + 2, x : x + 3]
        outlines.append(outline_path(rows.ravel(), columns.ravel(), VIEW))
    marks = mark_lesions(outlines, VIEW)
    taken = [around(m.number_at, k + 1) for k, m in enumerate(marks) if m.number_at] + letters(VIEW)
    assert len(taken) >= 24 + 5
    assert all(area(a, b) == 0 for i, a in enumerate(taken) for b in taken[:i])
    assert all(0 <= m.number_at[0] <= 200 and 0 <= m.number_at[1] <= 500 for m in marks if m.number_at)


def test_a_lone_number_lies_beside_its_lesion_and_far_ones_have_a_line():
    rows, columns = np.mgrid[20:24, 20:24]
    (mark,) = mark_lesions([outline_path(rows.ravel(), columns.ravel(), VIEW)], VIEW)
    assert area(around(mark.number_at, 1), mark.box) == 0
    assert mark.leader == ""
    crowd = [mark_lesions([outline_path(rows.ravel(), columns.ravel(), VIEW)] * 30, VIEW)][0]
    assert any(m.leader for m in crowd)


def test_a_crowd_has_numbers_up_to_a_limit():
    rows, columns = np.mgrid[20:22, 20:22]
    outline = outline_path(rows.ravel(), columns.ravel(), View(500, 400, 4000.0, 5000.0))
    marks = mark_lesions([outline] * (MOST_NUMBERS + 5), View(500, 400, 4000.0, 5000.0))
    assert all(m.number_at is None for m in marks[MOST_NUMBERS:])
    assert mark_lesions([], VIEW) == []
