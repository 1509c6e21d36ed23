"""Folds by patient: dealt by lesion load, seeded, or taken from a file in nnU-Net's form."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from pathlib import Path

import numpy as np

from l2s.errors import InputError
from l2s.wholefile import write_text
from training.readers import safe_name

log = logging.getLogger(__name__)

SPLITS = "splits_final.json"  # the name of nnU-Net's own file
DEALT = "dealt"  # the word for --splits that turns files off
SYNTHETIC = ("phantom", "implant")  # sources that are made, not scanned: in no splits file, and never scored


def make_folds(cases: list[dict], folds: int, seed: int) -> dict[str, int]:
    """patient -> the fold that holds the patient out.

    Args:
        cases: rows with 'patient' and 'lesion_ml'.
        folds: how many.
        seed: of the draw.

    Patients are ranked by lesion volume and dealt out in groups of `folds`, so that each fold gets one of every rank; the
    lesion-free ones come first in rank, so that they too are shared out evenly, to within one.
    """
    load: dict[str, float] = defaultdict(float)
    for case in cases:
        load[case["patient"]] += case["lesion_ml"]
    ranked = sorted(load, key=lambda patient: (load[patient], patient))
    rng = np.random.default_rng(seed)
    assignment = {}
    for first in range(0, len(ranked), folds):
        for patient, fold in zip(ranked[first : first + folds], rng.permutation(folds)):
            assignment[patient] = int(fold)
    return assignment


def splits_files(given: list[str] | None, data: list[tuple[str, Path]]) -> list[tuple[str | None, Path]]:
    """(source whose cases it names, None: any's; file) of the files that decide the folds.

    Those of --splits, else those in or beside the data's folders; none after --splits dealt.
    """
    if given:
        return [(None, Path(g)) for g in given if g != DEALT]
    return [(source, path) for source, folder in data for path in (folder / SPLITS, folder.parent / SPLITS) if path.is_file()]


def read_splits(path: Path, folds: int) -> dict[str, int]:
    """Case name -> fold, of a file in nnU-Net's form: a list of {"train": [name], "val": [name]}, one a fold.

    Names are made file-safe, as the cases' names are.

    Raises:
        InputError: the file is no such list, has another number of folds, or holds a case in two folds or in both parts of one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; --splits wants nnU-Net's {SPLITS}, or 'dealt'")
    try:
        parts = [
            [{safe_name(str(name)) for name in fold[part]} for part in ("train", "val")] for fold in json.loads(path.read_text())
        ]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f'{path} is no list of {{"train": [...], "val": [...]}} ({reason}); give nnU-Net\'s own file') from None
    if len(parts) != folds:
        raise InputError(
            f"{path} has {len(parts)} folds, the recipe {folds}: set folds = {len(parts)} in it, or give --splits dealt"
        )
    fold_of: dict[str, int] = {}
    for k, (train, val) in enumerate(parts):
        if both := sorted(train & val):
            raise InputError(f"{path}: {both[0]} both trains and validates in fold {k}; mend the file or give --splits dealt")
        for name in sorted(val):
            if fold_of.setdefault(name, k) != k:
                raise InputError(f"{path}: {name} is in folds {fold_of[name]} and {k}; mend the file or give --splits dealt")
    # a study that only ever trains is known to the file too: it is kept out of every fold
    return {name: -1 for train, _ in parts for name in train} | fold_of


