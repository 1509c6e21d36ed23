"""Grid and Study against hand-worked numbers and against ITK's own index-to-point arithmetic."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from l2s.errors import InputError
from l2s.study import ORTHONORMAL_LIMIT, Grid, Study, from_lps, lps_axes, orthonormal, to_lps

# 30 degrees about z: x' = (c, s, 0), y' = (-s, c, 0)
TURNED = ((0.8660254037844386, -0.5, 0.0), (0.5, 0.8660254037844386, 0.0), (0.0, 0.0, 1.0))


def directions():
    """All 48 signed permutations, as 3x3 tuples."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(order), range(3)] = signs
            yield tuple(map(tuple, matrix))


def itk_image(grid: Grid) -> sitk.Image:
    image = sitk.Image(grid.size_xyz, sitk.sitkUInt8)
    image.SetSpacing(grid.spacing_mm_xyz)
    image.SetOrigin(grid.origin_mm_xyz)
    image.SetDirection(grid.direction9)
    return image


def test_itk_s_order_is_reversed_once():
    grid = Grid.from_itk((4, 5, 6), (1.0, 2.0, 3.0), (7.0, 8.0, 9.0), range(9))
    assert grid.shape_zyx == (6, 5, 4)
    assert grid.spacing_mm_zyx == (3.0, 2.0, 1.0)
    assert grid.origin_mm_xyz == (7.0, 8.0, 9.0)
    assert grid.direction == ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0), (6.0, 7.0, 8.0))
    assert (grid.size_xyz, grid.spacing_mm_xyz, grid.direction9) == ((4, 5, 6), (1.0, 2.0, 3.0), tuple(map(float, range(9))))


def test_a_position_worked_out_by_hand():
    # voxel (z, y, x) = (1, 2, 3) of 5 x 4 x 2 mm: 6 mm along x', 8 along y', 5 along z
    grid = Grid((10, 10, 10), (5.0, 4.0, 2.0), (100.0, 200.0, 300.0), TURNED)
    expected = (100 + 6 * 0.8660254037844386 - 8 * 0.5, 200 + 6 * 0.5 + 8 * 0.8660254037844386, 305.0)
    np.testing.assert_allclose(grid.index_to_mm_xyz((1, 2, 3)), expected, rtol=1e-14)
    np.testing.assert_allclose(grid.mm_to_index_zyx(expected), (1, 2, 3), atol=1e-12)


def test_positions_are_itk_s_in_every_orientation():
    indices = np.array([(0, 0, 0), (3, 0, 1), (2, 4, 6), (1, 3, 5)])
    for direction in directions():
        turned = tuple(map(tuple, np.asarray(TURNED) @ direction))
        grid = Grid((4, 5, 7), (4.5, 3.0, 2.0), (-31.5, 17.25, 400.0), turned)
        image = itk_image(grid)
        theirs = [image.TransformIndexToPhysicalPoint(tuple(int(v) for v in index[::-1])) for index in indices]
        np.testing.assert_allclose(grid.index_to_mm_xyz(indices), theirs, atol=1e-9)
        np.testing.assert_allclose(grid.mm_to_index_zyx(theirs), indices, atol=1e-9)


def test_voxel_volume():
    assert Grid((8, 8, 8), (3.0, 2.0, 2.5), (0, 0, 0)).voxel_volume_ml == pytest.approx(0.015)


@pytest.mark.parametrize("oblique", [False, True])
def test_all_48_orientations_become_lps_and_come_back(oblique):
    array = np.arange(4 * 5 * 7).reshape(4, 5, 7)
    turn = np.asarray(TURNED) if oblique else np.eye(3)
    for direction in directions():
        stored = Grid((4, 5, 7), (4.5, 3.0, 2.0), (-31.5, 17.25, 400.0), tuple(map(tuple, turn @ direction)))
        image = itk_image(stored)
        lps, grid = to_lps(array, stored)
        assert lps.shape == grid.shape_zyx
        assert np.shares_memory(lps, array)
        np.testing.assert_allclose(grid.direction, turn, atol=1e-12)
        for z, y, x in np.ndindex(array.shape):
            index = grid.mm_to_index_zyx(image.TransformIndexToPhysicalPoint((x, y, z)))
            assert lps[tuple(np.rint(index).astype(int))] == array[z, y, x]
        assert (from_lps(lps, stored) == array).all()


