"""From a PET series' headers to the factor that makes SUVbw of its rescaled values. Each refusal is one line with its remedy.

The decay rules follow QIBA's vendor-neutral pseudo-code and the DICOM PET modules (PS3.3 C.8.9). Nothing here reads a voxel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

from l2s import body
from l2s.body import HEIGHT_M, WEIGHT_KG
from l2s.errors import InputError
from l2s.io.headers import as_number, as_text, lenient, number, parse_date, parse_datetime, parse_time, private, raw, text, texts

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
MIDNIGHT_S = 6 * 3600.0  # an injection of the evening before: nobody waits longer with a tracer of two hours
MANY_HALF_LIVES = 10.0  # a thousandth of the dose is left: the dates are wrong
AGREEMENT = 0.01  # of Philips's two factors
TRUNCATED = timedelta(seconds=1)  # of two times one may have lost its fraction
FRAME_S = (2.0, 10.0)  # a mean time of a frame agrees, differs
NO_DATE = date(1900, 1, 1)  # stands for the day of a scan whose headers have lost all dates
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
        units, suv_type, decay_correction, manufacturer, tracer, nuclide: as the header has them.
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
        _agreed(headers, keyword)
    warnings: list[str] = []
    units = check_units(first)
    decay = check_decay(first)
    common = {
        "units": units,
        "suv_type": text(first, "SUVType"),
        "decay_correction": decay,
        "manufacturer": lenient(text, first, "Manufacturer") or "unknown",
        "tracer": _tracer(headers, warnings),
        "nuclide": lenient(lambda: _nuclide(_pharmaceutical(headers))),
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
        factor, method = _from_other_suv(units, text(first, "SUVType"), weight, common["height_m"], common["sex"], warnings)
        if unused := sorted({"dose_bq", "injection", "reference", "half_life_s"} & set(overrides.given())):
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
        raise InputError(f"Modality is {modality}, not PT; name the PET series")
    corrections = texts(header, "CorrectedImage")
    if "ATTN" not in corrections or attenuation_denied(header):
        raise InputError(
            "the series is not attenuation corrected (NAC), and SUV means nothing in it; give the attenuation-corrected series"
        )
    if "DECY" not in corrections:
        raise InputError(
            f"CorrectedImage is {'/'.join(corrections)}, without DECY: the series is not decay corrected; reconstruct it with "
            "decay correction"
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
            f"Units is {units or 'absent'}: only {', '.join(UNITS)} can be made SUV; export the series in Bq/ml (BQML)"
        )
    return units


def check_decay(header: Dataset) -> str:
    """START or ADMIN; InputError names anything else."""
    decay = (text(header, "DecayCorrection") or "").upper()
    if decay not in ("START", "ADMIN"):
        raise InputError(
            f"DecayCorrection is {decay or 'absent'} (START or ADMIN is needed): the moment that the values belong to is unknown; "
            "reconstruct the series with decay correction"
        )
    return decay


def _agreed(headers: Sequence[Dataset], keyword: str, read=None):
    """The value that all slices share."""
    read = read or (lambda header: texts(header, keyword))
    values = list(dict.fromkeys(read(header) for header in headers))
    if len(values) > 1:
        shown = ", ".join("/".join(v) if isinstance(v, tuple) else str(v) for v in values[:3])
        raise InputError(f"the slices of the series disagree on {keyword}: {shown}; export the series again, alone")
    return values[0]


def _pharmaceutical(headers: Sequence[Dataset]) -> Dataset | None:
    """The one radiopharmaceutical of the first slice."""
    items = raw(headers[0], "RadiopharmaceuticalInformationSequence")
    if items is None:
        return None
    if len(items) > 1:
        raise InputError(f"the header lists {len(items)} radiopharmaceuticals; SUV is defined for one")
    return items[0]


def _of_dose(headers: Sequence[Dataset], keyword: str, read):
    """An element of the radiopharmaceutical, the same in all slices; None where absent."""

    def one(header: Dataset):
        item = _pharmaceutical([header])
        return None if item is None else read(item, keyword)

    return _agreed(headers, keyword, one)


def _tracer(headers: Sequence[Dataset], warnings: list[str]) -> str | None:
    item = lenient(_pharmaceutical, headers)
    if item is None:
        return None
    name = lenient(text, item, "Radiopharmaceutical")
    codes = lenient(raw, item, "RadiopharmaceuticalCodeSequence")
    meaning = lenient(text, codes[0], "CodeMeaning") if codes else None
    known = [n for n in (name, meaning) if n]
    if known and not any(FDG.search(n) for n in known):
        warnings.append(f"the tracer is {known[0]!r}, not FDG: the networks were made for FDG")
    return known[0] if known else None


def _nuclide(item: Dataset | None) -> str | None:
    """A name of NUCLIDES by the radionuclide's code, else by its meaning; None where unknown."""
    codes = raw(item, "RadionuclideCodeSequence") if item is not None else None
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
        weight = _agreed(headers, "PatientWeight", lambda header: number(header, "PatientWeight"))
    if weight is None or (weight == 0 and overrides.weight_kg is None):
        raise InputError(f"PatientWeight is {'absent' if weight is None else '0'}; give the patient's by --weight-kg")
    return _limited(weight, WEIGHT_KG, "the patient's weight", "kg", "--weight-kg")


