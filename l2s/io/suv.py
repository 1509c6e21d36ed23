"""From a PET series' headers to the factor that makes SUVbw of its rescaled values. Each refusal is one line with its remedy.

The decay rules follow QIBA's vendor-neutral pseudo-code and the DICOM PET modules (PS3.3 C.8.9). Nothing here reads a voxel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from typing import TYPE_CHECKING

from l2s import body
from l2s.body import HEIGHT_M, WEIGHT_KG
from l2s.errors import InputError
from l2s.io.headers import (
    CORRECTIONS,
    MODALITIES,
    PET_UNITS,
    SUV_TYPES,
    agreed,
    as_number,
    items,
    lenient,
    number,
    private,
    raw,
    text,
    texts,
    word,
)
from l2s.io.suv_times import first_acquisition, injection_moment, of_dose, pharmaceutical, reference_moment

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

UNITS = ("BQML", "GML", "CM2ML", "CNTS")
ENHANCED_PET = {
    "1.2.840.10008.5.1.4.1.1.130": "Enhanced PET",
    "1.2.840.10008.5.1.4.1.1.128.1": "Legacy Converted Enhanced PET",
}
# (names in code meanings, SNOMED codes in both spellings, half-life in s): DICOM's CID 4020, half-lives of NuDat 3
NUCLIDES = {
    "F-18": (("F", "FLUORINE"), ("C-111A1", "77004003"), 6586.2),
    "C-11": (("C", "CARBON"), ("C-105A1", "40565003"), 1221.8),
    "N-13": (("N", "NITROGEN"), ("C-107A1", "21576001"), 597.9),
    "O-15": (("O", "OXYGEN"), ("C-B1038", "129504001"), 122.2),
    "Ga-68": (("GA", "GALLIUM"), ("C-131A3", "35337001"), 4070.3),
    "Cu-64": (("CU", "COPPER"), ("C-127A2", "3932008"), 45721.1),
    "Zr-89": (("ZR", "ZIRCONIUM"), ("C-168A4", "63360001"), 282276.0),
    "Rb-82": (("RB", "RUBIDIUM"), ("C-159A2", "79197006"), 75.5),
    "I-124": (("I", "IODINE"), ("C-114A5", "40937006"), 360806.4),
}
HALF_LIFE_TOLERANCE = 0.03  # scanners round half-lives by up to 1.5 %
MIN_DOSE_BQ = 1e4  # no image can be made of less
MAX_DOSE_BQ = 1e11
UPTAKE_MIN = (30.0, 150.0)
AGREEMENT = 0.01  # of Philips's two factors
# (words of the header, the name that is kept): the element is free text
MANUFACTURERS = (
    ("SIEMENS|CPS|CTI", "Siemens"), ("GE|GENERAL ELECTRIC", "GE"), ("PHILIPS|ADAC|MARCONI", "Philips"),
    ("UIH|UNITED IMAGING", "United Imaging"),
    ("CANON", "Canon"), ("TOSHIBA", "Toshiba"), ("HITACHI", "Hitachi"), ("SHIMADZU", "Shimadzu"), ("MEDISO", "Mediso"),
    ("NEUSOFT", "Neusoft"), ("SINOUNION", "Sinounion"), ("BRUKER", "Bruker"),
)  # fmt: skip
FDG = re.compile(r"FDG|FLUORO-?(2-?)?DE(S)?OXY-?-?(D-?)?GLUCOSE|FLUDEOXYGLUCOSE", re.IGNORECASE)


@dataclass(frozen=True)
class Overrides:
    """What the user knows better than the header; None keeps the header's value.

    injection and reference are a moment, or a time of day near the scan. reference is what the scanner decay-corrected to.
    """

    weight_kg: float | None = None
    height_m: float | None = None
    sex: str | None = None
    dose_bq: float | None = None
    half_life_s: float | None = None
    injection: datetime | time | None = None
    reference: datetime | time | None = None

    def given(self) -> dict[str, object]:
        """The fields that are set."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class SuvFacts:
    """How the values of a PET series become SUVbw. No name, ID or birth date: these are not needed, so they are not read.

    Attributes:
        factor: SUVbw = (stored value * RescaleSlope + RescaleIntercept) * factor.
        method: how the factor was made, in words.
        units, suv_type, decay_correction, nuclide: as the header has them, by DICOM's words alone.
        manufacturer: of a list, 'other' or 'unknown'. tracer: 'FDG', 'other' or None. Both are free text in the header, and a record
            of these facts may be passed on.
        weight_kg, height_m, sex, age_years: of the patient; None where unknown and not needed. Ages above 89 read 90.
        dose_bq: injected; decayed_dose_bq: what of it is left at the reference, None where the factor does not need it.
        injection, reference: scanner's wall clock; reference_source names the element.
        uptake_s: injection to reference (ADMIN: to the first acquisition); None where unknown.
        overrides: names of the values that the user gave.
        warnings: one line each.
    """

    factor: float
    method: str
    units: str
    suv_type: str | None
    decay_correction: str
    manufacturer: str
    tracer: str | None
    nuclide: str | None
    weight_kg: float | None
    height_m: float | None
    sex: str | None
    age_years: int | None
    dose_bq: float | None
    half_life_s: float | None
    decayed_dose_bq: float | None
    injection: datetime | None
    reference: datetime | None
    reference_source: str | None
    uptake_s: float | None
    overrides: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Dose:
    """Dose, tracer and clock of a series that is in, or can be brought to, Bq/ml."""

    weight_kg: float
    dose_bq: float
    half_life_s: float
    decayed_dose_bq: float
    injection: datetime | None
    reference: datetime | None
    reference_source: str
    uptake_s: float | None

    @property
    def factor(self) -> float:
        return self.weight_kg * 1000.0 / self.decayed_dose_bq


