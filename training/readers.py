"""Folders of PET/CT with truth -> a list of studies. Three layouts are recognised by what lies in the folder:

    imagesTr/NAME_0000.nii.gz, imagesTr/NAME_0001.nii.gz, labelsTr/NAME.nii.gz   nnU-Net (autoPET III and IV)
    PATIENT/STUDY/{SUV,CTres,SEG}.nii.gz                                         autoPET I and II
    CASE/{PET,CT,GTV}.nii.gz or CASE/images/{pet,ct}/*.mha, CASE/truth.mha       plain (STS; l2s phantom)

Within a study folder the names may be any of PET_NAMES, CT_NAMES and TRUTH_NAMES, in capitals or not.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from l2s.errors import InputError
from l2s.io.images import ENDINGS, read_image, stem
from l2s.io.studies import HU_AIR, MAX_SUV, MIN_SUV, read_study
from l2s.study import Study

log = logging.getLogger(__name__)

# the first name that is there wins: autoPET's PET.nii.gz, beside SUV.nii.gz, is in Bq/ml, and CT.nii.gz is CTres on a finer grid
PET_NAMES = ("suv", "pet")
CT_NAMES = ("ctres", "ct")
TRUTH_NAMES = ("seg", "gtv", "truth", "mask")
TRACERS = ("fdg", "psma")
MOST_STUDIES = 20  # of one patient; autoPET has up to 5. More means that the folder given is one too high
PROBED = 3  # studies whose voxels are looked at to tell the channels; each study is checked again when it is read


@dataclass(frozen=True)
class Found:
    """One study on disk.

    Attributes:
        source: the data set's name in the recipe.
        name: of the case, safe as a file name and unique within its source.
        patient: what groups a patient's studies.
        pet, ct, truth: the files.
    """

    source: str
    name: str
    patient: str
    pet: Path
    ct: Path
    truth: Path


Refused = list[tuple[str, str]]  # (what, why)


def find_studies(source: str, root: Path, tracer: str = "fdg") -> tuple[list[Found], Refused]:
    """All studies of a folder, sorted by name, and those that are incomplete.

    Args:
        source: the data set's name in the recipe.
        root: the folder.
        tracer: 'fdg', 'psma' or 'all': which of the files that name a tracer are taken; files that name none always are.

    Raises:
        InputError: there is no such folder, nothing in it is recognised, or its channels cannot be told.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; name the one that holds the studies of {source!r}")
    found, refused = _nnunet(source, root, tracer) if (root / "imagesTr").is_dir() else _folders(source, root)
    if not found and not refused:
        raise InputError(f"{root}: no study found; {_what_is_there(root, tracer)}")
    return sorted(found, key=lambda f: f.name), sorted(refused)


def load_study(found: Found) -> tuple[Study, np.ndarray, list[str]]:
    """(study, truth, warnings): the voxels, with every check of l2s.io.studies.read_study and those of the truth.

    Returns:
        The study on the PET's grid; bool (z, y, x) truth on the same grid, all False in a lesion-free study; warnings.

    Raises:
        InputError: a file cannot be used, or the truth is no label image on the PET's grid.
    """
    study, warnings = read_study(found.pet, found.ct, found.name)
    mask, grid, _, mask_warnings = read_image(found.truth)
    if not grid.matches(study.grid):
        raise InputError(
            f"{found.truth.name} is not on the PET's grid ({grid.shape_zyx} at {_mm(grid.spacing_mm_zyx)} mm against "
            f"{study.grid.shape_zyx} at {_mm(study.grid.spacing_mm_zyx)} mm); resample it, nearest neighbour, to the PET"
        )
    if (mask != np.rint(mask)).any() or mask.min() < 0:
        raise InputError(
            f"{found.truth.name}: values from {mask.min():g} to {mask.max():g} that are no labels (limit: 0 for background, whole "
            "numbers for lesions); it may be an image or a resampled mask: export it again"
        )
    return study, mask > 0.5, warnings + mask_warnings


def usable_study(found: Found) -> tuple[Study, np.ndarray, list[str]]:
    """load_study, where whatever a damaged file makes a reader raise is a reason to refuse this one study."""
    try:
        return load_study(found)
    except InputError:
        raise
    except Exception as error:  # nibabel, ITK and the decompressors raise dozens of classes
        raise InputError(f"reading failed with {type(error).__name__}: {str(error)[:200]}; copy the study again") from error


