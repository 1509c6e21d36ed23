"""Cases in: the STS crops and phantoms -> arrays at the working spacing under RUN/cases, an index and the folds.

    python -m training.prepare --recipe training/recipes/small.toml --sts ../shared/data/sts --organ-maps ../shared/data/organ_maps

A case that is already complete is kept; a broken one is refused with its reason and the others go on.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tqdm import tqdm

from l2s.errors import InputError
from l2s.io.images import read_image
from l2s.io.studies import read_study
from l2s.phantom.sample import make_case
from l2s.study import Grid
from training.cases import INDEX, store_case, stored_row
from training.recipe import Recipe
from training.run import open_run, parser
from training.splits import make_folds

log = logging.getLogger(__name__)


def read_sts(folder: Path):
    """The study and the truth of one STS folder (PET.nii.gz, CT.nii.gz, GTV.nii.gz)."""
    study, warnings = read_study(folder / "PET.nii.gz", folder / "CT.nii.gz", folder.name)
    for line in warnings:
        log.warning("%s: %s", folder.name, line)
    mask, grid, _, _ = read_image(folder / "GTV.nii.gz")
    if not grid.matches(study.grid):
        raise InputError(f"{folder.name}: GTV.nii.gz is not on the PET grid ({grid.shape_zyx} against {study.grid.shape_zyx})")
    return study, mask > 0.5


def phantom_grid(recipe: Recipe) -> Grid:
    """The field of view of the training phantoms."""
    return Grid(recipe.phantom_shape_zyx, recipe.spacing_mm_zyx, (0.0, 0.0, 0.0))


def prepare_one(job: tuple[str, str, Path | int], recipe: Recipe, cases: Path, organ_maps: Path | None) -> tuple[str, dict | str]:
    """One case, in a worker: (name, its row) or (name, why it was refused)."""
    source, name, where = job
    made_from = {"spacing_mm_zyx": list(recipe.spacing_mm_zyx)}
    if source == "phantom":
        maps = organ_maps.name if organ_maps and where % 2 else None
        made_from |= {"seed": where, "shape_zyx": list(recipe.phantom_shape_zyx), "organ_maps": maps}
    if row := stored_row(cases, name, made_from):
        return name, row
    try:
        if source == "sts":
            study, truth = read_sts(where)
        else:
            # every second phantom has a real patient's organs, where there are such maps
            sample = make_case(where, phantom_grid(recipe), organ_maps if where % 2 else None)
            study, truth = sample.study, sample.truth
        return name, store_case(cases, name, source, made_from, study, truth, recipe.spacing_mm_zyx)
    except InputError as error:
        return name, str(error)


def main(argv: list[str] | None = None) -> int:
    p = parser(__doc__)
    p.add_argument("--sts", type=Path, help="folder of STS_nnn/{PET,CT,GTV}.nii.gz")
    p.add_argument("--organ-maps", type=Path, help="folder of organ label maps for the phantoms' anatomy")
    p.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = p.parse_args(argv)
    recipe, run = open_run(args)
    cases = run / "cases"
    cases.mkdir(parents=True, exist_ok=True)

    jobs: list[tuple[str, str, Path | int]] = []
    if args.sts:
        jobs += [("sts", folder.name, folder) for folder in sorted(args.sts.iterdir()) if (folder / "PET.nii.gz").is_file()]
    jobs += [("phantom", f"phantom_{k:04d}", recipe.seed * 10_000 + k) for k in range(recipe.phantoms)]

    rows, refused = [], []
    work = partial(prepare_one, recipe=recipe, cases=cases, organ_maps=args.organ_maps)
    with ProcessPoolExecutor(args.workers) as pool:
        for name, answer in tqdm(pool.map(work, jobs), total=len(jobs), disable=not sys.stderr.isatty()):
            (rows if isinstance(answer, dict) else refused).append(answer if isinstance(answer, dict) else (name, answer))

    for name, reason in refused:
        log.warning("refused %s: %s", name, reason)
    if not rows:
        raise InputError("no case could be prepared: name --sts or set phantoms in the recipe")
    # phantoms are drawn anew for every test: all of them train, and only patients are dealt into folds
    folds = make_folds([row for row in rows if row["source"] != "phantom"], recipe.folds, recipe.seed)
    for row in rows:
        row["fold"] = folds.get(row["patient"])
    (cases / INDEX).write_text(json.dumps({"cases": rows, "refused": refused}, indent=1))
    log.info("%d cases prepared, %d refused, in %s", len(rows), len(refused), cases)
    return 0


if __name__ == "__main__":
    from training.run import exit_with

    exit_with(main)
