"""The working grid: where the networks see a study. Training and inference both come through here, so that they see the same.

A study is brought to the weights' spacing, cropped to the body box, and the networks' logits are brought back to the PET's own grid.
Resampling is separable: one small sparse matrix an axis, a linear (triangle) filter that widens when it shrinks the image, so that
a coarser grid averages noise instead of picking samples.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy import ndimage, sparse

from l2s import cores
from l2s.errors import InputError
from l2s.study import Grid, Study

Volume = TypeVar("Volume")  # a numpy array, or a torch tensor: this module names no tensor, so that it serves where none is
AIR_HU = -1024.0
BOX_STEP_MM = 6.0  # the body is a few hundred mm wide: its box needs no finer look
BOX_MARGIN_MM = 12.0
BODY_HU = -300.0  # between fat (-100) and the couch's foam and clothes (below -700)
BODY_SUV = 0.4  # finds limbs that the CT's smaller field of view cut off
BODY_PART_ML = 50.0  # smaller pieces are couch rails, lines and noise; a calf is larger
PLANES_AT_ONCE = 64  # on the way back: a total-body scan's answer at once would take three times its size
PLANES_A_THREAD, THREADS = 16, 4  # on the way in: a thread's planes take 30 MB of such a scan
MAX_WORKING_VOXELS = 2**30  # 4 GiB an image: beyond it a spacing is a typing error


@dataclass(frozen=True)
class Working:
    """A study on the working grid, cropped to the body box.

    Attributes:
        pet_suv: float32 (z, y, x).
        ct_hu: float32 (z, y, x).
        grid: the box's grid.
        start_zyx, stop_zyx: the box within the uncropped working grid `full`.
        full: the uncropped working grid.
    """

    pet_suv: np.ndarray
    ct_hu: np.ndarray
    grid: Grid
    start_zyx: tuple[int, int, int]
    stop_zyx: tuple[int, int, int]
    full: Grid


def to_working(study: Study, spacing_mm_zyx: tuple[float, float, float]) -> Working:
    """The study at the given spacing inside its body box.

    Raises:
        InputError: the spacing makes a volume that is too large to be meant.
    """
    full = working_grid(study.grid, spacing_mm_zyx)
    pet = resample(study.pet_suv, study.grid, full)
    ct = resample(study.ct_hu, study.grid, full)
    start, stop = body_box(pet, ct, full.spacing_mm_zyx)
    inside = tuple(slice(a, b) for a, b in zip(start, stop))
    return Working(np.ascontiguousarray(pet[inside]), np.ascontiguousarray(ct[inside]), full.crop(start, stop), start, stop, full)


def working_grid(grid: Grid, spacing_mm_zyx: tuple[float, float, float]) -> Grid:
    """The grid of the given spacing with the same centre and, to half a voxel, the same field of view as grid."""
    extent_mm = np.multiply(grid.shape_zyx, grid.spacing_mm_zyx)
    shape = np.maximum(1, np.rint(extent_mm / spacing_mm_zyx - 1e-6)).astype(int)
    if shape.prod(dtype=float) > MAX_WORKING_VOXELS:
        raise InputError(
            f"a working spacing of {tuple(spacing_mm_zyx)} mm makes {tuple(shape)} voxels (limit {MAX_WORKING_VOXELS}); use a coarser one"
        )
    first = (np.subtract(grid.shape_zyx, 1) - (shape - 1) * np.divide(spacing_mm_zyx, grid.spacing_mm_zyx)) / 2
    return replace(
        grid,
        shape_zyx=tuple(int(n) for n in shape),
        spacing_mm_zyx=tuple(float(s) for s in spacing_mm_zyx),
        origin_mm_xyz=tuple(float(v) for v in grid.index_to_mm_xyz(first)),
    )


def axis_weights(positions: np.ndarray, inputs: int, width: float) -> sparse.csr_matrix:
    """(outputs, inputs) weights of a triangle filter at fractional input positions; rows sum to 1.

    width: the triangle's half base in input voxels, at least 1 (linear interpolation). Positions beyond an end take the end's value.
    """
    positions = np.clip(positions, 0, inputs - 1)
    taps = np.floor(positions - width).astype(int)[:, None] + np.arange(int(2 * width) + 3)
    weights = np.maximum(0.0, 1.0 - np.abs(taps - positions[:, None]) / width)
    weights[(taps < 0) | (taps >= inputs)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(positions)), taps.shape[1])
    keep = weights.ravel() > 0
    matrix = sparse.csr_matrix((weights.ravel()[keep], (rows[keep], taps.ravel()[keep])), shape=(len(positions), inputs))
    return matrix.astype(np.float32)


def apply_along(weights: sparse.csr_matrix, array: Volume, axis: int) -> Volume:
    """weights (outputs, inputs) times every line of array (z, y, x) along an axis; a tensor stays on its device."""
    if isinstance(array, np.ndarray):
        moved = np.moveaxis(array, axis, 0)
        shape = (weights.shape[0], *moved.shape[1:])
        return np.moveaxis((weights @ moved.reshape(moved.shape[0], -1)).reshape(shape), 0, axis)
    # a GPU multiplies by the zeros faster than it looks the others up
    moved = array.movedim(axis, 0)
    shape = (weights.shape[0], *moved.shape[1:])
    return (array.new_tensor(weights.toarray()) @ moved.reshape(moved.shape[0], -1)).reshape(shape).movedim(0, axis)


def resample(array: Volume, source: Grid, target: Grid) -> Volume:
    """array (z, y, x) on source, brought to target; float32. Both grids share their direction; positions outside take the edge's value."""
    first = source.mm_to_index_zyx(target.index_to_mm_xyz((0, 0, 0)))
    weights: dict[int, sparse.csr_matrix] = {}
    for axis, inputs in enumerate(source.shape_zyx):
        step = target.spacing_mm_zyx[axis] / source.spacing_mm_zyx[axis]
        positions = first[axis] + step * np.arange(target.shape_zyx[axis])
        if len(positions) != inputs or not np.allclose(positions, np.arange(inputs), atol=1e-4):
            weights[axis] = axis_weights(positions, inputs, max(1.0, step))
    # the axis that shrinks the volume most goes first, so that the others have less to do
    order = sorted(weights, key=lambda k: target.shape_zyx[k] / source.shape_zyx[k])
    if not isinstance(array, np.ndarray):
        for axis in order:
            array = apply_along(weights[axis], array, axis)
        return array.contiguous()
    out = np.asarray(array, dtype=np.float32)
    if order[:1] == [0]:
        out = apply_along(weights[0], out, 0)
    if in_plane := [axis for axis in order if axis]:
        out = resample_planes(out, [weights[axis] for axis in in_plane], in_plane)
    if 0 in order[1:]:
        out = apply_along(weights[0], out, 0)
    return np.ascontiguousarray(out)


