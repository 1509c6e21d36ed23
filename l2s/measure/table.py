"""Scores as a table for people, as CSV and as JSON. An undefined figure is '-', an empty field, null."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict

from l2s.measure.metrics import CaseScores, mean, summarize
from l2s.measure.surface import SurfaceScores

COLUMNS = (  # heading, key of a row, digits behind the point
    ("dice", "dice", 3),
    ("FPV ml", "fpv_ml", 2),
    ("FNV ml", "fnv_ml", 2),
    ("truth ml", "truth_ml", 1),
    ("predicted ml", "prediction_ml", 1),
    ("lesions", "truth_lesions", 0),
    ("found", "found", 0),
    ("missed", "missed", 0),
    ("false", "false_lesions", 0),
    ("F1", "lesion_f1", 3),
    ("HD95 mm", "hd95_mm", 1),
    ("surface mm", "surface_mm", 1),
)


def to_row(scores: CaseScores, surface: SurfaceScores | None) -> dict:
    """One case as a flat dictionary; NaN where undefined, no surface figures where surface is None."""
    return asdict(scores) | (asdict(surface) if surface else {})


def summary_of(scores: list[CaseScores], surfaces: list[SurfaceScores]) -> dict:
    """The summary of metrics.summarize, with the means of the surface figures where there are any."""
    keys = ("hausdorff_mm", "hd95_mm", "surface_mm") if surfaces else ()
    return summarize(scores) | {f"mean_{key}": mean(getattr(s, key) for s in surfaces) for key in keys}


def figure(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def as_text(rows: list[dict], summary: dict) -> str:
    """An aligned table, a row of means where there are several cases, and the three conventions of mDice."""
    columns = [c for c in COLUMNS if c[1] in rows[0]]
    lines = [["case", *(heading for heading, _, _ in columns)]]
    lines += [[row["case"], *(figure(row[key], digits) for _, key, digits in columns)] for row in rows]
    if len(rows) > 1:
        lines.append(["mean", *(figure(mean(row[key] for row in rows), max(digits, 1)) for _, key, digits in columns)])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    text = ["  ".join([line[0].ljust(widths[0])] + [cell.rjust(w) for cell, w in zip(line[1:], widths[1:])]) for line in lines]
    text.append(
        f"mDice {figure(summary['mdice'], 3)} (cases without lesion left out), "
        f"{figure(summary['mdice_empty_is_one'], 3)} (empty/empty = 1), "
        f"{figure(summary['mdice_false_positive_is_zero'], 3)} (false positive on an empty truth = 0); "
        f"cases: {summary['cases']}, without lesion: {summary['cases_without_lesion']}"
    )
    return "\n".join(text)


def as_csv(rows: list[dict]) -> str:
    """A heading and one line a case, every figure in full; undefined ones are empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(defined(row, "") for row in rows)
    return out.getvalue()


def as_json(rows: list[dict], summary: dict) -> str:
    """{"cases": [...], "summary": {...}} with null for undefined figures."""
    value = {"cases": [defined(row, None) for row in rows], "summary": defined(summary, None)}
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def defined(row: dict, undefined) -> dict:
    """The row with each NaN replaced by undefined."""
    return {key: undefined if isinstance(v, float) and math.isnan(v) else v for key, v in row.items()}
