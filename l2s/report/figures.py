"""A lesion table in words and numbers for people. No value is guessed: what is not there reads n/a."""

from __future__ import annotations

import math
from dataclasses import dataclass

from l2s.report.lesions import Compared

NONE = "n/a"
UNSURE = 0.5  # of the network's output


@dataclass(frozen=True)
class Column:
    """One column of the lesion table.

    Attributes:
        key: in lesions.json; 'place' and 'verdict' are our own.
        head, unit: its heading.
        help: what it is, shown on pointing at the heading.
        rank: 1 is always shown; where the table is narrow, 4 goes first, then 3, then 2.
    """

    key: str
    head: str
    unit: str
    help: str
    rank: int


@dataclass(frozen=True)
class Cell:
    """One cell: text, the number to sort by (None sorts last), and for probabilities the length of a bar, 0..1."""

    text: str
    sort: float | str | None
    bar: float | None = None


@dataclass(frozen=True)
class Fact:
    """A figure of the whole body: what, how much, unit, a line beneath."""

    head: str
    value: str
    unit: str
    note: str


COLUMNS = (
    Column("number", "No.", "", "The number on the pictures; 1 is the largest", 1),
    Column("place", "Where", "", "Side of the body's middle, and mm of the lesion's middle below the top of the scan", 1),
    Column("volume_ml", "Volume", "ml", "Voxels of the mask x voxel volume", 1),
    Column("suv_max", "SUVmax", "", "Highest body-weight SUV in the lesion", 1),
    Column("suv_peak_global", "SUVpeak", "", "Largest mean of a 1 ml sphere around a voxel of the lesion (IBSI 0F91)", 3),
    Column("suv_mean", "SUVmean", "", "Mean body-weight SUV in the lesion", 4),
    Column("tlg_suv_ml", "TLG", "SUV ml", "Total lesion glycolysis: SUVmean x volume", 3),
    Column("longest_diameter_mm", "Diameter", "mm", "Largest distance between two points of the lesion's surface", 4),
    Column("mean_hu", "CT", "HU", "Mean CT value in the lesion", 4),
    Column(
        "probability_mean",
        "Probability",
        "",
        "Mean of the network's probability over the lesion's voxels; not a calibrated chance",
        1,
    ),
    Column("cue_share", "Cue", "", "Share of the lesion that the localizer marked too", 2),
)
VERDICT = Column("verdict", "Truth", "", "Whether the lesion shares a voxel with the truth", 1)
VERDICT_WORDS = {"hit": "true positive", "false": "false positive", "missed": "false negative"}


def amount(value: float | None) -> str:
    """A number with as many decimals as it deserves: 0.04, 5.3, 158; n/a for None and NaN."""
    if value is None or math.isnan(value):
        return NONE
    size = abs(value)
    # 9.96 would be shown as 10.0 and 99.96 as 100.0: the limits are those of the rounded number
    text = f"{value:.2f}" if size < 0.995 else f"{value:.1f}" if size < 99.95 else f"{value:.0f}"
    return text.replace("-", "−")


def signed(value: float | None) -> str:
    """A change with its sign."""
    if value is None:
        return NONE
    return "±0" if value == 0 else ("+" if value > 0 else "") + amount(value)


def columns(judged: bool) -> list[Column]:
    return [*COLUMNS[:2], VERDICT, *COLUMNS[2:]] if judged else list(COLUMNS)


def rows(table: dict, places: list[str], judged: Compared | None) -> list[dict]:
    """One dict a lesion, see row."""
    verdicts = judged.verdicts if judged else ["lesion"] * len(places)
    return [row(one, place, verdict, judged is not None) for one, place, verdict in zip(table["lesions"], places, verdicts)]


def row(lesion: dict, place: str, verdict: str, judged: bool) -> dict:
    """A lesion's number, its verdict ('lesion' without a truth) and its cells by column key."""
    cells = {column.key: cell(column.key, lesion, place, verdict) for column in columns(judged)}
    return {"number": lesion["number"], "verdict": verdict, "cells": cells}


def cell(key: str, lesion: dict, place: str, verdict: str) -> Cell:
    if key == "number":
        return Cell(str(lesion["number"]), lesion["number"])
    if key == "place":
        return Cell(place, float(place.split(", ")[-1].removesuffix(" mm")))
    if key == "verdict":
        return Cell(VERDICT_WORDS[verdict], verdict)
    value = lesion.get(key)
    if value is None:
        return Cell(NONE, None)
    if key in ("probability_mean", "cue_share"):
        return Cell(f"{value:.2f}", value, min(1.0, max(0.0, value)))
    if key in ("mean_hu", "longest_diameter_mm"):
        return Cell(f"{value:.0f}".replace("-", "−"), value)
    return Cell(amount(value), value)


def headline(table: dict, places: list[str]) -> str:
    """The answer in one sentence: how many, how much, where."""
    lesions, patient = table["lesions"], table["patient"]
    if not lesions:
        left = patient.get("left_out_lesions") or 0
        return "No lesion marked." + (f" {left} smaller than the least volume left out." if left else "")
    *side, below = places[0].split(", ")
    where = (
        "".join("near the midline, " if s == "midline" else f"on the {s}, " for s in side) + f"{below} below the top of the scan"
    )
    if len(lesions) == 1:
        return f"1 lesion of {amount(patient['tmtv_ml'])} ml, {where}."
    return (
        f"{len(lesions)} lesions of {amount(patient['tmtv_ml'])} ml in all; the largest, {amount(lesions[0]['volume_ml'])} ml, lies "
        f"{where}."
    )


