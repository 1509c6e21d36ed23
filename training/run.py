"""What every training command shares: its flags, the run's folder, and one-line errors."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from l2s.errors import InputError
from training.recipe import Recipe, load_recipe


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
