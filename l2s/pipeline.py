"""The whole method on one page: study -> working grid -> cue and logits -> the PET's grid -> fusion -> mask. Read this first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.special import expit
from torch import nn

from l2s import engine, ensemble, fuse
from l2s.engine import Plan
from l2s.errors import InputError
from l2s.localize import planes
from l2s.segment import windows
from l2s.study import Grid, Study
from l2s.weights import Model
from l2s.working import Working, from_working, to_working

log = logging.getLogger(__name__)

OUTSIDE_LOGIT = -30.0  # outside the body box: a probability of 1e-13, below every threshold
PROBE_ROWS = 16  # of the body box: enough for the network's stride, a few percent of a body
MAPS_TO_COME = 6  # float32 arrays of the body box that are made beside the networks: scaled channels, logits, sums

Progress = Callable[[str, int, int], None]
Steps = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings:
    """What a user may change; None keeps what the weights were made for.

    Attributes:
        fusion: 'voxelwise', 'componentwise' or 'none'.
        windows: 'tiles' or 'gaussian'.
        spacing_mm_zyx: the working spacing.
        mirror: axes along which mirrored copies are averaged, of 'x', 'y', 'z'.
        deadline: time.perf_counter() before which the answer must be there; None: every fold and mirror runs. With a deadline
            fold 0 gives the base answer, further folds and mirrors (along x, if none are named) follow while they fit.
    """

    fusion: str | None = None
    windows: str | None = None
    spacing_mm_zyx: tuple[float, float, float] | None = None
    mirror: tuple[str, ...] = ()
    deadline: float | None = None


@dataclass(frozen=True)
class Segmentation:
    """The result on the PET's LPS grid.

    Attributes:
        mask: bool (z, y, x).
        probability: float32 (z, y, x), stage 2 before fusion.
        cue: float32 (z, y, x), stage 1.
        seconds: wall seconds of each stage.
        warnings: one line each.
        plan: JSON-able: the plan that was used, with its planes and tiles.
        details: JSON-able: working spacing, body box, fusion, windows, the passes that ran.
        left_out: passes that the deadline left no time for.
    """

    mask: np.ndarray
    probability: np.ndarray
    cue: np.ndarray
    seconds: dict[str, float]
    warnings: list[str]
    plan: dict
    details: dict
    left_out: list[str]


def segment(
    study: Study,
    model: Model,
    plan: Plan,
    settings: Settings = Settings(),
    progress: Progress | None = None,
    faster: Callable[[], Model] | None = None,
) -> Segmentation:
    """Lesions of one study.

    Args:
        study: PET in SUV and CT in HU on the PET grid.
        model: loaded weights.
        plan: device, precision and budget; its sizes are made anew for this study.
        settings: deviations from the weights' own configuration.
        progress: called with (stage, steps done, steps in all).
        faster: loads the same weights as int8 networks; called where the base answer would miss the deadline without them.

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
    flips = engine.flips_of(settings.mirror or (("x",) if settings.deadline else ()))

    @contextmanager
    def stage(name: str):
        started = time.perf_counter()
        yield lambda done, total: progress(name, done, total) if progress else None
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 3)

    with stage("prepare"):
        working = to_working(study, spacing)
    plan = engine.fit(plan, reserve_bytes=4 * MAPS_TO_COME * working.pet_suv.size)
    if settings.deadline is not None and faster is not None:
        with stage("probe"):
            # bringing the answer back takes about as long as preparing took
            expected = base_seconds(working, model, plan, config) + seconds["prepare"]
            left = settings.deadline - time.perf_counter()
        if expected > left:
            warnings.append(f"the base answer would take about {expected:.0f} s of {left:.0f} s in fp32: int8 networks are used")
            with stage("load int8"):
                model, plan = faster(), replace(plan, precision="int8")
    facts, lines = describe_plan(working, model, plan, config)
    warnings += lines

    def run(one: ensemble.Pass) -> np.ndarray:
        nonlocal plan
        with stage(one.stage) as report:
            answer, plan, problems = engine.with_less(plan, lambda p: run_pass(one, working, model, p, config, report))
        warnings.extend(problems)
        return answer

    def answer(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(mask, probability, cue) on the PET's grid."""
        with stage("resample"):
            cue = on_pet_grid(first, working, study.grid)
            probability = on_pet_grid(second, working, study.grid)
        with stage("fuse"):
            return fuse.apply(policy, probability, cue), probability, cue

    folds = len(model.localizers), len(model.segmenters)
    if settings.deadline is None:
        sums, done = ensemble.run_all(ensemble.all_passes(*folds, flips), run)
        (mask, probability, cue), left_out = answer(*sums), []
    else:
        (mask, probability, cue), done, left_out, lines = ensemble.run_until(
            settings.deadline, ensemble.growing_passes(*folds, flips), run, answer
        )
        warnings += lines
    for name in seconds:
        log.info("%s: %.2f s", name, seconds[name])

    if policy == "componentwise" and (line := fuse.voxel_size_warning(study.grid.voxel_volume_ml)):
        warnings.append(line)
    details = {
        "spacing_mm_zyx": list(spacing),
        "working_shape_zyx": list(working.full.shape_zyx),
        "body_box_zyx": [list(working.start_zyx), list(working.stop_zyx)],
        "fusion": policy,
        "windows": config.windows,
        "folds": max(folds),
        "passes": done,
    }
    return Segmentation(mask, probability, cue, seconds, warnings, asdict(plan) | facts, details, left_out)


def base_seconds(working: Working, model: Model, plan: Plan, config: windows.WindowsConfig) -> float:
    """About what one fold without mirrors takes on this study, from the middle of its body run twice (the first call is slower)."""
    stacked = planes.stack_planes(working.pet_suv, model.manifest.localizer.planes)
    count, depth = planes.batch_planes(plan, *stacked.shape[1:]), working.pet_suv.shape[0]
    axis = planes.PLANE_AXIS[model.manifest.localizer.planes.plane]
    some = middle(len(stacked), count)
    rows = middle(depth, PROBE_ROWS)
    seconds = 0.0
    for part, one, share in (
        ((*[slice(None)] * axis, some), ensemble.Pass("localize", 0), len(stacked) / (some.stop - some.start)),
        ((rows,), ensemble.Pass("segment", 0), depth / (rows.stop - rows.start)),
    ):
        piece = replace(working, pet_suv=working.pet_suv[part], ct_hu=working.ct_hu[part])
        for _ in range(2):
            started = time.perf_counter()
            run_pass(one, piece, model, plan, config)
            taken = time.perf_counter() - started
        seconds += taken * share
    return seconds


def middle(length: int, count: int) -> slice:
    """The middle `count` of an axis, or all of it."""
    start = max(0, (length - count) // 2)
    return slice(start, min(length, start + count))


def describe_plan(working: Working, model: Model, plan: Plan, config: windows.WindowsConfig) -> tuple[dict, list[str]]:
    """(facts for the record, warnings) about how the body box goes through the networks."""
    stacked = planes.stack_planes(working.pet_suv, model.manifest.localizer.planes)
    count, height, width = stacked.shape
    facts: dict = {"planes": count, "batch_planes": min(count, planes.batch_planes(plan, height, width))}
    if config.windows == "gaussian":
        return facts | {"window_zyx": list(config.patch_zyx)}, []
    network = model.segmenters[0]
    padded, tiles = windows.cut(working.pet_suv.shape, network, plan)
    tile_facts, lines = windows.describe_tiles(tiles, padded, network, plan)
    facts |= tile_facts
    log.info(
        "body box %s: %d planes by %d, %d tiles of up to %s",
        *(" x ".join(map(str, working.pet_suv.shape)), count, facts["batch_planes"], facts["tiles"]),
        " x ".join(map(str, facts["tile_zyx"])),
    )
    return facts, lines


def run_pass(
    one: ensemble.Pass, working: Working, model: Model, plan: Plan, config: windows.WindowsConfig, report: Steps | None = None
) -> np.ndarray:
    """One network's logits, float32 (z, y, x) on the working grid: the mean of the pass's mirrored copies."""
    if one.stage == "localize":
        network = model.localizers[one.fold].to(plan.device)
        logits = planes.cue_logits(working.pet_suv, network, model.manifest.localizer.planes, plan, report, one.flips)
    else:
        network = model.segmenters[one.fold].to(plan.device)
        logits = windows.logits(working.pet_suv, working.ct_hu, network, config, plan, report, one.flips)
    release(network, plan)
    return finite(logits, one.stage)


def release(network: nn.Module, plan: Plan) -> None:
    """A GPU holds one network at a time."""
    if plan.kind == "cuda":
        network.to("cpu")


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


def cue_logits(working: Working, model: Model, plan: Plan) -> np.ndarray:
    """Stage 1's logits, float32 (z, y, x) on the working grid: the mean of the folds."""
    passes = [ensemble.Pass("localize", fold) for fold in range(len(model.localizers))]
    config = windows_config(model)
    return sum(run_pass(one, working, model, plan, config) for one in passes) / len(passes)


def lesion_logits(working: Working, model: Model, plan: Plan, config: windows.WindowsConfig) -> np.ndarray:
    """Stage 2's logits, float32 (z, y, x) on the working grid: the mean of the folds."""
    passes = [ensemble.Pass("segment", fold) for fold in range(len(model.segmenters))]
    return sum(run_pass(one, working, model, plan, config) for one in passes) / len(passes)


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
