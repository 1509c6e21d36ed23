"""The shapes of lesions: dented ellipsoids, alone or grown together, of a given volume."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from l2s.phantom.shapes import Box, Canvas, rotation, smooth_noise

GROWN_TOGETHER = {"node": 0.5, "organ": 0.4, "soft_tissue": 0.2}  # share of conglomerates among the larger ones


def grow(
    rng: np.random.Generator, canvas: Canvas, place: np.ndarray, volume_ml: float, kind: str
) -> tuple[Box, np.ndarray] | None:
    """A dented ellipsoid, sometimes several grown together, of the given volume before the field's edge cuts it.

    Returns the box on the canvas and weights that fall from 1 to 0 over one voxel; None where the shape outgrows its box.
    """
    radius = (volume_ml * 1000.0 * 3.0 / (4.0 * np.pi)) ** (1 / 3)
    parts = int(rng.integers(2, 6)) if volume_ml > 6.0 and rng.random() < GROWN_TOGETHER.get(kind, 0.0) else 1
    long = rng.lognormal(0.0, 0.2 if kind == "soft_tissue" else 0.16, 3)
    if kind == "soft_tissue":
        long[2] *= rng.uniform(1.0, 1.9)  # along the limb
    long /= np.prod(long) ** (1 / 3)
    step = np.array(canvas.spacing_mm_zyx)
    first = np.array([canvas.z_mm[0], canvas.y_mm[0], canvas.x_mm[0]])
    reach = radius * (2.7 if parts > 1 else 2.0) * long.max()
    start = np.floor((place[::-1] - reach - first) / step).astype(int) - 1
    shape = np.ceil(2.0 * reach / step).astype(int) + 4
    z, y, x = (f + (a + np.arange(n)) * s - p for f, a, n, s, p in zip(first, start, shape, step, place[::-1]))
    gap = np.full(shape, np.inf, dtype=np.float32)
    for k in range(parts):
        dx, dy, dz = rng.normal(0.0, 0.6 * radius, 3).clip(-radius, radius) if k else np.zeros(3)
        turn = rotation(rng) if kind != "soft_tissue" else rotation(rng.normal(0.0, 0.35, 3))
        own = turn / (radius * long * (rng.uniform(0.45, 0.85) if parts > 1 else 1.0))
        u, v, w = (
            own[0, j] * (x - dx)[None, None, :] + own[1, j] * (y - dy)[None, :, None] + own[2, j] * (z - dz)[:, None, None]
            for j in range(3)
        )
        gap = np.minimum(gap, np.sqrt(u * u + v * v + w * w))
    dents = rng.uniform(0.06, 0.22)
    for share, cell in ((1.0, 0.55), (0.4, 0.25)):
        gap = gap + share * dents * smooth_noise(rng, shape, tuple(np.maximum(cell * radius / step, 1.0)))
    weight = _threshold(gap, float(step.mean()) / radius, volume_ml / canvas.voxel_volume_ml)
    if any(weight.take(end, axis=axis).any() for axis in range(3) for end in (0, -1)):
        return None
    low, high = np.maximum(-start, 0), np.minimum(np.array(canvas.tissue.shape) - start, shape)
    weight = weight[tuple(slice(a, b) for a, b in zip(low, high))]
    return tuple(slice(int(s + a), int(s + b)) for s, a, b in zip(start, low, high)), weight


def _threshold(gap: np.ndarray, edge: float, voxels: float) -> np.ndarray:
    """Weights whose sum is `voxels`: 1 where gap is below some level, soft over `edge`; bisected."""
    low, high = 0.2, 2.2
    for _ in range(12):
        level = (low + high) / 2
        weight = np.clip((level - gap) / edge + 0.5, 0.0, 1.0)
        low, high = (level, high) if weight.sum() < voxels else (low, level)
    return weight


def largest_piece(weight: np.ndarray) -> np.ndarray:
    """Only the largest connected piece, so that one lesion is one component."""
    pieces, n = ndimage.label(weight > 0.05, structure=np.ones((3, 3, 3)))
    if n < 2:
        return weight
    size = np.bincount(pieces.ravel(), weights=weight.ravel(), minlength=n + 1)
    size[0] = 0
    return weight * (pieces == size.argmax())
