"""What a user points at -> one case: a grand-challenge folder, an autoPET case folder, or a PET file with its CT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from l2s.errors import InputError
from l2s.io.images import ENDINGS, stem
from l2s.io.studies import read_study
from l2s.study import Study

# the first name that is there wins: beside autoPET's SUV, a PET is in Bq/ml; beside its CTres, a CT is on a finer grid
NAMES = {"pet": ("suv", "pet"), "ct": ("ctres", "ct")}
EXPECTED = "images/pet/*.mha and images/ct/*.mha, or SUV.nii.gz (PET.nii.gz) and CTres.nii.gz (CT.nii.gz)"


@dataclass(frozen=True)
class Case:
    """One case as it was read.

    Attributes:
        study: PET in SUV and CT in HU on the PET grid.
        name: the case's name.
        kind: 'grand-challenge', 'autopet' or 'files'.
        files: 'pet' and 'ct' -> the path that each came from.
        warnings: one line each.
    """

    study: Study
    name: str
    kind: str
    files: dict[str, Path]
    warnings: list[str]


def read_input(path: Path, ct: Path | None = None) -> Case:
    """Reads a case.

    Args:
        path: a folder with images/pet and images/ct (one file each), a folder with SUV or PET and CTres or CT, or a PET file.
        ct: the CT file of a PET file; None for a folder.

    Raises:
        InputError: nothing there, not one case, a CT too few or too many, or files that cannot be used (see read_study).
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; name a case folder ({EXPECTED}) or a PET file with --ct FILE")
    if path.is_dir():
        if ct is not None:
            raise InputError(f"--ct {ct} goes with a PET file, and {path} is a folder; name the PET file, or leave --ct out")
        name, kind, files = find_files(path)
    else:
        if ct is None:
            raise InputError(f"{path} is a PET file without its CT; name it with --ct FILE")
        name, kind, files = name_of(path), "files", {"pet": path, "ct": Path(ct)}
    study, warnings = read_study(files["pet"], files["ct"], name)
    return Case(study, name, kind, files, warnings)


def name_of(pet: Path) -> str:
    """The file's name without its ending; where that says no more than PET or SUV, its folder's name."""
    own = stem(pet)
    return pet.resolve().parent.name or own if own.lower() in NAMES["pet"] else own


def find_files(folder: Path) -> tuple[str, str, dict[str, Path]]:
    """(name, kind, files by 'pet' and 'ct') of a case folder.

    Raises:
        InputError: it is none, or holds several images for one place.
    """
    if (folder / "images").is_dir():
        files = {kind: _only(folder / "images" / kind) for kind in NAMES}
        return stem(files["ct"]), "grand-challenge", files
    by_name: dict[str, Path] = {}
    for one in _images(folder):
        if stem(one).lower() in by_name:
            raise InputError(f"{folder} holds {by_name[stem(one).lower()].name} and {one.name}: which one? Remove the other")
        by_name[stem(one).lower()] = one
    found = {kind: next((by_name[n] for n in names if n in by_name), None) for kind, names in NAMES.items()}
    missing = [kind.upper() for kind, one in found.items() if one is None]
    if missing:
        raise InputError(f"{folder} holds no {' and no '.join(missing)}; expected {EXPECTED}; it holds {_listing(folder)}")
    return folder.resolve().name, "autopet", found


def _only(folder: Path) -> Path:
    """The one image of a grand-challenge folder."""
    images = _images(folder)
    if len(images) != 1:
        shown = f" ({', '.join(p.name for p in images[:4])})" if images else ""
        raise InputError(f"{folder} holds {len(images)} images{shown}; exactly one is needed ({', '.join(ENDINGS)})")
    return images[0]


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(ENDINGS) and not p.name.startswith("."))


def _listing(folder: Path, most: int = 6) -> str:
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir() if not p.name.startswith("."))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") if names else "nothing"
