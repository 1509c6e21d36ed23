"""Augmentation by batchgeneratorsv2, nnU-Net's library: one drawn geometry for image, truth and cue, then changes of the image alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
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


def read_shape(config: Augmentation, shape: tuple[int, ...]) -> tuple[int, ...]:
    """How large a block must be read so that a turned and shrunk sample of that shape still shows anatomy in its corners."""
    angle = math.radians(config.rotation_deg) if config.rotation_chance else 0.0
    zoom = max(1.0, config.zoom[1]) if config.zoom_chance else 1.0
    # the box around a box turned about one axis, and a voxel each way for the interpolation
    turned = (n * math.cos(angle) + (sum(shape) - n) * math.sin(angle) for n in shape)
    return tuple(math.ceil(n * zoom) + 2 for n in turned)


def geometry(config: Augmentation, shape: tuple[int, ...], axes: str) -> BasicTransform:
    """Rotation, zoom and mirroring of a block to a sample of that shape; call it with image=, segmentation=, regression_target=.

    Args:
        config: ranges and chances.
        shape: of the sample, 2 or 3 axes.
        axes: the sample's axes as the patient's, such as 'zyx', or 'zx' for a coronal plane.

    All are interpolated linearly, the truth by the larger share; outside the block lies 0.
    """
    angle = math.radians(config.rotation_deg)
    return ComposeTransforms(
        [
            SpatialTransform(
                shape,
                patch_center_dist_from_border=0,
                random_crop=False,
                p_rotation=config.rotation_chance,
                rotation=(-angle, angle),
                p_scaling=config.zoom_chance,
                scaling=tuple(config.zoom),
                p_synchronize_scaling_across_axes=1.0,
            ),
            MirrorTransform(tuple(axes.index(axis) for axis in config.mirror if axis in axes)),
        ]
    )


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