def _height(headers: Sequence[Dataset], overrides: Overrides) -> float | None:
    """In m; None where it is absent or impossible: many scanners write 0, and SUVbw needs none."""
    if overrides.height_m is not None:
        return _limited(overrides.height_m, HEIGHT_M, "the patient's height", "m", "--height-m")
    height = lenient(_agreed, headers, "PatientSize", lambda header: number(header, "PatientSize"))
    return height if height is not None and HEIGHT_M[0] <= height <= HEIGHT_M[1] else None


def _sex(headers: Sequence[Dataset], overrides: Overrides) -> str | None:
    sex = overrides.sex or lenient(_agreed, headers, "PatientSex", lambda header: text(header, "PatientSex"))
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
        dose = _of_dose(headers, "RadionuclideTotalDose", number)
    if dose is None or (dose == 0 and overrides.dose_bq is None):
        raise InputError(f"RadionuclideTotalDose is {'absent' if dose is None else '0'}; give the injected dose by --dose-bq")
    if 0 < dose < MIN_DOSE_BQ:
        raise InputError(
            f"the dose is {dose:g} Bq (limit {MIN_DOSE_BQ:g}): this is MBq written as Bq; give it by --dose-bq {dose * 1e6:.0f}"
        )
    _limited(dose, (MIN_DOSE_BQ, MAX_DOSE_BQ), "the dose", "Bq", "--dose-bq")
    half_life = _half_life(headers, overrides)
    first = _first_acquisition(headers)
    if decay == "ADMIN":
        # the values are those of the moment of injection already: its clock is for the uptake time alone
        injection = _injection(headers, first, half_life, overrides, warnings, needed=False) if first else None
        uptake = (first - injection).total_seconds() if injection else None
        return _Dose(weight, dose, half_life, dose, injection, injection, "the injection (ADMIN)", uptake)
    reference, source = _reference(headers, first, half_life, overrides, warnings)
    injection = _injection(headers, reference, half_life, overrides, warnings)
    uptake = (reference - injection).total_seconds()
    return _Dose(weight, dose, half_life, dose * 0.5 ** (uptake / half_life), injection, reference, source, uptake)


def _half_life(headers: Sequence[Dataset], overrides: Overrides) -> float:
    if overrides.half_life_s is not None:
        return _limited(overrides.half_life_s, (1.0, 1e8), "the half-life", "s", "--half-life-s")
    half_life = _of_dose(headers, "RadionuclideHalfLife", number)
    nuclide = _nuclide(_pharmaceutical(headers))
    known = NUCLIDES[nuclide][2] if nuclide else None
    if not half_life and known is None:
        raise InputError(
            "RadionuclideHalfLife is absent and the radionuclide's code is not known; give it by --half-life-s (F-18: 6586.2)"
        )
    if half_life and known and abs(half_life / known - 1) > HALF_LIFE_TOLERANCE:
        raise InputError(
            f"RadionuclideHalfLife is {half_life:g} s, but {nuclide} has {known:g} s (limit {HALF_LIFE_TOLERANCE:.0%} apart); "
            "give the true one by --half-life-s"
        )
    return _limited(half_life or known, (1.0, 1e8), "the half-life", "s", "--half-life-s")


def _day(header: Dataset, *keywords: str) -> date | None:
    """The first date that is there."""
    return next((parse_date(words, keyword) for keyword in keywords if (words := text(header, keyword))), None)


def _first_acquisition(headers: Sequence[Dataset]) -> datetime | None:
    """When the first slice's acquisition began; None where no slice says so."""
    moments = [_acquisition(header) for header in headers]
    return min((m for m in moments if m is not None), default=None)


def _acquisition(header: Dataset) -> datetime | None:
    clock = text(header, "AcquisitionTime")
    if clock is None:
        whole = text(header, "AcquisitionDateTime")
        return parse_datetime(whole, "AcquisitionDateTime", text(header, "TimezoneOffsetFromUTC")) if whole else None
    day = _day(header, "AcquisitionDate", "SeriesDate", "StudyDate") or NO_DATE
    return datetime.combine(day, parse_time(clock, "AcquisitionTime"))