def test_an_upright_image_is_left_alone():
    assert lps_axes(Grid((4, 5, 7), (1.0, 1.0, 1.0), (0, 0, 0))) == ((0, 1, 2), (False, False, False))


def test_a_45_degree_tie_is_still_a_permutation():
    c = 0.5**0.5
    stored = Grid((4, 5, 7), (1.0, 1.0, 1.0), (0, 0, 0), ((c, -c, 0.0), (c, c, 0.0), (0.0, 0.0, 1.0)))
    array = np.arange(4 * 5 * 7).reshape(4, 5, 7)
    assert (from_lps(to_lps(array, stored)[0], stored) == array).all()


def test_crop_and_pad_keep_the_voxels_where_they_are():
    grid = Grid((10, 10, 10), (5.0, 4.0, 2.0), (100.0, 200.0, 300.0), TURNED)
    cut = grid.crop((2, -3, 4), (8, 6, 9))
    assert cut.shape_zyx == (6, 9, 5)
    np.testing.assert_allclose(cut.index_to_mm_xyz((0, 3, 0)), grid.index_to_mm_xyz((2, 0, 4)), atol=1e-12)


def test_matches_looks_at_the_far_corner_too():
    grid = Grid((101, 5, 5), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    assert grid.matches(Grid((101, 5, 5), (2.0, 2.0, 2.0), (0.009, 0.0, 0.0)))
    assert not grid.matches(Grid((101, 5, 5), (2.0, 2.0, 2.0), (0.011, 0.0, 0.0)))
    # 0.0002 mm a voxel is 0.02 mm at voxel 100
    assert not grid.matches(Grid((101, 5, 5), (2.0002, 2.0, 2.0), (0.0, 0.0, 0.0)))
    assert grid.matches(Grid((101, 5, 5), (2.0002, 2.0, 2.0), (0.0, 0.0, 0.0)), tolerance_mm=0.03)
    assert not grid.matches(Grid((100, 5, 5), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0)))


@pytest.mark.parametrize(("shift_mm", "share"), [(0.0, 1.0), (16.0, 0.5), (32.0, 0.0), (-24.0, 0.25), (500.0, 0.0)])
def test_overlap_of_two_boxes(shift_mm, share):
    grid = Grid((16, 16, 16), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    other = Grid((32, 32, 16), (1.0, 1.0, 2.0), (shift_mm - 0.5, -0.5, 0.0))  # the same 32 mm box, shifted along x
    assert grid.overlap_fraction(other) == pytest.approx(share)


def test_orthonormal_keeps_mends_and_refuses():
    kept, off = orthonormal(TURNED, "a.mha")
    assert kept == TURNED
    assert off < 1e-9
    mended, off = orthonormal(np.round(TURNED, 3), "a.mha")
    np.testing.assert_allclose(np.asarray(mended) @ np.transpose(mended), np.eye(3), atol=1e-14)
    np.testing.assert_allclose(mended, TURNED, atol=1e-3)
    assert 1e-6 < off < 1e-3
    # a mirrored image stays mirrored
    assert np.linalg.det(orthonormal(np.diag([1.0, 1.0, -1.0]), "a.mha")[0]) == pytest.approx(-1.0)
    sheared = np.eye(3)
    sheared[0, 1] = 2.5 * ORTHONORMAL_LIMIT  # polar decomposition shares a shear between both axes
    with pytest.raises(InputError, match=r"a\.mha.*sheared"):
        orthonormal(sheared, "a.mha")
    for broken in (np.ones((3, 3)), np.full((3, 3), np.nan)):
        with pytest.raises(InputError, match="span no volume"):
            orthonormal(broken, "a.mha")


def test_a_study_has_one_shape():
    grid = Grid((8, 9, 10), (1.0, 1.0, 1.0), (0, 0, 0))
    right, wrong = np.zeros((8, 9, 10), np.float32), np.zeros((10, 9, 8), np.float32)
    assert Study(right, right, grid).stored is None
    with pytest.raises(InputError, match="ct_hu has shape"):
        Study(right, wrong, grid)
    with pytest.raises(InputError, match="pet_suv has shape"):
        Study(wrong, right, grid)
