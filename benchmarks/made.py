"""Made-up masks and network answers on any grid, with an exact number of lesions. For time and memory only: no patient looks so."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage

AUTOPET_SHAPE_ZYX = (326, 400, 400)
AUTOPET_SPACING_MM_ZYX = (3.0, 2.036, 2.036)
LARGEST_RADIUS = 12  # voxels: 25 mm on autoPET's grid
NOISE_TILE = 64


def lesion_mask(shape_zyx: tuple[int, int, int], count: int, seed: int = 0) -> np.ndarray:
    """bool (z, y, x) with exactly count balls of 1 to LARGEST_RADIUS voxels' radius, no two of which touch."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape_zyx, dtype=bool)
    parts = int(np.ceil(count ** (1 / 3) - 1e-9))
    if count and min(shape_zyx) // parts < 5:
        raise ValueError(f"{count} lesions have no room in {shape_zyx}")
    edges = [np.linspace(0, n, parts + 1).astype(int) for n in shape_zyx]
    cells = list(itertools.product(range(parts), repeat=3))
    for k in rng.choice(len(cells), count, replace=False) if count else ():
        start = [int(e[c]) for e, c in zip(edges, cells[k])]
        stop = [int(e[c + 1]) for e, c in zip(edges, cells[k])]
        room = min(b - a for a, b in zip(start, stop))
        radius = int(rng.integers(1, min(LARGEST_RADIUS, (room - 3) // 2) + 1))
        # a voxel of the cell's rim stays free, so that neighbours in other cells never touch
        centre = [int(rng.integers(a + 1 + radius, b - 1 - radius)) for a, b in zip(start, stop)]
        ball = sum(o**2 for o in np.ogrid[(slice(-radius, radius + 1),) * 3]) <= radius**2
        mask[tuple(slice(c - radius, c + radius + 1) for c in centre)] |= ball
    return mask


def noise(shape_zyx: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """float32 (z, y, x), normal: one tile repeated, as no pass over it depends on the values."""
    tile = np.random.default_rng(seed).normal(size=(NOISE_TILE,) * 3).astype(np.float32)
    repeats = [-(-n // NOISE_TILE) for n in shape_zyx]
    return np.ascontiguousarray(np.tile(tile, repeats)[tuple(slice(0, n) for n in shape_zyx)])


def answers(mask: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(logits of stage 2, logits of stage 1), float32, of networks that saw most lesions of the mask, each with another certainty."""
    rng = np.random.default_rng(seed)
    labels, count = ndimage.label(mask, ndimage.generate_binary_structure(3, 2))
    second = noise(mask.shape, seed) * np.float32(0.5) - np.float32(7)
    first = noise(mask.shape, seed + 1) * np.float32(0.5) - np.float32(7)
    certainty = np.append(0, rng.uniform(6, 12, count)).astype(np.float32)
    second += certainty[labels]
    first += np.where(rng.random(count + 1) < 0.9, 10, 0).astype(np.float32)[labels] * (labels > 0)
    return second, first