def resample_planes(array: np.ndarray, weights: list[sparse.csr_matrix], axes: list[int]) -> np.ndarray:
    """array (z, y, x), float32, resampled along axis 1 or 2 or both in turn, a few planes a thread: all at once would take a copy of it."""
    shape = list(array.shape)
    for axis, matrix in zip(axes, weights):
        shape[axis] = matrix.shape[0]
    out = np.empty(shape, np.float32)

    def some(start: int) -> None:
        part = array[start : start + PLANES_A_THREAD]
        for axis, matrix in zip(axes, weights):
            part = apply_along(matrix, part, axis)
        out[start : start + PLANES_A_THREAD] = part

    with ThreadPoolExecutor(min(THREADS, cores.allowed())) as threads:  # scipy's products hold no lock
        list(threads.map(some, range(0, len(array), PLANES_A_THREAD)))
    return out


def body_box(pet_suv: np.ndarray, ct_hu: np.ndarray, spacing_mm_zyx) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """(start, stop) of the box around the body, with a margin; the whole volume where no air surrounds the body.

    Every part of 50 ml or more counts (two separate legs are both body); a study with no such part keeps its whole volume.
    """
    steps = tuple(max(1, int(BOX_STEP_MM / s)) for s in spacing_mm_zyx)
    coarse = tuple(slice(None, None, s) for s in steps)
    body = (ct_hu[coarse] > BODY_HU) | (pet_suv[coarse] > BODY_SUV)
    # opening loosens the couch from the back and drops single hot voxels; the border counts as body, a crop is no edge
    body = ndimage.binary_dilation(ndimage.binary_erosion(body, border_value=1)) & body
    labels, _ = ndimage.label(body)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    part_voxels = BODY_PART_ML * 1000 / np.prod(np.multiply(steps, spacing_mm_zyx))
    body = (sizes >= part_voxels)[labels]
    if not body.any():
        return (0, 0, 0), tuple(pet_suv.shape)
    start, stop = [], []
    for axis, (n, step, spacing) in enumerate(zip(pet_suv.shape, steps, spacing_mm_zyx)):
        hit = np.flatnonzero(body.any(axis=tuple(k for k in range(3) if k != axis)))
        margin = int(np.ceil(BOX_MARGIN_MM / spacing)) + step - 1
        start.append(max(0, int(hit[0]) * step - margin))
        stop.append(min(n, int(hit[-1]) * step + 1 + margin))
    return tuple(start), tuple(stop)


def from_working(array: Volume, working: Working, grid: Grid, outside: float) -> np.ndarray:
    """array of the body box, brought to the PET's LPS grid; voxels outside the box get the value outside. float32.

    Args:
        array: (z, y, x); a numpy array, or a float32 tensor, which is resampled on its device a few planes at a time.
    """
    low = np.ceil(grid.mm_to_index_zyx(working.grid.index_to_mm_xyz((-0.5, -0.5, -0.5))) - 1e-4)
    high = np.floor(grid.mm_to_index_zyx(working.grid.index_to_mm_xyz(np.subtract(working.grid.shape_zyx, 0.5))) + 1e-4)
    start = np.clip(low, 0, grid.shape_zyx).astype(int)
    stop = np.clip(high + 1, 0, grid.shape_zyx).astype(int)
    # where the box ends with the volume, voxels half outside the coarser field of view belong to it
    start = np.where(np.equal(working.start_zyx, 0), 0, start)
    stop = np.where(np.equal(working.stop_zyx, working.full.shape_zyx), grid.shape_zyx, stop)
    out = np.full(grid.shape_zyx, outside, dtype=np.float32)
    for first in range(start[0], stop[0], PLANES_AT_ONCE):
        here = (first, *start[1:]), (min(first + PLANES_AT_ONCE, stop[0]), *stop[1:])
        part = resample(array, working.grid, grid.crop(*here))
        out[tuple(slice(a, b) for a, b in zip(*here))] = part if isinstance(part, np.ndarray) else part.cpu().numpy()
    return out
