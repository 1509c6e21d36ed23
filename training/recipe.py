"""A recipe: every number of a training run, read strictly from one TOML file under training/recipes/."""

from __future__ import annotations

import argparse
import json
import math
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from l2s import fuse
from l2s.engine import AXES
from l2s.errors import InputError
from l2s.localize.network import STRIDE, LocalizerConfig
from l2s.localize.planes import PLANE_AXIS, PlanesConfig
from l2s.segment.network import NORMS, SegmenterConfig
from l2s.segment.windows import WINDOWS, WindowsConfig
from l2s.weights import build

CUES = ("out-of-fold", "in-fold")
DICES = ("sample", "batch")
OPTIMIZERS = ("sgd", "adamw")
SAMPLES = 2  # counted up where a recipe, a seed and a step give other samples than before
Test = tuple[str, object, bool, str]  # field, value, whether it is good, what it must be


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns.

    Attributes:
        epochs, steps_per_epoch: length; the learning rate falls per epoch by (1 - n/epochs)^poly_power. steps_per_epoch 0: as
            many samples as the data has, which is our reading, as the paper does not define an epoch: in stage 1 lesion planes
            / lesion_share, in stage 2 cases. Samples are drawn with replacement.
        batch: samples a step, of all processes together.
        optimizer: 'sgd' (Nesterov momentum) or 'adamw'.
        learning_rate, momentum, weight_decay, poly_power: the optimizer's numbers.
        warmup_steps: steps over which the rate rises linearly from zero.
        clip_norm: the gradient's largest norm.
        average: decay a step of the weights' moving average, which is what is validated and exported; 0: none.
        freeze_norms: batch norms keep the statistics they start with (fine-tuning by small batches).
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
    freeze_norms: bool


@dataclass(frozen=True)
class Source:
    """One kind of case ('sts', 'phantom') and its share of the samples."""

    name: str
    share: float


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for a sample; chances are a sample's, ranges are uniform.

    Attributes:
        gain: PET is scaled by 1 +- gain before anything else: SUV's own errors of dose, weight and calibration.
        mirror: the patient's axes that may flip, each in half of the samples: 'x' (left-right), 'y', 'z'; those a plane lacks are skipped.
        rotation_chance, rotation_deg: a turn by up to +- that angle about each axis (in plane for stage 1).
        zoom_chance, zoom: the sample shows between zoom[0] and zoom[1] times its own extent.
        noise_chance, noise_variance: Gaussian noise on the scaled input, of a variance up to that.
        blur_chance, blur_sigma: Gaussian blur, in voxels, of each channel in half of these samples.
        brightness_chance, brightness: the scaled input is multiplied.
        contrast_chance, contrast: its deviation from its mean is multiplied.
        low_resolution_chance, low_resolution: it is shrunk to that share and brought back.
        gamma_chance, gamma_inverted_chance, gamma: a power of its range, or of its negative's.
    """

    gain: float
    mirror: tuple[str, ...]
    rotation_chance: float
    rotation_deg: float
    zoom_chance: float
    zoom: tuple[float, float]
    noise_chance: float
    noise_variance: float
    blur_chance: float
    blur_sigma: tuple[float, float]
    brightness_chance: float
    brightness: tuple[float, float]
    contrast_chance: float
    contrast: tuple[float, float]
    low_resolution_chance: float
    low_resolution: tuple[float, float]
    gamma_chance: float
    gamma_inverted_chance: float
    gamma: tuple[float, float]


@dataclass(frozen=True)
class LocalizerRecipe:
    """Stage 1.

    Attributes:
        encoder_weights: the encoder's start: '' at random, 'hub' (timm fetches its ImageNet weights) or a local checkpoint.
        crop: rows and columns of a training plane.
        lesion_share, hot_share: shares of the samples that show a lesion, and hot normal tissue; the others are cut anywhere.
        dice_weight: the paper's lambda.
    """

    network: LocalizerConfig
    planes: PlanesConfig
    encoder_weights: str
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
        start: the recipe, in the same folder, whose weights both stages start from; '': at random.
        seed: of everything drawn.
        spacing_mm_zyx: the working spacing.
        folds: parts of the split by patient.
        cues: 'out-of-fold' or 'in-fold'.
        dice: the Dice loss is taken over each 'sample' or over the whole 'batch'.
        head_bias: of a network that starts at random: the logit that it gives to every voxel at first.
        fusion: the weights' default policy.
        phantoms: synthetic cases that join the training.
        implants: further ones, this many a patient, that carry the patient's tumour, turned and mostly shrunk to 0.3 to 10 ml.
        phantom_shape_zyx: the phantoms' field of view at the working spacing.
        sources: what the samples are drawn from.
    """

    name: str
    start: str
    seed: int
    spacing_mm_zyx: tuple[float, float, float]
    folds: int
    cues: str
    dice: str
    head_bias: float
    fusion: str
    phantoms: int
    implants: int
    phantom_shape_zyx: tuple[int, int, int]
    sources: tuple[Source, ...]
    localizer: LocalizerRecipe
    segmenter: SegmenterRecipe

    @property
    def voxel_volume_ml(self) -> float:
        """Of the working grid."""
        return math.prod(self.spacing_mm_zyx) / 1000.0


