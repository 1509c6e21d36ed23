"""Weights -> int8 networks by post-training quantization: value ranges from calibration cases, then the Dice that it costs.

The networks see what inference shows them: planes.py and windows.py are run with fp32 networks, and the inputs are overheard.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from l2s import engine, int8, pipeline, weights
from l2s.errors import InputError
from l2s.int8 import Accuracy, Calibration, Facts
from l2s.io.cases import CaseFiles, find_cases, read_truth
from l2s.io.studies import read_study
from l2s.measure.metrics import dice, mean
from l2s.working import to_working

SAMPLES = 48
TILE_VOXELS = 1_000_000  # a body at 4 mm is one or two tiles; statistics of all layers of one take 1 GB

Report = Callable[[str], None]


class Overheard(nn.Module):
    """A network that keeps what it is shown: (input, voxels marked as lesion, largest PET value), one item at a time."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.config = network, network.config
        self.seen: list[tuple[np.ndarray, int, float]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        for k in range(len(x)):
            block = x[k : k + 1].contiguous().numpy().copy()
            # channel 0 is PET in both stages
            self.seen.append((block, int((logits[k] > 0).sum()), float(block[:, 0].max())))
        return logits


def quantize(
    folder: Path, calibration: Path, out: Path, evaluate: Path | None = None, samples: int = SAMPLES, report: Report = print
) -> Facts:
    """Writes OUT, a copy of the weights folder with int8 networks in it.

    Args:
        folder: the weights.
        calibration: a folder of cases (io.cases.find_cases); a dozen will do, of the scanners and bodies that are to come.
        out: the new folder; appears once all is in it.
        evaluate: a folder of other cases, to measure the loss of Dice on; the calibration's own by default.
        samples: the most inputs a network is shown.
        report: called with a line for people.

    Raises:
        MissingExtra: openvino or nncf is not installed.
        InputError: a folder cannot be used, or out exists.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out} exists; name a folder that does not, or remove it")
    if samples < 1:
        raise InputError(f"--samples {samples}: at least 1")
    cases = find_cases(calibration)
    others = find_cases(evaluate) if evaluate else cases
    cases = cases[:samples]
    int8.nncf(), int8.openvino()
    model = weights.load(folder)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        shutil.copytree(folder, partial, ignore=shutil.ignore_patterns(int8.FOLDER, ".*"))
        names = hashlib.sha256("\n".join(sorted(c.name for c in cases)).encode()).hexdigest()
        planes, tiles = write_networks(model, cases, partial / int8.FOLDER, samples, report)
        facts = Facts(
            format=int8.FORMAT,
            weights_sha256=model.sha256,
            openvino=int8.openvino().__version__,
            nncf=int8.nncf().__version__,
            calibration=Calibration(len(cases), names, planes, tiles),
            accuracy=Accuracy(0, evaluate is None, None, None, None, None, None),
            files=tuple(weights.WeightsFile(p.name, weights.file_sha256(p)) for p in sorted((partial / int8.FOLDER).iterdir())),
        )
        write_facts(partial, facts)  # load reads them; the figures follow
        small = int8.load(replace(model, folder=partial))
        facts = replace(facts, accuracy=compare(model, small, others, evaluate is None, report))
        write_facts(partial, facts)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def write_facts(folder: Path, facts: Facts) -> None:
    (folder / int8.FOLDER / int8.FACTS).write_text(json.dumps(asdict(facts), indent=2) + "\n")


def cpu_plan() -> engine.Plan:
    """fp32 on the CPU, one plane at a time, tiles whose statistics fit into memory."""
    return replace(engine.choose("cpu"), tile_voxels=TILE_VOXELS, batch_pixels=1)


def write_networks(model: weights.Model, cases: list[CaseFiles], folder: Path, samples: int, report: Report) -> tuple[int, int]:
    """Writes every network's xml and bin; returns how many planes and tiles the first fold of each stage was shown."""
    folder.mkdir()
    counts = []
    for names, networks, stage in zip(int8.file_names(model.manifest), (model.localizers, model.segmenters), (1, 2)):
        for name, network in zip(names, networks):
            converted = convert(network, channels=2 if stage == 2 else network.config.in_channels, axes=stage + 1)
            # the same answers as torch's, sooner
            inputs = calibration_inputs(model, int8.Compiled(converted, network.config), stage, cases, samples)
            report(f"{name}: {len(inputs)} inputs of {len(cases)} cases")
            counts.append(len(inputs))
            int8.openvino().save_model(to_int8(converted, inputs), folder / f"{name}.xml", compress_to_fp16=False)
    return counts[0], counts[len(model.localizers)]


def calibration_inputs(
    model: weights.Model, network: nn.Module, stage: int, cases: list[CaseFiles], samples: int
) -> list[np.ndarray]:
    """What a network of stage 1 or 2 is shown of the cases: at most `samples` inputs, as many of each case as of the others."""
    plan, chosen = cpu_plan(), []
    share = max(1, samples // len(cases))
    for number, case in enumerate(cases):
        study, _ = read_study(case.pet, case.ct, case.name)
        working = to_working(study, model.manifest.spacing_mm_zyx)
        ear = Overheard(network)
        if stage == 1:
            pipeline.cue_logits(working, replace(model, localizers=(ear,)), plan)
        else:
            pipeline.lesion_logits(working, replace(model, segmenters=(ear,)), plan, pipeline.windows_config(model))
        chosen += choose(ear.seen, share, seed=number)
    return chosen


def choose(seen: list[tuple[np.ndarray, int, float]], count: int, seed: int) -> list[np.ndarray]:
    """Inputs of one case: in turn the one with most voxels marked, the one with the hottest voxel, and one drawn, without repetition.

    Lesions and hot organs open the ranges of the values, but most of a body is neither: each third has its say.
    """
    rng = np.random.default_rng(seed)
    left, chosen = list(range(len(seen))), []
    for turn in range(min(count, len(seen))):
        drawn = left[rng.integers(len(left))]
        pick = (max(left, key=lambda k: seen[k][1]), max(left, key=lambda k: seen[k][2]), drawn)[turn % 3]
        left.remove(pick)
        chosen.append(seen[pick][0])
    return chosen


def convert(network: nn.Module, channels: int, axes: int):
    """An OpenVINO model of the network in fp32: (n, channels, ...) with that many free axes behind, n free too."""
    ov = int8.openvino()
    shape = ov.PartialShape([-1, channels, *[-1] * axes])
    piece = torch.zeros(1, channels, *[32] * axes)  # what is traced holds for every size
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's remarks on timm's own checks of shapes
        return ov.convert_model(network, example_input=piece, input=[shape])


def to_int8(model, inputs: list[np.ndarray]):
    """An OpenVINO model in int8, but for its first convolution and its last, the head."""
    nncf = int8.nncf()
    convolutions = [op.get_friendly_name() for op in model.get_ordered_ops() if op.get_type_name() == "Convolution"]
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            # PET has no upper end and the logits decide: 256 steps are too few for either
            ignored_scope=nncf.IgnoredScope(names=[convolutions[0], convolutions[-1]]),
            preset=nncf.QuantizationPreset.MIXED,  # all 256 steps for values above 0, which is what ReLU leaves
            # the fast correction goes by the means of whole inputs, and most of an input is air: it took 3 off the logits of lesions
            fast_bias_correction=False,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # processors without VNNI add products of full 8-bit weights in 16 bits, which overflow: one answer on all
                overflow_fix=nncf.OverflowFix.ENABLE,
                # lesions are rare: the mean of the inputs' ranges would cut theirs
                activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
            ),
        )


