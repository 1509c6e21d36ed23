"""The paper's Table 1 on data that was held out: thresholds, stage 1, stage 2 and the fusions, on patients and on fresh phantoms.

    python -m training.evaluate --weights RUN/fold_0/weights RUN/fold_1/weights --plain RUN/fold_0/weights_plain RUN/fold_1/weights_plain \\
        --data sts=../shared/data/sts --phantoms 20 --organ-maps ../shared/data/organ_maps --out RUN/evaluation

Each held-out patient is scored by exactly the weights that held it out. Writes table.md, cases.csv, lesions.csv and figure.png into
--out and prints the table; each case's scores and masks are kept there too, so that a stopped evaluation goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
from tqdm import tqdm

from l2s import engine, fuse, pipeline, weights
from l2s.components import label
from l2s.errors import InputError
from l2s.study import Study
from l2s.wholefile import write_text
from l2s.working import to_working
from training import figure, scores, tables
from training.export import code_version
from training.held_out import Fold, Job, open_folds, patient_jobs, phantom_jobs, read_or_refuse, refuse
from training.prepare import read_data, split_maps
from training.readers import TRACERS
from training.run import exit_with
from training.scores import Row

log = logging.getLogger(__name__)

THRESHOLDS = (2.5, 4.0)


def methods(
    study: Study, model: weights.Model, plain: weights.Model | None, plan: engine.Plan, kinds: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """(row of the table, mask) for every method; stage 1 runs once, each stage 2 once a kind of windows."""
    for threshold in THRESHOLDS:
        yield f"SUV > {threshold:g}", study.pet_suv > threshold
    working = to_working(study, model.manifest.spacing_mm_zyx)
    cue = pipeline.on_pet_grid(pipeline.cue_logits(working, model, plan), working, study.grid, plan)
    yield "2D U-Net", cue > 0.5
    for kind in kinds:
        # the first kind has the table's plain names, so that differences are taken on it
        suffix = "" if kind == kinds[0] else f", {kind}"
        for name, network, policies in (
            ("3D U-Net", plain, {"": "none"}),
            ("L2SNet", model, {"": "none", " + voxelwise": "voxelwise", " + componentwise": "componentwise"}),
        ):
            if network is None:
                continue
            logits = pipeline.lesion_logits(working, network, plan, pipeline.windows_config(network, kind))
            probability = pipeline.on_pet_grid(logits, working, study.grid, plan)
            for ending, policy in policies.items():
                yield f"{name}{ending}{suffix}", fuse.apply(policy, probability, cue)


def score_jobs(jobs: list[Job], kinds: list[str] | None, device: str, out: Path) -> tuple[list[Row], list[str], list[str]]:
    """(rows, by which code and device, refusals) of all jobs; what OUT holds of the same weights is not computed again."""
    for folder in ("scores", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows, makers, refused, code = [], set(), [], code_version()
    plan, fold, model, plain = None, None, None, None
    for number, job in enumerate(bar := tqdm(jobs, disable=not sys.stderr.isatty()), 1):
        own_kinds = kinds or [job.fold.manifest.segmenter.windows.windows]
        path, masks_path = out / "scores" / f"{job.stem}.json", out / "masks" / f"{job.stem}.npz"
        try:
            made_from = job.made_from(own_kinds)
        except InputError as error:
            refuse(job, error, refused)
            continue
        kept = scores.load_rows(path, made_from) if masks_path.is_file() else None
        if kept is None:
            if fold is not job.fold:  # jobs come fold by fold: one fold's networks are in memory at a time
                plan, fold, model = engine.choose(device), job.fold, weights.load(job.fold.folder)
                plain = weights.load(fold.plain) if fold.plain else None
            if (found := read_or_refuse(job, refused)) is None:
                continue
            study, truth = found
            masks = dict(methods(study, model, plain, plan, own_kinds))
            kept = f"code {code}, {plan.device_name}", score_masks(job, study, truth, masks)
            scores.save_masks(masks_path, study, {scores.TRUTH: truth, **masks})
            scores.save_rows(path, made_from, *kept)
        makers.add(kept[0])
        rows += kept[1]
        if bar.disable:
            log.info("%d of %d: %s", number, len(jobs), job.stem)
    return rows, sorted(makers), refused


def score_masks(job: Job, study: Study, truth: np.ndarray, masks: dict[str, np.ndarray]) -> list[Row]:
    """A row a method, from bool masks (z, y, x) on the study's grid."""
    known = label(truth)
    return [
        Row(job.data, job.fold.label, job.patient, method, **scores.score(truth, known, mask, study.grid, job.name))
        for method, mask in masks.items()
    ]