def file_marks(found: Found) -> dict[str, list[int]]:
    """Size in bytes and time in whole seconds of the files, by name: what tells that a study was replaced.

    Raises:
        InputError: one is gone or out of reach.
    """
    try:
        return {p.name: [p.stat().st_size, int(p.stat().st_mtime)] for p in (found.pet, found.ct, found.truth)}
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; copy or fetch the study again") from error


def safe_name(text: str) -> str:
    """text as a file name: everything but letters, digits, '.', '+' and '-' becomes one '_'."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_.") or "_"


def _mm(spacing_mm_zyx) -> str:
    return " x ".join(f"{s:g}" for s in spacing_mm_zyx)


# --- a folder a study: autoPET I and II, plain -------------------------------------------------------------------------------------


def _folders(source: str, root: Path) -> tuple[list[Found], Refused]:
    """Studies that are folders, in root (a patient has one) or in a patient's folder of root."""
    found, refused, taken = [], [], set()
    for child in _subfolders(root):
        studies = (
            [(child, child.name)] if _holds(child) else [(s, f"{child.name}_{s.name}") for s in _subfolders(child) if _holds(s)]
        )
        if not studies:
            log.warning("%s: %s/ holds no study (%s)", source, child.name, _listing(child))
        if len(studies) > MOST_STUDIES:
            raise InputError(
                f"{child} holds {len(studies)} studies, too many to be of one patient (limit {MOST_STUDIES}); if it is the data set, "
                f"name it instead of {root}"
            )
        for folder, label in studies:
            name = _unique(safe_name(label), taken)
            try:
                # autoPET I and II call a patient PETCT_xxxxxxxxxx, III calls the same one fdg_xxxxxxxxxx: both become xxxxxxxxxx
                patient = safe_name(child.name.removeprefix("PETCT_"))
                found.append(replace(one_study(source, folder), name=name, patient=patient))
            except InputError as error:
                refused.append((name, str(error)))
    return found, refused


def one_study(source: str, folder: Path) -> Found:
    """The study of one folder, named after it.

    Raises:
        InputError: PET, CT or truth is missing.
    """
    files = study_files(folder)
    if missing := [kind for kind, path in files.items() if path is None]:
        raise InputError(f"no {' and no '.join(_wanted(kind) for kind in missing)}; the folder holds {_listing(folder)}")
    return Found(source, safe_name(folder.name), safe_name(folder.name), **files)


def study_files(folder: Path) -> dict[str, Path | None]:
    """The files pet, ct and truth of a study's folder; None where there is none."""
    by_stem = {stem(path).lower(): path for path in reversed(_images(folder))}
    files = {}
    for kind, names in (("pet", PET_NAMES), ("ct", CT_NAMES), ("truth", TRUTH_NAMES)):
        # grand-challenge's images/{pet,ct}/UUID.mha hold one file each, whatever its name
        inner = _images(folder / "images" / kind)
        files[kind] = next((by_stem[n] for n in names if n in by_stem), inner[0] if len(inner) == 1 else None)
    return files


def _holds(folder: Path) -> bool:
    """Whether a folder is a study's, complete or not."""
    return any(study_files(folder).values())


def _wanted(kind: str) -> str:
    names = {"pet": PET_NAMES, "ct": CT_NAMES, "truth": TRUTH_NAMES}[kind]
    return f"{kind} ({', '.join(names)} with {', '.join(ENDINGS)})"


