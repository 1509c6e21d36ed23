"""The log of a stage: a JSON row an epoch, appended; it survives a kill."""

from __future__ import annotations

import json
import os
from pathlib import Path


def read_log(folder: Path) -> list[dict]:
    """The epochs' rows of a run, oldest first; a last line that a kill has cut is left out."""
    path = folder / "log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def append_log(folder: Path, row: dict) -> None:
    """Adds an epoch's row, after taking away a last line that a kill has cut."""
    path = folder / "log.jsonl"
    if path.is_file():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
