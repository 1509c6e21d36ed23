"""A run's record in words for people: what made the mask, when, and all that went wrong."""

from __future__ import annotations

NOT_STATED = "The record states no intended use."
FOREIGN_USE = "unknown: another tool made the mask."
NO_GPU = "no GPU found"  # how the run's line about it begins: no fault of the result, it stands with the device


def intended_use(record: dict) -> str:
    """What the weights' maker says they are for."""
    return str((record.get("weights") or {}).get("intended_use") or (FOREIGN_USE if is_foreign(record) else NOT_STATED))


def is_foreign(record: dict) -> bool:
    """Whether the mask came as a file (l2s measure --pet --mask), so that l2s only measured it."""
    return (record.get("case") or {}).get("kind") == "mask"


def warnings(record: dict) -> list[str]:
    """All that the run warned of or left out, and the error that it ended with."""
    lines = [f"the run ended with an error: {record['error']}"] if record.get("error") else []
    if (record.get("result") or {}).get("empty_because_of_error"):
        lines.append("the mask is EMPTY because of that error, not because no lesion was found")
    lines += [str(line) for line in record.get("warnings") or [] if not str(line).startswith(NO_GPU)]
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
    if is_foreign(record):
        lines = [("Mask from", str(record["case"].get("mask") or "a file"))]
    else:
        lines = [("Segmented by", str(record.get("tool") or "unknown: the record is missing"))]
    if weights.get("name"):
        lines.append(("weights", f"{weights['name']}" + (f" (SHA-256 {sha[:12]}…)" if sha else "")))
    if plan:
        no_gpu = any(str(line).startswith(NO_GPU) for line in record.get("warnings") or [])
        where = f"{plan.get('device_name') or plan.get('device', '?')}" + (f" ({NO_GPU})" if no_gpu else "")
        lines.append(("run", f"{plan.get('precision', '?')} on {where}"))
    if record.get("made"):
        lines.append(("on", str(record["made"]).replace("T", " ")))
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