def _images(folder: Path) -> list[Path]:
    """The image files of a folder, sorted; hidden ones, which other systems leave behind, are none."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.lower().endswith(ENDINGS) and p.name[0] != "." and not p.is_dir())


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _unique(name: str, taken: set[str]) -> str:
    """name, or name_2, name_3 ... where two labels became the same; notes it in taken."""
    number, tried = 1, name
    while tried in taken:
        number += 1
        tried = f"{name}_{number}"
    taken.add(tried)
    return tried


def _listing(folder: Path, most: int = 6) -> str:
    names = sorted(p.name for p in folder.iterdir())
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "nothing"


def _what_is_there(root: Path, tracer: str) -> str:
    """What was looked for and what the folder holds instead, for the message."""
    looked = (
        "looked for imagesTr/*_0000.nii.gz with labelsTr, PATIENT/STUDY/{SUV,CTres,SEG}.nii.gz and "
        "CASE/{PET,CT,GTV or SEG or truth or mask} in .nii.gz, .nii or .mha"
    )
    if (root / "imagesTr").is_dir():
        return f"{looked}; imagesTr holds {_listing(root / 'imagesTr')} and of these none is taken with tracer {tracer!r}"
    if _holds(root):
        return f"{looked}; this folder is itself a study ({_listing(root)}): name the folder above it"
    inside = [f"{p.name}/ holds {_listing(p)}" for p in _subfolders(root)[:1]]
    return "; ".join([looked, f"found {_listing(root)}", *inside]) + ". Name the folder right above the patients or cases"


# --- nnU-Net's folders: autoPET III and IV -------------------------------------------------------------------------------------------


def _nnunet(source: str, root: Path, tracer: str) -> tuple[list[Found], Refused]:
    """Studies of imagesTr and labelsTr."""
    found, refused, taken = [], [], set()
    channels = {p.name: p for p in _images(root / "imagesTr")}
    stems = sorted({match[1] for name in channels if (match := re.fullmatch(r"(.+)_\d{4}\.nii\.gz", name))})
    for label in stems:
        its_tracer = label.split("_")[0].lower()
        if its_tracer in TRACERS and tracer not in (its_tracer, "all"):
            continue
        name = _unique(safe_name(label), taken)
        pair = [channels.get(f"{label}_{k:04d}.nii.gz") for k in (0, 1)]
        truth = root / "labelsTr" / f"{label}.nii.gz"
        lacking = [f"imagesTr/{label}_{k:04d}.nii.gz" for k in (0, 1) if pair[k] is None]
        lacking += [] if truth.is_file() else [f"labelsTr/{truth.name}"]
        if lacking:
            refused.append((name, f"no {' and no '.join(lacking)}"))
            continue
        # TRACER_PATIENT_STUDY; without a tracer nothing says where a patient's name ends
        patient = label.split("_")[1] if its_tracer in TRACERS and "_" in label else label
        found.append(Found(source, name, safe_name(patient), pet=pair[1], ct=pair[0], truth=truth))
    if found and is_swapped(found):
        found = [replace(f, pet=f.ct, ct=f.pet) for f in found]
        log.info("%s: _0000 is the PET and _0001 the CT, by their voxels", source)
    return found, refused


def is_swapped(found: list[Found]) -> bool:
    """Whether pet and ct are the other way round, by the voxels of a few studies, spread over all.

    autoPET I and II (and L2SNet's authors) have PET = _0000, III onwards CT = _0000.

    Raises:
        InputError: none of the studies tells, or they disagree.
    """
    answers: dict[str, bool] = {}
    reasons: dict[str, str] = {}
    for k in sorted({round(k) for k in np.linspace(0, len(found) - 1, PROBED)}):
        name = found[k].name
        try:
            answers[name] = _swapped(found[k])
        except Exception as error:  # a damaged file makes nibabel and the decompressors raise dozens of classes
            # the others decide; an odd or damaged study is refused, with a reason of its own, when its turn comes
            reasons[name] = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            log.warning("%s does not tell the CT from the PET: %s", name, reasons[name])
    if not answers:
        name, reason = next(iter(reasons.items()))
        raise InputError(f"none of the {len(reasons)} studies looked at tells the CT from the PET; the first, {name}: {reason}")
    if len(set(answers.values())) > 1:
        shown = ", ".join(f"{'PET' if swapped else 'CT'} in {name}" for name, swapped in answers.items())
        raise InputError(f"_0000 is the {shown}: the studies' channels differ; rename them to one order")
    return any(answers.values())


def _swapped(found: Found) -> bool:
    """is_swapped of one study; raises InputError where its voxels do not tell."""
    ranges = []
    for path in (found.ct, found.pet):
        voxels = read_image(path)[0]
        ranges.append((float(voxels.min()), float(voxels.max())))
    # a CT goes below -200 in air, lung or bowel, and no SUV does
    is_hu = [low < HU_AIR for low, _ in ranges]
    is_suv = [low >= MIN_SUV and 0 < high <= MAX_SUV for low, high in ranges]
    if is_hu[0] and is_suv[1]:
        return False
    if is_hu[1] and is_suv[0]:
        return True
    shown = " and ".join(f"{p.name} from {low:g} to {high:g}" for p, (low, high) in zip((found.ct, found.pet), ranges))
    raise InputError(
        f"its channels cannot be told: {shown} (limits: a CT goes below {HU_AIR:g}, a PET in SUV lies between {MIN_SUV:g} "
        f"and {MAX_SUV:g}); convert the PET to SUV and the CT to HU"
    )
