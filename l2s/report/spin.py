"""The rotating maximum projection: half a turn of frames; the other half shows them mirrored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

FRAMES = 30  # in half a turn: steps of 6 degrees


@dataclass(frozen=True)
class Turn:
    """Where the columns (y, x) of a volume fall on the projection plane at one angle.

    Attributes:
        order: int (columns,), flat (y, x) in the order of their bins.
        starts: int, where in order each filled bin begins.
        bins: int, the filled bins.
        width: number of bins.
    """

    order: np.ndarray
    starts: np.ndarray
    bins: np.ndarray
    width: int


def turns(shape_yx: tuple[int, int], spacing_mm_yx: tuple[float, float], bin_mm: float, frames: int = FRAMES) -> list[Turn]:
    """The frames of half a turn around the volume's middle axis.

    Frame 0 is the view from the front (x to the right); later ones walk around to the patient's left side. A column lands in the bins at
    either side of its place where it lies between them, so that slanted views have no holes.
    """
    y, x = (
        (np.arange(n) - (n - 1) / 2)[:, None] * s if k == 0 else (np.arange(n) - (n - 1) / 2)[None] * s
        for k, (n, s) in enumerate(zip(shape_yx, spacing_mm_yx))
    )
    radius = math.hypot(shape_yx[0] * spacing_mm_yx[0], shape_yx[1] * spacing_mm_yx[1]) / 2
    width = 2 * math.ceil(radius / bin_mm) + 1
    column = np.arange(shape_yx[0] * shape_yx[1])
    made = []
    for k in range(frames):
        angle = math.pi * k / frames
        u = ((x * math.cos(angle) + y * math.sin(angle)) / bin_mm + width // 2).ravel()
        low = np.floor(u + 0.25).astype(int)
        high = np.ceil(u - 0.25).astype(int)
        where = np.concatenate([low, high]).clip(0, width - 1)
        order = np.argsort(where, kind="stable")
        bins, starts = np.unique(where[order], return_index=True)
        made.append(Turn(np.concatenate([column, column])[order], starts, bins, width))
    return made


def steps(volume: np.ndarray, top: float) -> np.ndarray:
    """uint8: 0..top in 255 steps, which is what a frame can show; the maximum of steps is the step of the maximum."""
    return np.rint(np.clip(np.nan_to_num(volume), 0, top) * (255 / top)).astype(np.uint8)


def columns(volume: np.ndarray) -> np.ndarray:
    """A volume (z, y, x) as (y * x, z): a copy in which a column's voxels lie side by side, as project gathers whole columns."""
    return np.ascontiguousarray(volume.reshape(len(volume), -1).T)


def project(upright: np.ndarray, turn: Turn) -> np.ndarray:
    """The maximum (z, bins), head up, of a volume's columns at one angle; 0 in bins that no column meets."""
    out = np.zeros((turn.width, upright.shape[1]), upright.dtype)
    out[turn.bins] = np.maximum.reduceat(upright[turn.order], turn.starts, axis=0)
    return out.T[::-1]


def pool(volume: np.ndarray, factors_zyx: tuple[int, int, int]) -> np.ndarray:
    """The maximum over blocks; blocks at the end may be smaller."""
    for axis, factor in enumerate(factors_zyx):
        if factor > 1:
            volume = np.maximum.reduceat(volume, np.arange(0, volume.shape[axis], factor), axis=axis)
    return volume
