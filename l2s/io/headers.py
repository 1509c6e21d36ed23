"""Values of DICOM headers, read so that a malformed one is a line for the user and never a traceback.

No line quotes a header's text: lines become reasons and warnings, these go into records, and any element may hold a patient's name.
"""

from __future__ import annotations

import logging
import math
import re
import struct
import warnings
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING

from l2s.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# what pydicom raises on a value that does not fit its type, beside the two classes of its own
MALFORMED = (ValueError, TypeError, OverflowError, NotImplementedError, AttributeError, struct.error)
TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(\.\d{0,6})?)?)?")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DATE = re.compile(r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)")
ZONE = re.compile(r"([+-])(\d\d)(\d\d)$")


def _words(line: str) -> frozenset[str]:
    return frozenset(line.split())


# the words that DICOM defines for coded elements (PS3.3 C.7.3.1.1.1, C.8.9.1, C.8.2.1, C.7.6.1.1.2)
MODALITIES = _words(
    "AR ASMT AU BDUS BI BMD CR CT CTPROTOCOL DG DOC DX ECG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER KO LEN LS MG MR NM OAM OCT OP OPM "
    "OPT OPTBSV OPTENF OPV OSS OT PLAN PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SC "
    "SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC"
)
PET_UNITS = _words(
    "CNTS NONE CM2 CM2ML PCNT CPS BQML MGMINML UMOLMINML MLMING MLG 1CM UMOLML PROPCNTS PROPCPS MLMINML MLML GML STDDEV"
)
CORRECTIONS = _words("UNIF COR NCO DECY ATTN SCAT DTIM NRGY LIN MOTN CLN RAN RADL DCAL NORM")
SUV_TYPES = _words("BSA BW LBM LBMJAMES128 LBMJANMA IBW")
RESCALE_TYPES = _words("OD HU US MGML Z_EFF ED EDW HU_MOD PCT BQML")
IMAGE_TYPES = _words(
    "ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER SCOUT TOPOGRAM SURVIEW MPR MIP MINIP VOLREN REPROJECTION REFORMATTED AVERAGE "
    "STATIC DYNAMIC GATED IMAGE VOLUME RESAMPLED NONE SUBTRACTION PERFUSION TOMO RECON OTHER"
) | {"MAXIMUM INTENSITY PROJECTION", "PROJECTION IMAGE", "WHOLE BODY", "RECON TOMO", "CSA MPR"}


def malformed() -> tuple[type[Exception], ...]:
    """What reading an element may raise."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*MALFORMED, BytesLengthException, InvalidDicomError)


@contextmanager
def quiet():
    """Without pydicom's warnings: they quote values, and a value may be a name. It warns and logs the same line."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def raw(header: Dataset, keyword: str):
    """The element's value; None where it is absent or empty.

    Raises:
        InputError: the value cannot be decoded.
    """
    try:
        with quiet():
            value = header.get(keyword)
    except malformed():
        raise InputError(f"{keyword} in the header cannot be read; export the series again") from None
    return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value


def items(header: Dataset, keyword: str) -> tuple[Dataset, ...]:
    """The items of a sequence; none where it is absent.

    Raises:
        InputError: the element is there, but is no sequence.
    """
    from pydicom.sequence import Sequence as Items

    value = raw(header, keyword)
    if value is None:
        return ()
    if not isinstance(value, Items):
        raise InputError(f"{keyword} in the header is no sequence; export the series again")
    return tuple(value)


def word(value: str | None, defined: Iterable[str]) -> str:
    """A coded value as a line may show it: itself where DICOM defines it, else a stand-in, for it may be anybody's free text."""
    if not value:
        return "absent"
    return value if value in defined else "a word that DICOM does not define"


