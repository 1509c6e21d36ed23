"""A thousand broken PET headers: the SUV factor is what a literal oracle makes of the raw text of the header, or it is a refusal.

Headers are built byte by byte, as pydicom would refuse to write most of these values. The oracle sees text alone, counts time in seconds
and shares no code with l2s/io/suv.py.
"""

import io
import math
import re
import struct
from collections import Counter
from datetime import date, datetime
from fractions import Fraction

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2s.errors import InputError
from l2s.io.suv import Overrides, suv_facts

# name: (tag, VR); the drug's elements lie in the radiopharmaceutical sequence, `code` in a sequence in it
MAIN = {
    "sop_class": (0x00080016, "UI"), "series_date": (0x00080021, "DA"), "acquisition_date": (0x00080022, "DA"),
    "series_time": (0x00080031, "TM"), "acquisition_time": (0x00080032, "TM"), "modality": (0x00080060, "CS"),
    "manufacturer": (0x00080070, "LO"), "sex": (0x00100040, "CS"), "age": (0x00101010, "AS"), "height": (0x00101020, "DS"),
    "weight": (0x00101030, "DS"), "duration": (0x00181242, "IS"), "corrected": (0x00280051, "CS"), "units": (0x00541001, "CS"),
    "suv_type": (0x00541006, "CS"), "method": (0x00541101, "LO"), "decay": (0x00541102, "CS"), "frame_time": (0x00541300, "DS"),
}  # fmt: skip
DRUG = {
    "start_time": (0x00181072, "TM"), "dose": (0x00181074, "DS"), "half_life": (0x00181075, "DS"),
    "start_datetime": (0x00181078, "DT"), "tracer": (0x00180031, "LO"),
}  # fmt: skip
PRIVATE = {  # name: (group, creator, element, VR)
    "ge": (0x0009, "GEMS_PETD_01", 0x0D, "DT"),
    "siemens": (0x0071, "SIEMENS MED PT", 0x22, "DT"),
    "philips_suv": (0x7053, "Philips PET Private Group", 0x00, "DS"),
    "philips_activity": (0x7053, "Philips PET Private Group", 0x09, "DS"),
}
GOOD = {
    "sop_class": "1.2.840.10008.5.1.4.1.1.128", "modality": "PT", "manufacturer": "ANY", "corrected": "NORM\\ATTN\\DECY",
    "units": "BQML", "decay": "START", "weight": "80", "height": "1.75", "sex": "F", "age": "060Y", "series_date": "20240531",
    "acquisition_date": "20240531", "series_time": "100000", "acquisition_time": "100000", "frame_time": "90000",
    "duration": "180000", "start_time": "090000", "dose": "400000000", "half_life": "6586.2", "code": "C-111A1",
}  # fmt: skip
NOISE = st.text(alphabet="0123456789.+-eE abTZ_:\\", max_size=14)
TIMES = ["", "09", "0930", "093000.5", "09:30:00", "095959.999999", "103000", "235900", "000100", "2360", "250000", "103060"]
DATES = ["", "20240530", "20240531", "20240601", "19600116", "2024.05.31", "20240230", "00010101", "99991231"]
MOMENTS = [
    "", "20240531090000", "20240531093000.250000", "20240531110000", "20240530233000", "20240508095000", "20240531", "20190101091500",
    "20240531090000+0200", "20240531000000+0000", "00010101000000", "20249931090000",
]  # fmt: skip
FACTORS = ["", "0", "0.00045", "1.5", "-1", "2e-4", "1e400"]
VALUES = {
    "sop_class": ["", "1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1", "1.2.3"],
    "modality": ["", "CT", "PT ", "pt"],
    "manufacturer": ["", "A\\B", "SIEMENS"],
    "corrected": ["", "ATTN", "DECY", "DECY\\ATTN", "attn\\decy", "DECY \\ ATTN"],
    "units": ["", "GML", "CM2ML", "CNTS", "PROPCNTS", "bqml", "BQML\\GML"],
    "suv_type": ["", "BW", "BSA", "LBM", "LBMJAMES128", "LBMJANMA", "IBW", "XYZ", "BW\\BSA"],
    "method": ["NONE", "none", "measured", "a\\b"],
    "decay": ["", "ADMIN", "NONE", "START ", "admin", "START\\ADMIN"],
    "weight": ["", "0", "70.5", " 82", "-80", "80000", "1e2", "8_0", "nan", "inf", "80\\80", "80,5", "300"],
    "height": ["", "0", "175", "1.6", "abc", "1.5\\2"],
    "sex": ["", "M", "O", "m", "M\\F"],
    "age": ["", "101Y", "x"],
    "series_date": DATES, "acquisition_date": DATES,
    "series_time": TIMES, "acquisition_time": TIMES, "start_time": TIMES,
    "start_datetime": MOMENTS, "ge": MOMENTS, "siemens": MOMENTS,
    "frame_time": ["", "0", "1000000", "-5000", "9e99", "12.5"],
    "duration": ["", "0", "-1", "60000", "1"],
    "dose": ["", "0", "400", "9999.9", "10000", "3.7e8", "-4e8", "1e12", "4e8\\4e8", "infinity"],
    "half_life": ["", "0", "6588", "109.77", "1", "4062.6", "-6586", "45721"],
    "code": ["", "77004003", "C-131A3", "nonsense", "3932008"], "tracer": ["FDG", "FLT", "A\\B"],
    "philips_suv": FACTORS, "philips_activity": FACTORS,
}  # fmt: skip
FREE = ("weight", "height", "series_time", "acquisition_time", "start_time", "start_datetime", "ge", "siemens", "dose", "half_life",
        "frame_time", "series_date", "acquisition_date", "philips_suv", "philips_activity")  # fmt: skip
