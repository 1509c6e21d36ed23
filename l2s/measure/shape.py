"""Surface, volume and diameter of all components' marching-cubes meshes, without making the meshes.

A mesh is a sum over cubes of eight voxel centres, and what a cube adds depends on its 256 possible corners alone. The table of what each
adds is asked once from scikit-image; then each lesion's area and volume are sums over its voxels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

from l2s.components import Components
from l2s.study import Grid

CORNERS = list(itertools.product((0, 1), repeat=3))  # corner k of a cube is bit k of its code
FEW = 64  # so many points are compared each with each
BLOCK = 1024


@dataclass(frozen=True)
class Meshes:
    """One figure a component, float64 (count,); the mesh is marching cubes' at 0.5 of the component's own mask.

    Attributes:
        area_mm2: of the surface.
        volume_mm3: inside it.
        diameter_mm: the largest distance between two of its vertices.
    """

    area_mm2: np.ndarray
    volume_mm3: np.ndarray
    diameter_mm: np.ndarray


@cache
def cube_table(spacing_mm_zyx: tuple[float, float, float]) -> np.ndarray:
    """float64 (256, 3) of each cube: its triangles' area; sum of their area vectors' z; sum of z x that. z from the cube's first corner.

    The last two give volumes (Gauss): a closed surface holds the sum of (z of the cube x the second + the third).
    """
    from skimage.measure import marching_cubes

    out = np.zeros((256, 3))
    for code in range(1, 255):  # 0 and 255 have no surface
        cube = np.array([code >> k & 1 for k in range(8)], np.float32).reshape(2, 2, 2)
        points, faces, _, _ = marching_cubes(cube, 0.5, spacing=spacing_mm_zyx)
        a, b, c = (points[faces[:, k]].astype(np.float64) for k in range(3))
        vectors = np.cross(b - a, c - a) / 2
        out[code] = np.linalg.norm(vectors, axis=1).sum(), vectors[:, 0].sum(), (vectors[:, 0] * (a + b + c)[:, 0] / 3).sum()
    return out


def own_neighbours(table: Components, index_zyx: np.ndarray) -> np.ndarray:
    """bool (27, n): whether the neighbour at each step of itertools.product((-1, 0, 1), repeat=3) is of the voxel's own component."""
    low = index_zyx.min(axis=0)
    shape = index_zyx.max(axis=0) - low + 3  # a rim around the foreground's box
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    at = (index_zyx - low + 1) @ strides
    owners = np.zeros(int(np.prod(shape)), np.int32)  # the system hands out only the pages that are written or read
    owners[at] = table.owner + 1
    own = owners[at]
    return np.stack([owners[at + int(np.dot(d, strides))] == own for d in itertools.product((-1, 0, 1), repeat=3)])


def meshes(table: Components, index_zyx: np.ndarray, spacing_mm_zyx: tuple[float, float, float]) -> Meshes:
    """The figures of each component of a table with one or more.

    Args:
        table: components.
        index_zyx: int (n, 3), the table's voxels.
        spacing_mm_zyx: of the grid.
    """
    near = own_neighbours(table, index_zyx)
    per_cube = cube_table(tuple(float(s) for s in spacing_mm_zyx))
    z_mm = (index_zyx[:, 0] - index_zyx[:, 0].min()) * float(spacing_mm_zyx[0])
    area, volume = np.zeros(table.count), np.zeros(table.count)
    for place, corner in enumerate(CORNERS):  # the cube in which the voxel is that corner
        code = np.zeros(len(index_zyx), np.uint8)
        for bit, other in enumerate(CORNERS):
            code |= near[neighbour(np.subtract(other, corner))].astype(np.uint8) << bit
        # each cube is counted once: by the first corner of it that the component has
        counts = np.flatnonzero((code & ((1 << place) - 1) == 0) & (code != 255))
        figures, owner = per_cube[code[counts]], table.owner[counts]
        first_z = z_mm[counts] - corner[0] * spacing_mm_zyx[0]
        area += np.bincount(owner, figures[:, 0], table.count)
        volume += np.bincount(owner, first_z * figures[:, 1] + figures[:, 2], table.count)
    return Meshes(area, np.abs(volume), diameters(table, index_zyx, near, spacing_mm_zyx))


def neighbour(step) -> int:
    """The row of own_neighbours of a step (z, y, x)."""
    return int(np.dot(np.add(step, 1), (9, 3, 1)))


def diameters(
    table: Components, index_zyx: np.ndarray, near: np.ndarray, spacing_mm_zyx: tuple[float, float, float]
) -> np.ndarray:
    """float64 (count,): the mesh's vertices are the centres of the faces that a component's voxels turn outwards."""
    points, owners = [], []
    for axis, sign in itertools.product(range(3), (-1, 1)):
        step = np.zeros(3)
        step[axis] = sign
        out = np.flatnonzero(~near[neighbour(step.astype(int))])
        points.append((index_zyx[out] + step / 2) * spacing_mm_zyx)
        owners.append(table.owner[out])
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner, minlength=table.count))
    return np.array([farthest(part) for part in np.split(np.concatenate(points)[order], ends[:-1])])


def row_ends_mm(voxels: np.ndarray, grid: Grid) -> np.ndarray:
    """float64 (n, 3), LPS mm: of each row along x the first and the last of the given voxels; no other can be an extreme point."""
    row = voxels // grid.shape_zyx[2]
    order = np.argsort(voxels)
    row, voxels = row[order], voxels[order]
    is_end = np.ones(len(row), bool)
    is_end[1:-1] = (row[1:-1] != row[:-2]) | (row[1:-1] != row[2:])
    return grid.index_to_mm_xyz(np.stack(np.unravel_index(voxels[is_end], grid.shape_zyx), axis=1))


def farthest(points: np.ndarray) -> float:
    """The largest distance between two of points (n, 3), n 1 or more: only corners of the convex hull are compared with each other."""
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import cdist

    if len(points) > FEW:
        # Qhull wants a body: points on a plane or a line are first turned into it
        centred = points - points.mean(axis=0)
        _, widths, axes = np.linalg.svd(centred, full_matrices=False)
        rank = int((widths > 1e-9 * max(widths[0], 1e-300)).sum())
        flat = centred @ axes[:rank].T
        if rank == 1:
            return float(np.ptp(flat))
        if rank == 0:
            return 0.0
        points = points[ConvexHull(flat).vertices]
    return max(float(cdist(points[k : k + BLOCK], points).max()) for k in range(0, len(points), BLOCK))