def _nearest(moment: datetime, anchor: datetime, what: str, warnings: list[str]) -> datetime:
    """The moment itself where it lies within half a day of anchor, else its time of day on the day that brings it nearest.

    De-identification shifts the dates of some elements and forgets those of others (private ones above all); times of day stay.
    """
    if abs(moment - anchor) <= timedelta(hours=12):
        return moment
    days = [datetime.combine(anchor.date() + timedelta(days=k), moment.time()) for k in (-1, 0, 1)]
    best = min(days, key=lambda m: abs(m - anchor))
    warnings.append(
        f"{what} is dated {abs((moment.date() - anchor.date()).days)} days away from the acquisition (shifted by a de-identification?): "
        "its time of day is taken with the acquisition's date"
    )
    return best


def _reference(
    headers: Sequence[Dataset], first: datetime | None, half_life: float, overrides: Overrides, warnings: list[str]
) -> tuple[datetime, str]:
    """(the moment that START decay-corrects to, the element that says so)."""
    if overrides.reference is not None:
        if isinstance(overrides.reference, datetime):
            return overrides.reference, "given"
        day = first.date() if first else _day(headers[0], "AcquisitionDate", "SeriesDate", "StudyDate") or NO_DATE
        return datetime.combine(day, overrides.reference), "given"
    zone = text(headers[0], "TimezoneOffsetFromUTC")
    for creator, group, element, name in (
        ("SIEMENS MED PT", 0x0071, 0x22, "Siemens's private reference time (0071,xx22)"),
        ("GEMS_PETD_01", 0x0009, 0x0D, "GE's private scan time (0009,xx0D)"),
    ):
        words = _agreed(headers, name, lambda h, g=group, c=creator, e=element, n=name: as_text(private(h, g, c, e), n))
        if words:
            moment = parse_datetime(words, name, zone)
            if first is None:
                day = _day(headers[0], "AcquisitionDate", "SeriesDate", "StudyDate")
                return (datetime.combine(day, moment.time()) if day else moment), name
            return _nearest(moment, first, name, warnings), name
    if first is None:
        raise InputError("AcquisitionTime is absent, so the decay reference is unknown; give it by --reference-datetime")
    clock = _agreed(headers, "SeriesTime", lambda header: text(header, "SeriesTime"))
    if clock:
        day = _day(headers[0], "SeriesDate", "AcquisitionDate", "StudyDate") or NO_DATE
        series = _nearest(datetime.combine(day, parse_time(clock, "SeriesTime")), first, "SeriesDate", warnings)
        if series <= first + TRUNCATED:
            return series, "SeriesTime"
    return _from_frame(headers, half_life, warnings), "AcquisitionTime and FrameReferenceTime"


def _from_frame(headers: Sequence[Dataset], half_life: float, warnings: list[str]) -> datetime:
    """The reference from a frame's own clock: FrameReferenceTime lies where the frame has its mean activity, t_avg after its start.

    The first frame is taken: it was acquired first, and among its equals has the smallest FrameReferenceTime. GE counts
    FrameReferenceTime to the frame's start instead; where DecayFactor, which belongs to the mean, proves that, t_avg is left out.
    """
    frames = [
        (acquired, number(h, "FrameReferenceTime"), number(h, "ActualFrameDuration"), lenient(number, h, "DecayFactor") or 0.0)
        for h in headers
        if (acquired := _acquisition(h)) is not None
    ]
    if any(value is None for frame in frames for value in frame):
        raise InputError(
            "SeriesTime is absent or after the first AcquisitionTime (a series made later?), and FrameReferenceTime or "
            "ActualFrameDuration is absent: the decay reference is unknown; give it by --reference-datetime"
        )
    acquired, since_reference_ms, duration_ms, decay_factor = min(frames)
    if duration_ms <= 0:
        raise InputError(f"ActualFrameDuration is {duration_ms:g} ms (limit: above 0); give --reference-datetime")
    since_s, mean_s = since_reference_ms / 1000.0, mean_activity_s(duration_ms / 1000.0, half_life)
    if decay_factor > 0:
        true_s = math.log2(decay_factor) * half_life
        if abs(true_s - since_s - mean_s) < FRAME_S[0] and abs(true_s - since_s) > FRAME_S[1]:
            warnings.append("FrameReferenceTime counts to the start of the frame, as DecayFactor shows, not to its mean activity")
            mean_s = 0.0
    try:
        return acquired + timedelta(seconds=mean_s - since_s)
    except OverflowError:
        raise InputError(f"FrameReferenceTime is {since_reference_ms:g} ms; give --reference-datetime") from None


