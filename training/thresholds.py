"""Which thresholds of the voxelwise fusion: every pair of a grid, on held-out patients, against the paper's pair.

    python -m training.thresholds --weights RUN/fold_0/weights --data sts=../shared/data/sts

Each network runs once a patient; prints a Markdown table a data set. Differences are paired, in patients.
"""

from __future__ import annotations

import argparse
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np

from l2s import engine, pipeline, weights
from l2s.errors import InputError
from l2s.fuse.voxelwise import Thresholds, fuse
from l2s.measure.metrics import evaluate_masks
from l2s.measure.table import figure
from l2s.study import Study
from l2s.working import to_working
from training import statistics, tables
from training.held_out import Job, open_folds, patient_jobs, read_or_refuse
from training.prepare import read_data
from training.readers import TRACERS
from training.run import exit_with
from training.scores import Row

log = logging.getLogger(__name__)

LENIENT = (0.05, 0.1, 0.2, 0.3, 0.5)
STRICT = (0.5, 0.7, 0.9, 0.95, 0.99)


def rows_of(job: Job, study: Study, truth: np.ndarray, model: weights.Model, plan: engine.Plan) -> dict[tuple[float, float], Row]:
    """(lenient, strict) -> the case's row."""
    working = to_working(study, model.manifest.spacing_mm_zyx)
    cue = pipeline.on_pet_grid(pipeline.cue_logits(working, model, plan), working, study.grid, plan)
    logits = pipeline.lesion_logits(working, model, plan, pipeline.windows_config(model, None))
    probability = pipeline.on_pet_grid(logits, working, study.grid, plan)
    rows = {}
    for lenient in LENIENT:
        for strict in (s for s in STRICT if s >= lenient):
            mask = fuse(probability, cue, Thresholds(lenient=lenient, strict=strict))
            scores = evaluate_masks(truth, mask, study.grid.voxel_volume_ml, study.name)
            rows[lenient, strict] = Row(job.data, job.fold.label, job.patient, "voxelwise", scores, (), (), (0, 0, 0))
    return rows


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--weights", type=Path, nargs="+", required=True, help="weights folders, one a fold")
    p.add_argument("--data", metavar="NAME=DIR", action="append", required=True, help="as in training.evaluate")
    p.add_argument("--tracer", choices=[*TRACERS, "all"], default="fdg", help="as in training.evaluate")
    p.add_argument("--device", default="auto")
    args = p.parse_args(argv)
    plan = engine.choose(args.device)
    folds = open_folds(args.weights, [])
    jobs = [job for data, folder in read_data(args.data) for job in patient_jobs(data, folder, folds, None, args.tracer)]
    if not jobs:
        raise InputError("no patient of the data was held out by these weights: name the folds' weights, or other data")
    data_order = list(dict.fromkeys(job.data for job in jobs))
    jobs.sort(key=lambda job: folds.index(job.fold))  # one fold's networks are read once
    rows: dict[str, dict[tuple[float, float], list[Row]]] = {data: defaultdict(list) for data in data_order}
    fold, model, refused = None, None, []
    for job in jobs:
        if (found := read_or_refuse(job, refused)) is None:
            continue
        if fold is not job.fold:
            fold, model = job.fold, weights.load(job.fold.folder)
        for pair, row in rows_of(job, *found, model, plan).items():
            rows[job.data][pair].append(row)
        log.info("%s", job.name)
    if len(refused) == len(jobs):
        raise InputError(f"all {len(jobs)} cases were refused, the first for this reason: {refused[0]}")
    for data, of_pair in rows.items():
        if of_pair:
            print(table(data, of_pair))
    return 0


def table(data: str, of_pair: dict[tuple[float, float], list[Row]]) -> str:
    """A line a pair of thresholds, of one data set: another set's patient may have the same name."""
    paper = Thresholds()
    base = of_pair[paper.lenient, paper.strict]
    lines = []
    for (lenient, strict), its_rows in of_pair.items():
        cells = []
        for field, _, digits in tables.FIELDS:
            difference = statistics.paired(its_rows, base, field)
            value = figure(statistics.field_interval(its_rows, field).value, digits)
            cells.append(f"{value} ({tables.interval(difference.estimate, digits)} {difference.verdict})")
        lines.append([lenient, strict, *cells])
    title = f"{data}: {len(base)} held-out cases; in brackets the difference to {paper.lenient} and {paper.strict}."
    return tables.markdown(title, ["where the cue sees a lesion", "elsewhere", *(name for _, name, _ in tables.FIELDS)], lines)


if __name__ == "__main__":
    exit_with(main)