AS_IN_THE_HEADER = Overrides()


def suv_facts(headers: Sequence[Dataset], overrides: Overrides = AS_IN_THE_HEADER) -> SuvFacts:
    """The SUV factor of one PET series.

    Args:
        headers: those of all its slices, in any order; voxels are not needed.
        overrides: values to use in place of the header's.

    Raises:
        InputError: no attenuation- and decay-corrected PET, an unknown unit, a value that is absent, impossible, or not the same in
            all slices.
    """
    if not headers:
        raise InputError("no PET slice was given")
    first = headers[0]
    check_corrected(first)
    for keyword in ("Modality", "SOPClassUID", "CorrectedImage", "Units", "SUVType", "DecayCorrection", "Manufacturer"):
        agreed(headers, keyword)
    warnings: list[str] = []
    units = check_units(first)
    decay = check_decay(first)
    suv_type = (text(first, "SUVType") or "").upper() or None
    common = {
        "units": units,
        "suv_type": suv_type if suv_type is None or suv_type in SUV_TYPES else "other",
        "decay_correction": decay,
        "manufacturer": _manufacturer(first),
        "tracer": _tracer(headers, warnings),
        "nuclide": lenient(lambda: _nuclide(pharmaceutical(headers))),
        "height_m": _height(headers, overrides),
        "sex": _sex(headers, overrides),
        "age_years": _age(first),
        "overrides": tuple(overrides.given()),
    }
    dose, why_not = None, None
    try:
        dose = _dose(headers, decay, overrides, warnings)
    except InputError as error:
        if units == "BQML":
            raise
        why_not = error
    weight = dose.weight_kg if dose else lenient(_weight, headers, overrides)
    if units == "BQML":
        factor, method = dose.factor, "Bq/ml x weight / decayed dose"
    elif units == "CNTS":
        factor, method = _philips(headers, dose, why_not, overrides, warnings)
    else:
        factor, method = _from_other_suv(units, suv_type, weight, common["height_m"], common["sex"], warnings)
        useless = {"dose_bq", "injection", "reference", "half_life_s"}
        if units == "GML" and suv_type in (None, "BW"):
            useless.add("weight_kg")
        else:
            _warn_of_baked_in(headers, overrides, warnings)
        if unused := sorted(useless & set(overrides.given())):
            warnings.append(f"{', '.join(unused)} given, but the series is in SUV already: it has no bearing")
        if why_not:
            warnings.append(f"dose and uptake time are unknown: {why_not}")
    if not (math.isfinite(factor) and factor > 0):
        raise InputError(f"the SUV factor comes out as {factor:g} (limit: above 0); mend the header or give the values by hand")
    times = {"injection": None, "reference": None, "reference_source": None, "uptake_s": None}
    if dose:
        times = {name: getattr(dose, name) for name in times}
        if dose.uptake_s is None:
            warnings.append("the time of injection is unknown, and so is the uptake time")
        elif not UPTAKE_MIN[0] <= dose.uptake_s / 60 <= UPTAKE_MIN[1]:
            warnings.append(f"uptake time {dose.uptake_s / 60:.1f} min (usual: {UPTAKE_MIN[0]:g} to {UPTAKE_MIN[1]:g} min)")
    return SuvFacts(
        factor=factor,
        method=method,
        weight_kg=weight,
        dose_bq=dose.dose_bq if dose else None,
        half_life_s=dose.half_life_s if dose else None,
        decayed_dose_bq=dose.decayed_dose_bq if dose else None,
        warnings=tuple(dict.fromkeys(warnings)),
        **times,
        **common,
    )


