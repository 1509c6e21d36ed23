"""Augmentation: parameters are drawn first, then applied to image, label and cue alike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.recipe import Augmentation


@dataclass(frozen=True)
class Drawn:
    """One sample's transform.

    Attributes:
        matrix: (d, d) from output to input offsets in voxels, axes in array order (d is 2 or 3).
        gain: factor on the PET.
        noise: standard deviation on the scaled input.
        noise_seed: of that noise.
    """

    matrix: np.ndarray
    gain: float
    noise: float
    noise_seed: int


def draw(rng: np.random.Generator, config: Augmentation, dimensions: int) -> Drawn:
    """The parameters of one sample. Axes in array order; the last is the patient's left-right axis and the one that flips."""
    matrix = np.eye(dimensions)
    for a, b in ((0, 1),) if dimensions == 2 else ((0, 1), (0, 2), (1, 2)):
        angle = math.radians(rng.uniform(-config.rotation_deg, config.rotation_deg))
        turn = np.eye(dimensions)
        turn[[a, a, b, b], [a, b, a, b]] = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
        matrix = matrix @ turn
    matrix /= rng.uniform(1 - config.zoom, 1 + config.zoom)
    if rng.random() < config.flip:
        matrix[:, -1] *= -1
    gain = rng.uniform(1 - config.intensity, 1 + config.intensity)
    return Drawn(matrix, float(gain), float(rng.uniform(0, config.noise)), int(rng.integers(2**31)))


def read_margin(config: Augmentation, dimensions: int) -> float:
    """How much larger than the output the block must be read so that a turned sample still shows anatomy in its corners."""
    angle = math.radians(config.rotation_deg)
    return (math.cos(angle) + (dimensions - 1) * math.sin(angle)) / (1 - config.zoom)


def warp(block: Tensor, drawn: Drawn, shape: tuple[int, ...], nearest: bool = False) -> Tensor:
    """(c, *read) -> (c, *shape): linear interpolation about the block's centre; outside the block lies 0."""
    sizes_in, sizes_out = block.shape[1:], shape
    # grid_sample counts axes from the last to the first and in units of half the block
    scale_in = np.asarray(sizes_in[::-1], dtype=float) / 2
    scale_out = np.asarray(sizes_out[::-1], dtype=float) / 2
    theta = drawn.matrix[::-1, ::-1] * scale_out / scale_in[:, None]
    affine = torch.from_numpy(np.concatenate([theta, np.zeros((len(shape), 1))], axis=1)).float()[None]
    grid = F.affine_grid(affine, [1, 1, *shape], align_corners=False)
    return F.grid_sample(block[None], grid, mode="nearest" if nearest else "bilinear", padding_mode="zeros", align_corners=False)[
        0
    ]


def add_noise(scaled: Tensor, drawn: Drawn) -> Tensor:
    """Gaussian noise with the drawn strength and seed."""
    if drawn.noise <= 0:
        return scaled
    generator = torch.Generator().manual_seed(drawn.noise_seed)
    return scaled + drawn.noise * torch.randn(scaled.shape, generator=generator)
