import numpy as np

from l2s.fuse.components import bounding_box, count_inside, label, maximum


def test_edges_join_and_corners_do_not():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True  # share an edge
    mask[1, 2, 2] = True  # shares only a corner with (0, 1, 1)
    mask[3, 3, 3] = True  # corner of (2, 2, 2), which is empty
    table = label(mask)
    assert table.sizes.tolist() == [2, 1, 1]
    assert table.largest == 2
    assert table.voxels.tolist() == [0, 5, 16 + 8 + 2, 63]
    assert table.owner.tolist() == [0, 0, 1, 2]


def test_the_bounding_box_changes_nothing():
    mask = np.zeros((5, 6, 7), bool)
    mask[1:3, 2:4, 5] = True
    mask[4, 5, 6] = True
    assert bounding_box(mask) == (slice(1, 5), slice(2, 6), slice(5, 7))
    table = label(mask)
    assert np.array_equal(table.voxels, np.flatnonzero(mask))
    assert table.sizes.tolist() == [4, 1]


def test_counts_and_maxima():
    mask = np.zeros((1, 2, 8), bool)
    mask[0, 0, 0:3] = mask[0, 0, 5:7] = True
    other = np.zeros_like(mask)
    other[0, 0, 2] = other[0, 0, 3] = True
    values = np.zeros(mask.shape, np.float32)
    values[0, 0] = [-3, -2, -5, 9, 9, 0.25, 0.5, 9]
    table = label(mask)
    assert count_inside(table, other).tolist() == [1, 0]
    assert maximum(table, values).tolist() == [-2.0, 0.5]


def test_an_empty_mask_has_no_components():
    empty = np.zeros((3, 3, 3), bool)
    table = label(empty)
    assert (table.count, table.largest, table.sizes.tolist()) == (0, 0, [])
    assert bounding_box(empty) is None
    assert count_inside(table, ~empty).tolist() == []
    assert maximum(table, np.ones(empty.shape, np.float32)).tolist() == []
