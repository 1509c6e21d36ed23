"""Augmentation by batchgeneratorsv2, nnU-Net's library: one drawn geometry for image, truth and cue, then changes of the image alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform, create_affine_matrix_2d, create_affine_matrix_3d
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform

from training.recipe import Augmentation

_one_at_a_time = threading.Lock()


@contextmanager
def drawn_from(rng: np.random.Generator) -> Iterator[None]:
    """Within it the library's generators (numpy's and torch's global ones) follow rng; after it they are what they were."""
    seed = int(rng.integers(2**32))
    with _one_at_a_time, torch.random.fork_rng(devices=[]):
        before = np.random.get_state()  # noqa: NPY002 - the library draws from it
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


@dataclass(frozen=True)
class Geometry:
    """One sample's rotation and zoom, drawn, and mirroring, yet to be drawn.

    Attributes:
        transform: block -> sample; call it with image=, segmentation=, regression_target= within drawn_from.
        read: shape of the block that it needs, so that a turned sample shows anatomy in its corners too.
    """

    transform: BasicTransform
    read: tuple[int, ...]


def draw_geometry(rng: np.random.Generator, config: Augmentation, shape: tuple[int, ...], axes: str) -> Geometry:
    """The geometry of one sample, drawn before anything is read: most samples need no more than their own extent.

    Args:
        config: ranges and chances.
        shape: of the sample, 2 or 3 axes.
        axes: the sample's axes as the patient's, such as 'zyx', or 'zx' for a coronal plane.

    All are interpolated linearly, the truth by the larger share; outside the block lies 0.
    """
    turned, zoomed = rng.random() < config.rotation_chance, rng.random() < config.zoom_chance
    limit = math.radians(config.rotation_deg) if turned else 0.0
    angles = rng.uniform(-limit, limit, len(shape))
    zoom = float(rng.uniform(*config.zoom)) if zoomed else 1.0
    spatial = SpatialTransform(
        shape,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_rotation=float(turned),
        rotation=lambda image, dim: angles[dim],
        p_scaling=float(zoomed),
        scaling=zoom,
        p_synchronize_scaling_across_axes=1.0,
    )
    mirror = MirrorTransform(tuple(axes.index(axis) for axis in config.mirror if axis in axes))
    matrix = np.eye(len(shape))
    if turned or zoomed:
        scales = [zoom] * len(shape)
        matrix = create_affine_matrix_3d(angles, scales) if len(shape) == 3 else create_affine_matrix_2d(angles[-1], scales)
    # the box around the turned box, and a voxel each way for the interpolation
    margin = 2 if turned or zoomed else 0
    read = tuple(math.ceil(extent - 1e-6) + margin for extent in np.abs(matrix) @ np.array(shape))
    return Geometry(ComposeTransforms([spatial, mirror]), read)


def intensities(config: Augmentation) -> BasicTransform:
    """Changes of the scaled image (-1..1), each with its chance, in nnU-Net's order; call it with image=."""

    def maybe(chance: float, transform: BasicTransform) -> list[BasicTransform]:
        return [RandomTransform(transform, chance)] if chance > 0 else []

    def gamma(inverted: float) -> GammaTransform:
        return GammaTransform(
            BGContrast(tuple(config.gamma)), inverted, synchronize_channels=False, p_per_channel=1, p_retain_stats=1
        )

    brightness, contrast = (BGContrast(tuple(pair)) for pair in (config.brightness, config.contrast))
    low = SimulateLowResolutionTransform(
        tuple(config.low_resolution), synchronize_channels=False, synchronize_axes=True, ignore_axes=None, p_per_channel=0.5
    )
    return ComposeTransforms(
        [
            *maybe(
                config.noise_chance,
                GaussianNoiseTransform((0.0, config.noise_variance), p_per_channel=1, synchronize_channels=True),
            ),
            *maybe(config.blur_chance, GaussianBlurTransform(tuple(config.blur_sigma), p_per_channel=0.5)),
            *maybe(config.brightness_chance, MultiplicativeBrightnessTransform(brightness, synchronize_channels=False)),
            *maybe(config.contrast_chance, ContrastTransform(contrast, preserve_range=True, synchronize_channels=False)),
            *maybe(config.low_resolution_chance, low),
            *maybe(config.gamma_inverted_chance, gamma(1.0)),
            *maybe(config.gamma_chance, gamma(0.0)),
        ]
    )
