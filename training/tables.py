"""An evaluation's rows -> Markdown: Table 1 and what stands behind it, a section a data set; cases.csv and lesions.csv."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import astuple, fields

from l2s.measure.metrics import CaseScores, mean, summarize
from l2s.measure.table import figure
from training import statistics
from training.scores import CENTRE_RADIUS_MM, Row
from training.statistics import Estimate

FIELDS = (("dice", "mDice", 3), ("fpv_ml", "FPV ml", 2), ("fnv_ml", "FNV ml", 2))
DIFFERENCES = (  # what each step of the method is worth
    ("L2SNet", "3D U-Net"),
    ("L2SNet + voxelwise", "L2SNet"),
    ("L2SNet + componentwise", "L2SNet"),
    ("L2SNet + voxelwise", "SUV > 2.5"),
)

Methods = dict[str, list[Row]]


def document(rows: list[Row], heading: list[str]) -> str:
    """The whole of table.md: the heading's lines, then all tables of each data set."""
    parts = ["# Lesion segmentation: methods compared", *heading]
    for data in dict.fromkeys(r.data for r in rows):
        methods: Methods = {}
        for row in rows:
            if row.data == data:
                methods.setdefault(row.method, []).append(row)
        cases = next(iter(methods.values()))
        patients = len({r.patient for r in cases})
        negative = len(statistics.by_lesion(cases)[1])
        parts.append(f"## {data}: cases {len(cases)}, patients {patients}, cases without lesion {negative}")
        parts += [
            table_one(methods),
            differences(methods),
            conventions(methods),
            positives_and_negatives(methods),
            folds(methods),
            detection(methods),
            sizes(methods),
        ]
    return "\n\n".join(parts) + "\n"


def markdown(title: str, columns: list[str], lines: list[list]) -> str:
    """A titled table; the first column is text, the others numbers."""
    head = [f"| {' | '.join(columns)} |", f"|---|{'---:|' * (len(columns) - 1)}"]
    return "\n".join([title, "", *head, *(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)])


def interval(estimate: Estimate, digits: int) -> str:
    """Value [low, high]; '-' for what is undefined."""
    text = figure(estimate.value, digits)
    if math.isnan(estimate.low):
        return text
    return f"{text} [{figure(estimate.low, digits)}, {figure(estimate.high, digits)}]"


def table_one(methods: Methods) -> str:
    """The paper's Table 1: mDice over cases with lesions, FPV over all, FNV over cases with lesions."""
    lines = [
        [method, *(interval(statistics.field_interval(rows, field), digits) for field, _, digits in FIELDS), len(rows)]
        for method, rows in methods.items()
    ]
    title = (
        f"**Table 1.** Means over cases with 95 % bootstrap intervals ({statistics.DRAWS} draws of patients). mDice and FNV leave out "
        "cases without lesion."
    )
    return markdown(title, ["method", *(name for _, name, _ in FIELDS), "n"], lines)


def differences(methods: Methods) -> str:
    """Paired differences; a kind of windows that is not the first is compared with the first."""
    pairs = [pair for pair in DIFFERENCES if pair[0] in methods and pair[1] in methods]
    pairs += [(method, method.rpartition(", ")[0]) for method in methods if method.rpartition(", ")[0] in methods]
    lines = []
    for first, second in pairs:
        found = [(statistics.paired(methods[first], methods[second], field), digits) for field, _, digits in FIELDS]
        lines.append(
            [f"{first} - {second}", *(f"{interval(d.estimate, digits)} {d.verdict}, p {figure(d.p, 3)}" for d, digits in found)]
        )
    title = (
        "**Paired differences**, case by case. Better or worse is said of the first method, only where the interval leaves out 0 and "
        "p, of swapping the methods patient by patient, is below 0.05; nothing is corrected for the number of differences."
    )
    return markdown(title, ["difference", *(name for _, name, _ in FIELDS)], lines)


def conventions(methods: Methods) -> str:
    """mDice by the three rules for cases without lesion; the paper does not name its own."""
    keys = ("mdice", "mdice_empty_is_one", "mdice_false_positive_is_zero")
    lines = []
    for method, rows in methods.items():
        summary = summarize([r.scores for r in rows])
        lines.append([method, *(figure(summary[key], 3) for key in keys)])
    columns = ["method", "left out", "empty and empty = 1, else 0", "false positive = 0, else left out"]
    return markdown("**mDice by convention** for a case without lesion.", columns, lines)


