"""Weights against thresholds, on patients that were held out and on fresh phantoms: Dice, FPV and FNV in one table.

    python -m training.evaluate --weights weights --sts ../shared/data/sts --phantoms 20 --out RUN/evaluation

The patients are those that the manifest names as held out. Writes cases.csv and table.md into --out and prints the table.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from l2s import engine, fuse, pipeline, weights
from l2s.errors import InputError
from l2s.measure.metrics import CaseScores, evaluate_masks, summarize
from l2s.phantom.sample import make_case
from l2s.study import Grid, Study
from training.prepare import read_sts
from training.run import exit_with

log = logging.getLogger(__name__)

THRESHOLDS = (2.5, 4.0)
PHANTOM_SHAPE_ZYX, PHANTOM_SPACING_MM_ZYX = (332, 136, 176), (3.27, 3.3, 3.3)  # no working spacing, so that resampling takes part
PHANTOM_SEED = 77_000_000  # far from the recipes' training seeds


def held_out_patients(manifest: weights.Manifest) -> list[str]:
    """The patients that no network of these weights has trained on."""
    folds = manifest.training.get("folds", {}).values()
    kept = [set(fold["held_out_patients"]) for fold in folds]
    return sorted(set.intersection(*kept)) if kept else []


def methods(study: Study, model: weights.Model, plan: engine.Plan, windows: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """(row of the table, mask) for every method; each network runs once a kind of windows."""
    for threshold in THRESHOLDS:
        yield f"SUV > {threshold}", study.pet_suv > threshold
    for kind in windows:
        result = pipeline.segment(study, model, plan, pipeline.Settings(fusion="none", windows=kind))
        suffix = f", {kind}" if len(windows) > 1 else ""
        if kind == windows[0]:
            yield "stage 1 alone (cue > 0.5)", result.cue > 0.5
        yield f"none{suffix}", result.mask
        for policy in ("voxelwise", "componentwise"):
            yield f"{policy}{suffix}", fuse.apply(policy, result.probability, result.cue)


def studies(args: argparse.Namespace, model: weights.Model) -> Iterator[tuple[str, Study, np.ndarray]]:
    """(data set, study, truth) of all that is asked for."""
    if args.sts:
        patients = args.patients or held_out_patients(model.manifest)
        if not patients:
            raise InputError("these weights held no patient out: name some with --patients, knowing that they trained on them")
        for patient in patients:
            study, truth = read_sts(args.sts / patient)
            yield "sts", study, truth
    grid = Grid(PHANTOM_SHAPE_ZYX, PHANTOM_SPACING_MM_ZYX, (0.0, 0.0, 0.0))
    for k in range(args.phantoms):
        sample = make_case(PHANTOM_SEED + k, grid, args.organ_maps if k % 2 else None)
        yield f"phantom, {'organ maps' if args.organ_maps and k % 2 else 'drawn'}", sample.study, sample.truth


def table(scores: list[tuple[str, str, CaseScores]]) -> str:
    """A Markdown table: a row a data set and method. Dice: lesion-free cases left out, and counted 1 or 0 (method's conventions)."""
    lines = [
        "| data | method | n | mean Dice | Dice, empty = 1 | FPV ml | FNV ml | lesion F1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    fields = ("mdice", "mdice_empty_is_one", "mean_fpv_ml", "mean_fnv_ml", "mean_lesion_f1")
    for data, method in dict.fromkeys((s[0], s[1]) for s in scores):
        summary = summarize([s[2] for s in scores if s[:2] == (data, method)])
        lines.append(f"| {data} | {method} | {summary['cases']} | {' | '.join(f'{summary[f]:.3f}' for f in fields)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--weights", help="weights folder (default: process.py's search order)")
    p.add_argument("--sts", type=Path, help="folder of STS_nnn/{PET,CT,GTV}.nii.gz")
    p.add_argument("--patients", nargs="+", help="patients instead of those held out")
    p.add_argument("--phantoms", type=int, default=0, help="fresh phantoms")
    p.add_argument("--organ-maps", type=Path, help="organ label maps for every second phantom")
    p.add_argument("--windows", nargs="+", default=["tiles"], choices=["tiles", "gaussian"])
    p.add_argument("--device", default="auto")
    p.add_argument("--out", type=Path, required=True, help="folder for cases.csv and table.md")
    args = p.parse_args(argv)
    model = weights.load(weights.find(args.weights))
    plan = engine.choose(args.device)
    scores = [
        (data, method, evaluate_masks(truth, mask, study.grid.voxel_volume_ml, study.name))
        for data, study, truth in tqdm(studies(args, model), disable=not sys.stderr.isatty())
        for method, mask in methods(study, model, plan, args.windows)
    ]
    if not scores:
        raise InputError("nothing to evaluate: name --sts or --phantoms")
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        fields = list(CaseScores.__dataclass_fields__)
        writer.writerow(["data", "method", *fields])
        writer.writerows([data, method, *(getattr(s, f) for f in fields)] for data, method, s in scores)
    text = f"Weights {model.name} ({model.sha256[:12]}), {plan.device_name}. Trained on phantoms and sarcoma crops: research use only.\n\n"
    text += table(scores) + "\n"
    (args.out / "table.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    exit_with(main)
