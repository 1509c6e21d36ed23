"""The folder of one result, OUTDIR: what `l2s segment` writes, and what `l2s measure` and `l2s report` read.

mask.nii.gz (or mask.mha), SUV.nii.gz and CTres.nii.gz on one grid, record.json, lesions.csv, lesions.json; where asked for
probability.nii.gz, cue.nii.gz, report.html, seg.dcm, sr.dcm, rtstruct.dcm. The folder stands on its own: it needs none of the files that
it was made from.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from l2s.errors import InputError
from l2s.io.cases import read_truth
from l2s.io.images import read_image, write_image, write_mask
from l2s.io.studies import read_pet, read_study
from l2s.measure import lesion_table
from l2s.measure.lesions import Measures
from l2s.study import Body, Study
from l2s.wholefile import write_text

PET, CT, PROBABILITY, CUE, RECORD, REPORT = (
    "SUV.nii.gz",
    "CTres.nii.gz",
    "probability.nii.gz",
    "cue.nii.gz",
    "record.json",
    "report.html",
)
FORMATS = ("nii.gz", "mha")
MASKS = tuple(f"mask.{ending}" for ending in FORMATS)
FLAGS = {PROBABILITY: "save-probability", CUE: "save-cue"}
DICOM_RESULTS = ("seg.dcm", "sr.dcm", "rtstruct.dcm")
STAGING = ".l2s-saving-"  # then anything: a result that is being written, beside its place
TABLES = (lesion_table.CSV_NAME, lesion_table.JSON_NAME)
DERIVED = (REPORT, *DICOM_RESULTS)  # made from mask and table: of no use once the lesions are counted anew
OPTIONAL = (*MASKS, PROBABILITY, CUE, CT, *DERIVED)  # an earlier run may have left one that this run does not write


@dataclass(frozen=True)
class Saved:
    """A result as it lies in its folder.

    Attributes:
        study: PET and CT; a CT of NaN where the folder has none.
        mask: bool (z, y, x).
        mask_name: its file's name.
        probability, cue: float32 (z, y, x); None where they were not saved.
        record: record.json.
    """

    study: Study
    mask: np.ndarray
    mask_name: str
    probability: np.ndarray | None
    cue: np.ndarray | None
    record: dict


def check(folder: Path, inputs: Iterable[Path] = ()) -> None:
    """Raises InputError, before any work, where the folder cannot be written or holds something that is not a result of l2s.

    Args:
        folder: it need not exist.
        inputs: files that a run reads; none may lie in the folder.
    """
    folder = Path(folder)
    check_writable(folder)
    for path in inputs:
        if Path(path).resolve().parent == folder.resolve():
            raise InputError(f"{folder} holds the input {Path(path).name}, which the result would replace; name another folder")
    # what a run may replace or remove
    there = [name for name in (PET, *OPTIONAL, *TABLES, RECORD) if (folder / name).exists()]
    if there and not any(map(is_ours, (folder, *folder.glob(f"{STAGING}*")))):
        raise InputError(f"{folder} holds {there[0]} but no {RECORD} of l2s: l2s segment did not write it; name another folder")


def is_ours(folder: Path) -> bool:
    """Whether the folder's record is one of l2s; other programs have a record.json too."""
    try:
        return str(read_record(folder).get("tool")).startswith("l2s ")
    except InputError:
        return False


def check_writable(folder: Path) -> None:
    """Raises InputError, before any work, where a folder is a file or cannot be made or written; it need not exist."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the result")
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written ({existing} does not let you); name another folder")


def drop_derived(folder: Path) -> list[str]:
    """Removes what was made from an earlier table of the folder's mask (report, DICOM results); returns the names."""
    stale = [name for name in DERIVED if (Path(folder) / name).is_file()]
    for name in stale:
        (Path(folder) / name).unlink()
    return stale


def list_file(path: Path) -> None:
    """Adds the page of a result, put into its folder, to the files of its record; of other names and folders nothing is known."""
    path = Path(path).absolute()
    if path.name != REPORT:
        return
    if not is_ours(path.parent):
        return
    record = read_record(path.parent)
    if record.get("files") is None or path.name in record["files"]:  # a version of before made no list
        return
    write_text(path.parent / RECORD, json.dumps(record | {"files": [*record["files"], path.name]}, indent=2) + "\n")


