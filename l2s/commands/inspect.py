"""`l2s inspect`: what lies in a DICOM folder, what l2s would take, and why not the rest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from l2s.commands.dicom_options import add_dicom_options, overrides_from


def add(commands: argparse._SubParsersAction) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="list DICOM series, the choice among them and the SUV",
        description=run_inspect.__doc__,
        allow_abbrev=False,
    )
    inspect.add_argument("input", type=Path, metavar="DIR", help="a folder of DICOM files, a zip of one, or a DICOMDIR")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    add_dicom_options(inspect)
    inspect.set_defaults(run=run_inspect)


def run_inspect(arguments: argparse.Namespace) -> None:
    """All DICOM series, which PET and CT would be taken, why the others not, and how the SUV comes about. Reads headers alone."""
    from l2s.io.dicom import inspect_dicom

    found = inspect_dicom(arguments.input, arguments.pet_series, arguments.ct_series, overrides_from(arguments))
    content = as_json(found)
    # plain ASCII: JSON would let through control characters above 127
    print(json.dumps(content, indent=2) if arguments.json else as_text(content))


def as_json(found) -> dict:
    """Everything as JSON. Series are named by their UIDs, as --pet-series wants them: this is for the user's eyes, not for a record."""
    chosen = {series.uid: kind for kind, series in (("PET", found.choice.pet), ("CT", found.choice.ct)) if series}
    rows = [
        {
            "uid": series.uid,
            "number": series.number,
            "modality": series.modality,
            "description": series.description,
            "files": len(series.instances),
            "rows": series.instances[0].rows,
            "columns": series.instances[0].columns,
            "chosen_as": chosen.get(series.uid),
            "reason": found.choice.reasons.get(series.uid),
        }
        for series in found.table.series
    ]
    return {
        "usable": found.problem is None,
        "problem": found.problem,
        "pet_alone": found.pet_alone,
        "series": rows,
        "files_not_dicom": found.others,
        "suv": suv_as_json(found.suv) if found.suv else None,
        "passed_over": list(found.table.passed_over),
        "warnings": list(found.warnings),
    }


def suv_as_json(facts) -> dict:
    from dataclasses import asdict

    from l2s.errors import InputError
    from l2s.io.suv import per_suvbw

    values = asdict(facts)
    values.pop("warnings")
    for key in ("injection", "reference"):
        values[key] = values[key].isoformat(sep=" ") if values[key] else None
    values["uptake_min"] = None if facts.uptake_s is None else round(facts.uptake_s / 60, 2)
    for kind in ("sul", "sul-james", "bsa"):
        try:
            values[f"{kind}_per_suvbw"] = per_suvbw(facts, kind)
        except InputError:
            values[f"{kind}_per_suvbw"] = None
    return values


def as_text(content: dict) -> str:
    """The table of series, then the SUV's facts, then warnings."""
    lines = [f"{'':4}{'no':>5} {'mod':4}{'files':>6} {'matrix':>10}  description", ""]
    for row in content["series"]:
        mark = {"PET": "PET>", "CT": "CT> "}.get(row["chosen_as"], "")
        number = "-" if row["number"] is None else row["number"]
        matrix = f"{row['columns']:.6g}x{row['rows']:.6g}"
        lines.append(f"{mark:4}{number:>5} {row['modality']:4}{row['files']:>6} {matrix:>10}  {row['description']}")
        lines.append(f"{'':15}{row['uid']}")
        lines.append(f"{'':15}{'taken as ' + row['chosen_as'] if row['chosen_as'] else 'not taken: ' + row['reason']}")
    if content["files_not_dicom"]:
        lines.append(f"{content['files_not_dicom']} files are not DICOM")
    lines += [f"passed over: {line}" for line in content["passed_over"]]
    suv = content["suv"]
    if suv:
        lines += ["", *_suv_lines(suv)]
    lines += [""] * bool(content["warnings"]) + [f"warning: {line}" for line in content["warnings"]]
    lines += ["", verdict(content)]
    return "\n".join(map(printable, lines))


def verdict(content: dict) -> str:
    """The last line: whether the study can be read, or its PET alone."""
    if content["usable"]:
        return "can be read"
    if content["pet_alone"]:
        return f"the PET alone can be read, but NOT as a PET/CT: {content['problem']}"
    return f"CANNOT be read: {content['problem']}"


def _suv_lines(suv: dict) -> list[str]:
    def shown(value, form: str, unit: str) -> str:
        return "unknown" if value is None else f"{value:{form}} {unit}".strip()

    rows = [
        (
            "patient",
            ", ".join((shown(suv["weight_kg"], "g", "kg"), shown(suv["height_m"], ".3g", "m"), suv["sex"] or "sex unknown")),
        ),
        ("scanner", suv["manufacturer"]),
        ("tracer", f"{suv['tracer'] or 'unknown'}, half-life {shown(suv['half_life_s'], 'g', 's')}"),
        ("dose", shown(suv["dose_bq"] and suv["dose_bq"] / 1e6, ".2f", "MBq")),
        ("injection", suv["injection"] or "unknown"),
        ("decayed to", f"{suv['reference'] or 'unknown'} ({suv['decay_correction']}; by {suv['reference_source'] or 'nothing'})"),
        ("uptake time", shown(suv["uptake_min"], "g", "min")),
        ("SUVbw", f"{suv['units']} value x {suv['factor']:.9g}: {suv['method']}"),
        (
            "SUL",
            f"SUVbw x {suv['sul_per_suvbw']:.6g} (Janmahasatian)" if suv["sul_per_suvbw"] else "weight, height or sex unknown",
        ),
    ]
    if suv["overrides"]:
        rows.append(("by the user", ", ".join(suv["overrides"])))
    return [f"{name:12}{value}" for name, value in rows]


def printable(words: str) -> str:
    """A line without what could steer a terminal or begin another line."""
    return "".join(c if c.isprintable() else "?" for c in words)
