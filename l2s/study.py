"""Grid and Study: geometry and voxels in one immutable value, in LPS orientation.

Arrays are indexed (z, y, x); z runs to the head, y to the back, x to the patient's left, so that an axis-aligned image has an
identity direction in ITK's and DICOM's LPS world. This module alone turns an (x, y, z) tuple into a (z, y, x) one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np

from l2s.errors import InputError

ORTHONORMAL_LIMIT = 1e-2  # cosines further off than this are a shear, not rounding


@dataclass(frozen=True)
class Grid:
    """Where voxels lie in the patient.

    Attributes:
        shape_zyx: voxels along each array axis.
        spacing_mm_zyx: voxel edge along each array axis.
        origin_mm_xyz: LPS position of the centre of voxel (0, 0, 0).
        direction: 3x3, row-major; column 0 is the LPS unit vector along the array's LAST axis (x), column 2 along its first (z).
    """

    shape_zyx: tuple[int, int, int]
    spacing_mm_zyx: tuple[float, float, float]
    origin_mm_xyz: tuple[float, float, float]
    direction: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

    @classmethod
    def from_itk(cls, size_xyz, spacing_xyz, origin_xyz, direction9) -> Grid:
        """A grid from ITK's own order (x first, direction row-major in nine numbers)."""
        rows = np.asarray(direction9, dtype=float).reshape(3, 3)
        return cls(
            tuple(int(n) for n in size_xyz)[::-1],
            tuple(float(s) for s in spacing_xyz)[::-1],
            tuple(float(o) for o in origin_xyz),
            tuple(tuple(float(v) for v in row) for row in rows),
        )

    @property
    def spacing_mm_xyz(self) -> tuple[float, float, float]:
        return self.spacing_mm_zyx[::-1]

    @property
    def size_xyz(self) -> tuple[int, int, int]:
        return self.shape_zyx[::-1]

    @property
    def direction9(self) -> tuple[float, ...]:
        """ITK's nine numbers, row-major."""
        return tuple(v for row in self.direction for v in row)

    @property
    def voxel_volume_ml(self) -> float:
        return math.prod(self.spacing_mm_zyx) / 1000.0

    def index_to_mm_xyz(self, index_zyx) -> np.ndarray:
        """LPS positions (..., 3) as x, y, z in mm of voxel indices (..., 3) in (z, y, x) order."""
        index_xyz = np.asarray(index_zyx, dtype=float)[..., ::-1]
        return np.asarray(self.origin_mm_xyz) + (index_xyz * self.spacing_mm_xyz) @ np.asarray(self.direction).T

    def mm_to_index_zyx(self, point_mm_xyz) -> np.ndarray:
        """Fractional (z, y, x) indices of LPS positions; the inverse of index_to_mm_xyz."""
        offset = np.asarray(point_mm_xyz, dtype=float) - self.origin_mm_xyz
        return ((offset @ np.linalg.inv(np.asarray(self.direction)).T) / self.spacing_mm_xyz)[..., ::-1]

    def crop(self, start_zyx, stop_zyx) -> Grid:
        """The grid of array[start:stop]; starts may be negative (a padded volume)."""
        shape = tuple(int(b - a) for a, b in zip(start_zyx, stop_zyx))
        return replace(self, shape_zyx=shape, origin_mm_xyz=tuple(float(v) for v in self.index_to_mm_xyz(start_zyx)))

    def matches(self, other: Grid, tolerance_mm: float = 1e-2) -> bool:
        """Whether all eight corners of the two grids lie within tolerance_mm and the shapes agree."""
        if self.shape_zyx != other.shape_zyx:
            return False
        corners = np.array(list(itertools.product(*[(0, n - 1) for n in self.shape_zyx])))
        return bool(np.abs(self.index_to_mm_xyz(corners) - other.index_to_mm_xyz(corners)).max() <= tolerance_mm)

    def overlap_fraction(self, other: Grid) -> float:
        """Share of this grid's voxels (probed on a coarse lattice) whose centres lie inside other's field of view; 0..1."""
        probes = np.stack(
            np.meshgrid(*[np.linspace(0, n - 1, min(n, 48)) for n in self.shape_zyx], indexing="ij"), axis=-1
        ).reshape(-1, 3)
        index = other.mm_to_index_zyx(self.index_to_mm_xyz(probes))
        inside = ((index >= -0.5) & (index <= np.asarray(other.shape_zyx) - 0.5)).all(axis=1)
        return float(inside.mean())