def facts(table: dict) -> list[Fact]:
    """The figures of the first screen."""
    lesions, patient = table["lesions"], table["patient"]
    left = patient.get("left_out_lesions") or 0
    left_note = f"{left} below the least volume left out" if left else ""
    if not lesions:
        return [
            Fact("Lesions", "0", "", left_note or "none marked"),
            Fact("Volume (TMTV)", "0", "ml", ""),
            Fact("TLG", "0", "SUV ml", ""),
            Fact("SUVmax", NONE, "", "no lesion"),
            Fact("Spread (Dmax)", NONE, "", "no lesion"),
            Fact("How sure (probability)", NONE, "", "no lesion"),
        ]
    share = patient.get("largest_share")
    hottest = max(lesions, key=lambda one: one["suv_max"])
    spread = patient.get("dmax_centroids_mm")
    return [
        Fact("Lesions", str(len(lesions)), "", left_note or (f"largest holds {share:.0%}" if share and len(lesions) > 1 else "")),
        Fact("Volume (TMTV)", amount(patient["tmtv_ml"]), "ml", f"largest {amount(patient['largest_ml'])} ml"),
        Fact("TLG", amount(patient["tlg_suv_ml"]), "SUV ml", ""),
        Fact("SUVmax", amount(patient["suv_max"]), "", f"in lesion {hottest['number']}"),
        Fact(
            "Spread (Dmax)",
            NONE if spread is None else f"{spread:.0f}",
            "" if spread is None else "mm",
            "one lesion alone" if spread is None else "between lesion centroids",
        ),
        sureness(lesions),
    ]


def sureness(lesions: list[dict]) -> Fact:
    """The lesions' mean probabilities in one figure."""
    known = sorted((one["probability_mean"], one["number"]) for one in lesions if one.get("probability_mean") is not None)
    if not known:
        return Fact("How sure (probability)", NONE, "", "not kept in this result")
    middle = known[len(known) // 2][0] if len(known) % 2 else (known[len(known) // 2 - 1][0] + known[len(known) // 2][0]) / 2
    low, which = known[0]
    notes = ["network output, not calibrated"]
    if len(known) > 1:
        unsure = sum(value < UNSURE for value, _ in known)
        notes += [f"{unsure} of {len(known)} below {UNSURE:g}", f"lowest {low:.2f}, lesion {which}"]
    return Fact("How sure (probability)", f"{middle:.2f}", "median" if len(known) > 1 else "", "; ".join(notes))


def patient(table: dict) -> list[tuple[str, str]]:
    """Further figures of the whole body, (name, value)."""
    p = table["patient"]
    lines = [
        ("SUVmean of all lesion voxels", amount(p.get("suv_mean"))),
        ("SUVpeak, largest", amount(p.get("suv_peak"))),
        ("MTV at 41 % of each SUVmax", f"{amount(p.get('mtv_41pct_ml'))} ml"),
        ("MTV at SUV 2.5", f"{amount(p.get('mtv_suv2_5_ml'))} ml"),
        ("MTV at SUV 4.0", f"{amount(p.get('mtv_suv4_ml'))} ml"),
        ("Largest distance of two lesion voxels", NONE if p.get("dmax_voxels_mm") is None else f"{p['dmax_voxels_mm']:.0f} mm"),
    ]
    for name, key in (("Liver", "liver"), ("Blood pool", "blood")):
        if p.get(key):
            lines.append((f"{name} SUVmean ± SD", f"{amount(p[key]['suv_mean'])} ± {amount(p[key]['suv_sd'])}"))
    return lines + percist_lines(p.get("percist") or {}) + deauville_lines(p.get("deauville") or {})


def percist_lines(percist: dict) -> list[tuple[str, str]]:
    """PERCIST with what limits it: the baseline, what is lacking and why, what a reader must check by eye."""
    lines = []
    if percist.get("sul_peak") is not None:
        lines.append(("SULpeak", amount(percist["sul_peak"])))
    if percist.get("threshold_sul") is not None:
        where = f", from the {percist['threshold_from']}" if percist.get("threshold_from") else ""
        lines.append(("PERCIST 1.0 threshold (SUL)", amount(percist["threshold_sul"]) + where))
    if percist.get("measurable") is not None:
        lines.append(("PERCIST 1.0", "measurable" if percist["measurable"] else "not measurable"))
    if percist.get("baseline"):
        lines.append(("PERCIST 1.0 response", f"{percist.get('response') or NONE}, against {percist['baseline']}"))
    if percist.get("sul_peak_change_percent") is not None:
        lines.append(("SULpeak change", f"{percist['sul_peak_change_percent']:+.1f} %".replace("-", "−")))
    for name, key in (("PERCIST 1.0 lacks", "reason"), ("PERCIST 1.0, to check", "notes")):
        if percist.get(key):
            lines.append((name, "; ".join(map(str, percist[key]))))
    return lines


def deauville_lines(deauville: dict) -> list[tuple[str, str]]:
    """The score with the comparison that decided it, or n/a with what is lacking."""
    if not deauville:
        return []
    score, reason = deauville.get("score"), deauville.get("reason")
    return [("Deauville", (NONE if score is None else str(score)) + (f" ({reason})" if reason else ""))]


def scores(values: dict) -> list[tuple[str, str]]:
    """Figures of mask against truth, (name, value)."""
    return [
        (name, NONE if v is None or math.isnan(v) else f"{v:.3f}" if "Dice" in name else amount(v)) for name, v in values.items()
    ]
