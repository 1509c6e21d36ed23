"""What a user points at -> one case: a grand-challenge folder, an autoPET case folder, a PET file with its CT, or DICOM."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from l2s.errors import InputError
from l2s.io.images import ENDINGS, plain_utf8, stem
from l2s.io.studies import read_study
from l2s.study import Study

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from l2s.io.suv import Overrides

# the first name that is there wins: beside autoPET's SUV, a PET is in Bq/ml; beside its CTres, a CT is on a finer grid
NAMES = {"pet": ("suv", "pet"), "ct": ("ctres", "ct")}
EXPECTED = "images/pet/*.mha and images/ct/*.mha, SUV.nii.gz (PET.nii.gz) and CTres.nii.gz (CT.nii.gz), or DICOM files"


@dataclass(frozen=True)
class DicomSource:
    """What is left of a DICOM study once its voxels are read.

    Attributes:
        headers: one a slice of the PET, without pixels: what DICOM results refer to.
        facts: JSON-able: how series were chosen and SUV computed; no name, UID or date.
    """

    headers: tuple[Dataset, ...]
    facts: dict


@dataclass(frozen=True)
class Case:
    """One case as it was read.

    Attributes:
        study: PET in SUV and CT in HU on the PET grid.
        name: the case's name.
        kind: 'grand-challenge', 'autopet', 'files' or 'dicom'.
        files: 'pet' and 'ct' -> the path that each came from; of DICOM a CT file alone, if one was given.
        warnings: one line each.
        dicom: None for images.
    """

    study: Study
    name: str
    kind: str
    files: dict[str, Path]
    warnings: list[str]
    dicom: DicomSource | None = None


def read_input(
    path: Path,
    ct: Path | None = None,
    pet_series: str | None = None,
    ct_series: str | None = None,
    overrides: Overrides | None = None,
) -> Case:
    """Reads a case.

    Args:
        path: a folder with images/pet and images/ct (one file each), a folder with SUV or PET and CTres or CT, a PET file, or DICOM:
            a folder, a zip, a DICOMDIR or one of the study's files.
        ct: the CT file of a PET file, or of a DICOM PET without CT; None for a folder of images.
        pet_series, ct_series, overrides: for DICOM alone (see io.dicom.read_dicom).

    Raises:
        InputError: nothing there, not one case, a CT too few or too many, or files that cannot be used (see read_study, read_dicom).
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; name a case folder ({EXPECTED}) or a PET file with --ct FILE")
    if not holds_images(path):
        return read_dicom_input(path, ct, pet_series, ct_series, overrides)
    if pet_series or ct_series or (overrides and overrides.given()):
        raise InputError(f"{path} holds images: series and DICOM overrides are for DICOM; leave them out")
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


def holds_images(path: Path) -> bool:
    """Whether the path is an image file or a folder of a layout that we know; anything else is taken for DICOM."""
    if path.is_file():
        return path.name.lower().endswith(ENDINGS)
    known = {name for names in NAMES.values() for name in names}
    return is_challenge(path) or any(stem(one).lower() in known for one in _images(path))


def is_challenge(folder: Path) -> bool:
    """Whether it is grand-challenge's layout; a folder `images` alone is not, DICOM exports have one too."""
    return any((folder / "images" / kind).is_dir() for kind in NAMES)


def check_apart(outdir: Path, case: Path) -> None:
    """Raises InputError where results would be written among a grand-challenge case's PET or CT."""
    for kind in NAMES:  # each may be a link
        check_outside(outdir, case / "images" / kind)


def check_outside(outdir: Path, source: Path) -> None:
    """Raises InputError where results would be written into a folder that is read: the next run would find them in its input."""
    target = real(outdir)
    if real(source) in (target, *target.parents):
        raise InputError(f"{outdir} lies in the input folder {source}; name a folder outside it for the results")


def real(path: Path) -> Path:
    """Where a path leads; links that go round lead to themselves, where Path.resolve raises RuntimeError."""
    return Path(os.path.realpath(path))


def check_target(flag: str, target: Path, kept: dict[str, Path]) -> None:
    """Raises InputError, before any work, where a file to write is one to keep, by whatever path.

    Args:
        kept: what the message calls a file -> its path.
    """
    for what, path in kept.items():
        if real(path) == real(target):
            raise InputError(f"{flag} {target} is {what}; name another")


def read_dicom_input(
    path: Path, ct: Path | None, pet_series: str | None, ct_series: str | None, overrides: Overrides | None
) -> Case:
    """The case of a DICOM study.

    Raises:
        InputError: there is no DICOM, or it cannot be used; for a folder without DICOM the line names the layouts of images too.
    """
    from l2s.io import dicom
    from l2s.io.suv import AS_IN_THE_HEADER

    if path.is_dir() and not any(p.is_file() for p in path.rglob("*")):
        raise InputError(f"{path} is empty; expected {EXPECTED}")
    found = dicom.read_dicom(path, pet_series, ct_series, overrides or AS_IN_THE_HEADER, Path(ct) if ct else None)
    # the CT as scanned can be larger than all else: it goes with `found`
    source = DicomSource(found.pet_headers, dicom.record(found))
    return Case(found.study, found.study.name, "dicom", {"ct": Path(ct)} if ct else {}, list(found.warnings), source)


def name_of(pet: Path) -> str:
    """The file's name without its ending; where that says no more than PET or SUV, its folder's name; as UTF-8."""
    own = stem(pet)
    return plain_utf8(pet.resolve().parent.name) or own if own.lower() in NAMES["pet"] else own


def find_files(folder: Path) -> tuple[str, str, dict[str, Path]]:
    """(name, kind, files by 'pet' and 'ct') of a case folder.

    Raises:
        InputError: it is none, or holds several images for one place.
    """
    if is_challenge(folder):
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
    return plain_utf8(folder.resolve().name), "autopet", found


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
