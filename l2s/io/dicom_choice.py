"""Which of a study's series are its PET and its CT, and why the others are not. Headers and geometry decide; no voxel is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from l2s.errors import InputError
from l2s.io import suv
from l2s.io.dicom_series import Series, Stack, Table, stack
from l2s.io.headers import IMAGE_TYPES, MODALITIES, RESCALE_TYPES, lenient, number, text, texts, word
from l2s.io.studies import check_limits
from l2s.study import Grid, to_lps

PET_CLASS = "1.2.840.10008.5.1.4.1.1.128"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
REFUSED_CLASSES = suv.ENHANCED_PET | {
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture",
}
SCOUTS = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW"}
PROJECTIONS = {"MIP", "MINIP", "MAXIMUM INTENSITY PROJECTION", "PROJECTION IMAGE", "VOLREN", "REPROJECTION"}
DERIVED = {"DERIVED", "SECONDARY"}
# as words of a description: `_` and the like part words too
MIP_WORDS = re.compile(r"(?<![A-Z])(MIP|MIPS|M\.I\.P\.)(?![A-Z])")
NAC_WORDS = re.compile(r"(?<![A-Z])(NAC|NO[ _-]?AC|NON[ _-]?AC|UNCORRECTED|NO[ _-]ATT(EN)?(UATION)?)(?![A-Z])")
SCOUT_WORDS = re.compile(r"(?<![A-Z])(SCOUT|TOPOGRAM|SURVIEW|LOCALI[ZS]ER)(?![A-Z])")


@dataclass(frozen=True)
class Choice:
    """The outcome for a table of series.

    Attributes:
        pet, ct: the chosen series with their stacks; None where there is none.
        reasons: for every series that was not taken, by its UID: why.
        pet_problem, ct_problem: the line for the user where there is none.
        warnings: one line each.
    """

    pet: Series | None
    pet_stack: Stack | None
    ct: Series | None
    ct_stack: Stack | None
    reasons: dict[str, str]
    pet_problem: str | None
    ct_problem: str | None
    warnings: tuple[str, ...]


class _Soft(InputError):
    """A series that is not taken by itself, but is where the user names it."""


def choose(table: Table, pet_uid: str | None = None, ct_uid: str | None = None) -> Choice:
    """The PET that covers most, and of the CTs in its study and frame of reference the one that covers the PET most.

    Args:
        pet_uid, ct_uid: SeriesInstanceUIDs that the user names: these are taken though they are derived, though their description
            speaks against them, or though another covers more; what cannot be right stays refused.

    Raises:
        InputError: a named series is not there.
    """
    known = {series.uid: series for series in table.series}
    for uid, flag in ((pet_uid, "--pet-series"), (ct_uid, "--ct-series")):
        if uid is not None and uid not in known:
            raise InputError(f"{flag} {uid}: no such series among {len(known)}; l2s inspect lists them")
    reasons: dict[str, str] = {}
    warnings: list[str] = []
    usable = _usable(table, "PT", check_pet, pet_uid, reasons, warnings)
    pet, problem = _choose_pet(table, usable, reasons, warnings)
    if pet_uid is not None and pet is None:
        problem = f"the PET series named by --pet-series cannot be used: {reasons[pet_uid]}"
    cts = _usable(table, "CT", check_ct_series, ct_uid, reasons, warnings)
    empty = Choice(None, None, None, None, reasons, problem, None, tuple(warnings))
    if pet is None:
        _say_rest(table, reasons)
        return replace(empty, ct_problem="without a PET no CT was chosen")
    ct, ct_problem = _choose_ct(table, pet, usable[pet.uid], cts, ct_uid, reasons, warnings)
    if ct_uid is not None and ct is None:
        ct_problem = f"the CT series named by --ct-series cannot be used: {reasons[ct_uid]}"
    _say_rest(table, reasons, pet, ct)
    return Choice(
        pet, usable[pet.uid], ct, cts[ct.uid] if ct else None, reasons, None, ct_problem, tuple(dict.fromkeys(warnings))
    )


def check_pet(series: Series) -> None:
    """Raises InputError where the series can be no PET for SUV."""
    if series.problem:
        raise InputError(series.problem)
    _check_class(series, PET_CLASS, "PET")
    suv.check_corrected(series.header)
    suv.check_units(series.header)
    suv.check_decay(series.header)
    if NAC_WORDS.search(series.description.upper()):
        raise _Soft("its description says that it is not attenuation corrected (NAC)")
    _check_kind(series, set(texts(series.header, "SeriesType")))


def check_complete(series: Series) -> None:
    """Raises InputError where the header knows of more slices than are here: at the ends of a volume no gap shows it.

    NumberOfSlices counts those of one frame, so a dynamic or gated series has more files, never fewer.
    """
    count = lenient(number, series.header, "NumberOfSlices")
    if count is not None and count > len(series.instances):
        raise _Soft(
            f"NumberOfSlices is {count:g}, but {len(series.instances)} slices are here: the others are missing; copy the whole series again"
        )


def check_ct_series(series: Series) -> None:
    """Raises InputError where the series can be no CT of the body."""
    if series.problem:
        raise InputError(series.problem)
    _check_class(series, CT_CLASS, "CT")
    if SCOUTS & set(series.image_type) or SCOUT_WORDS.search(series.description.upper()):
        raise InputError("a scout (localizer), not a volume")
    if (kind := (text(series.header, "RescaleType") or "HU").upper()) != "HU":
        raise _Soft(f"RescaleType is {word(kind, RESCALE_TYPES)}, not HU: its values are not known to be Hounsfield units")
    _check_kind(series, set())


def _check_class(series: Series, wanted: str, what: str) -> None:
    if name := REFUSED_CLASSES.get(series.sop_class):
        many = " (multi-frame)" if "Enhanced" in name else ""
        raise InputError(f"{name}{many} is not read; export the series as classic {what} Image Storage")
    if series.sop_class != wanted:
        from pydicom.uid import UID

        name = UID(series.sop_class).name if series.sop_class else "absent"
        shown = "unknown" if name == series.sop_class else name
        raise InputError(f"its SOP class ({shown}) is not {what} Image Storage")


def _check_kind(series: Series, more: set[str]) -> None:
    kinds = set(series.image_type) | more
    if PROJECTIONS & kinds or MIP_WORDS.search(series.description.upper()):
        raise _Soft("a maximum intensity projection (MIP), not a volume")
    if DERIVED & kinds:
        shown = "/".join(kind if kind in IMAGE_TYPES else "OTHER" for kind in series.image_type)
        raise _Soft(f"derived or secondary (ImageType {shown}), not what the scanner reconstructed")


def _usable(table: Table, modality: str, check, named: str | None, reasons: dict, warnings: list) -> dict[str, Stack]:
    """Stacks of the series that pass, by UID; the others' reasons are noted."""
    stacks = {}
    for series in table.series:
        if series.modality != modality and series.uid != named:
            continue
        if named is not None and series.uid != named:
            reasons[series.uid] = f"another {modality} series was named"
            continue
        try:
            for one in (check, check_complete):
                try:
                    one(series)
                except _Soft as doubt:
                    if series.uid != named:
                        raise
                    warnings.append(f"the {modality} series was named by the user although: {doubt}")
            built = stack(series)
            check_limits("it", built.grid)
            stacks[series.uid] = built
        except InputError as error:
            reasons[series.uid] = str(error)
    return stacks


