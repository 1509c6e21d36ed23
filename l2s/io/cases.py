"""A folder of PET/CT cases, with or without truth: one subfolder a case, as `l2s phantom` writes it or as plain images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2s.errors import InputError
from l2s.io.images import ENDINGS, plain_utf8, read_image, stem
from l2s.study import Grid

# the first name that is there wins: beside autoPET's SUV, a PET would be in Bq/ml; beside its CTres, a CT on a finer grid
NAMES = {"pet": ("suv", "pet"), "ct": ("ctres", "ct"), "truth": ("truth", "gtv", "seg", "mask")}


@dataclass(frozen=True)
class CaseFiles:
    """One case on disk: its folder's name as UTF-8, PET, CT, and the true mask where there is one."""

    name: str
    pet: Path
    ct: Path
    truth: Path | None


def find_cases(root: Path) -> list[CaseFiles]:
    """The cases of a folder, sorted by name: CASE/images/{pet,ct}/ANY.mha with CASE/truth.mha, or CASE/{PET,CT,GTV}.nii.gz.

    Raises:
        InputError: there is no such folder, no case in it, or a case lacks its PET or CT.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; name the one that holds a folder a case")
    cases = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = {kind: _file(folder, kind) for kind in NAMES}
        if not any(files.values()):
            continue  # pictures, notes
        lacking = [kind.upper() for kind in ("pet", "ct") if files[kind] is None]
        if lacking:
            raise InputError(
                f"{folder} has no {' and no '.join(lacking)} (images/pet/*.mha or PET.nii.gz, CT alike); add or move it"
            )
        cases.append(CaseFiles(plain_utf8(folder.name), **files))
    if not cases:
        raise InputError(
            f"{root}: no case in it; expected CASE/images/{{pet,ct}}/*.mha or CASE/{{PET,CT}}.nii.gz in each subfolder"
        )
    return cases


def _file(folder: Path, kind: str) -> Path | None:
    """The case's image of that kind: by its name, or alone in images/KIND."""
    by_name = {stem(p).lower(): p for p in _images(folder)}
    inner = _images(folder / "images" / kind)
    return next((by_name[n] for n in NAMES[kind] if n in by_name), inner[0] if len(inner) == 1 else None)


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(ENDINGS) and not p.name.startswith("."))


def read_truth(path: Path, grid: Grid) -> np.ndarray:
    """The true mask, bool (z, y, x) in LPS.

    Raises:
        InputError: it is no label image or does not lie on the study's grid.
    """
    labels, found, _, _ = read_image(path)
    if not found.matches(grid):
        raise InputError(
            f"{path} is not on the PET's grid ({found.shape_zyx} voxels, PET {grid.shape_zyx}); resample it to the PET"
        )
    if (labels < 0).any() or (labels != np.rint(labels)).any():
        raise InputError(
            f"{path} is no label image: values from {labels.min():g} to {labels.max():g}; export whole numbers from 0 up"
        )
    return labels > 0