mutation = st.sampled_from(sorted(VALUES)).flatmap(
    lambda name: st.tuples(
        st.just(name), st.one_of(st.sampled_from(VALUES[name]), NOISE) if name in FREE else st.sampled_from(VALUES[name])
    )
)
# units of every kind must come up as often as Bq/ml, else their rules would hardly be tried
frames = st.sampled_from([{}, {}, {"units": "GML"}, {"units": "CM2ML"}, {"units": "CNTS", "philips_suv": "0.0004"}, {"decay": "ADMIN"},
                          {"units": "CNTS", "philips_activity": "1.5"}, {"ge": "20240508095500"}, {"siemens": "20240531095500"},
                          {"series_time": "113000"}, {"start_datetime": "20240531091000"}])  # fmt: skip


def element(tag: int, kind: str, value: bytes) -> bytes:
    """One explicit little-endian element."""
    value += (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode()
    return head + (struct.pack("<HI", 0, len(value)) if kind in ("SQ", "UN", "OB") else struct.pack("<H", len(value))) + value


def item(content: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def header_bytes(fields: dict[str, str]) -> bytes:
    parts = {tag: element(tag, kind, fields[name].encode()) for name, (tag, kind) in MAIN.items() if name in fields}
    drug = {tag: element(tag, kind, fields[name].encode()) for name, (tag, kind) in DRUG.items() if name in fields}
    if "code" in fields:
        drug[0x00540300] = element(0x00540300, "SQ", item(element(0x00080100, "SH", fields["code"].encode())))
    parts[0x00540016] = element(0x00540016, "SQ", item(b"".join(drug[t] for t in sorted(drug))))
    for name, (group, creator, number, kind) in PRIVATE.items():
        if name in fields:
            parts[group << 16 | 0x10] = element(group << 16 | 0x10, "LO", creator.encode())
            parts[group << 16 | 0x1000 | number] = element(group << 16 | 0x1000 | number, kind, fields[name].encode())
    return b"".join(parts[tag] for tag in sorted(parts))


def read(fields: dict[str, str]) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(header_bytes(fields)), force=True)


class Refused(Exception):
    pass


def one(fields: dict, name: str) -> str | None:
    """A single value without padding; refused where there are several."""
    value = fields.get(name, "")
    if "\\" in value:
        raise Refused(name)
    return value.strip(" \0") or None


def maybe(read_value, *arguments):
    try:
        return read_value(*arguments)
    except Refused:
        return None


def decimal(fields: dict, name: str) -> float | None:
    words = one(fields, name)
    if words is None:
        return None
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", words) or math.isinf(float(words)):
        raise Refused(name)
    return float(words)


def clock_s(words: str) -> Fraction:
    """Seconds since midnight, exactly: a float would lose microseconds beside two thousand years."""
    found = re.fullmatch(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(\.\d{0,6})?)?)?", words)
    if not found:
        raise Refused(words)
    h, m, s = (int(v or 0) for v in found.groups()[:3])
    if h > 23 or m > 59 or s > 60:
        raise Refused(words)
    return h * 3600 + m * 60 + min(s, 59) + Fraction("0" + (found[4] if found[4] and found[4] != "." else ".0"))


def day_number(words: str) -> int:
    found = re.fullmatch(r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)", words)
    try:
        day = date(*(int(v) for v in found.groups()))
    except (AttributeError, ValueError):
        raise Refused(words) from None
    if not 1000 <= day.year <= 9000:
        raise Refused(words)
    return day.toordinal()


