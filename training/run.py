"""What every training command shares: its flags, the run's folder, and one-line errors."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from l2s.errors import InputError
from training.recipe import Recipe, load_recipe

log = logging.getLogger(__name__)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The flags that each command takes."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--recipe", type=Path, required=True, help="a TOML file, see training/recipes/")
    p.add_argument("--run", type=Path, help="the run's folder (default: $L2S_RUNS or ~/.cache/l2s/runs, and the recipe's name)")
    return p


def open_run(args: argparse.Namespace) -> tuple[Recipe, Path]:
    """The recipe and the run's folder."""
    recipe = load_recipe(args.recipe)
    root = Path(os.environ.get("L2S_RUNS") or Path.home() / ".cache/l2s/runs")
    return recipe, args.run or root / recipe.name


def note_recipe(folder: Path, recipe: Recipe) -> list[dict]:
    """Adds the recipe to folder/recipes.json if it differs from the last one there, and returns all of them.

    A run that is continued by another recipe is no run of that recipe: the exported manifest carries every one it had.
    """
    path = folder / "recipes.json"
    notes = json.loads(path.read_text()) if path.is_file() else []
    rows = (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").is_file() else []
    now = json.loads(json.dumps(dataclasses.asdict(recipe)))
    if not notes or notes[-1]["recipe"] != now:
        if notes:
            log.warning("%s is continued by another recipe from step %d on", folder, json.loads(rows[-1])["step"] if rows else 0)
        notes.append({"from_step": json.loads(rows[-1])["step"] if rows else 0, "recipe": now})
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notes, indent=1))
    return notes


def held_out_rows(rows: list[dict], fold: int | None) -> tuple[list[dict], list[dict]]:
    """(training rows, held-out rows) of a fold; fold None trains on all."""
    return [r for r in rows if fold is None or r["fold"] != fold], [r for r in rows if fold is not None and r["fold"] == fold]


def exit_with(main: Callable[[], int]) -> None:
    """Runs a command with logging to standard error; InputError is one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    try:
        code = main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