def _choose_pet(table: Table, usable: dict[str, Stack], reasons: dict, warnings: list) -> tuple[Series | None, str | None]:
    candidates = [series for series in table.series if series.uid in usable]
    if not candidates:
        pets = [series for series in table.series if series.modality == "PT"]
        if not pets:
            kinds = sorted({kind_of(series) for series in table.series})
            return (
                None,
                f"there is no PET series among {len(table.series)} ({', '.join(kinds)}); name the folder of a PET/CT study",
            )
        shown = "; ".join(f"series {label(s)}: {reasons[s.uid]}" for s in pets[:3])
        return None, f"none of {len(pets)} PET series can be used: {shown}"
    if len(studies := {series.study_uid for series in candidates}) > 1:
        for series in candidates:
            reasons[series.uid] = "one of several studies; name it by --pet-series"
        return (
            None,
            f"PET series of {len(studies)} studies lie here; give one study, or name the PET by --pet-series (l2s inspect lists them)",
        )
    with_ct = {(s.study_uid, s.frame_uid) for s in table.series if s.modality == "CT"}

    def rank(series: Series):
        return (
            (series.study_uid, series.frame_uid) not in with_ct,
            -round(usable[series.uid].offsets_mm[-1]),
            suv.UNITS.index(suv.check_units(series.header)),
            series.number if series.number is not None else 1 << 31,
            series.uid,
        )

    best, *others = sorted(candidates, key=rank)
    for other in others:
        less = usable[other.uid].offsets_mm[-1] < usable[best.uid].offsets_mm[-1] - 1
        reasons[other.uid] = (
            "covers less of the body than the chosen one" if less else "as good as the chosen one, which comes first"
        )
    if equal := [label(s) for s in others if "as good" in reasons[s.uid]]:
        warnings.append(
            f"{1 + len(equal)} PET series cover the same; series {label(best)} was taken, not {', '.join(equal)}: --pet-series chooses"
        )
    return best, None


