"""A source header made fit to lend its patient and study to DICOM results, whatever a scanner or a de-identification left in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta, timezone

from pydicom import charset
from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from l2s.errors import InputError
from l2s.io.headers import NUMBER, ZONE, malformed, parse_date, parse_datetime, parse_time, quiet

TYPE_2 = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
TYPE_2 += ("StudyID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName")
SEXES = ("M", "F", "O")
# the Clinical Trial Subject and Study modules: sponsor name to time point description
TRIAL_GROUP, TRIAL_ELEMENTS = 0x0012, (0x0010, 0x0051)
LOSSY = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")
UTC_HOURS = (-12, 14)
TM = re.compile(r"\d\d(\d\d(\d\d(\.\d{1,6})?)?)?")
AS = re.compile(r"\d{3}[DWMY]")
NUMBER_LENGTH = 16  # of DS; IS has 12 and a range that no header of ours needs
LOST = "\ufffd"  # what pydicom puts for bytes that a character set does not know

# what an RT Structure Set shares with its study (PS3.3 A.19.3: Patient, General Study and Patient Study modules)
PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "PatientComments",
    "EthnicGroup",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "ReferencedStudySequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientBodyMassIndex",
)


def mend(headers: Sequence[Dataset], plane_mm: float) -> tuple[Dataset, list[str]]:
    """(a copy of the first header, warnings): Type 2 attributes present, invalid values blank (Type 2) or absent (others).

    A date, time, number or name that does not keep to its type would make every result invalid, or stop the library that writes it. A
    Clinical Trial module without its Type 1 attributes (de-identification leaves such remnants) is left out, a sex that DICOM does not
    know becomes unknown, an unknown character set and an impossible time zone are left out, the old forms of dates and times become the
    new; nothing else of the patient is touched. No warning quotes a value.

    Args:
        headers: of the slices of one series; all are asked for what a lossy compression was.
        plane_mm: the distance of slices, which stands in for a SliceThickness that is none.
    """
    copy, dropped = Dataset(), []
    with quiet():
        copy.update(headers[0])
        _drop_unknown_charset(copy, dropped)
        for tag in [t for t in copy.keys() if not t.is_private]:  # noqa: SIM118 - values unread
            keyword = _keyword(copy, tag)
            if keyword is None:
                del copy[tag]
        for keyword in [element.keyword for element in copy if not element.is_private]:
            if not keyword:
                continue
            element = copy[keyword]
            value = _mended(element.VR, keyword, element.value)
            if value is None:
                del copy[keyword]
                dropped.append(keyword)
            elif value is not element.value:
                copy.add_new(keyword, element.VR, value)  # a new element: the source's own is shared with it
        zone = copy.get("TimezoneOffsetFromUTC")
        if zone is not None and zone_of(copy) is None:
            del copy["TimezoneOffsetFromUTC"]
            dropped.append("TimezoneOffsetFromUTC")
        lost = [key for key in PATIENT_AND_STUDY if LOST in str(copy.get(key, ""))]
        _complete(copy, headers, plane_mm)
    return copy, _warnings(dropped, lost)


def zone_of(header: Dataset) -> timezone | None:
    """The scanner's time zone; None where the header has none or an impossible one."""
    found = ZONE.fullmatch(str(header.get("TimezoneOffsetFromUTC", "")).strip())
    if not found or int(found[3]) > 59:
        return None
    offset = timedelta(hours=int(found[2]), minutes=int(found[3])) * (1 if found[1] == "+" else -1)
    return timezone(offset) if UTC_HOURS[0] <= offset / timedelta(hours=1) <= UTC_HOURS[1] else None


def _keyword(copy: Dataset, tag) -> str | None:
    """The element's keyword (empty: it has none); None where it cannot be read."""
    try:
        return copy[tag].keyword
    except (*malformed(), KeyError):
        return None


