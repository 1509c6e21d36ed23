"""Volumes as a page carries them: cropped to the body, brought to a spacing that fits, whole numbers, byte planes, gzip, base64."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass

import numpy as np

from l2s.report.lesions import Located
from l2s.study import Grid

MOST_VOXELS = 4_500_000  # of the viewer: three volumes of it make about 9 MB of page
SUV_STEP = 0.02
HU_STEP = 4.0
MOST_LABELS = 65535  # uint16, 0 is background; the further lesions share the last
LEAST_SHARE = 0.5  # of a block that a lesion must fill to own it


@dataclass(frozen=True)
class Box:
    """What part of the study the viewer shows, and how coarsely.

    Attributes:
        start_zyx, stop_zyx: the part, in voxels of the PET.
        factors_zyx: PET voxels a viewer voxel, along each axis.
        grid: the viewer's grid.
    """

    start_zyx: tuple[int, int, int]
    stop_zyx: tuple[int, int, int]
    factors_zyx: tuple[int, int, int]
    grid: Grid

    def slices(self) -> tuple[slice, slice, slice]:
        return tuple(slice(a, b) for a, b in zip(self.start_zyx, self.stop_zyx))

    def to_viewer(self, index_zyx: np.ndarray) -> np.ndarray:
        """Fractional viewer indices of PET indices (..., 3)."""
        factors = np.asarray(self.factors_zyx)
        return (np.asarray(index_zyx) - self.start_zyx - (factors - 1) / 2) / factors


@dataclass(frozen=True)
class Packed:
    """One volume as text.

    Attributes:
        text: base64 of gzip of the byte planes (all lowest bytes, then all next ones), C order (z, y, x).
        dtype: 'int16' or 'uint16'.
        slope: value of one step.
    """

    text: str
    dtype: str
    slope: float


def viewer_box(grid: Grid, start_zyx, stop_zyx, most_voxels: int = MOST_VOXELS) -> Box:
    """The finest blocks of whole PET voxels that keep the part below most_voxels; the finest axis is coarsened first."""
    size = np.subtract(stop_zyx, start_zyx)
    factors = np.ones(3, int)
    while np.prod(-(-size // factors)) > most_voxels:
        factors[int(np.argmin(factors * grid.spacing_mm_zyx))] += 1
    shape = -(-size // factors)
    spacing = factors * grid.spacing_mm_zyx
    origin = grid.index_to_mm_xyz(np.asarray(start_zyx) + (factors - 1) / 2)
    coarse = Grid(tuple(int(n) for n in shape), tuple(float(s) for s in spacing), tuple(float(v) for v in origin), grid.direction)
    return Box(tuple(map(int, start_zyx)), tuple(map(int, stop_zyx)), tuple(map(int, factors)), coarse)


def block_mean(volume: np.ndarray, factors_zyx: tuple[int, int, int]) -> np.ndarray:
    """The mean over blocks; blocks at the end may be smaller."""
    out = np.asarray(volume, np.float32)
    for axis, (factor, n) in enumerate(zip(factors_zyx, volume.shape)):
        if factor > 1:
            starts = np.arange(0, n, factor)
            shape = [1, 1, 1]
            shape[axis] = len(starts)
            out = np.add.reduceat(out, starts, axis=axis) / np.diff(np.append(starts, n)).astype(np.float32).reshape(shape)
    return out


def block_labels(lesions: Located, box: Box) -> np.ndarray:
    """uint16 (z, y, x) on the viewer's grid: lesion k is k + 1 where it fills half a block, and always in its fullest one."""
    out = np.zeros(box.grid.shape_zyx, np.uint16)
    if not lesions.count:
        return out
    index = (lesions.indices_zyx() - box.start_zyx) // box.factors_zyx
    block = np.ravel_multi_index(tuple(index.T), out.shape)
    pairs, voxels = np.unique(lesions.owner * np.int64(out.size) + block, return_counts=True)
    owner, block = pairs // out.size, pairs % out.size
    fullest = np.full(lesions.count, -1)
    order = np.argsort(voxels, kind="stable")
    fullest[owner[order]] = order  # the last one written, the largest share, stays
    chosen = voxels >= LEAST_SHARE * np.prod(box.factors_zyx)
    flat = out.reshape(-1)
    for rows in (np.flatnonzero(chosen), fullest[fullest >= 0]):
        flat[block[rows]] = np.minimum(owner[rows] + 1, MOST_LABELS)
    return out


def pack_pet(pet_suv: np.ndarray) -> Packed:
    """PET in steps of 0.02 SUV, coarser where the maximum needs it."""
    slope = max(SUV_STEP, float(np.abs(np.nan_to_num(pet_suv)).max(initial=0)) / 32767)
    return _packed(np.rint(np.nan_to_num(pet_suv) / slope).astype("<i2"), slope)


def pack_ct(ct_hu: np.ndarray) -> Packed:
    """CT in steps of 4 HU from -1024 to 3072: a hundredth of the soft tissue window."""
    return _packed(np.rint(np.nan_to_num(ct_hu, nan=-1024.0).clip(-1024, 3072) / HU_STEP).astype("<i2"), HU_STEP)


def pack_labels(labels: np.ndarray) -> Packed:
    """uint16 labels."""
    return _packed(labels.astype("<u2"), 1.0)


def _packed(array: np.ndarray, slope: float) -> Packed:
    planes = np.ascontiguousarray(array).view(np.uint8).reshape(-1, array.itemsize).T
    # mtime 0: the same study makes the same page
    text = base64.b64encode(gzip.compress(np.ascontiguousarray(planes).tobytes(), 6, mtime=0)).decode()
    return Packed(text, array.dtype.name, slope)
