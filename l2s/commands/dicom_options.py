"""Flags of every command that reads DICOM: which series, and what the user knows better than the header."""

from __future__ import annotations

import argparse
import re
from datetime import datetime, time
from typing import TYPE_CHECKING

from l2s.errors import InputError

if TYPE_CHECKING:
    from l2s.io.suv import Overrides


def add_dicom_options(parser: argparse.ArgumentParser, ct: bool = True) -> None:
    """Adds --pet-series, --ct-series (where the command reads a CT) and the overrides to a command."""
    group = parser.add_argument_group("DICOM")
    group.add_argument("--pet-series", metavar="UID", help="SeriesInstanceUID of the PET (l2s inspect lists them)")
    if ct:
        group.add_argument("--ct-series", metavar="UID", help="SeriesInstanceUID of the CT")
    group.add_argument("--weight-kg", type=float, metavar="KG", help="the patient's weight, in place of the header's")
    group.add_argument("--height-m", type=float, metavar="M", help="the patient's height")
    group.add_argument("--sex", choices=("M", "F"), help="the patient's sex, for lean body mass")
    group.add_argument("--dose-bq", type=float, metavar="BQ", help="the injected dose at the time of injection")
    group.add_argument(
        "--half-life-s", type=float, metavar="S", help="of the nuclide (F-18: 6586.2); at most 3 %% off where the header names it"
    )
    group.add_argument(
        "--injection-datetime",
        "--injection-time",
        dest="injection",
        metavar="TIME",
        help="by the scanner's clock: 2024-05-31T09:15:00, 20240531091500, or 09:15:00 on the day of the scan",
    )
    group.add_argument(
        "--reference-datetime",
        dest="reference",
        metavar="TIME",
        help="what the scanner decay-corrected to, in place of what the header says",
    )


def overrides_from(arguments: argparse.Namespace) -> Overrides:
    """The flags' values.

    Raises:
        InputError: a time is no time.
    """
    from l2s.io.suv import Overrides

    return Overrides(
        weight_kg=arguments.weight_kg,
        height_m=arguments.height_m,
        sex=arguments.sex,
        dose_bq=arguments.dose_bq,
        half_life_s=arguments.half_life_s,
        injection=moment_of(arguments.injection, "--injection-datetime"),
        reference=moment_of(arguments.reference, "--reference-datetime"),
    )


def moment_of(words: str | None, flag: str) -> datetime | time | None:
    """A moment, or a time of day, in ISO's form or DICOM's."""
    if words is None:
        return None
    compact = re.fullmatch(r"(\d{8})?(\d{6})(\.\d{1,6})?", words)
    if compact:
        day, clock, fraction = compact.groups()
        iso = f"{clock[:2]}:{clock[2:4]}:{clock[4:]}{fraction or ''}"
        words = f"{day[:4]}-{day[4:6]}-{day[6:]}T{iso}" if day else iso
    try:
        if re.fullmatch(r"\d\d:\d\d(:\d\d(\.\d+)?)?", words):
            return time.fromisoformat(words)
        if re.fullmatch(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?", words):
            return datetime.fromisoformat(words)
    except ValueError:
        pass
    raise InputError(f"{flag} {words}: no time; write 2024-05-31T09:15:00, 20240531091500 or 09:15:00")
