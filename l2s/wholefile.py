"""Files that are there whole or not at all: written by a temporary name in the same folder, then renamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The temporary name to write; path is replaced when the block ends well, else left as it was. A reader never sees half of it.

    The name ends as path's does: writers of images go by it.
    """
    partial = path.with_name(f".partial.{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes text, as UTF-8."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
