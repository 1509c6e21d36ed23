import numpy as np
import pytest
from scipy import ndimage

from l2s import components
from l2s.components import count_inside, label, largest_first, maximum
from l2s.errors import InputError


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


@pytest.mark.parametrize(("connectivity", "rank"), [(6, 1), (18, 2), (26, 3)])
@pytest.mark.parametrize("dense", [0.0, 2.0])  # never by the voxels, always by the voxels
def test_both_ways_of_labelling_equal_scipy_s(monkeypatch, dense, connectivity, rank):
    monkeypatch.setattr(components, "DENSE", dense)
    rng = np.random.default_rng(0)
    structure = ndimage.generate_binary_structure(3, rank)
    for share in (0.02, 0.1, 0.25, 0.6, 1.0):
        for _ in range(10):
            mask = np.zeros(rng.integers(1, 14, 3), bool)
            inner = mask[tuple(slice(0, int(n)) for n in rng.integers(1, 14, 3))]
            inner[...] = rng.random(inner.shape) < share
            table = label(mask, connectivity)
            expected, count = ndimage.label(mask, structure)
            assert table.count == count
            assert np.array_equal(table.voxels, np.flatnonzero(mask))
            assert np.array_equal(table.owner, expected[mask] - 1)
            assert np.array_equal(table.sizes, np.bincount(expected[mask] - 1, minlength=count))


def test_another_connectivity_is_refused():
    with pytest.raises(InputError, match="connectivity 8: one of 6, 18, 26"):
        label(np.ones((2, 2, 2), bool), 8)


def test_the_largest_comes_first_and_equals_keep_their_order():
    mask = np.array([[[1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1]]], bool)
    table = largest_first(label(mask))
    assert table.sizes.tolist() == [3, 2, 2, 1]
    assert table.voxels.tolist() == [0, 2, 3, 4, 6, 7, 9, 10]
    assert table.owner.tolist() == [3, 0, 0, 0, 1, 1, 2, 2]
    kept = largest_first(label(mask), 2)
    assert kept.sizes.tolist() == [3, 2, 2]
    assert kept.voxels.tolist() == [2, 3, 4, 6, 7, 9, 10]
    assert largest_first(label(mask), 4).count == 0


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
    assert count_inside(table, ~empty).tolist() == []
    assert maximum(table, np.ones(empty.shape, np.float32)).tolist() == []
