"""SUVpeak: means in a sphere of 1 ml, around all foreground voxels at once (IBSI: local and global intensity peak)."""

from __future__ import annotations

import itertools
import math

import numpy as np

from l2s.components import Components

RADIUS_MM = 10 * (3 / (4 * math.pi)) ** (1 / 3)  # a sphere of 1 ml: 6.2 mm


def sphere_steps(spacing_mm_zyx: tuple[float, float, float]) -> np.ndarray:
    """int (n, 3) as (z, y, x): steps from a voxel to those whose centres lie within RADIUS_MM of its own; (0, 0, 0) is one of them."""
    reach = [int(RADIUS_MM / s) for s in spacing_mm_zyx]
    cube = np.array(list(itertools.product(*[range(-r, r + 1) for r in reach])))
    return cube[((cube * spacing_mm_zyx) ** 2).sum(axis=1) <= RADIUS_MM**2]


def sphere_means(index_zyx: np.ndarray, image: np.ndarray, spacing_mm_zyx: tuple[float, float, float]) -> np.ndarray:
    """float64 (n,): the mean of an image (z, y, x) in the sphere around each voxel; beyond the image nothing counts.

    Args:
        index_zyx: int (n, 3).
        image: float32 (z, y, x), C order.
        spacing_mm_zyx: of the image.
    """
    steps = sphere_steps(spacing_mm_zyx)
    reach, shape = steps.max(axis=0), np.asarray(image.shape)
    total = np.zeros(len(index_zyx))
    flat, strides = image.reshape(-1), np.array([shape[1] * shape[2], shape[2], 1])
    at = index_zyx @ strides
    is_inner = ((index_zyx >= reach) & (index_zyx < shape - reach)).all(axis=1)
    inner = at[is_inner]
    part = np.zeros(len(inner))
    for step in steps @ strides:
        part += flat[inner + step]
    total[is_inner] = part / len(steps)
    near = index_zyx[~is_inner]  # spheres that reach beyond the image
    part, count = np.zeros(len(near)), np.zeros(len(near))
    for step in steps if len(near) else ():
        places = near + step
        inside = ((places >= 0) & (places < shape)).all(axis=1)
        part[inside] += flat[places[inside] @ strides]
        count += inside
    total[~is_inner] = part / count
    return total


def peaks(
    table: Components, index_zyx: np.ndarray, pet_suv: np.ndarray, spacing_mm_zyx: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """(local, global) SUVpeak of each component, float64 (count,).

    Args:
        table: components.
        index_zyx: int (n, 3), the table's voxels.
        pet_suv: float32 (z, y, x).
        spacing_mm_zyx: of the grid.
    """
    means = sphere_means(index_zyx, pet_suv, spacing_mm_zyx)
    values = pet_suv.reshape(-1)[table.voxels]
    hottest = np.full(table.count, -np.inf, np.float32)
    np.maximum.at(hottest, table.owner, values)
    local, highest = np.full(table.count, -np.inf), np.full(table.count, -np.inf)
    np.maximum.at(highest, table.owner, means)
    at_top = values == hottest[table.owner]  # of several equal maxima the highest mean counts (IBSI)
    np.maximum.at(local, table.owner[at_top], means[at_top])
    return local, highest