def check_corrected(header: Dataset) -> None:
    """Raises InputError unless the slice is classic PET, corrected for attenuation and decay."""
    sop_class = text(header, "SOPClassUID") or ""
    if sop_class in ENHANCED_PET or raw(header, "DecayCorrected") is not None or raw(header, "AttenuationCorrected") is not None:
        name = ENHANCED_PET.get(sop_class, "Enhanced PET")
        raise InputError(f"{name} (multi-frame) is not read; export the series as classic PET Image Storage")
    modality = text(header, "Modality")
    if modality != "PT":
        raise InputError(f"Modality is {word(modality, MODALITIES)}, not PT; name the PET series")
    corrections = texts(header, "CorrectedImage")
    if "ATTN" not in corrections or attenuation_denied(header):
        raise InputError(
            "the series is not attenuation corrected (NAC), and SUV means nothing in it; give the attenuation-corrected series"
        )
    if "DECY" not in corrections:
        raise InputError(
            f"CorrectedImage is {'/'.join(c for c in corrections if c in CORRECTIONS)}, without DECY: the series is not decay corrected; "
            "reconstruct it with decay correction"
        )


def attenuation_denied(header: Dataset) -> bool:
    """Whether another element says that there is no attenuation correction: GE lists ATTN in CorrectedImage of its NAC series too."""
    method = (text(header, "AttenuationCorrectionMethod") or "").upper()
    flag = private(header, 0x0009, "GEMS_PETD_01", 0x8C)
    return method in ("NONE", "NO", "OFF") or (flag is not None and as_number(flag, "GE's attenuation flag") == 0)


def check_units(header: Dataset) -> str:
    """The series' unit, one of UNITS; InputError names any other."""
    units = (text(header, "Units") or "").upper()
    if units not in UNITS:
        raise InputError(
            f"Units is {word(units, PET_UNITS)}: only {', '.join(UNITS)} can be made SUV; export the series in Bq/ml (BQML)"
        )
    return units


def check_decay(header: Dataset) -> str:
    """START or ADMIN; InputError names anything else."""
    decay = (text(header, "DecayCorrection") or "").upper()
    if decay not in ("START", "ADMIN"):
        raise InputError(
            f"DecayCorrection is {word(decay, ('NONE',))} (START or ADMIN is needed): the moment that the values belong to is unknown; "
            "reconstruct the series with decay correction"
        )
    return decay


def _manufacturer(header: Dataset) -> str:
    name = (lenient(text, header, "Manufacturer") or "").upper()
    known = (kept for words, kept in MANUFACTURERS if re.search(rf"(?<![A-Z])({words})(?![A-Z])", name))
    return next(known, "other" if name else "unknown")


def _tracer(headers: Sequence[Dataset], warnings: list[str]) -> str | None:
    tracer = _tracer_of(lenient(pharmaceutical, headers))
    if tracer == "other":
        warnings.append("the tracer is not FDG: the networks were made for FDG")
    return tracer


def _tracer_of(item: Dataset | None) -> str | None:
    """'FDG', 'other', or None where the header does not say."""
    if item is None:
        return None
    codes = lenient(items, item, "RadiopharmaceuticalCodeSequence")
    names = (lenient(text, item, "Radiopharmaceutical"), lenient(text, codes[0], "CodeMeaning") if codes else None)
    known = [name for name in names if name]
    return ("FDG" if any(FDG.search(name) for name in known) else "other") if known else None