def mean_activity_s(duration_s: float, half_life_s: float) -> float:
    """Seconds into a frame at which the activity equals its mean over the frame: ln(x / (1 - exp(-x))) / l, x = l * duration."""
    decay = math.log(2) / half_life_s
    return math.log(decay * duration_s / -math.expm1(-decay * duration_s)) / decay


def _injection(
    headers: Sequence[Dataset],
    reference: datetime,
    half_life: float,
    overrides: Overrides,
    warnings: list[str],
    needed: bool = True,
) -> datetime | None:
    """When the dose was injected, on the reference's clock; never after it."""
    whole = _of_dose(headers, "RadiopharmaceuticalStartDateTime", text)
    clock = _of_dose(headers, "RadiopharmaceuticalStartTime", text)
    limit_s = MANY_HALF_LIVES * half_life
    if overrides.injection is not None:
        moment = overrides.injection
        if isinstance(moment, datetime) and reference.date() == NO_DATE:
            moment = moment.time()
    elif whole:
        moment = parse_datetime(whole, "RadiopharmaceuticalStartDateTime", text(headers[0], "TimezoneOffsetFromUTC"))
        if clock and lenient(parse_time, clock, "RadiopharmaceuticalStartTime") not in (None, moment.time()):
            warnings.append("RadiopharmaceuticalStartTime and StartDateTime disagree: StartDateTime is taken")
        if abs((reference - moment).total_seconds()) > max(limit_s, 86400.0):
            if reference.date() != NO_DATE:
                days = abs((reference.date() - moment.date()).days)
                warnings.append(
                    f"RadiopharmaceuticalStartDateTime is dated {days} days away from the scan (shifted by a de-identification?): "
                    "its time of day is taken with the scan's date"
                )
            moment = moment.time()
    elif clock:
        moment = parse_time(clock, "RadiopharmaceuticalStartTime")
    elif needed:
        raise InputError("the time of injection is absent; give it by --injection-datetime")
    else:
        return None
    if isinstance(moment, time):
        moment = _day_of_injection(moment, reference)
    uptake = (reference - moment).total_seconds()
    if uptake < 0:
        raise InputError(
            f"the injection lies {-uptake / 60:.1f} min after the scan (limit: before it); give the true one by --injection-datetime"
        )
    if uptake > limit_s:
        raise InputError(
            f"the injection lies {uptake / 3600:.1f} h before the scan (limit {limit_s / 3600:.1f} h); give the true one by "
            "--injection-datetime"
        )
    return moment


def _day_of_injection(clock: time, reference: datetime) -> datetime:
    """A time of day on the day of the reference, or on the evening before where the scan began after midnight."""
    same_day = datetime.combine(reference.date(), clock)
    before = same_day - timedelta(days=1)
    if same_day > reference and (reference - before).total_seconds() <= MIDNIGHT_S:
        return before
    return same_day


def _philips(
    headers: Sequence[Dataset], dose: _Dose | None, why_not: InputError | None, overrides: Overrides, warnings: list[str]
) -> tuple[float, str]:
    """Counts, by Philips's private factors: straight to SUV, else to Bq/ml."""
    factors = []
    for element, name in ((0x00, "Philips's SUV factor (7053,xx00)"), (0x09, "Philips's activity factor (7053,xx09)")):
        value = _agreed(
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
    if changed:
        warnings.append(f"{', '.join(changed)} given, but the series has only Philips's SUV factor: no bearing on the SUV")
    if to_bqml is not None and dose is not None and abs(to_bqml * dose.factor / to_suv - 1) > AGREEMENT:
        warnings.append(
            f"Philips's SUV factor {to_suv:.6g} and the SUV by its activity factor, {to_bqml * dose.factor:.6g}, are "
            f"{abs(to_bqml * dose.factor / to_suv - 1):.1%} apart; the SUV factor is taken"
        )
    return to_suv, "counts x Philips's SUV factor"


def _from_other_suv(
    units: str, suv_type: str | None, weight: float | None, height: float | None, sex: str | None, warnings: list[str]
) -> tuple[float, str]:
    """Values that are SUV already, of whatever kind, to SUVbw."""
    kind = (suv_type or ("BSA" if units == "CM2ML" else "BW")).upper()
    if (units == "CM2ML") != (kind == "BSA"):
        raise InputError(f"Units is {units}, but SUVType is {kind}; the two contradict each other: export in Bq/ml (BQML)")
    if kind == "BW":
        return 1.0, "SUVbw as stored"
    if kind not in ("BSA", "LBM", "LBMJAMES128", "LBMJANMA", "IBW"):
        raise InputError(f"SUVType is {kind}, which is not known; export the series in Bq/ml (BQML)")
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
