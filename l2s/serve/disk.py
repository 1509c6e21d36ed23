"""Changes on disk that outlive a kill or a power cut once they return: every change of the spool goes through this module.

A file appears complete or not at all (temporary name, fsync, rename), and a rename counts only when the folders on both of its sides are
synced, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

PARTIAL = ".partial"  # temporary names start with a dot and end so; what bears one is removed at the next start


def partial_of(path: Path, mark: str = "") -> Path:
    """The temporary name beside path; mark tells apart writers of the same path."""
    return path.with_name(f".{path.name}{mark}{PARTIAL}")


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Makes the content of a file that somebody else wrote durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes the folder, not its parents, unless it is there: then whoever made it may have been killed before the sync (see Intake)."""
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_partial(path: Path, data: bytes, mark: str = "") -> Path:
    """Writes data durably under a temporary name beside path, and says which; commit with rename()."""
    partial = partial_of(path, mark)
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):  # a full disk must not stay full of halves
            partial.unlink(missing_ok=True)
        raise
    return partial


def rename(source: Path, target: Path) -> None:
    """One atomic step, durable only after sync_folder of both parents."""
    source.rename(target)


def write(path: Path, data: bytes) -> None:
    """The whole file, durably; what was there is replaced."""
    rename(write_partial(path, data), path)
    sync_folder(path.parent)


def move(source: Path, target: Path) -> None:
    """Renames a file or a folder, durably. A target folder must not be there."""
    rename(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def link(source: Path, target: Path) -> None:
    """A second name for source's content; durable after sync_folder(target.parent)."""
    os.link(source, target)


def remove_file(path: Path) -> None:
    """Unless it is gone already."""
    path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """A folder and all in it, unless it is gone already. Not atomic: move it out of the way first where that matters."""
    if folder.is_dir():
        shutil.rmtree(folder)
