"""Measures as CSV, as JSON and as a table for people, and the JSON back as a baseline. Undefined: an empty field, null, '-'."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from pathlib import Path

from l2s.errors import InputError
from l2s.measure.lesions import Lesion, Measures
from l2s.measure.reference import Baseline
from l2s.wholefile import write_text

SCHEMA_VERSION = 1  # a field is renamed, dropped or changes its meaning: one more; a new field does not count
CSV_NAME, JSON_NAME = "lesions.csv", "lesions.json"
DIGITS = 7  # what a float32 image can tell
UNITS = {  # the end of a field's name -> its unit
    "_suv_ml": "g/ml x ml",
    "_sul_ml": "g/ml x ml",
    "_mm_xyz": "mm, LPS",
    "_voxel_xyz": "voxels of the mask's file from 0, its fastest axis first",
    "_ml": "ml",
    "_mm2": "mm2",
    "_mm": "mm",
    "_hu": "HU",
    "_kg": "kg",
    "_cm": "cm",
    "_share": "0..1",
    "_percent": "%",
    "probability_mean": "0..1",
    "probability_max": "0..1",
    "sphericity": "0..1",
    "suv_max": "g/ml",
    "suv_mean": "g/ml",
    "suv_sd": "g/ml",
    "suv_peak": "g/ml",
    "suv_peak_local": "g/ml",
    "suv_peak_global": "g/ml",
    "sul_mean": "g/ml",
    "sul_sd": "g/ml",
    "sul_peak": "g/ml",
    "sul_peak_change": "g/ml",
    "threshold_sul": "g/ml",
}
COLUMNS = (  # heading, key of a row, digits behind the point
    ("lesion", "number", 0),
    ("ml", "volume_ml", 2),
    ("SUVmax", "suv_max", 2),
    ("SUVmean", "suv_mean", 2),
    ("SUVpeak", "suv_peak_global", 2),
    ("TLG", "tlg_suv_ml", 1),
    ("mm", "longest_diameter_mm", 1),
    ("HU", "mean_hu", 0),
    ("p", "probability_mean", 2),
    ("x mm", "centroid_mm_x", 0),
    ("y mm", "centroid_mm_y", 0),
    ("z mm", "centroid_mm_z", 0),
)


def unit_of(name: str) -> str | None:
    """The unit of a field; None where it counts, names or says something."""
    for end, unit in UNITS.items():
        if name == end or (end.startswith("_") and name.endswith(end)):
            return unit
    return None


def rows(measures: Measures) -> list[dict]:
    """One flat dictionary a lesion, for pandas.DataFrame; `centroid_mm_xyz` is `centroid_mm_x`, `_y` and `_z`. None: undefined.

    Each begins with its case, so that tables of several can be put under each other.
    """
    return [
        {"case": measures.case} | {key: value for name in columns() for key, value in _flat(name, getattr(one, name))}
        for one in measures.lesions
    ]


def columns() -> list[str]:
    """The fields of a lesion, in order."""
    return [f.name for f in fields(Lesion)]


def _flat(name: str, value) -> list[tuple[str, object]]:
    if not name.endswith("_xyz"):
        return [(name, value)]
    return list(zip((name[:-3] + axis for axis in "xyz"), value))


def as_csv(measures: Measures) -> str:
    """A heading and one line a lesion, seven digits; the heading alone where there is none."""
    heads = ["case", *(key for name in columns() for key, _ in _flat(name, "xyz"))]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if v is None else _rounded(v) for key, v in row.items()} for row in rows(measures))
    return out.getvalue()


def as_dict(measures: Measures, tool: str) -> dict:
    """The content of lesions.json: schema_version, provenance, units, patient, lesions; every figure rounded to seven digits."""
    patient = _rounded(asdict(measures.patient))
    names = [*columns(), *patient]
    names += [key for part in patient.values() if isinstance(part, dict) for key in part]
    names += ["suv_mean", "suv_sd", "suv_max", "sul_mean", "sul_sd"]  # of the references, which may be absent here
    return {
        "schema_version": SCHEMA_VERSION,
        "provenance": {
            "tool": tool,
            "use": "research use only",
            "case": measures.case,
            "mask": measures.mask_name,
            "connectivity": measures.connectivity,
            "min_volume_ml": measures.min_volume_ml,
            "min_voxels": measures.min_voxels,
            "peak_sphere_voxels": measures.peak_sphere_voxels,
            "peak_sphere_ml": _rounded(measures.peak_sphere_ml),
            "weights": {"name": measures.weights_name, "sha256": measures.weights_sha256},
            "warnings": list(measures.warnings),
            "grid": asdict(measures.grid),
        },
        "units": {name: unit for name in dict.fromkeys(names) if (unit := unit_of(name))},
        "patient": patient,
        "lesions": [_rounded(asdict(one)) for one in measures.lesions],
    }


def as_json(measures: Measures, tool: str) -> str:
    return json.dumps(as_dict(measures, tool), indent=2, allow_nan=False) + "\n"


def _rounded(value):
    """The value, its floats to DIGITS significant digits, in tuples and dictionaries too."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, tuple | list) else value


