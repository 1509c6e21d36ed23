"""Two studies of one patient: what changed between them, and what keeps them from being compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from l2s.report.figures import NONE, Fact, amount, signed

if TYPE_CHECKING:
    from l2s.report.page import Case

LENGTH_SHARE, SPACING_SHARE = 0.05, 0.01  # scans that differ by more than this do not show the same


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


def headline(lines: list[Change], name: str) -> str:
    """How volume and glycolysis changed, in one sentence."""
    said = [
        f"{line.name} {line.percent if line.percent != NONE else f'{line.difference} {line.unit}'}"
        for line in lines
        if line.name in ("TMTV", "TLG")
    ]
    return f"Since {name}: {', '.join(said)}."


def with_baseline(facts: list[Fact], before: dict) -> list[Fact]:
    """The facts of the follow-up, each with the baseline's figure beneath it."""
    p = before["patient"]
    spread = p.get("dmax_centroids_mm")
    earlier = {
        "Lesions": count(p.get("lesions")),
        "Volume (TMTV)": f"{amount(p.get('tmtv_ml'))} ml",
        "TLG": amount(p.get("tlg_suv_ml")),
        "SUVmax": amount(p.get("suv_max")),
        "Spread (Dmax)": NONE if spread is None else f"{spread:.0f} mm",
    }
    return [
        replace(fact, note="; ".join(filter(None, [fact.note, f"baseline {earlier[fact.head]}"])))
        if fact.head in earlier
        else fact
        for fact in facts
    ]


def differences(before: Case, after: Case) -> list[str]:
    """Why the two studies' figures may differ though the patient's do not: a line each for counting, weights, extent and spacing."""
    return [
        *counting(before.table["provenance"], after.table["provenance"]),
        *made_by(before.record, after.record),
        *geometry(before.study.grid, after.study.grid),
        *responses(before, after),
    ]


def counting(before: dict, after: dict) -> list[str]:
    """How components became lesions."""
    lines = []
    a, b = before.get("min_volume_ml"), after.get("min_volume_ml")
    if a != b:
        shown = (f"{v:g} ml" if isinstance(v, int | float) else "unknown" for v in (a, b))
        lines.append(f"the least volume of a lesion is {' and '.join(shown)} (baseline and follow-up)")
    a, b = before.get("connectivity"), after.get("connectivity")
    if a != b:
        lines.append(f"lesions are {a}-connected in the baseline, {b}-connected in the follow-up")
    return [f"{line}: counts and volumes do not compare; run l2s measure on one of them again" for line in lines]


def made_by(before: dict, after: dict) -> list[str]:
    """Weights and rules that made the masks."""
    weights = [record.get("weights") or {} for record in (before, after)]
    shas = [one.get("sha256") for one in weights]
    if None in shas:
        return ["the weights of the baseline or of the follow-up are not known: their masks may come from different methods"]
    if shas[0] != shas[1]:
        names = [f"{one.get('name')} ({str(sha)[:12]}…)" for one, sha in zip(weights, shas)]
        return [f"different weights made the masks, {' and '.join(names)}: a change may be the weights'"]
    methods = [record.get("method") or {} for record in (before, after)]
    rules = [key for key in ("fusion", "windows", "spacing_mm_zyx") if methods[0].get(key) != methods[1].get(key)]
    return [f"the masks were made with different settings ({', '.join(rules)}): a change may be theirs"] if rules else []


def geometry(before, after) -> list[str]:
    """What part of the body was scanned, and how finely; both are a Grid."""
    lines = []
    a, b = (grid.shape_zyx[0] * grid.spacing_mm_zyx[0] for grid in (before, after))
    if abs(a - b) > LENGTH_SHARE * max(a, b):
        lines.append(f"the scans are {a:.0f} and {b:.0f} mm long: what lies outside of one is counted in the other only")
    if any(abs(p - q) > SPACING_SHARE * max(p, q) for p, q in zip(before.spacing_mm_zyx, after.spacing_mm_zyx)):
        shown = (" × ".join(f"{s:.2f}" for s in grid.spacing_mm_xyz) for grid in (before, after))
        lines.append(f"the PET voxels are {' and '.join(shown)} mm: SUVmax and small volumes depend on them")
    return lines


def responses(before: Case, after: Case) -> list[str]:
    """A response that lesions.json holds may be against another study than this page's baseline."""
    percist = after.table["patient"].get("percist") or {}
    against, shown = percist.get("baseline"), before.table["provenance"].get("case", before.study.name)
    if against is None or against == shown:
        return []
    return [
        f"the PERCIST response in the table is against {against}, not against {shown}; run l2s measure --baseline on it again"
    ]