def write(
    folder: Path,
    study: Study,
    mask: np.ndarray,
    measures: Measures,
    tool: str,
    probability: np.ndarray | None = None,
    cue: np.ndarray | None = None,
) -> list[str]:
    """Writes all but the record, which its caller writes last; returns the files' names.

    Args:
        folder: that of staging(); made where it is not there.
        study: what was segmented; a CT of NaN is none, and not written.
        mask: bool (z, y, x).
        measures: of the mask; its mask_name, one of MASKS, names the file.
        tool: name and version for lesions.json.
        probability, cue: float32 (z, y, x), written where given.

    Raises:
        InputError: the disk refused it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stored = study.stored or study.grid
    ct = None if np.isnan(study.ct_hu.flat[0]) else study.ct_hu  # NaN everywhere or nowhere (study.py)
    images = {PET: study.pet_suv, CT: ct, PROBABILITY: probability, CUE: cue}
    images = {name: array for name, array in images.items() if array is not None}
    with ThreadPoolExecutor(2) as pool:  # packing leaves Python's lock free
        jobs = [pool.submit(write_image, folder / name, array, stored) for name, array in images.items()]
        jobs.append(pool.submit(write_mask, folder / measures.mask_name, mask, stored))
        for job in jobs:
            job.result()
    tables = [path.name for path in lesion_table.write(folder, measures, tool)]
    return [measures.mask_name, *images, *tables]


@contextmanager
def staging(folder: Path, record: str = RECORD) -> Iterator[Path]:
    """A hidden folder inside folder to make a result in; gone at the end, unless putting it in its place was cut off.

    Args:
        folder: made where it is not there.
        record: the file that goes into its place last.

    Raises:
        InputError: the disk refused it.
    """
    folder = Path(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}); name another folder") from error
    try:
        yield stage
    finally:
        # cut off among the renames: the record in the stage says whose the files beside it are
        if not (stage / record).is_file() or (folder / record).is_file():
            shutil.rmtree(stage, ignore_errors=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()


def replace_all(stage: Path, folder: Path, names: Sequence[str]) -> None:
    """Puts the files of a stage in the place of an earlier result's, one by one.

    The old record goes first and the new one comes last: where a record lies, all beside it is its own. A folder that was left between
    the two has the new record in its stage still, and check() lets a further run write there.

    Args:
        names: of the files but the record.

    Raises:
        OSError: the disk refused it.
    """
    (folder / RECORD).unlink(missing_ok=True)
    for name in names:
        (stage / name).replace(folder / name)
    for name in OPTIONAL:  # of an earlier run: they belong to another mask
        if name not in names:
            (folder / name).unlink(missing_ok=True)
    (stage / RECORD).replace(folder / RECORD)
    for other in folder.glob(f"{STAGING}*"):
        shutil.rmtree(other, ignore_errors=True)


def read(folder: Path) -> tuple[Saved, list[str]]:
    """A result and warnings.

    Raises:
        InputError: a file is absent, cannot be read, or lies on another grid than the PET.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one that l2s segment has written")
    record = read_record(folder)
    masks = [name for name in MASKS if (folder / name).is_file()]
    if len(masks) != 1:
        raise InputError(f"{folder} holds {' and '.join(masks) or 'no mask'}; exactly one of {', '.join(MASKS)} is needed")
    name = (record.get("case") or {}).get("name") or folder.resolve().name
    has_ct = (folder / CT).is_file()
    study, warnings = read_study(folder / PET, folder / CT, name) if has_ct else read_pet(folder / PET, name)
    if not has_ct:
        warnings.append(f"{folder} holds no {CT}: no HU")
    known = record.get("body") or {}
    study = replace(study, body=Body(known.get("weight_kg"), known.get("height_cm"), known.get("sex")))
    maps = []
    for file in (PROBABILITY, CUE):
        array = None
        if (folder / file).is_file():
            array, grid, _, lines = read_image(folder / file)
            warnings += lines
            if not grid.matches(study.grid):
                raise InputError(f"{folder / file} is not on the grid of {PET}; segment the case again")
        else:
            warnings.append(
                f"{folder} holds no {file}: that part of the lesions' confidence stays empty (l2s segment --{FLAGS[file]})"
            )
        maps.append(array)
    return Saved(study, read_truth(folder / masks[0], study.grid), masks[0], *maps, record), warnings


def read_record(folder: Path) -> dict:
    """record.json of a result.

    Raises:
        InputError: there is none or it is broken.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a folder that l2s segment has written, or give --pet FILE --mask FILE")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}); segment the case again") from None
    if wrong := misfit(record):
        raise InputError(f"{path} is no record of l2s ({wrong}); segment the case again")
    return record


PARTS = ("case", "body", "weights", "plan", "method", "result", "seconds", "geometry", "dicom")
NUMBERS = {"body": ("weight_kg", "height_cm"), "result": ("lesions", "volume_ml")}
WORDS = {"case": ("name", "kind"), "body": ("sex",), "weights": ("name", "sha256", "intended_use")}


def misfit(record) -> str | None:
    """What in a record is not of the type that its readers count on; None: nothing. Absent and null are fine."""
    if not isinstance(record, dict):
        return f"a {type(record).__name__} where an object is needed"
    if record.get("made") is not None and not isinstance(record["made"], str):
        return f"made: {record['made']!r} where text is needed"
    for key in PARTS:
        if record.get(key) is not None and not isinstance(record[key], dict):
            return f"{key}: {record[key]!r} where an object is needed"
    for kinds, types, what in ((NUMBERS, int | float, "a number"), (WORDS, str, "text")):
        for part, names in kinds.items():
            for name in names:
                value = (record.get(part) or {}).get(name)
                if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
                    return f"{part}.{name}: {value!r} where {what} is needed"
    for key in ("warnings", "files", "left_out"):
        lines = record.get(key)
        if lines is not None and not (isinstance(lines, list) and all(isinstance(one, str) for one in lines)):
            return f"{key}: {lines!r} where a list of texts is needed"
    return None
