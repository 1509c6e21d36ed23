"""A scanner's DICOM folder -> the Study that the networks see, with what the writers of DICOM results need beside it.

    files -> table of series -> PET and CT -> SUV factor from headers -> voxels -> Study

dicom_files.py finds, dicom_series.py sorts, dicom_choice.py chooses, suv.py computes; this module joins them.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from l2s.errors import InputError
from l2s.io import dicom_files
from l2s.io.dicom_choice import Choice, choose, lps_grid
from l2s.io.dicom_series import Series, Stack, Table, read_slice_header, read_table, read_voxels
from l2s.io.headers import IMAGE_TYPES, text
from l2s.io.studies import MAX_SUV, check_ct, check_finite, check_limits, check_pet, ct_on_grid, lift_to_air
from l2s.io.suv import AS_IN_THE_HEADER, Overrides, SuvFacts, suv_facts
from l2s.study import Body, Grid, Study, to_lps

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DicomPet:
    """A PET series as SUV.

    Attributes:
        pet_suv: float32 (z, y, x) in LPS, SUVbw.
        grid: its LPS grid. stored: the series' own, whose first axis runs along the slices.
        headers: one a slice, without voxels; headers[k] is that of slice k of the stored grid. What DICOM results refer to.
        series: the row of the table that it came from.
        suv: how the values became SUV.
        reasons: why each other series was not taken, by its SeriesInstanceUID.
        warnings: one line each.
    """

    pet_suv: np.ndarray
    grid: Grid
    stored: Grid
    headers: tuple[Dataset, ...]
    series: Series
    suv: SuvFacts
    reasons: dict[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class DicomCase:
    """One PET/CT study from DICOM.

    Attributes:
        study: PET in SUVbw and CT on the PET's grid; study.stored is the PET series' own grid.
        ct_hu: float32 (z, y, x) in LPS, the CT as it was scanned; -1024 HU at least.
        ct_grid: its LPS grid. ct_stored: its own.
        pet_headers: of the PET's slices, without voxels; pet_headers[k] is that of slice k along the first axis of study.stored. What
            DICOM results refer to.
        pet, ct: rows of the table of series; ct is None where the CT came from an image file.
        suv: how the values became SUV, with the patient facts that this took.
        reasons: why each other series was not taken, by its SeriesInstanceUID.
        warnings: one line each. None of them holds a name, an ID, a UID or a date.
    """

    study: Study
    ct_hu: np.ndarray
    ct_grid: Grid
    ct_stored: Grid
    pet_headers: tuple[Dataset, ...]
    pet: Series
    ct: Series | None
    suv: SuvFacts
    reasons: dict[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class DicomSlices:
    """The PET series that a mask lies on, wherever the mask came from.

    Attributes:
        headers: one a slice, without voxels.
        grid: its LPS grid, as read_pet would have it.
        pet: its voxels as SUV; None where SUV cannot be computed.
        problem: why not.
        warnings: one line each.
    """

    headers: tuple[Dataset, ...]
    grid: Grid
    pet: DicomPet | None
    problem: str | None
    warnings: tuple[str, ...]


class _NoSuv(InputError):
    """The series can be read, but not as SUV."""


@dataclass(frozen=True)
class Inspection:
    """What read_dicom would do, without reading a voxel.

    Attributes:
        table, choice: all series and the verdicts.
        suv: None where there is no PET or its SUV cannot be computed.
        problem: the line that read_dicom would raise; None where the study can be read.
        pet_alone: whether the PET can be read as SUV, with or without a CT (read_pet, read_dicom with a CT file).
        others: files that are not DICOM.
        warnings: one line each.
    """

    table: Table
    choice: Choice
    suv: SuvFacts | None
    problem: str | None
    pet_alone: bool
    others: int
    warnings: tuple[str, ...]


def read_dicom(
    path: Path,
    pet_series: str | None = None,
    ct_series: str | None = None,
    overrides: Overrides = AS_IN_THE_HEADER,
    ct: Path | None = None,
    name: str | None = None,
) -> DicomCase:
    """The PET/CT study in a folder, a zip or a DICOMDIR's tree.

    Args:
        path: folder (searched to its depths), zip, DICOMDIR or any DICOM file of the folder.
        pet_series, ct_series: SeriesInstanceUIDs to take instead of the ones that are chosen by themselves.
        overrides: weight, dose, times ... that the header has wrong or not at all.
        ct: an image file (.mha, .nii, .nii.gz) to take as CT instead of a series.
        name: of the case; default: a pseudonym made of the PET's SeriesInstanceUID.

    Raises:
        InputError: no PET or no CT can be used, or SUV cannot be computed; the line says why.
    """
    if ct is not None and ct_series is not None:
        raise InputError(f"both a CT file ({ct}) and --ct-series were given; one of the two")
    with _series_in(path) as (table, found):
        choice = choose(table, pet_series, ct_series)
        pet = _pet(table, choice, overrides)
        if ct is not None:
            from l2s.io.images import read_image

            ct_hu, ct_grid, ct_stored, lines = read_image(ct)
        else:
            if choice.ct is None:
                raise InputError(f"{path}: {choice.ct_problem}")
            ct_stored = choice.ct_stack.grid
            ct_hu, ct_grid = _ct(choice.ct_stack)
            lines = _irregular(choice.ct_stack, "CT")
        check_limits("the CT", ct_grid)
        check_finite(ct_hu, "the CT")
    lines = [*found.warnings, *lines, *check_ct(ct_hu, "the CT")]
    lift_to_air(ct_hu)
    resampled, more = ct_on_grid(ct_hu, ct_grid, pet.grid, "the PET", "the CT")
    return DicomCase(
        study=Study(pet.pet_suv, resampled, pet.grid, pet.stored, name or pseudonym(pet.series.uid), body_of(pet.suv)),
        ct_hu=ct_hu,
        ct_grid=ct_grid,
        ct_stored=ct_stored,
        pet_headers=pet.headers,
        pet=pet.series,
        ct=choice.ct if ct is None else None,
        suv=pet.suv,
        reasons=choice.reasons,
        warnings=tuple(dict.fromkeys([*pet.warnings, *lines, *more])),
    )


def read_pet(path: Path, pet_series: str | None = None, overrides: Overrides = AS_IN_THE_HEADER) -> DicomPet:
    """The PET alone, where there is no CT.

    Raises:
        InputError: see read_dicom.
    """
    with _series_in(path) as (table, found):
        pet = _pet(table, choose(table, pet_series), overrides)
        return replace(pet, warnings=(*pet.warnings, *found.warnings))


def read_slices(path: Path, pet_series: str | None = None, overrides: Overrides = AS_IN_THE_HEADER) -> DicomSlices:
    """The PET series that a mask lies on, as SUV where that can be computed.

    Raises:
        InputError: no PET can be used; the line says why.
    """
    with _series_in(path) as (table, found):
        choice = choose(table, pet_series)
        try:
            pet = _pet(table, choice, overrides)
            return DicomSlices(pet.headers, pet.grid, pet, None, (*pet.warnings, *found.warnings))
        except _NoSuv as error:
            built = choice.pet_stack
            warnings = (*table.warnings, *choice.warnings, *found.warnings, *_irregular(built, "PET"))
            return DicomSlices(pet_headers(built), lps_grid(built), None, str(error), tuple(dict.fromkeys(warnings)))


def inspect_dicom(
    path: Path, pet_series: str | None = None, ct_series: str | None = None, overrides: Overrides = AS_IN_THE_HEADER
) -> Inspection:
    """All series, what would be taken and why the others not; reads headers alone.

    Raises:
        InputError: there is no DICOM, or a named series is not in it.
    """
    with _series_in(path) as (table, found):
        choice = choose(table, pet_series, ct_series)
        facts, problem = None, choice.pet_problem or choice.ct_problem
        warnings = [*table.warnings, *choice.warnings, *found.warnings]
        if choice.pet:
            try:
                facts = suv_facts(pet_headers(choice.pet_stack), overrides)
                warnings += facts.warnings
            except InputError as error:
                problem = f"SUV cannot be computed: {error}"
            warnings += _irregular(choice.pet_stack, "PET")
        if choice.ct:
            warnings += _irregular(choice.ct_stack, "CT")
        return Inspection(table, choice, facts, problem, facts is not None, found.others, tuple(dict.fromkeys(warnings)))


@contextmanager
def _series_in(path: Path) -> Iterator[tuple[Table, dicom_files.Found]]:
    """(table of series, the files); what a zip was unpacked to is gone afterwards."""
    found = dicom_files.find_dicom(path)
    try:
        yield read_table(found.files, Path(path) if found.unpacked is None else found.unpacked), found
    finally:
        if found.unpacked:
            shutil.rmtree(found.unpacked, ignore_errors=True)


def pet_headers(built: Stack) -> tuple[Dataset, ...]:
    """The headers of all slices in the stack's order, with the private elements that suv.py needs."""
    return tuple(read_slice_header(instance.path) for instance in built.instances)