def whole_epochs(schedule: Schedule, samples: float) -> Schedule:
    """The schedule with steps_per_epoch 0 replaced by what it takes to show that many samples once."""
    steps = schedule.steps_per_epoch or max(1, round(samples / schedule.batch))
    return replace(schedule, steps_per_epoch=steps)


def plain_fields(recipe: Recipe) -> dict:
    """The recipe as JSON holds it."""
    return json.loads(json.dumps(asdict(recipe)))


def load_recipe(path: Path, changes: list[str] | None = None) -> Recipe:
    """The recipe of a TOML file.

    Args:
        path: the file.
        changes: 'a.b.c=value' each, value in TOML: fields to be other than in the file, for experiments.

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
    for change in changes or []:
        _change(value, change)
    return checked(build(Recipe, value, str(path)), str(path))


def checked(recipe: Recipe, where: str) -> Recipe:
    """The recipe, if its values fit together: what would fail an hour later fails here.

    Raises:
        InputError: one does not.
    """
    tests = _whole_tests(recipe) + _network_tests(recipe)
    for stage, part in (("localizer", recipe.localizer), ("segmenter", recipe.segmenter)):
        tests += _stage_tests(stage, part) + _augment_tests(f"{stage}.augment", part.augment)
    for name, value, good, limit in tests:
        if not good:
            raise InputError(f"{where}: {name} is {value!r}; it must be {limit}")
    return recipe


def _whole_tests(recipe: Recipe) -> list[Test]:
    """Of the fields outside the stages."""
    shares = [source.share for source in recipe.sources]
    return [
        ("name", recipe.name, "/" not in recipe.name and recipe.name.strip(" .") != "", "a folder's name, without a slash"),
        ("spacing_mm_zyx", recipe.spacing_mm_zyx, all(0 < mm < math.inf for mm in recipe.spacing_mm_zyx), "above 0"),
        ("folds", recipe.folds, recipe.folds >= 2, "at least 2"),
        ("cues", recipe.cues, recipe.cues in CUES, f"one of {', '.join(CUES)}"),
        ("dice", recipe.dice, recipe.dice in DICES, f"one of {', '.join(DICES)}"),
        ("fusion", recipe.fusion, recipe.fusion in fuse.POLICIES, f"one of {', '.join(fuse.POLICIES)}"),
        ("phantoms", recipe.phantoms, recipe.phantoms >= 0, "at least 0"),
        ("phantom_shape_zyx", recipe.phantom_shape_zyx, min(recipe.phantom_shape_zyx) > 0, "above 0"),
        ("sources", [s.name for s in recipe.sources], len({s.name for s in recipe.sources}) == len(recipe.sources), "each once"),
        ("implants", recipe.implants, recipe.implants >= 0, "at least 0"),
        (
            "sources",
            shares,
            all(0 <= s < math.inf for s in shares) and sum(shares) > 0,
            "shares of at least 0, one of them above 0",
        ),
    ]


def _network_tests(recipe: Recipe) -> list[Test]:
    """Of the networks and what they are shown."""
    first, second = recipe.localizer, recipe.segmenter
    stride, windows, decoder = second.network.stride, second.windows, first.network.decoder_channels
    return [
        ("localizer.network.neighbours", first.network.neighbours, first.network.neighbours >= 0, "at least 0"),
        ("localizer.network.decoder_channels", decoder, len(decoder) == 5 and min(decoder) > 0, "five numbers above 0"),
        ("localizer.planes.plane", first.planes.plane, first.planes.plane in PLANE_AXIS, f"one of {', '.join(PLANE_AXIS)}"),
        ("localizer.planes.suv_high", first.planes.suv_high, 0 < first.planes.suv_high < math.inf, "above 0"),
        ("localizer.crop", first.crop, all(n > 0 and n % STRIDE == 0 for n in first.crop), f"multiples of {STRIDE}"),
        ("segmenter.network.norm", second.network.norm, second.network.norm in NORMS, f"one of {', '.join(NORMS)}"),
        ("segmenter.windows.windows", windows.windows, windows.windows in WINDOWS, f"one of {', '.join(WINDOWS)}"),
        (
            "segmenter.windows.windows",
            windows.windows,
            windows.windows == "gaussian" or second.network.is_local,
            f"gaussian, as the norm {second.network.norm} sees the whole window",
        ),
        (
            "segmenter.windows.patch_zyx",
            windows.patch_zyx,
            all(n > 0 and n % stride == 0 for n in windows.patch_zyx),
            f"multiples of {stride}",
        ),
        ("segmenter.windows.overlap", windows.overlap, 0 <= windows.overlap < 1, "at least 0 and below 1"),
    ]


def _stage_tests(stage: str, part: LocalizerRecipe | SegmenterRecipe) -> list[Test]:
    """Of a stage's schedule and shares."""
    its, schedule, shares = f"{stage}.schedule", part.schedule, (part.lesion_share, part.hot_share)
    return [
        (f"{its}.optimizer", schedule.optimizer, schedule.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
        (f"{its}.epochs", schedule.epochs, schedule.epochs > 0, "at least 1"),
        (f"{its}.steps_per_epoch", schedule.steps_per_epoch, schedule.steps_per_epoch >= 0, "at least 0"),
        (f"{its}.batch", schedule.batch, schedule.batch > 0, "at least 1"),
        (f"{its}.learning_rate", schedule.learning_rate, 0 < schedule.learning_rate < math.inf, "above 0"),
        (f"{its}.clip_norm", schedule.clip_norm, schedule.clip_norm > 0, "above 0"),
        (f"{its}.average", schedule.average, 0 <= schedule.average < 1, "at least 0 and below 1"),
        (f"{stage}.lesion_share + hot_share", sum(shares), sum(shares) <= 1 and min(shares) >= 0, "between 0 and 1"),
    ]


def _augment_tests(its: str, augment: Augmentation) -> list[Test]:
    """Of the chances and ranges that a sample is drawn by."""
    values = {field.name: getattr(augment, field.name) for field in fields(augment)}
    chances = {name: value for name, value in values.items() if name.endswith("_chance")}
    ranges = {name: value for name, value in values.items() if isinstance(value, tuple) and name != "mirror"}
    return [
        (f"{its}.gain", augment.gain, 0 <= augment.gain < 1, "at least 0 and below 1"),
        (f"{its}.rotation_deg", augment.rotation_deg, 0 <= augment.rotation_deg <= 180, "between 0 and 180"),
        (f"{its}.noise_variance", augment.noise_variance, 0 <= augment.noise_variance < math.inf, "at least 0"),
        (f"{its}.zoom", augment.zoom, augment.zoom[0] > 0, "above 0"),
        (f"{its}.low_resolution", augment.low_resolution, augment.low_resolution[0] > 0, "above 0"),
        (f"{its}.mirror", augment.mirror, set(augment.mirror) <= set(AXES), f"some of {', '.join(sorted(AXES))}"),
        *((f"{its}.{name}", value, 0 <= value <= 1, "between 0 and 1") for name, value in chances.items()),
        *((f"{its}.{name}", (a, b), 0 <= a <= b < math.inf, "from low to high, at least 0") for name, (a, b) in ranges.items()),
    ]


def start_path(path: Path) -> Path | None:
    """The recipe whose weights a recipe starts from; None where it starts at random.

    Raises:
        InputError: reproduce.sh could not make them from phantoms alone: they would want cues, patients or a start of their own.
    """
    start = load_recipe(path).start
    if not start:
        return None
    first = load_recipe(path.parent / start)
    sources = sorted(source.name for source in first.sources if source.share > 0)
    for name, value, good in (
        ("start", first.start, first.start == ""),
        ("segmenter.cue_weights", first.segmenter.cue_weights, not first.segmenter.cue_weights),
        ("sources", sources, sources == ["phantom"]),
    ):
        if not good:
            raise InputError(
                f"{path} starts from {start}, whose {name} is {value!r}: a start is trained on phantoms alone, at random, without cue "
                "weights; name another or leave start empty"
            )
    return path.parent / start


def _change(value: dict, change: str) -> None:
    """Sets the field that a --set names."""
    names, equals, text = change.partition("=")
    *folders, last = names.strip().split(".")
    for name in folders:
        value = value.get(name) if isinstance(value, dict) else None
    if not equals or not isinstance(value, dict) or last not in value:
        raise InputError(f"--set {change}: give it as a.b.c=VALUE, a.b.c being a field of the recipe")
    try:
        value[last] = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        raise InputError(f"--set {change}: {text!r} is no TOML value; a text needs its quotes") from None


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description="Prints a field of a recipe, for the scripts.", allow_abbrev=False)
    p.add_argument("recipe", type=Path)
    p.add_argument("field", choices=[field.name for field in fields(Recipe)], help="'start' is printed as a path")
    args = p.parse_args(argv)
    value = start_path(args.recipe) if args.field == "start" else getattr(load_recipe(args.recipe), args.field)
    print("" if value is None else value)
    return 0


if __name__ == "__main__":
    # it imports this module
    from training.run import exit_with

    exit_with(main)
