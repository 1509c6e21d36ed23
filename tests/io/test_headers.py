"""Times, zones and numbers of DICOM headers."""

from datetime import date, datetime, time

import pytest

from l2s.errors import InputError
from l2s.io.headers import as_number, parse_date, parse_datetime, parse_time, word


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("09", time(9)), ("0930", time(9, 30)), ("093015", time(9, 30, 15)), ("093015.5", time(9, 30, 15, 500000)),
     ("09:30:15", time(9, 30, 15)),     ("235960", time(23, 59, 59)), ("093015.", time(9, 30, 15))],
)  # fmt: skip
def test_times(words, wanted):
    assert parse_time(words, "T") == wanted


@pytest.mark.parametrize("words", ["9", "240000", "096000", "093061", "0930-1000", "noon", "093015.1234567", "-93015"])
def test_no_times(words):
    with pytest.raises(InputError, match="no time of day"):
        parse_time(words, "T")


def test_dates():
    assert parse_date("20240229", "D") == parse_date("2024.02.29", "D") == parse_date("2024-02-29", "D") == date(2024, 2, 29)
    for words in ("20230229", "2024", "", "00010101", "99991231", "2024022"):
        with pytest.raises(InputError, match="no date"):
            parse_date(words, "D")


def test_moments():
    assert parse_datetime("20240531093015.25", "DT") == datetime(2024, 5, 31, 9, 30, 15, 250000)
    assert parse_datetime("2024-05-31T09:30:15", "DT") == datetime(2024, 5, 31, 9, 30, 15)
    # the offset: dropped where the header has no zone, else brought to the header's
    assert parse_datetime("20240531093000+0200", "DT") == datetime(2024, 5, 31, 9, 30)
    assert parse_datetime("20240531093000+0200", "DT", "+0200") == datetime(2024, 5, 31, 9, 30)
    assert parse_datetime("20240531003000+0200", "DT", "-0500") == datetime(2024, 5, 30, 17, 30)
    assert parse_datetime("20240531093000", "DT", "-0500") == datetime(2024, 5, 31, 9, 30)
    for words in ("20240531", "202405310930001", "x", "20240531093000+2900"):
        with pytest.raises(InputError):
            parse_datetime(words, "DT", "+0000")


def test_numbers():
    assert as_number(" 1.5e2 ", "N") == 150
    assert as_number("", "N") is None
    for words in ("1_0", "nan", "inf", "1,5", "1 2", "1e999", "0x10"):
        with pytest.raises(InputError):
            as_number(words, "N")


def test_coded_words():
    assert [word(value, {"ATTN"}) for value in ("ATTN", "DOE^JOHN", "", None)] == [
        "ATTN", "a word that DICOM does not define", "absent", "absent"
    ]  # fmt: skip