def compare(model: weights.Model, small: weights.Model, cases: list[CaseFiles], own: bool, report: Report) -> Accuracy:
    """Segments every case with both models; reports a line a case. own: whether these are the calibration's cases."""
    plan = engine.choose("cpu")
    rows = []
    report("case                      Dice fp32    int8   difference   fp32 to int8")
    for case in cases:
        study, _ = read_study(case.pet, case.ct, case.name)
        big, little = (pipeline.segment(study, m, plan).mask for m in (model, small))
        truth = read_truth(case.truth, study.grid) if case.truth else np.zeros_like(big)
        a, b = dice(truth, big), dice(truth, little)
        both = dice(big, little) if big.any() else (0.0 if little.any() else math.nan)
        rows.append((a, b, b - a, both))
        report(f"{case.name:25.25} {a:9.4f} {b:7.4f} {b - a:+12.4f} {both:14.4f}")
    a, b, difference, both = (mean(column) for column in zip(*rows))
    report(f"{'mean':25.25} {a:9.4f} {b:7.4f} {difference:+12.4f} {both:14.4f}")
    worst = min((row[2] for row in rows if not math.isnan(row[2])), default=math.nan)
    figures = [None if math.isnan(v) else round(v, 5) for v in (a, b, difference, worst, both)]
    return Accuracy(len(cases), own, *figures)
