"""A lesion table and a run's record in words and numbers for people. No value is guessed: what is not there reads n/a."""

from __future__ import annotations

import math
from dataclasses import dataclass

from l2s.report.lesions import Compared

NONE = "n/a"
NOT_STATED = "The record states no intended use."


@dataclass(frozen=True)
class Column:
    """One column of the lesion table.

    Attributes:
        key: in lesions.json; 'place' and 'verdict' are our own.
        head, unit: its heading.
        help: what it is, shown on pointing at the heading.
        rank: 1 is always shown; 2 and 3 go first where the table is narrow.
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
    Column("suv_peak_global", "SUVpeak", "", "Largest mean of a 1 ml sphere around a voxel of the lesion (IBSI 0F91)", 2),
    Column("suv_mean", "SUVmean", "", "Mean body-weight SUV in the lesion", 3),
    Column("tlg_suv_ml", "TLG", "SUV ml", "Total lesion glycolysis: SUVmean x volume", 2),
    Column("longest_diameter_mm", "Diameter", "mm", "Largest distance between two points of the lesion's surface", 3),
    Column("mean_hu", "CT", "HU", "Mean CT value in the lesion", 3),
    Column(
        "probability_mean",
        "Probability",
        "",
        "Mean of the network's probability over the lesion's voxels; not a calibrated chance",
        1,
    ),
    Column("cue_share", "Cue", "", "Share of the lesion that the localizer marked too", 3),
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
    note = f"lowest {low:.2f}, lesion {which}" if len(known) > 1 else ""
    return Fact("How sure (probability)", f"{middle:.2f}", "median" if len(known) > 1 else "", note)


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
    percist, deauville = p.get("percist") or {}, p.get("deauville") or {}
    if percist.get("sul_peak") is not None:
        lines.append(("SULpeak", amount(percist["sul_peak"])))
    if percist.get("measurable") is not None:
        lines.append(("PERCIST 1.0", "measurable" if percist["measurable"] else "not measurable"))
    if percist.get("response"):
        lines.append(("PERCIST 1.0 response", str(percist["response"])))
    if deauville.get("score") is not None:
        lines.append(("Deauville", f"{deauville['score']} ({deauville.get('reason', '')})"))
    return lines


def scores(values: dict) -> list[tuple[str, str]]:
    """Figures of mask against truth, (name, value)."""
    return [
        (name, NONE if v is None or math.isnan(v) else f"{v:.3f}" if "Dice" in name else amount(v)) for name, v in values.items()
    ]


@dataclass(frozen=True)
class Change:
    """One line of the comparison, as text: figure, unit, before, after, difference, difference in percent."""

    name: str
    unit: str
    before: str
    after: str
    difference: str
    percent: str


def changes(before: dict, after: dict) -> list[Change]:
    """TMTV, TLG, SUVmax, SUVpeak and count against a baseline; percent is n/a where the baseline is 0 or has none."""
    lines = []
    for name, unit, key in (
        ("Lesions", "", "lesions"),
        ("TMTV", "ml", "tmtv_ml"),
        ("TLG", "SUV ml", "tlg_suv_ml"),
        ("SUVmax", "", "suv_max"),
        ("SUVpeak", "", "suv_peak"),
    ):
        a, b = before["patient"].get(key), after["patient"].get(key)
        show, sign = (count, signed_count) if key == "lesions" else (amount, signed)
        gap = None if a is None or b is None else b - a
        percent = NONE if gap is None or a == 0 else signed_percent(100 * gap / a)
        lines.append(Change(name, unit, show(a), show(b), sign(gap), percent))
    return lines


def count(value: int | None) -> str:
    return NONE if value is None else str(value)


def signed_count(value: int | None) -> str:
    return NONE if value is None else "±0" if value == 0 else f"{value:+d}".replace("-", "−")


def signed_percent(value: float) -> str:
    text = f"{value:+.1f} %" if abs(value) < 99.95 else f"{value:+.0f} %"
    return text.replace("-", "−")


def intended_use(record: dict) -> str:
    """What the weights' maker says they are for."""
    return str((record.get("weights") or {}).get("intended_use") or NOT_STATED)


def warnings(record: dict) -> list[str]:
    """All that the run warned of or left out, and the error that it ended with."""
    lines = [f"the run ended with an error: {record['error']}"] if record.get("error") else []
    if (record.get("result") or {}).get("empty_because_of_error"):
        lines.append("the mask is EMPTY because of that error, not because no lesion was found")
    lines += [str(line) for line in record.get("warnings") or []]
    left_out = left_out_of(record)
    return lines + [f"left out: {line}" for line in left_out if not any(line in said for said in lines)]


def left_out_of(record: dict) -> list[str]:
    """Folds and mirrors that a time limit left out, in words."""
    found = (record.get("method") or {}).get("left_out") or record.get("left_out") or []
    return [", ".join(f"{k} {v}" for k, v in one.items()) if isinstance(one, dict) else str(one) for one in found]


def provenance(record: dict, tool: str, made: str) -> list[tuple[str, str]]:
    """Made by what, in a few words: (name, value)."""
    weights, plan = record.get("weights") or {}, record.get("plan") or {}
    sha = str(weights.get("sha256") or "")
    lines = [("Segmented by", str(record.get("tool") or "unknown: the record is missing"))]
    if weights.get("name"):
        lines.append(("weights", f"{weights['name']}" + (f" (SHA-256 {sha[:12]}…)" if sha else "")))
    if plan:
        lines.append(("run", f"{plan.get('precision', '?')} on {plan.get('device_name') or plan.get('device', '?')}"))
    if record.get("made") or record.get("date"):
        lines.append(("on", str(record.get("made") or record.get("date"))))
    if made:
        lines.append(("page by", f"{tool}, {made}"))
    return lines


def sections(record: dict, viewer_mm, pet_mm) -> list[tuple[str, list[tuple[str, str]]]]:
    """The record for the page's end: (heading, (name, value) lines)."""
    weights = record.get("weights") or {}
    parts = [
        (
            "Weights",
            [("name", weights.get("name")), ("SHA-256", weights.get("sha256")), ("intended use", weights.get("intended_use"))],
        ),
        ("Case", list((record.get("case") or {}).items())),
        ("Plan", [(k, v) for k, v in (record.get("plan") or {}).items() if v is not None]),
        ("Method", [(k, v) for k, v in (record.get("method") or {}).items() if k != "plan"]),
        ("Geometry of the PET file", list((record.get("geometry") or {}).items())),
        ("Seconds", list((record.get("seconds") or {}).items())),
        (
            "This page",
            [
                ("viewer, mm (z, y, x)", [round(s, 3) for s in viewer_mm]),
                ("PET, mm (z, y, x)", [round(s, 3) for s in pet_mm]),
            ],
        ),
    ]
    known = [(head, [(str(k), plain(v)) for k, v in lines if v is not None]) for head, lines in parts]
    return [(head, lines) for head, lines in known if lines]


def plain(value) -> str:
    """A JSON value as readable text."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items() if v is not None) or "none"
    if isinstance(value, list | tuple):
        inner = [plain(v) for v in value]
        return ("; " if any(isinstance(v, dict) for v in value) else ", ").join(inner) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
