"""One method of two evaluations against each other, case by case: which variant of a training is better?

    python -m training.compare RUN_A/evaluation RUN_B/evaluation --method "2D U-Net"

Prints a Markdown row a data set: means of both, paired difference (second minus first) with its interval, and the verdict.
"""

from __future__ import annotations

import argparse
import csv
import math
from dataclasses import fields
from pathlib import Path

from l2s.errors import InputError
from l2s.measure.metrics import CaseScores
from l2s.measure.table import figure
from training import statistics, tables
from training.run import exit_with
from training.scores import Row


def read_cases(folder: Path) -> list[Row]:
    """The rows of an evaluation's cases.csv, without their lesions.

    Raises:
        InputError: there is none.
    """
    path = Path(folder) / "cases.csv"
    if not path.is_file():
        raise InputError(f"no cases.csv in {folder}: run python -m training.evaluate --out {folder} first")
    with path.open(newline="") as file:
        return [
            Row(line["data"], line["fold"], line["patient"], line["method"], scores_of(line), (), (), (0, 0, 0))
            for line in csv.DictReader(file)
        ]


def scores_of(line: dict[str, str]) -> CaseScores:
    def value(name: str, kind: str) -> str | int | float:
        text = line[name]
        return text if kind == "str" else math.nan if text == "" else int(text) if kind == "int" else float(text)

    return CaseScores(**{f.name: value(f.name, f.type) for f in fields(CaseScores)})


def compare(first: list[Row], second: list[Row], data: str) -> list[str]:
    """Cells of one data set: n, then for each figure both means, the difference and the verdict, all of the cases that both have."""
    sides = [{r.scores.case: r for r in rows if r.data == data} for rows in (first, second)]
    common = [case for case in sides[0] if case in sides[1]]
    ours, theirs = ([side[case] for case in common] for side in sides)
    cells = [str(len(common))]
    for field, _, digits in tables.FIELDS:
        means = [figure(statistics.field_interval(rows, field).value, digits) for rows in (ours, theirs)]
        difference = statistics.paired(theirs, ours, field)
        cells.append(f"{means[0]}, {means[1]}: {tables.interval(difference.estimate, digits)} {difference.verdict}")
    return cells


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("first", type=Path)
    p.add_argument("second", type=Path)
    p.add_argument("--method", required=True, help="a row of the table")
    p.add_argument("--against", help="the second evaluation's row, where it is another")
    args = p.parse_args(argv)
    wanted = (args.first, args.method), (args.second, args.against or args.method)
    sides = [[r for r in read_cases(folder) if r.method == method] for folder, method in wanted]
    for (folder, method), rows in zip(wanted, sides):
        if not rows:
            known = ", ".join(dict.fromkeys(r.method for r in read_cases(folder)))
            raise InputError(f"no method {method!r} in {folder}; it has {known}")
    there = {(r.data, r.scores.case) for r in sides[1]}
    both = dict.fromkeys(r.data for r in sides[0] if (r.data, r.scores.case) in there)
    if not both:
        raise InputError(f"{args.first} and {args.second} have no case in common: evaluate both on the same data")
    lines = [[data, *compare(*sides, data)] for data in both]
    title = f"{args.method} of {args.first}, then {wanted[1][1]} of {args.second}, then second - first."
    print(tables.markdown(title, ["data", "n", *(name for _, name, _ in tables.FIELDS)], lines))
    return 0


if __name__ == "__main__":
    exit_with(main)
