"""Cases in: folders of studies, phantoms and implants -> arrays at the working spacing under RUN/cases, an index and the folds.

    python -m training.prepare --recipe training/recipes/small.toml --data sts=../shared/data/sts --organ-maps ../shared/data/organ_maps

What a folder may look like: training/readers.py. A case that is already complete is kept, so that a stopped run goes on; a study that
cannot be used is refused with its reason (cases/refused.csv) and the others go on.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import multiprocessing
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from l2s import cores
from l2s.errors import InputError
from l2s.phantom.implants import cut_tumour
from l2s.phantom.sample import make_case, map_files
from l2s.study import Grid
from l2s.wholefile import whole_file, write_text
from training.cases import INDEX, store_case, stored_row
from training.readers import TRACERS, Found, file_marks, find_studies, usable_study
from training.recipe import Recipe
from training.run import open_run, parser
from training.splits import SYNTHETIC, assign_folds, changed_folds, check_patients, splits_files, write_splits

log = logging.getLogger(__name__)

REFUSED = "refused.csv"
SPLITS = "splits.json"
IMPORTS = ["training.cases", "training.readers", "training.run", "l2s.phantom.implants"]  # a worker's; this module is __main__
MADE_NAME = re.compile(r"(phantom|implant)_\d+")  # kept for the cases made here; `l2s phantom` writes folders of such names


@dataclass(frozen=True)
class Job:
    """One case to make.

    Attributes:
        source, name, patient: its row's.
        found: the study on disk; for an implant its donor's; None for a phantom.
        seed: of a phantom or implant; None for a study.
    """

    source: str
    name: str
    patient: str
    found: Found | None
    seed: int | None


def phantom_grid(recipe: Recipe) -> Grid:
    """The field of view of the training phantoms."""
    return Grid(recipe.phantom_shape_zyx, recipe.spacing_mm_zyx, (0.0, 0.0, 0.0))


def split_maps(folder: Path | None) -> tuple[list[Path], list[Path]]:
    """(organ maps of training phantoms, organ maps of test phantoms): every sixth map is kept for tests."""
    files = map_files(folder)
    return [f for k, f in enumerate(files) if k % 6], files[::6]


def list_jobs(found: list[Found], recipe: Recipe) -> list[Job]:
    """Studies first, then the recipe's phantoms, then its implants: phantoms with a patient's tumour."""
    jobs = [Job(f.source, f.name, f.patient, f, None) for f in found]
    first = recipe.seed * 10_000
    # safe_name leaves no colon in a patient's name: a phantom's fold is never a patient's
    jobs += [Job("phantom", f"phantom_{k:04d}", f"phantom:{k:04d}", None, first + k) for k in range(recipe.phantoms)]
    # an implant belongs to its donor: no fold sees the tumours that it holds out
    donors = [f for f in found for _ in range(recipe.implants)]
    jobs += [Job("implant", f"implant_{k:04d}", f.patient, f, first + 5_000 + k) for k, f in enumerate(donors)]
    # gather sees to it: in one folder two cases would train on each other's arrays
    assert len({job.name for job in jobs}) == len(jobs), "names of cases are not unique"
    return jobs


def prepare_one(job: Job, recipe: Recipe, cases: Path, organ_maps: list[Path]) -> dict | str:
    """One case, in a worker: its row, or why it was refused."""
    # every second phantom has a real patient's organs, where there are such maps
    maps = organ_maps if job.seed is not None and job.seed % 2 else []
    made_from = {"spacing_mm_zyx": list(recipe.spacing_mm_zyx), "source": job.source, "patient": job.patient}
    try:
        if job.found:
            made_from["files"] = file_marks(job.found)
        if job.seed is not None:
            made_from |= {"seed": job.seed, "shape_zyx": list(recipe.phantom_shape_zyx), "organ_maps": [f.name for f in maps]}
        if row := stored_row(cases, job.name, made_from):
            return row
        study, truth, warnings = usable_study(job.found) if job.found else (None, None, [])
        if job.seed is not None:
            # a lesion-free donor has no tumour to give: its implant is a phantom like the others
            tumour = cut_tumour(study, truth, job.patient) if job.found else None
            lesions = 2 + job.seed % 7 if tumour else None
            sample = make_case(job.seed, phantom_grid(recipe), maps, lesions=lesions, tumours=(tumour,) if tumour else ())
            study, truth = sample.study, sample.truth
        return store_case(cases, job.name, job.source, job.patient, made_from, study, truth, recipe.spacing_mm_zyx, warnings)
    except InputError as error:
        return str(error)


def prepare_all(jobs: list[Job], work: Callable[[Job], dict | str], workers: int) -> list[dict | str]:
    """work of every job, in order, by so many processes.

    Raises:
        InputError: a process died.
    """
    answers: dict[int, dict | str] = {}
    # a fork of this process may crash, as its libraries' threads have been at work; the server that forks in its stead has done no more
    # than the imports. It has none of our logging: "CT is not on the PET grid" is true of every study of some data sets, and would
    # drown the progress
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    with ProcessPoolExecutor(workers, context) as pool:
        futures = {pool.submit(work, job): k for k, job in enumerate(jobs)}
        try:
            for future in _progress(as_completed(futures), len(jobs)):
                answers[futures[future]] = future.result()
        except BrokenProcessPool:
            raise InputError(
                f"a worker process died with {len(answers)} of {len(jobs)} cases done, usually killed for want of memory (a study of "
                f"400x400x326 takes about 2 GB); give fewer --workers than {workers}: finished cases are kept"
            ) from None
        except BaseException:
            # a full disk or Ctrl-C: what waits must not be worked off first. Waits here, as leaving the block would undo the cancelling
            pool.shutdown(cancel_futures=True)
            raise
    return [answers[k] for k in range(len(jobs))]


def _progress(items: Iterator, total: int) -> Iterator:
    """A bar on a terminal, about twenty lines elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, unit="case")
        return
    for done, item in enumerate(items, 1):
        yield item
        if done == total or done % max(1, total // 20) == 0:
            log.info("%d of %d cases", done, total)


def sift(jobs: list[Job], answers: list[dict | str]) -> tuple[list[dict], list[tuple[Job, str]]]:
    """(rows, refused): of studies with the same PET the first is kept; implants go with the study that gave their tumour.

    A duplicate's implant would carry the first study's tumour, under another patient's name, into the fold that holds it out.
    What is refused stays on disk, outside the index, so that the next run need not read it again.
    """
    rows, refused, first = [], [], {}
    for job, answer in zip(jobs, answers):
        if isinstance(answer, str):
            refused.append((job, answer))
        elif job.source not in SYNTHETIC and (name := first.setdefault(answer["pet_sha256"], job.name)) != job.name:
            refused.append((job, f"its PET is the same, voxel for voxel, as that of {name}; take one of the two out of the data"))
        else:
            rows.append(answer)
    lost = {job.found for job, _ in refused if job.source not in SYNTHETIC}
    if orphans := {job.name for job in jobs if job.source == "implant" and job.found in lost}:
        log.warning("%d implants are left out: the studies that gave their tumours were refused", len(orphans))
    # the donor's own line says why; an implant would only repeat it
    return [r for r in rows if r["name"] not in orphans], [(job, reason) for job, reason in refused if job.name not in orphans]


def gather(data: list[tuple[str, Path]], tracer: str) -> tuple[list[Found], list[tuple[str, str, str]], dict[str, str]]:
    """(studies of all data sets, (source, name, reason) of the incomplete ones, name -> its data set's name for the study).

    Names are unique, none is a made case's.
    """
    found, refused, labels = [], [], {}
    for source, folder in data:
        its_found, its_refused = find_studies(source, folder, tracer)
        patients = len({f.patient for f in its_found})
        log.info("%s: %d studies of %d patients, %d incomplete", source, len(its_found), patients, len(its_refused))
        for study in its_found:
            # two sets may both have a case_001; their patients are then taken as one and share a fold
            name = study.name
            while name in labels or MADE_NAME.fullmatch(name):
                name = f"{source}-{name}"
            labels[name] = study.name
            found.append(replace(study, name=name))
        refused += [(source, name, reason) for name, reason in its_refused]
    return found, refused, labels


def summary(rows: list[dict]) -> str:
    """What there is, in one line: cases by source, patients, lesion-free ones, lesion volumes, bytes."""
    kinds = ", ".join(f"{count} {source}" for source, count in sorted(Counter(r["source"] for r in rows).items()))
    scanned = [r for r in rows if r["source"] not in SYNTHETIC]
    volumes = [r["lesion_ml"] for r in rows if r["lesion_ml"] > 0]
    shown = " / ".join(f"{v:.3g}" for v in np.percentile(volumes, (25, 50, 75))) if volumes else "none"
    return (
        f"{len(rows)} cases ({kinds}), {len({r['patient'] for r in scanned})} patients, {len(rows) - len(volumes)} lesion-free, "
        f"lesion ml quartiles {shown}, {sum(r['bytes'] for r in rows) / 1e9:.3g} GB on disk, "
        f"{sum(bool(r['warnings']) for r in rows)} with warnings"
    )


def note_refused(folder: Path, refused: list[tuple[str, str, str]]) -> None:
    """Prints the table of refused cases and writes it to refused.csv, which is there, with its header alone, when none was."""
    with whole_file(folder / REFUSED) as partial_path, partial_path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["source", "name", "reason"])
        writer.writerows(refused)
    width = max((len(name) for _, name, _ in refused), default=0)
    for source, name, reason in refused:
        log.warning("refused %s  %-*s  %s", source, width, name, reason)