def body_of(suv: SuvFacts) -> Body:
    """The patient's facts that lean body mass is worked out from."""
    return Body(suv.weight_kg, None if suv.height_m is None else 100 * suv.height_m, suv.sex)


def pseudonym(uid: str) -> str:
    """A name for a case that leads back to no patient: twelve digits of its UID's SHA-256."""
    return f"case-{short_hash(uid)}"


def short_hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


def _pet(table: Table, choice: Choice, overrides: Overrides) -> DicomPet:
    """The chosen PET as SUV."""
    if choice.pet is None:
        raise InputError(choice.pet_problem)
    built = choice.pet_stack
    headers = pet_headers(built)
    try:
        facts = suv_facts(headers, overrides)
    except InputError as error:
        raise _NoSuv(str(error)) from None
    values = read_voxels(built)
    values *= np.float32(facts.factor)
    check_finite(values, "the PET")
    high = float(values.max())
    if high > MAX_SUV or high <= 0:
        raise _NoSuv(
            f"the largest SUV would be {high:g} (limits: above 0, up to {MAX_SUV:g}): weight ({facts.weight_kg} kg), dose "
            f"({facts.dose_bq} Bq) or times in the header are wrong; give the true ones (--weight-kg, --dose-bq, --injection-datetime)"
        )
    check_pet(values, "the PET")
    view, grid = to_lps(values, built.grid)
    lossy = any(text(header, "LossyImageCompression") == "01" for header in headers)
    warnings = [*table.warnings, *choice.warnings, *facts.warnings, *_irregular(built, "PET")]
    if lossy:
        warnings.append("the PET was compressed with loss: its SUV are not the scanner's")
    return DicomPet(
        pet_suv=np.ascontiguousarray(view),
        grid=grid,
        stored=built.grid,
        headers=headers,
        series=choice.pet,
        suv=facts,
        reasons=choice.reasons,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _ct(built: Stack) -> tuple[np.ndarray, Grid]:
    """The CT in HU, LPS."""
    values = read_voxels(built)
    view, _ = to_lps(values, built.grid)
    return np.ascontiguousarray(view), lps_grid(built)


def _irregular(built: Stack, what: str) -> list[str]:
    if built.regular:
        return []
    return [
        f"the {what}'s slices lie up to {built.worst:.2f} slice distances off a regular grid: resampled along the slices "
        f"to {built.grid.spacing_mm_zyx[0]:.4g} mm"
    ]


def record(case: DicomCase | DicomPet) -> dict:
    """JSON-able facts of a reading, for the records of a run.

    UIDs are hashed, dates, file names and descriptions left out: a record travels with the results, and any of them leads back to a
    patient. Times of day stay: without them the SUV factor cannot be checked.
    """
    if isinstance(case, DicomPet):
        pet, ct = _series_record(case.series, case.stored), None
    else:
        pet = _series_record(case.pet, case.study.stored)
        ct = _series_record(case.ct, case.ct_stored) if case.ct else {"source": "an image file"}
    others = [{"series_hash": short_hash(uid), "reason": reason} for uid, reason in case.reasons.items()]
    return {"pet": pet, "ct": ct, "suv": _suv_record(case.suv), "not_taken": others, "warnings": list(case.warnings)}


def _suv_record(suv: SuvFacts) -> dict:
    facts = asdict(suv)
    for key in ("injection", "reference"):
        moment: datetime | None = facts.pop(key)
        facts[f"{key}_time"] = moment.time().isoformat() if moment else None
    facts.pop("warnings")
    return facts


def _series_record(series: Series, grid: Grid) -> dict:
    return {
        "series_hash": short_hash(series.uid),
        "series_number": series.number,
        "slices": len(series.instances),
        "size_xyz": list(grid.size_xyz),
        "spacing_mm_xyz": list(grid.spacing_mm_xyz),
        "origin_mm_xyz": list(grid.origin_mm_xyz),
        "direction": list(grid.direction9),
        "image_type": "/".join(kind if kind in IMAGE_TYPES else "OTHER" for kind in series.image_type),
    }
