"""What every training command shares: its flags, the run's folder, and one-line errors."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from l2s import cores
from l2s.cli import code_of
from l2s.errors import InputError
from l2s.wholefile import write_text
from training.log import read_log
from training.recipe import SAMPLES, Recipe, load_recipe, plain_fields
from training.splits import SYNTHETIC

log = logging.getLogger(__name__)

PHANTOMS_LOOKED_AT = 2  # 10 seconds each on two cores at 4 mm


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The flags that each command takes."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--recipe", type=Path, required=True, help="a TOML file, see training/recipes/")
    p.add_argument(
        "--set", action="append", metavar="a.b=VALUE", help="a field of the recipe to be other than in the file; repeatable"
    )
    p.add_argument(
        "--run-folder", type=Path, help="the run's folder (default: $L2S_RUNS or ~/.cache/l2s/runs, and the recipe's name)"
    )
    return p


def training_parser(doc: str | None) -> argparse.ArgumentParser:
    """The flags of the commands that train a network."""
    p = parser(doc)
    p.add_argument("--fold", type=int, help="the fold to hold out; without it all cases train")
    p.add_argument("--init", type=Path, help="a weights folder to start from (fine-tuning)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; under torchrun each process takes its own GPU")
    p.add_argument(
        "--precision", choices=["fp32", "bf16", "fp16"], default="fp32", help="below fp32: torch's automatic mixed precision"
    )
    p.add_argument("--workers", type=not_negative, default=min(8, cores.allowed() - 1), help="processes that make batches ahead")
    return p


def not_negative(text: str) -> int:
    """A flag's number."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number, at least 0")
    return int(text)


def open_run(args: argparse.Namespace) -> tuple[Recipe, Path]:
    """The recipe and the run's folder."""
    recipe = load_recipe(args.recipe, args.set)
    root = Path(os.environ.get("L2S_RUNS") or Path.home() / ".cache/l2s/runs")
    return recipe, args.run_folder or root / recipe.name


def note_recipe(folder: Path, recipe: Recipe, steps: int, start: dict | None = None) -> list[dict]:
    """Adds the recipe to folder/recipes.json if it, its length or its samples differ from the last one's there, and returns all.

    A run that is continued by another recipe is no run of that recipe: the exported manifest carries every one it had.

    Args:
        folder: a stage's.
        recipe: of now.
        steps: that the stage takes in all; a recipe may leave them to the data. Notes of before 2026-12 have none.
        start: of the weights that --init names, see start_from.

    Raises:
        InputError: the stage goes on from a checkpoint, which has begun from other weights than start.
    """
    path, rows = folder / "recipes.json", read_log(folder)
    # what has left no checkpoint has trained nothing
    notes = json.loads(path.read_text()) if (folder / "last.pt").is_file() and path.is_file() else []
    begun = notes[0].get("start") if notes else start
    # a note of before 2026-12 has the manifest's sum and no history
    is_old = begun is not None and "sources" not in begun
    if start and (begun or {}).get("sha256") != start["manifest_sha256" if is_old else "sha256"]:
        raise InputError(
            f"{folder} goes on from its checkpoint, which began {'with ' + begun['name'] if begun else 'at random'}, not with "
            f"{start['name']}: leave --init out, remove the folder, or give another --run-folder"
        )
    now = plain_fields(recipe)
    if start and is_old:
        notes = [note | {"start": start} for note in notes]
        begun = start
        write_text(path, json.dumps(notes, indent=1))
    step = rows[-1]["step"] if notes and rows else 0
    # what is at its end takes no more samples
    has_others = bool(notes) and step < steps and notes[-1].get("samples", 1) != SAMPLES
    if not notes or notes[-1]["recipe"] != now or notes[-1].get("steps", steps) != steps or has_others:
        if notes:
            log.warning(
                "%s is continued by another recipe, for another length or with other samples from step %d on", folder, step
            )
        notes.append({"from_step": step, "start": begun, "steps": steps, "samples": SAMPLES, "recipe": now})
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(notes, indent=1))
    return notes


def note_cases(folder: Path, training: list[dict], held_out: list[dict]) -> None:
    """Writes whom a stage trains on into folder/cases.json, or checks that it is whom the stage has trained on until now.

    Raises:
        InputError: the folds have changed since: a patient held out now may have been trained on.
    """
    path = folder / "cases.json"
    now = {
        "trained_on": dict(Counter(r["source"] for r in training)),
        "training": sorted(r["name"] for r in training),
        "patients": sorted({r["patient"] for r in training if r["source"] != "phantom"}),
        "held_out": sorted({r["patient"] for r in held_out}),
    }
    # what has left no checkpoint has trained on nobody
    before = json.loads(path.read_text()) if (folder / "last.pt").is_file() and path.is_file() else now
    if changed := set(before["training"]) ^ set(now["training"]):
        raise InputError(
            f"{folder} has trained on other cases ({len(changed)} differ, such as {min(changed)}): take the data and the version of "
            "before, remove the folder, or give another --run-folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(now, indent=1))


def noted_cases(folder: Path) -> dict:
    """What note_cases wrote.

    Raises:
        InputError: the stage has not begun to train.
    """
    path = folder / "cases.json"
    if not path.is_file():
        raise InputError(f"no {path}: train {folder.name} of {folder.parent.name} first")
    noted = json.loads(path.read_text())
    if "patients" not in noted:
        raise InputError(f"{path} is of an older version: run the training command again, which leaves a finished network alone")
    return noted


def held_out_rows(rows: list[dict], fold: int | None) -> tuple[list[dict], list[dict]]:
    """(training rows, held-out patients' rows) of a fold; fold None trains on all.

    A fold holds phantoms back too, so that their cues may be out of fold, but its figures are of patients alone.

    Raises:
        InputError: there is no such fold.
    """
    if fold is None:
        return rows, []
    folds = {r["fold"] for r in rows} - {None}
    if fold not in folds:
        raise InputError(f"fold {fold}: the cases are in folds {', '.join(map(str, sorted(folds)))}")
    training = [r for r in rows if r["fold"] != fold]
    return training, [r for r in rows if r["fold"] == fold and r["source"] not in SYNTHETIC]


def looked_at_rows(rows: list[dict], fold: int | None) -> list[dict]:
    """What the training looks at as it goes on: a fold's held-out patients and a few of its phantoms; nothing without a fold.

    Tumours are often cropped: only whole bodies show that organs are taken for lesions.
    """
    if fold is None:
        return []
    phantoms = [r for r in rows if r["fold"] == fold and r["source"] == "phantom"]
    return held_out_rows(rows, fold)[1] + phantoms[:PHANTOMS_LOOKED_AT]


def fold_name(fold: int | None) -> str:
    return "all" if fold is None else f"fold_{fold}"


def cue_folder(run: Path, recipe: Recipe, fold: int | None) -> Path:
    """Where the cues lie with which a fold's stage 2 trains: out-of-fold cues serve all folds."""
    return run / "cues" if recipe.cues == "out-of-fold" else run / fold_name(fold) / "cues"


def exit_with(main: Callable[[], int]) -> None:
    """Runs a command with logging to standard error; InputError is one line and exit code 2, OSError too, or 75 for want of disk."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    try:
        code = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        code = code_of(error)
    sys.exit(code)
