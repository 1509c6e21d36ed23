import numpy as np
import pytest

from l2s import fuse
from l2s.errors import InputError
from l2s.fuse import voxelwise


def row(*values) -> np.ndarray:
    return np.array(values, dtype=np.float32).reshape(1, 1, -1)


def test_cue_lowers_the_threshold_and_every_comparison_is_strict():
    probability = row(0.05, 0.1, 0.11, 0.9, 0.91, 0.11, 0.9, 0.91)
    cue = row(0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.5, 0.0)
    expected = [False, False, True, True, True, False, False, True]
    assert voxelwise.fuse(probability, cue).ravel().tolist() == expected
    assert voxelwise.fuse(probability, cue).dtype == bool


def test_planes_are_fused_as_voxels_are():
    rng = np.random.default_rng(2)
    probability, cue = rng.random((2, 7, 5, 6), dtype=np.float32)
    literal = [p > np.float32(0.1 if c > np.float32(0.5) else 0.9) for p, c in zip(probability.ravel(), cue.ravel())]
    assert voxelwise.fuse(probability, cue).ravel().tolist() == literal


def test_thresholds_are_float32_numbers():
    # float32(0.1) is above the double 0.1: a comparison in double would call it a lesion
    just = np.float32(0.1)
    assert float(just) > 0.1
    assert voxelwise.fuse(row(just, np.nextafter(just, np.float32(1))), row(1, 1)).ravel().tolist() == [False, True]


def test_none_ignores_the_cue():
    assert fuse.apply("none", row(0.5, 0.51, 0.51), row(1, 0, 1)).ravel().tolist() == [False, True, True]


def test_apply_names_the_policies():
    probability, cue = row(0.2, 0.2), row(1, 0)
    assert fuse.apply("voxelwise", probability, cue).ravel().tolist() == [True, False]
    assert not fuse.apply("componentwise", probability, cue).any()
    with pytest.raises(InputError, match="fusion 'adaptive': one of voxelwise, componentwise, none"):
        fuse.apply("adaptive", probability, cue)
    with pytest.raises(InputError, match="one grid"):
        fuse.apply("voxelwise", probability, cue[..., :1])