def _nuclide(item: Dataset | None) -> str | None:
    """A name of NUCLIDES by the radionuclide's code, else by its meaning; None where unknown."""
    codes = items(item, "RadionuclideCodeSequence") if item is not None else None
    if not codes:
        return None
    value, meaning = text(codes[0], "CodeValue"), (text(codes[0], "CodeMeaning") or "").upper()
    words = set(re.findall(r"[A-Z]+|\d+", meaning))
    for name, (names, values, _) in NUCLIDES.items():
        if value in values or (name.split("-")[1] in words and words & set(names)):
            return name
    return None


def _limited(value: float, limits: tuple[float, float], what: str, unit: str, flag: str) -> float:
    if not limits[0] <= value <= limits[1]:
        raise InputError(f"{what} is {value:g} {unit} (limits {limits[0]:g} to {limits[1]:g}); give the true one by {flag}")
    return value


def _weight(headers: Sequence[Dataset], overrides: Overrides) -> float:
    weight = overrides.weight_kg
    if weight is None:
        weight = agreed(headers, "PatientWeight", lambda header: number(header, "PatientWeight"))
    if weight is None or (weight == 0 and overrides.weight_kg is None):
        raise InputError(f"PatientWeight is {'absent' if weight is None else '0'}; give the patient's by --weight-kg")
    return _limited(weight, WEIGHT_KG, "the patient's weight", "kg", "--weight-kg")


def _height(headers: Sequence[Dataset], overrides: Overrides) -> float | None:
    """In m; None where it is absent or impossible: many scanners write 0, and SUVbw needs none."""
    if overrides.height_m is not None:
        return _limited(overrides.height_m, HEIGHT_M, "the patient's height", "m", "--height-m")
    height = lenient(agreed, headers, "PatientSize", lambda header: number(header, "PatientSize"))
    return height if height is not None and HEIGHT_M[0] <= height <= HEIGHT_M[1] else None


def _sex(headers: Sequence[Dataset], overrides: Overrides) -> str | None:
    sex = overrides.sex or lenient(agreed, headers, "PatientSex", lambda header: text(header, "PatientSex"))
    return sex.upper() if sex and sex.upper() in ("M", "F") else None


