"""A recipe: every number of a training run, read strictly from one TOML file under training/recipes/."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from l2s.errors import InputError
from l2s.localize.network import LocalizerConfig
from l2s.localize.planes import PlanesConfig
from l2s.segment.network import SegmenterConfig
from l2s.segment.windows import WindowsConfig
from l2s.weights import build


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns.

    Attributes:
        epochs, steps_per_epoch: length; the learning rate falls per epoch by (1 - n/epochs)^poly_power.
        batch: samples a step.
        optimizer: 'sgd' (Nesterov momentum) or 'adamw'.
        learning_rate, momentum, weight_decay, poly_power: the optimizer's numbers.
        warmup_steps: steps over which the rate rises linearly from zero.
        clip_norm: the gradient's largest norm.
        average: decay a step of the weights' moving average, which is what is validated and exported; 0: none.
    """

    epochs: int
    steps_per_epoch: int
    batch: int
    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    poly_power: float
    warmup_steps: int
    clip_norm: float
    average: float


@dataclass(frozen=True)
class Source:
    """One kind of case ('sts', 'phantom') and its share of the samples."""

    name: str
    share: float


@dataclass(frozen=True)
class Augmentation:
    """What a drawn transform may do.

    Attributes:
        rotation_deg: rotations are uniform in +-rotation_deg about each axis (2D: in plane).
        zoom: sizes are scaled by 1 +- zoom.
        flip: chance of a left-right flip.
        intensity: PET is scaled by 1 +- intensity (gain errors of SUV: dose, weight, calibration).
        noise: standard deviation of noise added to the scaled input.
    """

    rotation_deg: float
    zoom: float
    flip: float
    intensity: float
    noise: float


@dataclass(frozen=True)
class LocalizerRecipe:
    """Stage 1.

    Attributes:
        crop: rows and columns of a training plane.
        lesion_share, hot_share: shares of the samples that show a lesion, and hot normal tissue; the others are cut anywhere.
        dice_weight: the paper's lambda.
    """

    network: LocalizerConfig
    planes: PlanesConfig
    crop: tuple[int, int]
    lesion_share: float
    hot_share: float
    dice_weight: float
    augment: Augmentation
    schedule: Schedule


@dataclass(frozen=True)
class SegmenterRecipe:
    """Stage 2; shares as in stage 1. cue_weights: weigh the loss by 1 + P_loc."""

    network: SegmenterConfig
    windows: WindowsConfig
    lesion_share: float
    hot_share: float
    cue_weights: bool
    augment: Augmentation
    schedule: Schedule


@dataclass(frozen=True)
class Recipe:
    """A whole run.

    Attributes:
        name: of the weights made.
        seed: of everything drawn.
        spacing_mm_zyx: the working spacing.
        folds: parts of the split by patient.
        cues: 'out-of-fold' or 'in-fold'.
        fusion: the weights' default policy.
        phantoms: synthetic cases that join the training.
        phantom_shape_zyx: their field of view at the working spacing.
        sources: what the samples are drawn from.
    """

    name: str
    seed: int
    spacing_mm_zyx: tuple[float, float, float]
    folds: int
    cues: str
    fusion: str
    phantoms: int
    phantom_shape_zyx: tuple[int, int, int]
    sources: tuple[Source, ...]
    localizer: LocalizerRecipe
    segmenter: SegmenterRecipe


def load_recipe(path: Path) -> Recipe:
    """The recipe of a TOML file.

    Raises:
        InputError: no such file, no TOML, or a field missing, unknown or mistyped.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no recipe {path}; those that come along lie in training/recipes/")
    try:
        value = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}") from None
    return build(Recipe, value, str(path))