def orthonormal(direction, source: str) -> tuple[tuple[tuple[float, ...], ...], float]:
    """The nearest orthonormal direction (polar decomposition) and the largest change of a cosine; below 1e-9 the given one is kept.

    Raises:
        InputError: the cosines are off by more than ORTHONORMAL_LIMIT, so that the image is sheared and not a rigid grid.
    """
    given = np.asarray(direction, dtype=float)
    if not np.isfinite(given).all() or abs(np.linalg.det(given)) < 1e-6:
        raise InputError(f"{source}: the direction cosines {given.round(6).tolist()} span no volume; export the image again")
    u, _, vt = np.linalg.svd(given)
    nearest = u @ vt
    off = float(np.abs(nearest - given).max())
    if off > ORTHONORMAL_LIMIT:
        raise InputError(
            f"{source}: direction cosines are {off:.3g} away from orthonormal (limit {ORTHONORMAL_LIMIT}): the image is sheared; "
            "resample it to a regular grid first"
        )
    if off < 1e-9:
        nearest = given
    return tuple(tuple(float(v) for v in row) for row in nearest), off


def lps_axes(stored: Grid) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """How a stored array turns into LPS order: (permutation of its axes, which of the permuted axes to flip), all (z, y, x).

    Each world axis gets the array axis that is nearest to it; an oblique image keeps its obliqueness.
    """
    columns = np.asarray(stored.direction)[:, ::-1]  # column k: LPS vector along array axis k (z, y, x)
    best = max(itertools.permutations(range(3)), key=lambda p: sum(abs(columns[w, p[w]]) for w in range(3)))
    permutation = (best[2], best[1], best[0])  # the array axes that run along world z, y, x
    flips = tuple(bool(columns[2 - k, axis] < 0) for k, axis in enumerate(permutation))
    return permutation, flips


def to_lps(array: np.ndarray, stored: Grid) -> tuple[np.ndarray, Grid]:
    """A view of array in LPS order and its grid. Values are untouched."""
    permutation, flips = lps_axes(stored)
    view = array.transpose(permutation)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    columns = np.asarray(stored.direction)[:, ::-1][:, list(permutation)]
    corner = [0, 0, 0]
    for k, axis in enumerate(permutation):
        if flips[k]:
            columns[:, k] *= -1
            corner[axis] = stored.shape_zyx[axis] - 1
    grid = Grid(
        tuple(stored.shape_zyx[a] for a in permutation),
        tuple(stored.spacing_mm_zyx[a] for a in permutation),
        tuple(float(v) for v in stored.index_to_mm_xyz(corner)),
        tuple(tuple(float(v) + 0.0 for v in row) for row in columns[:, ::-1]),
    )
    return view, grid


def from_lps(array: np.ndarray, stored: Grid) -> np.ndarray:
    """The inverse of to_lps: an LPS array back in the axis order and direction of the stored grid (a view)."""
    permutation, flips = lps_axes(stored)
    return array[tuple(slice(None, None, -1 if f else 1) for f in flips)].transpose(np.argsort(permutation))


@dataclass(frozen=True)
class Body:
    """What lean body mass is worked out from; None: not known.

    Attributes:
        weight_kg: body weight.
        height_cm: body height.
        sex: 'M' or 'F', as DICOM writes it.
    """

    weight_kg: float | None = None
    height_cm: float | None = None
    sex: str | None = None


@dataclass(frozen=True)
class Study:
    """One PET/CT study on the PET grid.

    Attributes:
        pet_suv: float32 (z, y, x), SUVbw in g/ml.
        ct_hu: float32 (z, y, x), Hounsfield units, -1024 where the CT does not reach, NaN everywhere where there is no CT.
        grid: the LPS grid of both arrays.
        stored: the PET file's own grid; results are written on it. None: the study was made in memory, on grid.
        name: the case's name (for grand-challenge the stem of the CT file).
        body: weight, height and sex where the source says them (DICOM does, image files do not).
    """

    pet_suv: np.ndarray
    ct_hu: np.ndarray
    grid: Grid
    stored: Grid | None = None
    name: str = "study"
    body: Body = Body()

    def __post_init__(self):
        for field, array in (("pet_suv", self.pet_suv), ("ct_hu", self.ct_hu)):
            if array.shape != self.grid.shape_zyx:
                raise InputError(
                    f"{field} has shape {array.shape}, its grid {self.grid.shape_zyx}: resample it to the PET grid first"
                )
