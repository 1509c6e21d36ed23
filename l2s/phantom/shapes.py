"""Drawing in millimetres: ellipsoids, tubes and smooth noise on a canvas, each in its own small box of voxels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Canvas:
    """The voxels that are drawn on, in body coordinates.

    Attributes:
        z_mm, y_mm, x_mm: voxel centres along each axis, ascending; z to the head, y to the back, x to the patient's left.
        tissue: uint8 (z, y, x), a Tissue a voxel, drawn in place.
        lumps: float32 (z, y, x), smooth noise of unit variance with lumps of about 30 mm.
        grain: float32 (z, y, x), the same with grains of about 10 mm.
    """

    z_mm: np.ndarray
    y_mm: np.ndarray
    x_mm: np.ndarray
    tissue: np.ndarray
    lumps: np.ndarray
    grain: np.ndarray

    @property
    def spacing_mm_zyx(self) -> tuple[float, float, float]:
        return tuple(float(a[1] - a[0]) if len(a) > 1 else 4.0 for a in (self.z_mm, self.y_mm, self.x_mm))

    @property
    def voxel_volume_ml(self) -> float:
        return float(np.prod(self.spacing_mm_zyx)) / 1000.0


def make_canvas(rng: np.random.Generator, z_mm: np.ndarray, y_mm: np.ndarray, x_mm: np.ndarray) -> Canvas:
    """An empty canvas (all air) over the given voxel centres."""
    axes = tuple(np.asarray(a, dtype=np.float32) for a in (z_mm, y_mm, x_mm))
    shape = tuple(len(a) for a in axes)
    spacing = tuple(float(a[1] - a[0]) if len(a) > 1 else 4.0 for a in axes)
    lumps = smooth_noise(rng, shape, tuple(28.0 / s for s in spacing))
    grain = smooth_noise(rng, shape, tuple(9.0 / s for s in spacing))
    return Canvas(*axes, np.zeros(shape, dtype=np.uint8), lumps, grain)


def smooth_noise(rng: np.random.Generator, shape_zyx, cell_voxels_zyx) -> np.ndarray:
    """float32 noise of mean 0 and variance about 1, smooth over cells of the given size (quadratic B-splines between random knots)."""
    knots = [int(np.ceil(n / max(c, 1.0))) + 3 for n, c in zip(shape_zyx, cell_voxels_zyx)]
    field = rng.standard_normal(knots, dtype=np.float32)
    for axis, (n, cell) in enumerate(zip(shape_zyx, cell_voxels_zyx)):
        weights = _spline(n, max(cell, 1.0), knots[axis])
        field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(field)


def _spline(n: int, cell: float, knots: int) -> np.ndarray:
    position = np.arange(n) / cell + 1.0
    distance = np.abs(position[:, None] - np.arange(knots)[None, :])
    weights = np.where(distance < 0.5, 0.75 - distance**2, np.where(distance < 1.5, 0.5 * (1.5 - distance) ** 2, 0.0))
    return (weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))).astype(np.float32)


def box(canvas: Canvas, low_xyz, high_xyz) -> tuple[Box, np.ndarray, np.ndarray, np.ndarray]:
    """The voxels between two corners (mm) and their coordinates z (n,1,1), y (1,n,1), x (1,1,n); empty arrays off the canvas."""
    slices = []
    for axis, low, high in zip((canvas.z_mm, canvas.y_mm, canvas.x_mm), low_xyz[::-1], high_xyz[::-1]):
        start, stop = np.searchsorted(axis, (low, high))
        slices.append(slice(int(start), int(max(start, stop))))
    z, y, x = slices
    return tuple(slices), canvas.z_mm[z][:, None, None], canvas.y_mm[y][None, :, None], canvas.x_mm[x][None, None, :]


def ellipsoid(
    canvas: Canvas, centre_xyz, semi_xyz, turn: np.ndarray | None = None, rough: float = 0.0, square: float = 0.0
) -> tuple[Box, np.ndarray]:
    """A box and, in it, the squared distance from the centre in semi-axes: below 1 is inside.

    Args:
        canvas: where to draw.
        centre_xyz: centre in mm.
        semi_xyz: semi-axes in mm.
        turn: 3x3 rotation whose columns are the ellipsoid's own axes in the body, or None.
        rough: how far the canvas's lumps dent the surface; 0.1..0.4.
        square: 0 an ellipse, towards 1 a rounded rectangle in the axial plane.
    """
    semi = np.asarray(semi_xyz, dtype=float)
    reach = semi if turn is None else np.sqrt(((turn * semi) ** 2).sum(axis=1))
    reach = reach * (1.0 + rough) + 1.0
    centre = np.asarray(centre_xyz, dtype=float)
    slices, z, y, x = box(canvas, centre - reach, centre + reach)
    dx, dy, dz = x - np.float32(centre[0]), y - np.float32(centre[1]), z - np.float32(centre[2])
    if turn is None:
        u, v, w = dx / np.float32(semi[0]), dy / np.float32(semi[1]), dz / np.float32(semi[2])
    else:
        own = (turn / semi).astype(np.float32)
        u, v, w = (own[0, k] * dx + own[1, k] * dy + own[2, k] * dz for k in range(3))
    value = u * u + v * v + w * w
    if square:
        value = value - np.float32(square) * (u * u) * (v * v)
    if rough:
        value = value + np.float32(rough) * canvas.lumps[slices]
    return slices, value


def tube(canvas: Canvas, points_xyz, radii_mm) -> Iterator[tuple[Box, np.ndarray]]:
    """For each piece of a polyline a box and, in it, the squared distance from the line in local radii: below 1 is inside."""
    points = np.asarray(points_xyz, dtype=np.float32)
    radii = np.broadcast_to(np.asarray(radii_mm, dtype=np.float32), len(points))
    for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:]):
        reach = max(ra, rb)
        slices, z, y, x = box(canvas, np.minimum(a, b) - reach, np.maximum(a, b) + reach)
        along = b - a
        length2 = max(float(along @ along), 1e-6)
        dx, dy, dz = x - a[0], y - a[1], z - a[2]
        t = np.clip((dx * along[0] + dy * along[1] + dz * along[2]) / np.float32(length2), 0.0, 1.0)
        gap2 = (dx - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dz - t * along[2]) ** 2
        yield slices, gap2 / (ra + t * (rb - ra)) ** 2


def paint(canvas: Canvas, slices: Box, inside: np.ndarray, tissue: int, over: np.ndarray | None = None) -> None:
    """Set a tissue where `inside`; with `over` (256 booleans by tissue) only on top of those tissues."""
    view = canvas.tissue[slices]
    view[inside if over is None else inside & over[view]] = tissue


def paint_tube(canvas: Canvas, points_xyz, radii_mm, tissue: int, over: np.ndarray | None = None) -> None:
    """Paint a whole tube in one tissue."""
    for slices, value in tube(canvas, points_xyz, radii_mm):
        paint(canvas, slices, value < 1.0, tissue, over)


def rotation(rng_or_angles) -> np.ndarray:
    """3x3 rotation from angles (about x, y, z, in radians), or a random one from a Generator."""
    if isinstance(rng_or_angles, np.random.Generator):
        q, r = np.linalg.qr(rng_or_angles.standard_normal((3, 3)))
        return q * np.sign(np.diag(r))
    a, b, c = rng_or_angles
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def smooth_line(points_xyz, step_mm: float) -> np.ndarray:
    """The polyline resampled at about step_mm with rounded corners (Catmull-Rom)."""
    p = np.asarray(points_xyz, dtype=float)
    padded = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    out = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:]):
        n = max(int(np.ceil(np.linalg.norm(c - b) / step_mm)), 1)
        t = (np.arange(n) / n)[:, None]
        out.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.vstack([*out, p[-1:]])
