"""Outlines of 2D masks: filled by a literal rule they give the mask back, with holes within holes."""

import numpy as np
import pytest

from l2s.io.contours import outlines


def inside(polygon, row, column):
    """Even-odd rule, literally: how many edges does a ray to the right cross?"""
    crossings = 0
    for (r0, c0), (r1, c1) in zip(polygon, np.roll(polygon, -1, axis=0)):
        if (r0 > row) != (r1 > row) and column < c0 + (row - r0) / (r1 - r0) * (c1 - c0):
            crossings += 1
    return crossings % 2 == 1


def winding(polygon, row, column):
    """Non-zero rule: some readers fill by it; the way round must then be right for holes too."""
    number = 0
    for (r0, c0), (r1, c1) in zip(polygon, np.roll(polygon, -1, axis=0)):
        if (r0 > row) != (r1 > row) and column < c0 + (row - r0) / (r1 - r0) * (c1 - c0):
            number += 1 if r1 > r0 else -1
    return number != 0


def filled(polygons, shape, rule=inside):
    """How many polygons cover each pixel's centre."""
    count = np.zeros(shape, int)
    for polygon in polygons:
        for r, c in np.ndindex(*shape):
            count[r, c] += rule(polygon, r + 0.5, c + 0.5)
    return count


def area(polygon):
    rows, columns = polygon.T
    return abs(np.sum(columns * np.roll(rows, -1) - rows * np.roll(columns, -1))) / 2


def drawn(text):
    return np.array([[c == "#" for c in line] for line in text.split()])


def test_a_pixel_is_a_square():
    (polygon,) = outlines(drawn("... .#. ..."))
    assert sorted(map(tuple, polygon.tolist())) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_straight_edges_have_no_corners_between():
    (polygon,) = outlines(np.ones((4, 7), bool))
    assert len(polygon) == 4
    assert area(polygon) == 28


def test_pixels_that_touch_by_a_corner_are_two_polygons():
    assert sorted(len(p) for p in outlines(drawn("#. .#"))) == [4, 4]


def test_a_hole_is_cut_into_its_polygon():
    (polygon,) = outlines(drawn("##### #...# #...# #...# #####"))
    assert area(polygon) == 25 - 9
    assert len(polygon) == 4 + 4 + 2  # two squares and the cut's two ends once more


@pytest.mark.parametrize(
    "text",
    [
        "####### #.....# #.###.# #.#.#.# #.###.# #.....# #######",  # holes within islands within holes
        "##### #.#.# ##### #.#.# #####",  # four holes in rows
        "##### #.### ##.## ###.# #####",  # a hole whose pixels touch by corners only
        "#.# .#. #.#",
        "###### #.#..# #..#.# ######",
        "####### #.#.#.# #######",  # a cut that ends at another hole
        "......",
    ],
)
def test_drawn_masks_come_back(text):
    mask = drawn(text)
    for rule in (inside, winding):
        assert np.array_equal(filled(outlines(mask), mask.shape, rule), mask.astype(int))


def test_random_masks_come_back_and_keep_their_area():
    generator = np.random.default_rng(3)
    for k in range(40):
        mask = generator.random((9, 10)) < (0.3, 0.5, 0.7, 0.9)[k % 4]
        polygons = outlines(mask)
        assert sum(area(p) for p in polygons) == mask.sum()
        for rule in (inside, winding):
            # each pixel by exactly one polygon: union and XOR readers then agree
            assert np.array_equal(filled(polygons, mask.shape, rule), mask.astype(int))
