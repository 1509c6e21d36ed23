"""The clock of a PET series: when its acquisition began, what moment its values are decay-corrected to, and when the dose was injected.

The rules are those of suv.py's sources. Moments are the scanner's wall clock, without a zone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING

from l2s.errors import InputError
from l2s.io.headers import ZONE, agreed, as_text, items, lenient, number, parse_date, parse_datetime, parse_time, private, text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MIDNIGHT_S = 6 * 3600.0  # an injection of the evening before: nobody waits longer with a tracer of two hours
MANY_HALF_LIVES = 10.0  # a thousandth of the dose is left: the dates are wrong
DATED_S = 4 * 3600.0  # half-lives above it: people wait for days, so a time of day does not tell the moment
LATE_REFERENCE = timedelta(minutes=10)  # of a private reference after the first acquisition: clocks differ by less
LONG_SCAN = timedelta(hours=12)  # no scan lasts as long
TRUNCATED = timedelta(seconds=1)  # of two times one may have lost its fraction
FRAME_S = (2.0, 10.0)  # a mean time of a frame agrees, differs
NO_DATE = date(1900, 1, 1)  # stands for the day of a scan whose headers have lost all dates


def pharmaceutical(headers: Sequence[Dataset]) -> Dataset | None:
    """The one radiopharmaceutical of the first slice."""
    drugs = items(headers[0], "RadiopharmaceuticalInformationSequence")
    if len(drugs) > 1:
        raise InputError(f"the header lists {len(drugs)} radiopharmaceuticals; SUV is defined for one")
    return drugs[0] if drugs else None


def of_dose(headers: Sequence[Dataset], keyword: str, read):
    """An element of the radiopharmaceutical, the same in all slices; None where absent."""

    def one(header: Dataset):
        item = pharmaceutical([header])
        return None if item is None else read(item, keyword)

    return agreed(headers, keyword, one)


def _day(header: Dataset, *keywords: str) -> date | None:
    """The first date that is there."""
    return next((parse_date(words, keyword) for keyword in keywords if (words := text(header, keyword))), None)


def first_acquisition(headers: Sequence[Dataset]) -> datetime | None:
    """When the first slice's acquisition began; None where no slice says so."""
    return min((m for m in _acquisitions(headers) if m is not None), default=None)


def _acquisitions(headers: Sequence[Dataset]) -> list[datetime | None]:
    """When each slice's acquisition began.

    Where a scan went on past midnight and all slices have the date of its evening, those after midnight are dated a day on. SeriesTime
    tells them apart: no slice is acquired before its series began, and no scan lasts half a day.
    """
    moments = [_acquisition(header) for header in headers]
    known = [m for m in moments if m is not None]
    clock = lenient(text, headers[0], "SeriesTime")
    begin = lenient(parse_time, clock, "SeriesTime") if clock else None
    if begin is None or len({m.date() for m in known}) != 1 or max(known) - min(known) <= LONG_SCAN:
        return moments
    start = datetime.combine(known[0].date(), begin) - TRUNCATED
    evening, night = [m for m in known if m >= start], [m for m in known if m < start]
    day = timedelta(days=1)
    if not evening or not night or max(night) + day - min(evening) > LONG_SCAN:
        return moments
    return [m + day if m is not None and m < start else m for m in moments]


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


