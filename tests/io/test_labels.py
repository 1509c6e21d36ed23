"""Organ label maps: on the PET's grid as they are, on another by the nearest label."""

import numpy as np
import pytest

from l2s.errors import InputError
from l2s.io.images import write_image
from l2s.io.labels import read_labels
from l2s.study import Grid

PET = Grid((8, 8, 8), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))


def test_on_the_grid_they_are_as_stored(tmp_path):
    labels = np.arange(512, dtype=np.int16).reshape(8, 8, 8)
    write_image(tmp_path / "organs.nii.gz", labels, PET)
    found, warnings = read_labels(tmp_path / "organs.nii.gz", PET)
    assert found.dtype == np.int32
    assert np.array_equal(found, labels)
    assert warnings == []


def test_a_finer_map_gives_each_pet_voxel_the_label_at_its_centre(tmp_path):
    fine = Grid((12, 20, 20), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    labels = np.random.default_rng(0).integers(0, 9, fine.shape_zyx).astype(np.uint8)
    write_image(tmp_path / "organs.mha", labels, fine)
    grid = Grid((8, 8, 8), (4.0, 4.0, 4.0), (1.5, 1.5, 1.5))  # centres a quarter of a fine voxel away from fine centres
    found, warnings = read_labels(tmp_path / "organs.mha", grid)
    expected = np.zeros(grid.shape_zyx, int)
    expected[:6] = labels[::2, 0:16:2, 0:16:2]
    assert np.array_equal(found, expected)
    assert "resampled to the PET grid" in warnings[0]


def test_what_is_no_label_map(tmp_path):
    write_image(tmp_path / "half.mha", np.full((8, 8, 8), 0.5, np.float32), PET)
    write_image(tmp_path / "far.mha", np.ones((8, 8, 8), np.uint8), Grid((8, 8, 8), (4.0,) * 3, (900.0, 0.0, 0.0)))
    with pytest.raises(InputError, match=r"half.mha is no label image: values from 0.5"):
        read_labels(tmp_path / "half.mha", PET)
    with pytest.raises(InputError, match="does not overlap"):
        read_labels(tmp_path / "far.mha", PET)