def heading(jobs: list[Job], folds: list[Fold], kinds: list[str] | None, makers: list[str], refused: list[str]) -> list[str]:
    """What a reader must know before the figures, as paragraphs."""
    used = ", ".join(f"{data} ({n})" for data, n in Counter(job.data for job in jobs).items())
    uses = (
        ". ".join(sorted({f"Weights for {fold.manifest.intended_use}" for fold in folds}))
        + ": no clinical weights, research use only."
    )
    paragraphs = [f"{date.today()}; {'; '.join(makers)}. Cases asked for: {used}.", uses]
    lines = []
    for fold in folds:
        line = f"- {fold.label}: weights {fold.manifest.name} ({fold.sha256[:12]})"
        lines.append(line + (f", 3D U-Net ({fold.plain_sha256[:12]})" if fold.plain_sha256 else ""))
    paragraphs.append("\n".join(lines))
    windows = ", ".join(kinds) if kinds else "those of the weights"
    paragraphs.append(f"Windows of stage 2: {windows}; rows without a suffix use the first.")
    if seen := sorted({job.patient for job in jobs if not job.is_held_out}):
        paragraphs.append(f"**Not held out**, the weights may have trained on them: {', '.join(seen)}.")
    if refused:
        paragraphs.append("Refused: " + "; ".join(refused))
    return paragraphs


def parse(argv: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--weights", type=Path, nargs="+", help="weights folders, one a fold (default: process.py's search order)")
    p.add_argument("--plain", type=Path, nargs="+", default=[], help="for each of them, weights trained without cue weights")
    p.add_argument("--data", action="append", default=[], metavar="NAME=DIR", help="a data set's name and folder; repeatable")
    p.add_argument("--tracer", choices=[*TRACERS, "all"], default="fdg", help="which studies of autoPET III and IV are taken")
    p.add_argument("--patients", nargs="+", help="only these patients; a single weights folder takes any, the log says which")
    p.add_argument("--phantoms", type=int, default=0, help="fresh phantoms for each weights folder")
    p.add_argument("--organ-maps", type=Path, help="organ label maps; those kept for tests make every second phantom")
    p.add_argument("--windows", nargs="+", choices=["tiles", "gaussian"], help="kinds of windows (default: the weights' own)")
    p.add_argument("--device", default="auto")
    p.add_argument("--out", type=Path, required=True, help="folder for the tables, the figure and what is kept of each case")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    folds = open_folds(args.weights or [weights.find()], args.plain)
    jobs = [job for data, folder in read_data(args.data) for job in patient_jobs(data, folder, folds, args.patients, args.tracer)]
    if (
        args.data
        and not args.patients
        and (absent := {p for fold in folds for p in fold.held_out} - {job.patient for job in jobs})
    ):
        log.warning(
            "%d patients that the weights held out are not in --data, such as %s (--tracer %s)",
            len(absent),
            min(absent),
            args.tracer,
        )
    jobs += phantom_jobs(args.phantoms, split_maps(args.organ_maps)[1], folds)
    data_order = list(dict.fromkeys(job.data for job in jobs))
    jobs.sort(key=lambda job: folds.index(job.fold))
    if absent := sorted(set(args.patients or ()) - {job.patient for job in jobs}):
        raise InputError(f"--patients {' '.join(absent)}: not in --data, or held out by none of several --weights")
    if not jobs:
        raise InputError(
            "nothing to evaluate: name --data with patients that the weights held out (or --patients), or --phantoms"
        )
    rows, makers, refused = score_jobs(jobs, args.windows, args.device, args.out)
    if not rows:
        raise InputError(f"all {len(jobs)} cases were refused, the first for this reason: {refused[0]}")
    # folds were scored one by one: the tables want each data set together
    rows.sort(key=lambda row: data_order.index(row.data))
    text = tables.document(rows, heading(jobs, folds, args.windows, makers, refused))
    write_text(args.out / "cases.csv", tables.cases_csv(rows))
    write_text(args.out / "lesions.csv", tables.lesions_csv(rows))
    write_text(args.out / "table.md", text)
    figure.draw(rows, {(job.data, job.name): args.out / "masks" / f"{job.stem}.npz" for job in jobs}, args.out / "figure.png")
    print(text)
    return 0


if __name__ == "__main__":
    exit_with(main)
