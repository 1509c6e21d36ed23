"""The whole method on one page: study -> working grid -> cue and logits -> the PET's grid -> fusion -> mask. Read this first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from l2s import fuse
from l2s.engine import Plan
from l2s.errors import InputError
from l2s.localize import planes
from l2s.segment import windows
from l2s.study import Grid, Study
from l2s.weights import Model
from l2s.working import Working, from_working, to_working

log = logging.getLogger(__name__)

OUTSIDE_LOGIT = -30.0  # outside the body box: a probability of 1e-13, below every threshold

Progress = Callable[[str, int, int], None]
Steps = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What a user may change; None keeps what the weights were made for.

    Attributes:
        fusion: 'voxelwise', 'componentwise' or 'none'.
        windows: 'tiles' or 'gaussian'.
        spacing_mm_zyx: the working spacing.
    """

    fusion: str | None = None
    windows: str | None = None
    spacing_mm_zyx: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Segmentation:
    """The result on the PET's LPS grid.

    Attributes:
        mask: bool (z, y, x).
        probability: float32 (z, y, x), stage 2 before fusion.
        cue: float32 (z, y, x), stage 1.
        seconds: wall seconds of each stage.
        warnings: one line each.
        details: JSON-able: working spacing, body box, fusion, windows.
    """

    mask: np.ndarray
    probability: np.ndarray
    cue: np.ndarray
    seconds: dict[str, float]
    warnings: list[str]
    details: dict


def segment(
    study: Study, model: Model, plan: Plan, settings: Settings = Settings(), progress: Progress | None = None
) -> Segmentation:
    """Lesions of one study.

    Args:
        study: PET in SUV and CT in HU on the PET grid.
        model: loaded weights.
        plan: device, precision, sizes.
        settings: deviations from the weights' own configuration.
        progress: called with (stage, steps done, steps in all).

    Raises:
        InputError: a setting is unknown or does not fit the weights.
    """
    manifest = model.manifest
    seconds: dict[str, float] = {}
    warnings: list[str] = []
    spacing = tuple(settings.spacing_mm_zyx or manifest.spacing_mm_zyx)
    if spacing != tuple(manifest.spacing_mm_zyx):
        warnings.append(f"working spacing {spacing} mm, but the weights were trained at {tuple(manifest.spacing_mm_zyx)} mm")
    policy = settings.fusion or manifest.fusion
    fuse.check(policy)
    config = windows_config(model, settings.windows)

    @contextmanager
    def stage(name: str):
        started = time.perf_counter()
        yield lambda done, total: progress(name, done, total) if progress else None
        seconds[name] = round(time.perf_counter() - started, 3)
        log.info("%s: %.2f s", name, seconds[name])

    with stage("prepare"):
        working = to_working(study, spacing)

    with stage("localize") as report:
        first = cue_logits(working, model, plan, report)

    with stage("segment") as report:
        second = lesion_logits(working, model, plan, config, report)

    with stage("resample"):
        cue = on_pet_grid(first, working, study.grid)
        probability = on_pet_grid(second, working, study.grid)

    with stage("fuse"):
        mask = fuse.apply(policy, probability, cue)
        if policy == "componentwise" and (line := fuse.voxel_size_warning(study.grid.voxel_volume_ml)):
            warnings.append(line)

    details = {
        "spacing_mm_zyx": list(spacing),
        "working_shape_zyx": list(working.full.shape_zyx),
        "body_box_zyx": [list(working.start_zyx), list(working.stop_zyx)],
        "fusion": policy,
        "windows": config.windows,
        "folds": len(model.segmenters),
    }
    return Segmentation(mask, probability, cue, seconds, warnings, details)


def windows_config(model: Model, kind: str | None = None) -> windows.WindowsConfig:
    """Stage 2's windows, those of the weights or of another kind.

    Raises:
        InputError: the kind is unknown or does not fit the networks.
    """
    config = model.manifest.segmenter.windows
    if kind:
        config = replace(config, windows=kind)
    for network in model.segmenters:
        windows.check(config, network)
    return config


def cue_logits(working: Working, model: Model, plan: Plan, report: Steps | None = None) -> np.ndarray:
    """Stage 1's logits, float32 (z, y, x) on the working grid: the mean of the folds. Report is called with (done, in all)."""
    config = model.manifest.localizer.planes
    maps = [planes.cue_logits(working.pet_suv, net.to(plan.device), config, plan, report) for net in model.localizers]
    return finite(sum(maps) / len(maps), "stage 1")


def lesion_logits(
    working: Working, model: Model, plan: Plan, config: windows.WindowsConfig, report: Steps | None = None
) -> np.ndarray:
    """Stage 2's logits, float32 (z, y, x) on the working grid: the mean of the folds. Report is called with (done, in all)."""
    maps = [windows.logits(working.pet_suv, working.ct_hu, net.to(plan.device), config, plan, report) for net in model.segmenters]
    return finite(sum(maps) / len(maps), "stage 2")


def on_pet_grid(logits: np.ndarray, working: Working, grid: Grid) -> np.ndarray:
    """Logits on the working grid -> probabilities, float32 (z, y, x), on the PET's own grid.

    Logits, not probabilities, are brought back: a 16-bit probability is 1.0 from logit 8.5 on.
    """
    return expit(from_working(logits, working, grid, OUTSIDE_LOGIT))


def finite(logits: np.ndarray, stage: str) -> np.ndarray:
    """The logits, unless the network answered with NaN or infinity (a 16-bit overflow, damaged weights): then InputError."""
    if not np.isfinite(logits).all():
        raise InputError(
            f"{stage} answered with NaN or infinity: use --precision fp32, and check the weights with l2s weights verify"
        )
    return logits