def reference_moment(
    headers: Sequence[Dataset],
    first: datetime | None,
    half_life: float,
    given: datetime | time | None,
    warnings: list[str],
) -> tuple[datetime, str]:
    """(the moment that START decay-corrects to, the element that says so)."""
    if given is not None:
        if isinstance(given, datetime):
            return given, "given"
        day = first.date() if first else _day(headers[0], "AcquisitionDate", "SeriesDate", "StudyDate") or NO_DATE
        return datetime.combine(day, given), "given"
    zone = text(headers[0], "TimezoneOffsetFromUTC")
    for creator, group, element, name in (
        ("SIEMENS MED PT", 0x0071, 0x22, "Siemens's private reference time (0071,xx22)"),
        ("GEMS_PETD_01", 0x0009, 0x0D, "GE's private scan time (0009,xx0D)"),
    ):
        words = agreed(headers, name, lambda h, g=group, c=creator, e=element, n=name: as_text(private(h, g, c, e), n))
        if words:
            moment = parse_datetime(words, name, zone)
            if first is None:
                day = _day(headers[0], "AcquisitionDate", "SeriesDate", "StudyDate")
                return (datetime.combine(day, moment.time()) if day else moment), name
            moment = _nearest(moment, first, name, warnings)
            if moment > first + LATE_REFERENCE:
                raise InputError(
                    f"{name} is {moment:%H:%M:%S}, after the first acquisition at {first:%H:%M:%S} (limit "
                    f"{LATE_REFERENCE.total_seconds() / 60:g} min): it cannot be the decay reference; give that by --reference-datetime"
                )
            return moment, name
    if first is None:
        raise InputError("AcquisitionTime is absent, so the decay reference is unknown; give it by --reference-datetime")
    clock = agreed(headers, "SeriesTime", lambda header: text(header, "SeriesTime"))
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
        for h, acquired in zip(headers, _acquisitions(headers))
        if acquired is not None
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


def injection_moment(
    headers: Sequence[Dataset],
    reference: datetime,
    half_life: float,
    given: datetime | time | None,
    warnings: list[str],
    needed: bool = True,
) -> datetime | None:
    """When the dose was injected, on the reference's clock; never after it."""
    whole = of_dose(headers, "RadiopharmaceuticalStartDateTime", text)
    clock = of_dose(headers, "RadiopharmaceuticalStartTime", text)
    limit_s = MANY_HALF_LIVES * half_life
    if given is not None:
        moment = given
        if isinstance(moment, datetime) and reference.date() == NO_DATE:
            moment = moment.time()
    elif whole:
        zone = text(headers[0], "TimezoneOffsetFromUTC")
        moment = parse_datetime(whole, "RadiopharmaceuticalStartDateTime", zone)
        wall = lenient(parse_time, clock, "RadiopharmaceuticalStartTime") if clock else None
        if ZONE.search(whole) and not zone:
            moment = _on_the_wall_clock(moment, wall, warnings)
        elif wall not in (None, moment.time()):
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
        if half_life > DATED_S:
            if not needed:
                return None
            raise InputError(
                f"the injection is a time of day without a usable date, and with a half-life of {half_life / 3600:.1f} h (limit "
                f"{DATED_S / 3600:g} h) it may lie days back; give --injection-datetime with its date (and --reference-datetime where the "
                "scan has none)"
            )
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


def _on_the_wall_clock(moment: datetime, wall: time | None, warnings: list[str]) -> datetime:
    """A DT with an offset, in a header that does not give its own, on the scanner's wall clock.

    Such a DT is often UTC. StartTime beside it is the wall clock; no zone is more than half a day off, so the nearest day is the right one.
    """
    if wall is None:
        warnings.append(
            "RadiopharmaceuticalStartDateTime has an offset from UTC, but the header has no TimezoneOffsetFromUTC: it is taken as the "
            "scanner's own clock"
        )
        return moment
    days = [datetime.combine(moment.date() + timedelta(days=k), wall) for k in (-1, 0, 1)]
    best = min(days, key=lambda m: abs(m - moment))
    if abs(best - moment) <= TRUNCATED:
        return moment
    warnings.append(
        "RadiopharmaceuticalStartDateTime has an offset from UTC and disagrees with RadiopharmaceuticalStartTime, and the header has no "
        "TimezoneOffsetFromUTC: StartTime is taken"
    )
    return best


def _day_of_injection(clock: time, reference: datetime) -> datetime:
    """A time of day on the day of the reference, or on the evening before where the scan began after midnight."""
    same_day = datetime.combine(reference.date(), clock)
    before = same_day - timedelta(days=1)
    if same_day > reference and (reference - before).total_seconds() <= MIDNIGHT_S:
        return before
    return same_day
