"""The working grid: resampling against scipy's and hand-made answers, the body box, and the way back."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from l2s import working
from l2s.errors import InputError
from l2s.study import Grid, Study
from l2s.working import body_box, from_working, resample, to_working, working_grid


def grid(shape, spacing):
    return Grid(shape, spacing, (0.0, 0.0, 0.0))


def body_study(shape=(60, 50, 70), spacing=(4.0, 3.0, 2.0), margin=12) -> Study:
    ct = np.full(shape, -1000.0, np.float32)
    ct[:, margin:-margin, margin:-margin] = 40
    pet = np.random.default_rng(0).uniform(0, 0.1, shape).astype(np.float32)
    return Study(pet, ct, grid(shape, spacing))


def test_the_same_grid_is_left_alone():
    array = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    g = grid((5, 6, 7), (3.0, 2.0, 2.0))
    assert (resample(array, g, working_grid(g, (3.0, 2.0, 2.0))) == array).all()


def test_refining_is_trilinear_interpolation():
    array = np.random.default_rng(0).normal(size=(8, 9, 10)).astype(np.float32)
    source = grid((8, 9, 10), (4.0, 4.0, 4.0))
    target = working_grid(source, (3.0, 2.0, 1.5))
    index = source.mm_to_index_zyx(target.index_to_mm_xyz(np.stack(np.indices(target.shape_zyx), axis=-1)))
    expected = ndimage.map_coordinates(array, np.moveaxis(index, -1, 0), order=1, mode="nearest")
    np.testing.assert_allclose(resample(array, source, target), expected, atol=1e-5)


def test_coarsening_averages_by_a_triangle():
    # spacing doubled: positions 0.5, 2.5 ...; half base 2: weights 1/4 3/4 3/4 1/4 over 2, by hand
    array = np.array([0, 8, 0, 0, 16, 0, 0, 0], np.float32)[:, None, None]
    source = grid((8, 1, 1), (2.0, 2.0, 2.0))
    target = Grid((4, 1, 1), (4.0, 2.0, 2.0), tuple(source.index_to_mm_xyz((0.5, 0, 0))))
    out = resample(array, source, target)[:, 0, 0]
    assert out[1] == pytest.approx((8 * 0.25 + 16 * 0.25) / 2)
    assert out[0] == pytest.approx(8 * 0.75 / (0.75 + 0.75 + 0.25))


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (2.5, 1.0, 4.0), (6.0, 2.0, 1.5), (3.0, 2.0, 5.0), (4.5, 2.0, 2.0)])
def test_planes_at_once_are_the_volume_at_once(monkeypatch, spacing):
    """Whichever axes change, and in whichever order: the literal twin takes one axis of the whole volume after the other."""
    array = np.random.default_rng(1).normal(size=(23, 9, 10)).astype(np.float32)
    source = grid((23, 9, 10), (3.0, 2.0, 2.0))
    target = working_grid(source, spacing)
    expected = array
    first = source.mm_to_index_zyx(target.index_to_mm_xyz((0, 0, 0)))
    for axis in sorted(range(3), key=lambda k: target.shape_zyx[k] / source.shape_zyx[k]):
        step = target.spacing_mm_zyx[axis] / source.spacing_mm_zyx[axis]
        positions = first[axis] + step * np.arange(target.shape_zyx[axis])
        expected = working.apply_along(working.axis_weights(positions, array.shape[axis], max(1.0, step)), expected, axis)
    for planes in (1, 5, 1000):
        monkeypatch.setattr(working, "PLANES_A_THREAD", planes)
        np.testing.assert_allclose(resample(array, source, target), expected, atol=1e-5)


def test_a_constant_stays_one_and_noise_falls():
    rng = np.random.default_rng(0)
    source = grid((40, 40, 40), (2.0, 2.0, 2.0))
    target = working_grid(source, (4.0, 4.0, 4.0))
    np.testing.assert_allclose(resample(np.full((40, 40, 40), 3.0), source, target), 3.0, rtol=1e-5)
    assert resample(rng.normal(size=(40, 40, 40)), source, target).std() < 0.4


def test_centres_agree():
    g = grid((101, 67, 89), (3.0, 2.036, 2.036))
    w = working_grid(g, (4.0, 4.0, 4.0))
    middle = g.index_to_mm_xyz(np.subtract(g.shape_zyx, 1) / 2)
    np.testing.assert_allclose(w.index_to_mm_xyz(np.subtract(w.shape_zyx, 1) / 2), middle)
    extent = np.multiply(w.shape_zyx, 4.0) - np.multiply(g.shape_zyx, g.spacing_mm_zyx)
    assert (np.abs(extent) <= 2.0).all()


def test_the_box_holds_the_body_with_a_margin():
    study = body_study()
    start, stop = body_box(study.pet_suv, study.ct_hu, study.grid.spacing_mm_zyx)
    assert start[0] == 0
    assert stop[0] == 60
    for axis, spacing in ((1, 3.0), (2, 2.0)):
        n = study.ct_hu.shape[axis]
        assert 0 < (12 - start[axis]) * spacing <= 24
        assert 0 < (stop[axis] - (n - 12)) * spacing <= 24


def test_two_separate_legs_are_both_body_and_a_couch_is_not():
    ct = np.full((50, 60, 100), -1000.0, np.float32)
    ct[:, 20:40, 15:35] = ct[:, 20:40, 65:85] = 30
    ct[:, 52, 10:90] = 100  # a thin couch
    start, stop = body_box(np.zeros_like(ct), ct, (4.0, 4.0, 4.0))
    assert start[2] <= 15
    assert stop[2] >= 85
    assert stop[1] < 52


def test_without_air_the_box_is_the_volume_and_without_body_too():
    full = np.full((30, 30, 30), 40.0, np.float32)
    assert body_box(np.zeros_like(full), full, (4.0, 4.0, 4.0)) == ((0, 0, 0), (30, 30, 30))
    assert body_box(np.zeros_like(full), full - 1040, (4.0, 4.0, 4.0)) == ((0, 0, 0), (30, 30, 30))


def test_pet_finds_a_limb_that_the_ct_misses():
    ct = np.full((40, 60, 100), -1024.0, np.float32)
    ct[:, 20:40, 30:70] = 30
    pet = np.zeros_like(ct)
    pet[:, 20:40, 10:90] = 0.8
    start, stop = body_box(pet, ct, (4.0, 4.0, 4.0))
    assert start[2] <= 10
    assert stop[2] >= 90


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (4.0, 3.0, 2.0), (2.0, 5.0, 1.7)])
def test_the_way_back_lands_on_the_same_place(spacing):
    study = body_study()
    working = to_working(study, spacing)
    # a linear ramp in mm survives both ways wherever no edge was clamped
    index = np.stack(np.indices(working.grid.shape_zyx), axis=-1)
    ramp = (working.grid.index_to_mm_xyz(index) @ [0.3, -0.7, 0.5]).astype(np.float32)
    back = from_working(ramp, working, study.grid, outside=np.nan)
    assert back.shape == study.grid.shape_zyx
    expected = study.grid.index_to_mm_xyz(np.stack(np.indices(study.grid.shape_zyx), axis=-1)) @ [0.3, -0.7, 0.5]
    body = study.ct_hu > 0
    body[:2] = body[-2:] = False
    # where the PET is coarser than the working grid, a widened triangle keeps a ramp to a few hundredths of a voxel's rise only
    tolerance = 1e-3 if all(np.less_equal(study.grid.spacing_mm_zyx, spacing)) else 0.05
    np.testing.assert_allclose(back[body], expected[body], atol=tolerance)
    assert np.isnan(back[:, 0, 0]).all()
    assert not np.isnan(back[study.ct_hu > 0]).any()


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (2.0, 5.0, 1.7)])
def test_a_tensor_comes_back_as_an_array_does(spacing):
    study = body_study()
    working = to_working(study, spacing)
    logits = np.random.default_rng(3).normal(size=working.grid.shape_zyx).astype(np.float32)
    back = from_working(torch.from_numpy(logits), working, study.grid, -30.0)
    assert isinstance(back, np.ndarray)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, from_working(logits, working, study.grid, -30.0), atol=1e-5)


def test_a_spacing_too_fine_to_be_meant():
    with pytest.raises(InputError, match="limit"):
        working_grid(grid((300, 400, 400), (3.0, 2.0, 2.0)), (0.01, 0.01, 0.01))


def test_the_way_back_by_planes_is_the_way_back_at_once(monkeypatch):
    study = body_study()
    working = to_working(study, (4.0, 4.0, 4.0))
    logits = np.random.default_rng(3).normal(size=working.grid.shape_zyx).astype(np.float32)
    at_once = from_working(logits, working, study.grid, -30.0)
    monkeypatch.setattr("l2s.working.PLANES_AT_ONCE", 7)
    np.testing.assert_allclose(from_working(logits, working, study.grid, -30.0), at_once, atol=1e-5)