def positives_and_negatives(methods: Methods) -> str:
    """Cases with and without lesion apart: a mean FPV over both hides which of them it comes from."""
    lines = []
    for method, rows in methods.items():
        positive, negative = statistics.by_lesion(rows)
        clean = sum(r.scores.prediction_lesions == 0 for r in negative)
        lines.append(
            [method, len(positive)]
            + [interval(statistics.field_interval(positive, field), digits) for field, _, digits in FIELDS]
            + [len(negative), interval(statistics.field_interval(negative, "fpv_ml"), 2), clean]
        )
    columns = ["method", "with lesion", "mDice", "FPV ml", "FNV ml", "without", "FPV ml", "of them left empty"]
    return markdown("**Cases with and without lesion.**", columns, lines)


def folds(methods: Methods) -> str:
    """Means of the folds' means and their deviation: what another split would have given."""
    lines = []
    for method, rows in methods.items():
        spreads = [(statistics.over_folds(rows, field), digits) for field, _, digits in FIELDS]
        cells = [f"{figure(s.mean, digits)} +- {figure(s.sd, digits)}" for s, digits in spreads]
        lines.append([method, *cells, len({r.fold for r in rows})])
    return markdown("**Over folds**, mean +- standard deviation.", ["method", *(name for _, name, _ in FIELDS), "folds"], lines)


def detection(methods: Methods) -> str:
    """Lesions counted over all cases, by autoPET V's rule and by evalutils' centres."""
    lines = []
    for method, rows in methods.items():
        d = statistics.detection(rows)
        f1 = mean(r.scores.lesion_f1 for r in rows)
        lines.append(
            [method, d.found, d.missed, d.false_lesions, figure(d.precision, 3), figure(d.recall, 3), interval(d.f1, 3)]
            + [figure(f1, 3), "/".join(str(n) for n in d.centre_hits), figure(d.centre_f1, 3)]
        )
    title = (
        "**Detection of lesions.** Found: a predicted component overlaps it with an IoU of 0.1 or more (autoPET V), all cases "
        f"counted together; mean F1 over cases beside it. Centres: evalutils' count of centres of mass within {CENTRE_RADIUS_MM:.0f} mm."
    )
    columns = ["method", "found", "missed", "false", "precision", "recall", "F1", "mean F1 of cases", "centres: hit/missed/false"]
    return markdown(title, [*columns, "F1 by centres"], lines)


def sizes(methods: Methods) -> str:
    """True and false lesions by volume."""
    lines = [
        [method, size_name(c), c.lesions, c.found, c.touched, f"{c.missed_ml:.1f}", c.false_lesions, f"{c.false_ml:.1f}"]
        for method, rows in methods.items()
        for c in statistics.size_classes(rows)
    ]
    title = (
        "**Lesions by size.** Missed and false volume as in FNV and FPV: components that share no voxel with the other mask; "
        "found and false lesions by an IoU of 0.1."
    )
    columns = ["method", "volume", "lesions", "found", "any overlap", "missed ml", "false lesions", "false ml"]
    return markdown(title, columns, lines)


def size_name(c: statistics.SizeClass) -> str:
    if not c.low_ml:
        return f"< {c.high_ml:.0f} ml"
    return f">= {c.low_ml:.0f} ml" if math.isinf(c.high_ml) else f"{c.low_ml:.0f} to {c.high_ml:.0f} ml"


def cases_csv(rows: list[Row]) -> str:
    """One line a case and method, every figure in full; undefined ones are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["data", "fold", "patient", "method", *(f.name for f in fields(CaseScores))])
    for row in rows:
        figures = ["" if isinstance(v, float) and math.isnan(v) else v for v in astuple(row.scores)]
        writer.writerow([row.data, row.fold, row.patient, row.method, *figures])
    return out.getvalue()


def lesions_csv(rows: list[Row]) -> str:
    """One line a true component and method, and one a predicted component: found and touched are 1 or 0, as seen by the other mask."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["data", "fold", "method", "case", "mask", "volume_ml", "found", "touched"])
    for row in rows:
        for mask, lesions in (("truth", row.lesions), ("prediction", row.predicted)):
            for v in lesions:
                line = [row.data, row.fold, row.method, row.scores.case, mask]
                writer.writerow([*line, f"{v.volume_ml:.4f}", int(v.found), int(v.touched)])
    return out.getvalue()