def _age(header: Dataset) -> int | None:
    found = re.fullmatch(r"(\d{3})([DWMY])", lenient(text, header, "PatientAge") or "")
    if not found:
        return None
    # ages above 89 are as good as a name (HIPAA's safe harbour)
    return min(90, int(int(found[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[found[2]]))


def _dose(headers: Sequence[Dataset], decay: str, overrides: Overrides, warnings: list[str]) -> _Dose:
    """Everything that Bq/ml needs to become SUVbw."""
    weight = _weight(headers, overrides)
    dose = overrides.dose_bq
    if dose is None:
        dose = of_dose(headers, "RadionuclideTotalDose", number)
    if dose is None or (dose == 0 and overrides.dose_bq is None):
        raise InputError(f"RadionuclideTotalDose is {'absent' if dose is None else '0'}; give the injected dose by --dose-bq")
    if 0 < dose < MIN_DOSE_BQ:
        raise InputError(
            f"the dose is {dose:g} Bq (limit {MIN_DOSE_BQ:g}): this is MBq written as Bq; give it by --dose-bq {dose * 1e6:.0f}"
        )
    _limited(dose, (MIN_DOSE_BQ, MAX_DOSE_BQ), "the dose", "Bq", "--dose-bq")
    half_life = _half_life(headers, overrides)
    first = first_acquisition(headers)
    if decay == "ADMIN":
        # the values are those of the moment of injection already: its clock is for the uptake time alone
        injection = injection_moment(headers, first, half_life, overrides.injection, warnings, needed=False) if first else None
        uptake = (first - injection).total_seconds() if injection else None
        return _Dose(weight, dose, half_life, dose, injection, injection, "the injection (ADMIN)", uptake)
    reference, source = reference_moment(headers, first, half_life, overrides.reference, warnings)
    injection = injection_moment(headers, reference, half_life, overrides.injection, warnings)
    uptake = (reference - injection).total_seconds()
    return _Dose(weight, dose, half_life, dose * 0.5 ** (uptake / half_life), injection, reference, source, uptake)


def _half_life(headers: Sequence[Dataset], overrides: Overrides) -> float:
    if overrides.half_life_s is not None:
        return _given_half_life(headers, overrides.half_life_s)
    half_life = of_dose(headers, "RadionuclideHalfLife", number)
    drug = pharmaceutical(headers)
    coded = _nuclide(drug)
    # a tracer alone is enough to doubt a half-life that is there, too little to make one up
    nuclide = coded or _nuclide_of_fdg(drug)
    known = NUCLIDES[nuclide][2] if nuclide else None
    if not half_life and coded is None:
        raise InputError(
            "RadionuclideHalfLife is absent and the radionuclide's code is not known; give it by --half-life-s (F-18: 6586.2)"
        )
    if half_life and known and abs(half_life / known - 1) > HALF_LIFE_TOLERANCE:
        raise InputError(
            f"RadionuclideHalfLife is {half_life:g} s, but {nuclide} has {known:g} s (limit {HALF_LIFE_TOLERANCE:.0%} apart); "
            "give the true one by --half-life-s"
        )
    return _limited(half_life or known, (1.0, 1e8), "the half-life", "s", "--half-life-s")


def _given_half_life(headers: Sequence[Dataset], half_life: float) -> float:
    """The user's, held to the nuclide as the header's is; accepted where the header names none."""
    _limited(half_life, (1.0, 1e8), "the half-life", "s", "--half-life-s")
    drug = lenient(pharmaceutical, headers)
    nuclide = lenient(_nuclide, drug) or _nuclide_of_fdg(drug)
    known = NUCLIDES[nuclide][2] if nuclide else None
    if known and abs(half_life / known - 1) > HALF_LIFE_TOLERANCE:
        units = ((60, "minutes"), (3600, "hours"))
        unit = next((f", it is in {name}" for s, name in units if abs(half_life * s / known - 1) <= HALF_LIFE_TOLERANCE), "")
        raise InputError(
            f"--half-life-s is {half_life:g} s{unit}, but {nuclide} has {known:g} s (limit {HALF_LIFE_TOLERANCE:.0%} apart); "
            "give that one, or mend the header where it names the wrong nuclide or tracer"
        )
    return half_life


def _nuclide_of_fdg(drug: Dataset | None) -> str | None:
    return "F-18" if _tracer_of(drug) == "FDG" else None


def _philips(
    headers: Sequence[Dataset], dose: _Dose | None, why_not: InputError | None, overrides: Overrides, warnings: list[str]
) -> tuple[float, str]:
    """Counts, by Philips's private factors: straight to SUV, else to Bq/ml."""
    factors = []
    for element, name in ((0x00, "Philips's SUV factor (7053,xx00)"), (0x09, "Philips's activity factor (7053,xx09)")):
        value = agreed(
            headers, name, lambda h, e=element, n=name: as_number(private(h, 0x7053, "Philips PET Private Group", e), n)
        )
        factors.append(value if value and value > 0 else None)  # Philips writes 0 for what it does not know
    to_suv, to_bqml = factors
    if to_suv is None and to_bqml is None:
        raise InputError(
            "Units is CNTS without Philips's private factors (7053,xx00) or (7053,xx09): counts cannot be made SUV; export in Bq/ml"
        )
    changed = sorted({"weight_kg", "dose_bq", "injection", "reference", "half_life_s"} & set(overrides.given()))
    if to_suv is None or (changed and to_bqml is not None):
        if dose is None:
            raise why_not
        return to_bqml * dose.factor, "counts x Philips's activity factor x weight / decayed dose"
    if overrides.weight_kg is not None:
        # the factor is weight / (decayed dose) times a constant: another weight scales it, other doses and times need what it lacks
        try:
            before = _weight(headers, AS_IN_THE_HEADER)
        except InputError:
            raise InputError(
                "the series has only Philips's SUV factor, made with a weight that the header does not tell: --weight-kg cannot correct "
                "it; leave it out, or export in Bq/ml"
            ) from None
        to_suv *= _weight(headers, overrides) / before
        changed.remove("weight_kg")
    if changed:
        warnings.append(f"{', '.join(changed)} given, but the series has only Philips's SUV factor: no bearing on the SUV")
    if to_bqml is not None and dose is not None and abs(to_bqml * dose.factor / to_suv - 1) > AGREEMENT:
        warnings.append(
            f"Philips's SUV factor {to_suv:.6g} and the SUV by its activity factor, {to_bqml * dose.factor:.6g}, are "
            f"{abs(to_bqml * dose.factor / to_suv - 1):.1%} apart; the SUV factor is taken"
        )
    return to_suv, "counts x Philips's SUV factor"


def _warn_of_baked_in(headers: Sequence[Dataset], overrides: Overrides, warnings: list[str]) -> None:
    """Lean and surface SUV were made by the scanner, with its own weight and height: a better one cannot mend them."""
    own = {
        "weight_kg": lenient(agreed, headers, "PatientWeight", lambda header: number(header, "PatientWeight")),
        "height_m": _height(headers, AS_IN_THE_HEADER),
        "sex": _sex(headers, AS_IN_THE_HEADER),
    }
    given = overrides.given()
    if differ := [name for name, value in own.items() if value and name in given and given[name] != value]:
        warnings.append(
            f"{', '.join(differ)} given, but the stored values were made with the header's: SUVbw is right only if the scanner had yours"
        )


def _from_other_suv(
    units: str, suv_type: str | None, weight: float | None, height: float | None, sex: str | None, warnings: list[str]
) -> tuple[float, str]:
    """Values that are SUV already, of whatever kind, to SUVbw."""
    kind = (suv_type or ("BSA" if units == "CM2ML" else "BW")).upper()
    if (units == "CM2ML") != (kind == "BSA"):
        raise InputError(
            f"Units is {units}, but SUVType is {word(kind, SUV_TYPES)}; the two contradict each other: export in Bq/ml (BQML)"
        )
    if kind == "BW":
        return 1.0, "SUVbw as stored"
    if kind not in ("BSA", "LBM", "LBMJAMES128", "LBMJANMA", "IBW"):
        raise InputError(f"SUVType is {word(kind, SUV_TYPES)}, which is not known; export the series in Bq/ml (BQML)")
    for value, what, flag in ((weight, "weight", "--weight-kg"), (height, "height", "--height-m"), (sex, "sex", "--sex")):
        if value is None and (what != "sex" or kind != "BSA"):
            raise InputError(f"SUVType is {kind}, and the patient's {what} is absent or impossible; give it by {flag}")
    if kind == "BSA":
        return weight * 1000.0 / body.surface_cm2(weight, height), "SUVbsa x weight / body surface"
    if kind == "IBW":
        return weight / body.ideal_kg(height, sex), "SUVibw x weight / ideal weight"
    if kind == "LBMJANMA":
        return weight / body.lean_janmahasatian_kg(weight, height, sex), "SUL (Janmahasatian) x weight / lean body mass"
    if kind == "LBM" and sex == "M":
        warnings.append("SUVType LBM means James's formula with 120 for men; some scanners mean 128 by it")
    lean = body.lean_james_kg(weight, height, sex, 120.0 if kind == "LBM" else 128.0)
    return weight / lean, f"SUL ({kind}) x weight / lean body mass"


def per_suvbw(facts: SuvFacts, kind: str) -> float:
    """What SUVbw is multiplied by to become another SUV.

    Args:
        kind: 'sul' (lean body mass by Janmahasatian), 'sul-james' or 'bsa' (in cm2/ml, as DICOM has it).

    Raises:
        InputError: weight, height or sex is unknown.
    """
    values = (("weight", facts.weight_kg), ("height", facts.height_m), ("sex", facts.sex))
    for what, value in values if kind != "bsa" else values[:2]:
        if value is None:
            flag = {"weight": "--weight-kg", "height": "--height-m", "sex": "--sex"}[what]
            raise InputError(f"{kind} needs the patient's {what}, which the header lacks; give it by {flag}")
    if kind == "bsa":
        return body.surface_cm2(facts.weight_kg, facts.height_m) / (facts.weight_kg * 1000.0)
    if kind not in ("sul", "sul-james"):
        raise InputError(f"{kind}: no such SUV; one of sul, sul-james, bsa")
    lean = body.lean_janmahasatian_kg if kind == "sul" else body.lean_james_kg
    return lean(facts.weight_kg, facts.height_m, facts.sex) / facts.weight_kg