def short(error: Exception) -> str:
    """The first line of an error's message, at most 80 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:80]


def text(header: Dataset, keyword: str) -> str | None:
    """One value as text without the padding of DICOM; None where it is absent or blank."""
    return as_text(raw(header, keyword), keyword)


def as_text(value, keyword: str) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):  # a private element of unknown type in an implicit transfer syntax
        value = value.decode("ascii", "replace")
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        raise InputError(f"{keyword} holds {len(value)} values, one is expected; export the series again")
    return str(value).strip(" \0") or None


def lenient(read, *arguments):
    """read(*arguments), or None where that is malformed: for values that a result can do without."""
    try:
        return read(*arguments)
    except InputError:
        return None


def texts(header: Dataset, keyword: str) -> tuple[str, ...]:
    """All values of a multi-valued element in capitals."""
    value = raw(header, keyword)
    if value is None:
        return ()
    values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
    return tuple(str(v).strip(" \0").upper() for v in values)


def agreed(headers: Sequence[Dataset], keyword: str, read=None):
    """The value that all slices share; a line about others names none of them, it may be a date or free text."""
    read = read or (lambda header: texts(header, keyword))
    values = list(dict.fromkeys(read(header) for header in headers))
    if len(values) > 1:
        raise InputError(f"the slices of the series disagree on {keyword} ({len(values)} values); export the series again, alone")
    return values[0]


def number(header: Dataset, keyword: str) -> float | None:
    """One finite number; None where it is absent."""
    return as_number(raw(header, keyword), keyword)


def as_number(value, keyword: str) -> float | None:
    words = as_text(value, keyword)
    if words is None:
        return None
    # float() would also take 1_000, nan and infinity
    if not NUMBER.fullmatch(words):
        raise InputError(f"{keyword} is no number; export the series again")
    result = float(words)
    if not math.isfinite(result):
        raise InputError(f"{keyword} is no finite number; export the series again")
    return result


def numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly count finite numbers; None where the element is absent."""
    value = raw(header, keyword)
    if value is None:
        return None
    if isinstance(value, str) or not hasattr(value, "__iter__") or len(value) != count:
        raise InputError(f"{keyword} does not hold {count} numbers; export the series again")
    return tuple(as_number(v, keyword) for v in value)


def private(header: Dataset, group: int, creator: str, element: int):
    """A private element, found by its creator: the block that a creator gets differs from file to file. None where absent."""
    try:
        with quiet():
            value = header.private_block(group, creator)[element].value
    except KeyError:
        return None
    except malformed():
        raise InputError(f"the private element ({group:04x},xx{element:02x}) of {creator} cannot be read") from None
    return None if value is None or (hasattr(value, "__len__") and len(value) == 0) else value


def parse_date(words: str, keyword: str) -> date:
    """DICOM's DA; the old form with dots and ISO's with hyphens too."""
    found = DATE.fullmatch(words)
    try:
        day = date(*map(int, found.groups()))
        # room for the day before and after; shifted dates lie some centuries off at most
        if not 1000 <= day.year <= 9000:
            raise ValueError
        return day
    except (AttributeError, ValueError):
        raise InputError(f"{keyword} is no date (YYYYMMDD)") from None


def parse_time(words: str, keyword: str) -> time:
    """DICOM's TM; the old form with colons too. A leap second counts as the second before."""
    found = TIME.fullmatch(words)
    try:
        hour, minute, second, fraction = found.groups()
        return time(
            int(hour), int(minute or 0), min(59, int(second)) if second and int(second) == 60 else int(second or 0),
            int((fraction or ".")[1:].ljust(6, "0")),
        )  # fmt: skip
    except (AttributeError, ValueError):
        raise InputError(f"{keyword} is no time of day (HHMMSS)") from None


def parse_datetime(words: str, keyword: str, zone: str | None = None) -> datetime:
    """DICOM's DT as the wall clock of the scanner, without a zone.

    Args:
        zone: the header's TimezoneOffsetFromUTC: a DT with an offset of its own is brought to it. Without it the wall clock of the
            DT stands, as DA and TM beside it have no zone either.
    """
    found = ZONE.search(words)
    body = words[: found.start()] if found and len(words) > 8 + 4 else words
    body = body.replace("T", "").replace(" ", "")
    day = parse_date(body[:10] if body[4:5] in ("-", ".") else body[:8], keyword)
    clock = body[10:] if body[4:5] in ("-", ".") else body[8:]
    if not clock:
        raise InputError(f"{keyword} has no time of day")
    moment = datetime.combine(day, parse_time(clock, keyword))
    if body != words.replace("T", "").replace(" ", "") and zone:
        moment = (
            moment.replace(tzinfo=_zone(found[0], keyword)).astimezone(_zone(zone, "TimezoneOffsetFromUTC")).replace(tzinfo=None)
        )
    return moment


def _zone(words: str, keyword: str) -> timezone:
    found = ZONE.fullmatch(words)
    try:
        sign, hours, minutes = found.groups()
        return timezone((1 if sign == "+" else -1) * timedelta(hours=int(hours), minutes=int(minutes)))
    except (AttributeError, ValueError):
        raise InputError(f"{keyword} is no offset (+HHMM)") from None