def assign_folds(
    rows: list[dict], folds: int, seed: int, files: list[tuple[str | None, Path]], labels: dict[str, str] | None = None
) -> None:
    """Sets 'fold' in every row: the fold that holds it out, None where it always trains.

    Scanned cases that a file names take its fold, and so do other studies of the same patient. A data set of which no file names
    a case is dealt out by make_folds. What a file leaves out of a data set that it does name trains only.
    Phantoms are dealt out in turn, so that a stage 1 that has not seen them can make their cues; implants take the fold of the
    patient whose tumour they carry, so that no fold sees what it holds out.
    Where there are several patients, each fold must hold one out.

    Args:
        rows: 'name', 'source', 'patient' and 'lesion_ml'; changed in place.
        files: what splits_files gives; none: all is dealt.
        labels: case -> its name in its own data set, by which a file beside that knows it; those that are not here have their own.

    Raises:
        InputError: see read_splits and given_folds, a patient's studies lie in two folds, or a fold has no patient.
    """
    scanned = [row for row in rows if row["source"] not in SYNTHETIC]
    given = given_folds(scanned, folds, files, labels or {})
    of_patient = _patients_folds([row for row in scanned if row["name"] in given], given)
    covered = {row["source"] for row in scanned if row["name"] in given}
    left_out = [
        r["name"] for r in scanned if r["source"] in covered and r["patient"] not in of_patient and r["name"] not in given
    ]
    if left_out:
        log.warning("%d cases are not in the splits' files and only train, such as %s", len(left_out), left_out[0])
    dealt = make_folds([r for r in scanned if r["source"] not in covered and r["patient"] not in of_patient], folds, seed)
    phantoms = [row["patient"] for row in rows if row["source"] == "phantom"]
    # drawn ones and those on organ maps alternate: with an even number of folds each round begins one later, or a fold had one kind
    shift = 1 if folds % 2 == 0 else 0
    dealt |= {name: (k + k // folds * shift) % folds for k, name in enumerate(phantoms)}
    for row in rows:
        fold = of_patient.get(row["patient"], dealt.get(row["patient"]))
        row["fold"] = None if fold == -1 else fold
    check_patients({row["patient"] for row in scanned}, folds, set(range(folds)) - {row["fold"] for row in scanned})


def check_patients(patients: set[str], folds: int, empty: set[int]) -> None:
    """Raises InputError where folds are empty although there are patients; one alone is of use for a training on all cases."""
    if empty and len(patients) > 1:
        raise InputError(
            f"fold {min(empty)} of {folds} holds out none of the {len(patients)} patients: set fewer folds in the recipe, at most one a "
            "patient, add patients, or give other --splits"
        )


def given_folds(scanned: list[dict], folds: int, files: list[tuple[str | None, Path]], labels: dict[str, str]) -> dict[str, int]:
    """Case -> the fold that the files give it, -1 for training only, which another file's fold overrules.

    Raises:
        InputError: see read_splits, or two files give a case two folds.
    """
    given: dict[str, int] = {}
    for source, path in files:
        named = read_splits(path, folds)
        # of two data sets' case_001 the second has another name here
        own = labels if source else {}
        label_of = {r["name"]: own.get(r["name"], r["name"]) for r in scanned if source in (None, r["source"])}
        known = {name: named[label] for name, label in label_of.items() if label in named}
        absent = len(named) - len(known)
        log.info("folds from %s: it names %d of the cases here, and %d that are not here", path, len(known), absent)
        for name, fold in known.items():
            before = given.get(name, -1)
            if -1 not in (before, fold) and before != fold:
                raise InputError(
                    f"{path} has {name} in fold {fold}, another splits file in fold {before}: mend one, or name one with --splits"
                )
            given[name] = max(before, fold)
    return given


def _patients_folds(rows: list[dict], given: dict[str, int]) -> dict[str, int]:
    """patient -> fold of the rows, which are all named in given."""
    first: dict[str, dict] = {}
    for row in rows:
        other = first.setdefault(row["patient"], row)
        if given[other["name"]] != given[row["name"]]:
            shown = ", ".join(f"{r['name']} in {_fold_name(given[r['name']])}" for r in (other, row))
            raise InputError(
                f"patient {row['patient']} is in two folds ({shown}): a fold would be tested on a patient that it trained on; "
                "mend the splits' file or give --splits dealt"
            )
    return {patient: given[row["name"]] for patient, row in first.items()}


def _fold_name(fold: int) -> str:
    return "training only" if fold == -1 else f"fold {fold}"


def write_splits(path: Path, rows: list[dict], folds: int) -> None:
    """Writes the folds in nnU-Net's form, so that another run takes them with --splits; made cases are left out."""
    scanned = sorted((row["name"], row["fold"]) for row in rows if row["source"] not in SYNTHETIC)
    value = [
        {"train": [n for n, fold in scanned if fold != k], "val": [n for n, fold in scanned if fold == k]} for k in range(folds)
    ]
    write_text(path, json.dumps(value, indent=1))


def changed_folds(before: list[dict], rows: list[dict]) -> list[str]:
    """Cases whose fold is another than in an earlier index: what was trained on those folds no longer fits them."""
    known = {row["name"]: row.get("fold") for row in before}
    return sorted(row["name"] for row in rows if row["name"] in known and known[row["name"]] != row["fold"])
