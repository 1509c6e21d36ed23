"""Which slice shows which plane of a mask."""

import itertools
import random

import generated_pet
import numpy as np
import pytest

from l2s.errors import InputError
from l2s.io import slices


def seen_through(headers, mask, grid):
    """The literal twin of as_stored: each pixel's position by DICOM's formula, the mask's voxel at that position."""
    planes = []
    for header in headers:
        right, down = np.array(header.ImageOrientationPatient[:3]), np.array(header.ImageOrientationPatient[3:])
        image = np.zeros((header.Rows, header.Columns), mask.dtype)
        for r, c in np.ndindex(*image.shape):
            mm = np.array(header.ImagePositionPatient) + right * header.PixelSpacing[1] * c + down * header.PixelSpacing[0] * r
            z, y, x = (int(round(v)) for v in grid.mm_to_index_zyx(mm))
            image[r, c] = mask[z, y, x]
        planes.append(image)
    return np.array(planes)


@pytest.mark.parametrize("direction", [generated_pet.grid().direction, generated_pet.OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))), ids=str)
def test_every_orientation_and_order(axes, direction):
    grid = generated_pet.grid(direction=direction)
    voxels = np.arange(np.prod(grid.shape_zyx)).reshape(grid.shape_zyx)
    for flip_rows, flip_columns in itertools.product((False, True), repeat=2):
        headers = generated_pet.series(grid, axes, flip_rows, flip_columns)
        random.Random(1).shuffle(headers)
        found = slices.match(headers, grid)
        assert (found.axes, found.flip_rows, found.flip_columns) == (axes, flip_rows, flip_columns)
        assert np.array_equal(found.as_stored(voxels), seen_through(found.headers, voxels, grid))


def test_a_bed_joint_of_a_few_hundredths_is_let_through_and_a_tenth_is_not():
    grid = generated_pet.grid()
    for shift, good in ((0.04, True), (0.12, False)):
        headers = generated_pet.series(grid)
        headers[3].ImagePositionPatient[2] += shift * 3.0
        if good:
            assert slices.match(headers, grid).headers[3] is headers[3]
        else:
            with pytest.raises(InputError, match=r"0\.12 voxels off"):
                slices.match(headers, grid)


def test_an_irregular_series_that_is_known_to_be_the_masks_own():
    grid = generated_pet.grid()
    headers = generated_pet.series(grid)
    headers[3].ImagePositionPatient[2] += 0.3 * 3.0
    with pytest.raises(InputError, match=r"0\.3 voxels off the mask's grid .limit 0\.1"):
        slices.match(headers, grid)
    assert slices.match(headers[::-1], grid, plane_tolerance=0.5).headers == tuple(headers)
    headers[3].ImagePositionPatient[0] += 0.3 * 2.5  # in the plane there is no such excuse
    with pytest.raises(InputError, match=r"limit 0\.1"):
        slices.match(headers, grid, plane_tolerance=0.5)


def broken(what):
    headers = generated_pet.series(generated_pet.grid())
    if what == "none":
        return []
    if what == "missing":
        return headers[:3] + headers[4:]
    if what == "twice":
        return [*headers, headers[2]]
    if what == "spacing":
        for header in headers:
            header.PixelSpacing = [2.0, 2.4]
    if what == "mirrored":  # the corner fits, the direction does not
        for header in headers:
            header.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]
    if what == "moved":
        for header in headers:
            header.ImagePositionPatient[0] += 1.0
    if what == "position":
        del headers[2].ImagePositionPatient
    if what == "frame":
        headers[2].FrameOfReferenceUID = "1.2.3"
    if what == "tilted":
        for header in headers:
            header.ImageOrientationPatient = [0.7071, 0, 0.7071, 0, 1, 0]
    if what == "degenerate":
        for header in headers:
            header.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]
    return headers


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("none", "no DICOM slices"),
        ("missing", "6 slices for 7 planes of the mask, no slice for plane 3"),
        ("twice", "8 slices for 7 planes of the mask, two slices at one position"),
        ("spacing", "voxels off the mask's grid"),
        ("mirrored", "voxels off the mask's grid"),
        ("moved", "voxels off the mask's grid"),
        ("position", "has no ImagePositionPatient"),
        ("frame", "2 values of FrameOfReferenceUID"),
        ("tilted", "voxels off the mask's grid"),
        ("degenerate", "do not lie along the mask's axes"),
    ],
)
def test_what_does_not_fit_is_refused(what, words):
    with pytest.raises(InputError, match=words):
        slices.match(broken(what), generated_pet.grid())
