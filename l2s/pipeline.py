"""The whole method on one page: study -> working grid -> cue and logits -> the PET's grid -> fusion -> mask. Read this first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy.special import expit
from torch import nn

from l2s import engine, ensemble, fuse
from l2s.engine import Plan
from l2s.errors import InputError, first_line
from l2s.localize import planes
from l2s.segment import windows
from l2s.study import Grid, Study
from l2s.weights import Model
from l2s.working import Working, from_working, to_working

log = logging.getLogger(__name__)

OUTSIDE_LOGIT = -30.0  # outside the body box: a probability of 1e-13, below every threshold
MAPS_TO_COME = 6  # float32 arrays of the body box that are made beside the networks: scaled channels, logits, sums
WARM_UP_ZYX = (64, 16, 64)  # of the working grid
DEVICE_MAPS = 6  # of them on a GPU: the volume, its padded copy, the answer
LEAST_PREPARING_S = 0.5  # for drawing: a page has parts that no small study makes smaller
SHORT = ("bf16", "fp16")  # precisions in which a sum may overflow
ANSWER_BYTES = 9  # a voxel of the PET: mask, probability, cue, which a time budget holds while it adds to them

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
        drawing: times what preparing takes, to be kept free before the deadline for pictures and pages of the answer.
    """

    fusion: str | None = None
    windows: str | None = None
    spacing_mm_zyx: tuple[float, float, float] | None = None
    mirror: tuple[str, ...] = ()
    deadline: float | None = None
    drawing: float = 0.0


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
    if settings.deadline is not None:
        kept_s = settings.drawing * max(seconds["prepare"], LEAST_PREPARING_S)
        settings = replace(settings, deadline=settings.deadline - kept_s)
    reserve = 4 * MAPS_TO_COME * working.pet_suv.size
    if settings.deadline is not None:
        reserve += ANSWER_BYTES * study.pet_suv.size
    copies = len(flips) if settings.deadline is None else 1  # that go through a network together
    fit = partial(
        engine.fit,
        reserve_bytes=reserve,
        device_bytes=4 * DEVICE_MAPS * working.pet_suv.size,
        most_voxels=windows.most_voxels(working.pet_suv.shape, config, manifest.segmenter.network) * copies,
        most_pixels=planes.most_pixels(working.pet_suv.shape, manifest.localizer.planes) * copies,
    )
    plan = fit(plan)
    if settings.deadline is not None and faster is not None:
        with stage("probe"):
            networks_s = base_seconds(working, model, plan, config)
            expected = networks_s + seconds["prepare"]  # bringing the answer back takes about as long as preparing took
            left = max(0.0, settings.deadline - time.perf_counter())
        if expected > left:
            line = f"the base answer would take about {expected:.0f} s of {left:.0f} s in fp32"
            try:
                with stage("load int8"):
                    other, other_plan = faster(), fit(replace(plan, precision="int8"))
                    is_faster = base_seconds(working, other, other_plan, config) < networks_s
                line += ": int8 networks are used" if is_faster else ": int8 networks are no faster here and are left out"
                if is_faster:
                    model, plan = other, other_plan
            except Exception as error:  # the base answer comes whatever is wrong with an extra
                log.debug("no int8 networks", exc_info=True)
                line += f": no int8 networks, {first_line(error)}"
            other = None  # what is not taken does not stay in memory
            warnings.append(line)
    facts, lines = describe_plan(working, model, plan, config)
    warnings += lines
    log.info("body box %s: %s", " x ".join(map(str, working.pet_suv.shape)), ", ".join(f"{k} {v}" for k, v in facts.items()))
    folds = len(model.localizers), len(model.segmenters)
    growing = ensemble.growing_passes(*folds, flips)

    def run(one: ensemble.Pass) -> tuple[np.ndarray, dict]:
        nonlocal plan
        to_cpu = settings.deadline is None or one in growing[: len(ensemble.STAGES)]
        with stage(one.stage) as report:
            attempt = partial(run_pass, one, working, model, config=config, report=report)
            answer, plan, problems = engine.with_less(plan, lambda p: attempt(plan=p), reserve, to_cpu)
            # not an addition under a deadline: it was reckoned with in 16 bits
            if to_cpu and plan.precision in SHORT and not np.isfinite(answer).all():
                problems.append(f"{one.stage} answered with NaN or infinity in {plan.precision}: computed in fp32 from there on")
                log.warning(problems[-1])
                if plan.kind == "cuda":
                    torch.cuda.empty_cache()  # what the pass has left would count as taken
                answer, plan, more = engine.with_less(fit(engine.in_fp32(plan)), lambda p: attempt(plan=p), reserve)
                problems += more
        warnings.extend(problems)
        return finite(answer, one.stage), {"device": plan.device, "precision": plan.precision}

    def back(logits: np.ndarray) -> np.ndarray:
        try:
            return on_pet_grid(logits, working, study.grid, plan)
        except RuntimeError as error:
            if plan.kind == "cpu" or not engine.is_want_of_memory(error, plan.device):
                raise
            line = f"{plan.device} could not bring the answer back ({first_line(error)}): done on the CPU"
            if line not in warnings:
                log.warning(line)
                warnings.append(line)
            return on_pet_grid(logits, working, study.grid, replace(plan, device="cpu"))

    def answer(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(mask, probability, cue) on the PET's grid."""
        with stage("resample"):
            cue, probability = back(first), back(second)
        with stage("fuse"):
            return fuse.apply(policy, probability, cue), probability, cue

    if settings.deadline is None:
        sums, done = ensemble.run_all(ensemble.all_passes(*folds, flips), run)
        (mask, probability, cue), left_out = answer(*sums), []
    else:
        (mask, probability, cue), done, left_out, lines = ensemble.run_until(settings.deadline, growing, run, answer)
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
    used = asdict(plan) | describe_plan(working, model, plan, config)[0]
    return Segmentation(mask, probability, cue, seconds, warnings, used, details, left_out)


def warm_up(model: Model, plan: Plan) -> None:
    """A small piece through the first network of each stage, for a GPU: its context and kernels are there when the study is.

    Networks that are read when it is their turn are left alone. What fails here is left to the run itself, which has an answer to it.
    """
    if not isinstance(model.segmenters, tuple):
        return
    piece, grid = np.zeros(WARM_UP_ZYX, np.float32), Grid(WARM_UP_ZYX, model.manifest.spacing_mm_zyx, (0.0, 0.0, 0.0))
    working = Working(piece, piece, grid, (0, 0, 0), WARM_UP_ZYX, grid)
    config = replace(windows_config(model), patch_zyx=WARM_UP_ZYX)
    try:
        for stage in ensemble.STAGES:
            run_pass(ensemble.Pass(stage, 0), working, model, plan, config)
        if plan.kind == "cuda":
            torch.cuda.empty_cache()  # else it would be missing in the plan
    except Exception:
        log.debug("the warm-up failed", exc_info=True)


def base_seconds(working: Working, model: Model, plan: Plan, config: windows.WindowsConfig) -> float:
    """About what one fold without mirrors takes on this study, from a piece of each stage."""
    shape = working.pet_suv.shape
    first = planes.expected_seconds(shape, model.localizers[0], model.manifest.localizer.planes, plan)
    return first + windows.expected_seconds(shape, config, model.segmenters[0], plan)


def describe_plan(working: Working, model: Model, plan: Plan, config: windows.WindowsConfig) -> tuple[dict, list[str]]:
    """(facts for the record, warnings) about how the body box goes through the networks."""
    stacked = planes.stack_planes(working.pet_suv, model.manifest.localizer.planes)
    count, height, width = stacked.shape
    facts: dict = {"planes": count, "batch_planes": min(count, planes.batch_planes(plan, height, width))}
    lines = []
    if height * width > plan.batch_pixels:
        lines.append(
            f"memory for planes of {plan.batch_pixels} pixels, but these have {height * width}; give more memory if you can"
        )
    network = model.segmenters[0]
    if config.windows == "gaussian":
        more, problems = windows.describe_windows(working.pet_suv.shape, config, network, plan)
    else:
        padded, tiles = windows.cut(working.pet_suv.shape, network, plan)
        more, problems = windows.describe_tiles(tiles, padded, network, plan)
    facts |= more
    return facts, lines + problems


def run_pass(
    one: ensemble.Pass, working: Working, model: Model, plan: Plan, config: windows.WindowsConfig, report: Steps | None = None
) -> np.ndarray:
    """One network's logits, float32 (z, y, x) on the working grid: the mean of the pass's mirrored copies."""
    network = (model.localizers if one.stage == "localize" else model.segmenters)[one.fold]
    try:
        network.to(plan.device)
        if one.stage == "localize":
            logits = planes.cue_logits(working.pet_suv, network, model.manifest.localizer.planes, plan, report, one.flips)
        else:
            logits = windows.logits(working.pet_suv, working.ct_hu, network, config, plan, report, one.flips)
    finally:
        release(network, plan)
    return logits


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
    windows.check(config, model.manifest.segmenter.network)
    return config


def cue_logits(working: Working, model: Model, plan: Plan) -> np.ndarray:
    """Stage 1's logits, float32 (z, y, x) on the working grid: the mean of the folds."""
    passes = [ensemble.Pass("localize", fold) for fold in range(len(model.localizers))]
    config = windows_config(model)
    return finite(sum(run_pass(one, working, model, plan, config) for one in passes) / len(passes), "localize")


def lesion_logits(working: Working, model: Model, plan: Plan, config: windows.WindowsConfig) -> np.ndarray:
    """Stage 2's logits, float32 (z, y, x) on the working grid: the mean of the folds."""
    passes = [ensemble.Pass("segment", fold) for fold in range(len(model.segmenters))]
    return finite(sum(run_pass(one, working, model, plan, config) for one in passes) / len(passes), "segment")


def on_pet_grid(logits: np.ndarray, working: Working, grid: Grid, plan: Plan) -> np.ndarray:
    """Logits on the working grid -> probabilities, float32 (z, y, x), on the PET's own grid; resampled on the plan's device.

    Logits, not probabilities, are brought back: a 16-bit probability is 1.0 from logit 8.5 on.
    """
    volume = logits if plan.kind == "cpu" else engine.to_device(logits, plan)
    on_grid = from_working(volume, working, grid, OUTSIDE_LOGIT)
    return expit(on_grid, out=on_grid)


def finite(logits: np.ndarray, stage: str) -> np.ndarray:
    """The logits; InputError where some are NaN or infinite: damaged weights, or a 16-bit overflow that is not computed again."""
    if not np.isfinite(logits).all():
        raise InputError(
            f"{stage} answered with NaN or infinity: check the weights with l2s weights verify, or use --precision fp32"
        )
    return logits