def read_data(values: list[str]) -> list[tuple[str, Path]]:
    """(source, folder) of each --data NAME=DIR."""
    pairs = []
    for value in values:
        name, equals, folder = value.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--data {value}: give it as NAME=DIR, NAME being the source's name in the recipe")
        if name in SYNTHETIC or name in dict(pairs):
            raise InputError(f"--data {value}: the name {name!r} is taken ({', '.join(SYNTHETIC)} are made here); give another")
        pairs.append((name, Path(folder)))
    return pairs


def write_index(cases: Path, rows: list[dict], refused: list[tuple[str, str, str]], folds: int) -> None:
    """Writes the index and the folds; says where folds are no longer what they were."""
    path = cases / INDEX
    before = json.loads(path.read_text())["cases"] if path.is_file() else []
    if moved := changed_folds(before, rows):
        log.warning(
            "%d cases changed their fold, such as %s: train every fold of this run anew, in another --run-folder",
            len(moved),
            moved[0],
        )
    write_splits(cases / SPLITS, rows, folds)
    write_text(path, json.dumps({"cases": rows, "refused": [[name, reason] for _, name, reason in refused]}, indent=1))


def read_flags(argv: list[str] | None) -> argparse.Namespace:
    p = parser(__doc__)
    p.add_argument("--data", metavar="NAME=DIR", action="append", default=[], help="a recipe's source and its folder; repeatable")
    p.add_argument("--tracer", choices=[*TRACERS, "all"], default="fdg", help="which studies of autoPET III and IV are taken")
    p.add_argument(
        "--splits", metavar="FILE", action="append", help="folds in nnU-Net's form; 'dealt': use no file, not even the data's own"
    )
    p.add_argument("--organ-maps", type=Path, help="folder of organ label maps for the phantoms' anatomy")
    p.add_argument("--workers", type=int, default=cores.allowed(), help="processes")
    args = p.parse_args(argv)
    if args.workers < 1:
        p.error(f"--workers {args.workers}: at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    args = read_flags(argv)
    recipe, run = open_run(args)
    cases = run / "cases"
    cases.mkdir(parents=True, exist_ok=True)
    data = read_data(args.data)
    found, incomplete, labels = gather(data, args.tracer)
    for name in sorted({f.source for f in found} - {source.name for source in recipe.sources}):
        log.warning("the recipe draws no samples from source %r (it has %s)", name, ", ".join(s.name for s in recipe.sources))
    jobs = list_jobs(found, recipe)
    if not jobs:
        raise InputError("nothing to prepare: name studies with --data NAME=DIR or set phantoms in the recipe")
    files = splits_files(args.splits, data)
    patients = {f.patient for f in found}
    check_patients(patients, recipe.folds, set(range(len(patients), recipe.folds)))  # what is refused later may leave fewer

    work = partial(prepare_one, recipe=recipe, cases=cases, organ_maps=split_maps(args.organ_maps)[0])
    rows, unusable = sift(jobs, prepare_all(jobs, work, args.workers))
    refused = incomplete + [(job.source, job.name, reason) for job, reason in unusable]
    note_refused(cases, refused)
    if not rows:
        raise InputError(
            f"no case could be prepared, all {len(refused)} were refused (see {cases / REFUSED}); the first: {refused[0][2]}"
        )
    for row in rows:
        for line in row["warnings"]:
            log.warning("%s: %s", row["name"], line)
    for name in sorted({s.name for s in recipe.sources if s.share > 0} - {row["source"] for row in rows}):
        log.warning("source %r has a share in the recipe but no case: give it with --data, or set its share to 0", name)
    assign_folds(rows, recipe.folds, recipe.seed, files, labels)
    write_index(cases, rows, refused, recipe.folds)
    log.info("%s; %d refused; in %s", summary(rows), len(refused), cases)
    return 0


if __name__ == "__main__":
    from training.run import exit_with

    exit_with(main)