def moment_s(words: str) -> float:
    """Seconds of a DT since year 1; the headers here have no zone, so one in the DT is dropped."""
    if len(words) > 12 and re.search(r"[+-]\d{4}$", words):
        words = words[:-5]
    words = words.replace("T", "").replace(" ", "")
    cut = 10 if words[4:5] in ("-", ".") else 8
    if not words[cut:]:
        raise Refused(words)
    return day_number(words[:cut]) * 86400 + clock_s(words[cut:])


NO_DAY = date(1900, 1, 1).toordinal()


def first_day(fields: dict, *names: str) -> int:
    for name in names:
        if words := one(fields, name):
            return day_number(words)
    return NO_DAY


def nearest(moment: float, anchor: float) -> float:
    if abs(moment - anchor) <= 43200:
        return moment
    days = [(anchor // 86400 + k) * 86400 + moment % 86400 for k in (-1, 0, 1)]
    return min(days, key=lambda m: abs(m - anchor))


def oracle(slices: list[dict], given: dict) -> float:
    """The SUVbw factor by suv.md, from raw text."""
    f = slices[0]
    if (one(f, "sop_class") or "").endswith(("1.1.130", "1.1.128.1")) or one(f, "modality") != "PT":
        raise Refused("kind")
    corrections = [c.strip().upper() for c in f.get("corrected", "").split("\\")]
    if "ATTN" not in corrections or "DECY" not in corrections or (one(f, "method") or "").upper() == "NONE":
        raise Refused("corrections")
    units, decay, kind = (one(f, "units") or "").upper(), (one(f, "decay") or "").upper(), one(f, "suv_type")
    if units not in ("BQML", "GML", "CM2ML", "CNTS") or decay not in ("START", "ADMIN"):
        raise Refused("units or decay")
    per_bqml = maybe(dose_factor, slices, decay, given)
    if units == "BQML":
        return dose_factor(slices, decay, given)
    if units == "CNTS":
        suv, activity = decimal(f, "philips_suv"), decimal(f, "philips_activity")
        suv, activity = (suv if suv and suv > 0 else None), (activity if activity and activity > 0 else None)
        if suv is not None and not (given and activity is not None):
            return suv * given["weight_kg"] / weight_kg(f, {}) if "weight_kg" in given else suv
        if activity is None or per_bqml is None:
            raise Refused("factors")
        return activity * per_bqml
    kind = (kind or ("BSA" if units == "CM2ML" else "BW")).upper()
    if (kind == "BSA") != (units == "CM2ML"):
        raise Refused("contradiction")
    if kind == "BW":
        return 1.0
    weight, height, sex = maybe(weight_kg, f, given), maybe(decimal, f, "height"), (maybe(one, f, "sex") or "").upper()
    if weight is None or height is None or not 0.2 <= height <= 2.6 or (sex not in ("M", "F") and kind != "BSA"):
        raise Refused("patient")
    if kind == "BSA":
        return weight * 1000 / (0.007184 * weight**0.425 * (height * 100) ** 0.725 * 10000)
    bmi = weight / height / height
    if kind == "LBMJANMA":
        return weight / (9270 * weight / ((6680 + 216 * bmi) if sex == "M" else (8780 + 244 * bmi)))
    if kind == "IBW":
        ideal = 48 + 1.06 * (100 * height - 152) if sex == "M" else 45.5 + 0.91 * (100 * height - 152)
        if ideal <= 0:
            raise Refused("ideal weight")
        return weight / ideal
    if kind not in ("LBM", "LBMJAMES128"):
        raise Refused("type")
    a, b = (1.07, 148) if sex == "F" else (1.10, 120 if kind == "LBM" else 128)
    if weight > a / (2 * b) * (100 * height) ** 2:
        raise Refused("vertex")
    return weight / (a * weight - b * (weight / (100 * height)) ** 2)


def weight_kg(f: dict, given: dict) -> float:
    weight = given.get("weight_kg") or decimal(f, "weight")
    if weight is None or not 0.3 <= weight <= 500:
        raise Refused("weight")
    return weight


def dose_factor(slices: list[dict], decay: str, given: dict) -> float:
    f = slices[0]
    weight = weight_kg(f, given)
    dose = given.get("dose_bq") or decimal(f, "dose")
    if dose is None or not 1e4 <= dose <= 1e11:
        raise Refused("dose")
    known = {"C-111A1": 6586.2, "77004003": 6586.2, "C-131A3": 4070.3, "3932008": 45721.1}.get(one(f, "code"))
    half_life = decimal(f, "half_life") or known
    if known is None and (maybe(one, f, "tracer") or "") == "FDG":
        known = 6586.2
    if half_life is None or not 1 <= half_life <= 1e8 or (known and abs(half_life / known - 1) > 0.03):
        raise Refused("half-life")
    starts = []
    for one_slice in slices:
        if words := one(one_slice, "acquisition_time"):
            starts.append(first_day(one_slice, "acquisition_date", "series_date") * 86400 + clock_s(words))
        else:
            starts.append(None)
    first = min((s for s in starts if s is not None), default=None)
    if decay == "ADMIN":
        if first is not None:
            injection_s(f, first, half_life, needed=False)
        return weight * 1000 / dose
    reference = reference_s(slices, starts, first, half_life)
    return weight * 1000 / (dose * math.exp(-math.log(2) * float(reference - injection_s(f, reference, half_life)) / half_life))


def reference_s(slices: list[dict], starts: list, first: float | None, half_life: float) -> float:
    f = slices[0]
    for name in ("siemens", "ge"):
        if words := one(f, name):
            moment = moment_s(words)
            if first is not None:
                if nearest(moment, first) > first + 600:
                    raise Refused("late reference")
                return nearest(moment, first)
            day = first_day(f, "acquisition_date", "series_date")
            return moment if day == NO_DAY else day * 86400 + moment % 86400
    if first is None:
        raise Refused("no acquisition")
    if words := one(f, "series_time"):
        series = nearest(first_day(f, "series_date", "acquisition_date") * 86400 + clock_s(words), first)
        if series <= first + 1:
            return series
    frames = [(s, decimal(x, "frame_time"), decimal(x, "duration")) for s, x in zip(starts, slices) if s is not None]
    if any(v is None for frame in frames for v in frame):
        raise Refused("frame")
    start, since, duration = min(frames)
    if duration <= 0 or abs(since) > 1e12:
        raise Refused("frame")
    x = math.log(2) / half_life * duration / 1000
    return start + Fraction(math.log(x / (1 - math.exp(-x))) * half_life / math.log(2) - since / 1000)


def injection_s(f: dict, reference: float, half_life: float, needed=True) -> float | None:
    if words := one(f, "start_datetime"):
        clock = one(f, "start_time")
        moment = moment_s(words)
        if re.search(r"[+-]\d{4}$", words) and (wall := maybe(clock_s, clock or "none")) is not None:
            closest = min((moment // 86400 * 86400 + k * 86400 + wall for k in (-1, 0, 1)), key=lambda m: abs(m - moment))
            moment = closest if abs(closest - moment) > 1 else moment
        if abs(reference - moment) > max(10 * half_life, 86400):
            moment %= 86400
    elif words := one(f, "start_time"):
        moment = clock_s(words)
    elif needed:
        raise Refused("no injection")
    else:
        return None
    if moment < 86400:  # a time of day
        if half_life > 4 * 3600:
            if needed:
                raise Refused("long-lived")
            return None
        moment += reference // 86400 * 86400
        if moment > reference and reference - (moment - 86400) <= 6 * 3600:
            moment -= 86400
    if not 0 <= reference - moment <= 10 * half_life:
        raise Refused("uptake")
    return moment


def answer(slices: list[dict], given: dict) -> float | None:
    try:
        return oracle(slices, given)
    except Refused:
        return None


def test_the_oracle_knows_a_hand_worked_factor():
    # 60 min: 400 MBq x 2^(-3600/6586.2) are left of the dose
    assert oracle([GOOD, GOOD], {}) == pytest.approx(80000 / (4e8 * 2 ** (-3600 / 6586.2)))
    assert suv_facts([read(GOOD)]).factor == pytest.approx(oracle([GOOD], {}))
    assert suv_facts([read(GOOD)]).reference == datetime(2024, 5, 31, 10)


def test_a_thousand_headers():
    outcomes = Counter()

    @settings(max_examples=1000, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(
        frame=frames,
        mutations=st.lists(mutation, max_size=4),
        later=st.sampled_from(
            [{}, {}, {}, {"acquisition_time": "100300", "frame_time": "270000"}, {"acquisition_time": "095500"}]
        ),
        by_user=st.sampled_from([{}, {}, {}, {"weight_kg": 60.0}, {"dose_bq": 3e8}]),
    )
    def compare(frame, mutations, later, by_user):
        first = {k: v for k, v in (GOOD | frame | dict(mutations)).items() if v != ""}
        slices = [first, first | later]
        wanted = answer(slices, by_user)
        try:
            found = suv_facts([read(s) for s in slices], Overrides(**by_user)).factor
        except InputError as error:
            found = None
            assert "\n" not in str(error)
            assert len(str(error)) < 400
        outcomes["refused" if found is None else "number"] += 1
        assert (found is None) == (wanted is None), (found, wanted)
        if found is not None:
            assert found == pytest.approx(wanted, rel=1e-6)

    compare()
    assert sum(outcomes.values()) >= 1000
    assert min(outcomes["number"], outcomes["refused"]) > 200, outcomes