def _choose_ct(
    table: Table, pet: Series, pet_stack: Stack, usable: dict[str, Stack], named: str | None, reasons: dict, warnings: list
) -> tuple[Series | None, str | None]:
    grid = lps_grid(pet_stack)
    covered: dict[str, float] = {}
    by_uid = {}
    for uid, built in usable.items():
        series = by_uid[uid] = built.series
        if pet.patient and series.patient and pet.patient != series.patient:
            reasons[uid] = "of another patient (PatientID) than the PET"
            continue
        where = "study" if series.study_uid != pet.study_uid else "frame of reference"
        if (series.study_uid, series.frame_uid) != (pet.study_uid, pet.frame_uid):
            if uid != named:
                reasons[uid] = f"of another {where} than the PET"
                continue
            warnings.append(f"the CT series was named by the user although it is of another {where} than the PET")
        share = grid.overlap_fraction(lps_grid(built))
        if share == 0:
            reasons[uid] = "does not overlap with the PET in space"
            continue
        covered[uid] = share
    if not covered:
        cts = [series for series in table.series if series.modality == "CT"]
        shown = "; ".join(f"series {label(s)}: {reasons[s.uid]}" for s in cts[:3]) + ("; ..." if len(cts) > 3 else "")
        none = f"none of {len(cts)} CT series goes with the PET ({shown})" if cts else "there is no CT for the PET"
        return None, (
            f"{none}; add the CT of the same study, name one by --ct-series, give it as a file (l2s segment --ct FILE), or convert the "
            "PET alone (l2s convert --pet-only)"
        )

    def rank(uid: str):
        apart = abs(usable[uid].grid.spacing_mm_zyx[0] - pet_stack.grid.spacing_mm_zyx[0])
        return -round(covered[uid], 2), round(apart, 3), by_uid[uid].number or 0, uid

    best, *others = sorted(covered, key=rank)
    for uid in others:
        less = round(covered[uid], 2) < round(covered[best], 2)
        share = f"covers {covered[uid]:.0%} of the PET, the chosen one {covered[best]:.0%}"
        reasons[uid] = share if less else "covers the same; see the warning"
    if equal := [label(by_uid[uid]) for uid in others if "same" in reasons[uid]]:
        warnings.append(
            f"{1 + len(equal)} CT series cover the same; series {label(by_uid[best])} was taken, whose slice distance is nearest to the "
            f"PET's, not {', '.join(equal)}: --ct-series chooses"
        )
    if not pet.frame_uid:
        warnings.append("PET and CT have no FrameOfReferenceUID: that they lie in one space is taken for granted")
    return by_uid[best], None


def lps_grid(built: Stack) -> Grid:
    """The stack's grid as it is in memory."""
    import numpy as np

    return to_lps(np.broadcast_to(np.uint8(0), built.grid.shape_zyx), built.grid)[1]


def label(series: Series) -> str:
    """How a message names a series: its number. A description is free text that can hold a name, a UID leads back to a patient."""
    return "without number" if series.number is None else str(series.number)


def kind_of(series: Series) -> str:
    """The series' modality as a message shows it."""
    return series.modality if series.modality in MODALITIES else "unknown modality"


def _say_rest(table: Table, reasons: dict, *taken: Series | None) -> None:
    """A reason for every series that was neither taken nor looked at."""
    chosen = {series.uid for series in taken if series}
    for series in table.series:
        if series.uid not in chosen and series.uid not in reasons:
            kind = kind_of(series)
            reasons[series.uid] = "not needed: no PET was chosen" if kind in ("PT", "CT") else f"{kind}: neither PET nor CT"