def _drop_unknown_charset(copy: Dataset, dropped: list[str]) -> None:
    try:
        value = copy.get("SpecificCharacterSet")
    except (*malformed(), KeyError):
        value = "unreadable"
    names = [value] if value is None or isinstance(value, str) else list(value)
    if any(name and name not in charset.python_encoding for name in names):
        del copy["SpecificCharacterSet"]
        dropped.append("SpecificCharacterSet")


def _mended(kind: str, keyword: str, value):
    """The value itself where it is valid, the same in DICOM's present form where that can be told, else None."""
    if value is None or isinstance(value, Items | bytes) or (isinstance(value, str) and not value) or kind not in CHECKS:
        return value
    several = not isinstance(value, str) and hasattr(value, "__iter__") and kind != "PN"
    if dictionary_VM(keyword) == "1" and (several or type(value).__name__ == "MultiValue"):
        return None
    if kind == "PN":
        return value
    words = [str(v).strip(" \0") for v in (value if several else [value])]
    try:
        new = [CHECKS[kind](one, keyword) if one else one for one in words]
    except InputError:
        return None
    if new == words:
        return value
    return new if several else new[0]


def _date(words: str, keyword: str) -> str:
    day = parse_date(words, keyword)
    return f"{day.year:04d}{day.month:02d}{day.day:02d}"


def _time(words: str, keyword: str) -> str:
    moment = parse_time(words, keyword)
    return words if TM.fullmatch(words) else f"{moment:%H%M%S.%f}"


def _datetime(words: str, keyword: str) -> str:
    parse_datetime(words, keyword)
    return words


def _number(words: str, keyword: str) -> str:
    # pydicom writes its numbers in the digits that were read; those that it made longer are not ours to shorten
    if not NUMBER.fullmatch(words) or len(words) > NUMBER_LENGTH:
        raise InputError(f"{keyword} is no number")
    return words


def _age(words: str, keyword: str) -> str:
    if not AS.fullmatch(words):
        raise InputError(f"{keyword} is no age")
    return words


CHECKS = {"DA": _date, "TM": _time, "DT": _datetime, "DS": _number, "IS": _number, "AS": _age, "PN": None}


def _complete(copy: Dataset, headers: Sequence[Dataset], plane_mm: float) -> None:
    """Fills and removes what the results' modules ask for."""
    empty = [key for key in TYPE_2 if copy.get(key) is None]
    if copy.get("PatientSex") not in SEXES:
        empty.append("PatientSex")
    for key in empty:
        copy.add_new(key, dictionary_VR(key), "")
    subject = copy.get("ClinicalTrialSubjectID") or copy.get("ClinicalTrialSubjectReadingID")
    if not (copy.get("ClinicalTrialSponsorName") and copy.get("ClinicalTrialProtocolID") and subject):
        low, high = TRIAL_ELEMENTS
        for tag in [t for t in copy.keys() if t.group == TRIAL_GROUP and low <= t.element <= high]:  # noqa: SIM118 - values unread
            del copy[tag]
    if not (copy.get("SliceThickness") or 0) > 0:
        copy.add_new("SliceThickness", "DS", f"{plane_mm:.6g}")
    if "SpacingBetweenSlices" in copy:
        del copy["SpacingBetweenSlices"]  # scanners differ on what it is; highdicom measures it
    lossy = [header for header in headers if header.get("LossyImageCompression") == "01"]
    if lossy:
        copy.add_new("LossyImageCompression", "CS", "01")
        for key in LOSSY:
            found = next((header[key] for header in lossy if _is_there(header, key)), None)
            if found is not None:
                copy.add_new(key, found.VR, found.value)


def _is_there(header: Dataset, keyword: str) -> bool:
    try:
        return header.get(keyword) not in (None, "")
    except malformed():
        return False


def _warnings(dropped: list[str], lost: list[str]) -> list[str]:
    lines = []
    named = [key for key in dropped if key in PATIENT_AND_STUDY]
    if named:
        lines.append(f"the PET's {', '.join(named)} cannot be copied into DICOM results (no valid value): left empty there")
    if lost:
        lines.append(
            f"the PET's {', '.join(lost)} holds bytes that its character set does not know: DICOM results have U+FFFD there"
        )
    return lines