def as_text(measures: Measures, most: int = 20) -> str:
    """The largest lesions as an aligned table, and the patient in words."""
    listed = rows(measures)[:most]
    lines = [[heading for heading, _, _ in COLUMNS]]
    lines += [["-" if row[key] is None else f"{row[key]:.{digits}f}" for _, key, digits in COLUMNS] for row in listed]
    widths = [max(len(line[k]) for line in lines) for k in range(len(COLUMNS))]
    text = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths)) for line in lines] if listed else []
    if len(measures.lesions) > most:
        text.append(f"... and {len(measures.lesions) - most} smaller ones, see {CSV_NAME}")
    return "\n".join([*text, *_patient_lines(measures)])


def _patient_lines(measures: Measures) -> list[str]:
    one = measures.patient
    if one.lesions:
        parts = [
            f"{one.lesions} lesion{'s' if one.lesions > 1 else ''}",
            f"TMTV {one.tmtv_ml:.1f} ml",
            f"TLG {one.tlg_suv_ml:.1f}",
            f"SUVmax {one.suv_max:.2f}",
            f"largest {one.largest_ml:.1f} ml ({one.largest_share:.0%})",
        ]
        if one.dmax_centroids_mm is not None:
            parts.append(f"Dmax {one.dmax_centroids_mm:.0f} mm (centroids), {one.dmax_voxels_mm:.0f} mm (voxels)")
        lines = [f"{measures.case}: {', '.join(parts)}"]
    else:
        lines = [f"{measures.case}: no lesion{' that large' if one.left_out_lesions else ''} in {measures.mask_name}"]
    if one.left_out_lesions:
        lines.append(f"left out: {one.left_out_lesions} below {measures.min_volume_ml:g} ml, {one.left_out_ml:.2f} ml in all")
    for name, reference in (("liver", one.liver), ("blood pool", one.blood)):
        if reference:
            lines.append(
                f"{name}: SUVmean {reference.suv_mean:.2f}, SD {reference.suv_sd:.2f}, SUVmax {reference.suv_max:.2f} "
                f"in {reference.volume_ml:.1f} ml ({reference.source})"
            )
    p, d = one.percist, one.deauville
    said = (
        []
        if p.threshold_sul is None
        else [
            f"threshold {p.threshold_sul:.2f} by the {p.threshold_from}",
            {True: "measurable", False: "not measurable", None: "measurable or not"}[p.measurable],
        ]
    )
    said = ([] if p.sul_peak is None else [f"SULpeak {p.sul_peak:.2f}"]) + said
    if p.response:
        said.append(f"{p.response} against {p.baseline}")
    lines.append(f"PERCIST: {'; '.join([*said, *p.reason, *p.notes])}")
    lines.append(f"Deauville: {'n/a' if d.score is None else d.score} ({d.reason})")
    return lines


def write(folder: Path, measures: Measures, tool: str) -> list[Path]:
    """Writes lesions.csv and lesions.json into a folder, each through a temporary name; returns their paths."""
    texts = {folder / CSV_NAME: as_csv(measures), folder / JSON_NAME: as_json(measures, tool)}  # both made before one is written
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


def read_baseline(folder: Path) -> Baseline:
    """The lesions.json of an earlier study's folder, as PERCIST needs it.

    Raises:
        InputError: there is none, or it is of another schema.
    """
    path = Path(folder) / JSON_NAME
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a folder that l2s segment or l2s measure has written")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
        if version != SCHEMA_VERSION:
            raise InputError(f"{path} has schema version {version}, this l2s reads {SCHEMA_VERSION}: run l2s measure on it again")
        return baseline_of(content)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no table of l2s ({type(error).__name__}: {error}); run l2s measure on it again") from None


def baseline_of(content: dict) -> Baseline:
    """What PERCIST needs of the content of a lesions.json (as_dict).

    Raises:
        KeyError, TypeError: it is none.
    """
    score, liver = content["patient"]["percist"], content["patient"]["liver"]
    counted = content["provenance"]
    return Baseline(
        name=counted["case"],
        measurable=score["measurable"],
        sul_peak=score["sul_peak"],
        tlg_sul_ml=score["tlg_sul_ml"],
        liver_sul_mean=liver["sul_mean"] if liver else None,
        lean_mass_formula=score["lean_mass_formula"],
        connectivity=counted["connectivity"],
        min_volume_ml=counted["min_volume_ml"],
        left_out=score["left_out"],
        threshold_from=score["threshold_from"],
    )
