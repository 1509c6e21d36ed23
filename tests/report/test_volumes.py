import base64
import gzip

import numpy as np
import pytest

from l2s.report import volumes
from l2s.report.lesions import locate
from l2s.study import Grid

GRID = Grid((90, 80, 100), (3.0, 2.0, 2.0), (-100.0, -80.0, 7.0), ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))


def unpacked(packed, shape) -> np.ndarray:
    """What the page's script does."""
    raw = np.frombuffer(gzip.decompress(base64.b64decode(packed.text)), np.uint8)
    low, high = raw.reshape(2, -1).astype(np.int32)
    if packed.dtype == "uint16":
        return (high << 8 | low).reshape(shape)
    return (((high << 8 | low) + 2**15) % 2**16 - 2**15).reshape(shape) * packed.slope


def test_values_come_back_within_half_a_step():
    rng = np.random.default_rng(0)
    pet = rng.normal(2, 3, (5, 6, 7)).astype(np.float32)
    assert np.abs(unpacked(volumes.pack_pet(pet), pet.shape) - pet).max() <= 0.0101
    pet[0, 0, 0] = 990  # a syringe
    assert np.abs(unpacked(volumes.pack_pet(pet), pet.shape) - pet).max() <= 990 / 32767
    ct = rng.uniform(-1024, 3000, (5, 6, 7)).astype(np.float32)
    assert np.abs(unpacked(volumes.pack_ct(ct), ct.shape) - ct).max() <= 2
    ct[0, 0, :2] = np.nan, 30000
    assert unpacked(volumes.pack_ct(ct), ct.shape)[0, 0, :2].tolist() == [-1024, 3072]
    labels = rng.integers(0, 65536, (5, 6, 7)).astype(np.uint16)
    assert np.array_equal(unpacked(volumes.pack_labels(labels), labels.shape), labels)


def test_the_same_volume_makes_the_same_text():
    pet = np.ones((5, 6, 7), np.float32)
    assert volumes.pack_pet(pet) == volumes.pack_pet(pet.copy())


def test_a_box_that_fits_stays_fine():
    box = volumes.viewer_box(GRID, (1, 2, 3), (80, 70, 90))
    assert box.factors_zyx == (1, 1, 1)
    assert box.grid.matches(GRID.crop((1, 2, 3), (80, 70, 90)))


def test_a_large_box_is_coarsened_where_it_is_finest():
    box = volumes.viewer_box(GRID, (0, 0, 0), GRID.shape_zyx, 200_000)
    assert box.factors_zyx == (1, 2, 2)
    assert box.grid.shape_zyx == (90, 40, 50)
    assert box.grid.spacing_mm_zyx == (3, 4, 4)
    tiny = volumes.viewer_box(GRID, (0, 0, 0), GRID.shape_zyx, 30)
    assert np.prod(tiny.grid.shape_zyx) <= 30


def test_viewer_indices_are_the_same_places():
    box = volumes.viewer_box(GRID, (4, 5, 6), (81, 70, 91), 60_000)
    index = np.array([[10.0, 20, 30], [50, 60, 70.5]])
    assert box.to_viewer(index) == pytest.approx(box.grid.mm_to_index_zyx(GRID.index_to_mm_xyz(index)))


def test_block_means_equal_the_literal_ones():
    volume = np.random.default_rng(1).random((7, 5, 9)).astype(np.float32)
    mean = volumes.block_mean(volume, (2, 1, 4))
    assert mean.shape == (4, 5, 3)
    for k in np.ndindex(mean.shape):
        block = volume[2 * k[0] : 2 * k[0] + 2, k[1], 4 * k[2] : 4 * k[2] + 4]
        assert mean[k] == pytest.approx(block.mean())


def test_every_lesion_keeps_a_voxel_and_none_grows():
    mask = np.zeros((8, 8, 8), bool)
    mask[0:4, 0:4, 0:4] = True  # 8 whole blocks of 2 x 2 x 2
    mask[6, 6, 7] = True  # an eighth of a block
    mask[4:6, 0:2, 6] = True  # half a block
    lesions = locate(mask, [64, 4, 1])
    box = volumes.viewer_box(Grid((8, 8, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), (0, 0, 0), (8, 8, 8), 64)
    labels = volumes.block_labels(lesions, box)
    assert box.factors_zyx == (2, 2, 2)
    assert np.bincount(labels.ravel()).tolist() == [64 - 10, 8, 1, 1]
    assert labels[3, 3, 3] == 3
    assert labels[2, 0, 3] == 2


def test_many_lesions_keep_a_label_each_until_the_last(monkeypatch):
    mask = np.zeros((3, 3, 601), bool)
    mask[1, 1, ::2] = True
    lesions = locate(mask, [1] * 301)
    box = volumes.viewer_box(Grid(mask.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), (0, 0, 0), mask.shape)
    assert sorted(volumes.block_labels(lesions, box)[mask].tolist()) == list(range(1, 302))
    monkeypatch.setattr(volumes, "MOST_LABELS", 300)
    labels = volumes.block_labels(lesions, box)
    assert labels.max() == 300
    assert (labels > 0).sum() == 301
