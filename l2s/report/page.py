"""One HTML file for people: pictures, lesion table and viewer of a study, all inside it. Nothing is fetched when it is opened.

The text comes from template/ by Jinja2, which escapes every value; the page's own policy lets no script run but ours.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from l2s.report import changes, figures, records, volumes
from l2s.report.lesions import MISSED, Compared, Located, compare, locate, places
from l2s.report.mip import SUV_RANGE
from l2s.report.pictures import (
    PAIR_WIDTH_PX,
    WIDTH_PX,
    Picture,
    has_ct,
    make_pictures,
    make_spin,
    picture_box,
    scale_of,
)
from l2s.study import Study
from l2s.wholefile import whole_file

MOST_BYTES = 15_000_000
CHAIN = ("viewer.js", "slices.js", "niivue.js", "spin.js", "page.js")  # one script, in this order


@dataclass(frozen=True)
class Case:
    """What a page shows of one study.

    Attributes:
        study: PET and CT; a CT of NaN alone is none.
        mask: bool (z, y, x) on the study's grid.
        table: the lesion table as lesions.json holds it: `lesions`, `patient`, `provenance`.
        record: the run's record; {} where there is none.
        warnings: what reading and measuring had to say, besides the record's own.
    """

    study: Study
    mask: np.ndarray
    table: dict
    record: dict
    warnings: tuple[str, ...] = ()


def write_report(
    path: Path,
    case: Case,
    tool: str,
    baseline: Case | None = None,
    truth: np.ndarray | None = None,
    scores: dict | None = None,
    made: str | None = None,
) -> int:
    """Writes the page; it appears complete or not at all.

    Args:
        path: the .html file.
        case: the study.
        tool: name and version of what makes it.
        baseline: an earlier study to compare with.
        truth: bool (z, y, x) on the study's grid, to judge the lesions by.
        scores: figures of the mask against the truth, name -> value, None where undefined.
        made: when, in words; None: now.

    Returns:
        The file's size in bytes.

    Raises:
        InputError: table and mask do not belong together, or the truth lies on another grid.
    """
    made = made or datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    most = volumes.MOST_VOXELS
    html = make_page(case, made, tool, baseline, truth, scores, most)
    while len(html) > MOST_BYTES and most > 1000:  # noise packs badly: then the viewer is coarser, and says so
        most //= 2
        html = make_page(case, made, tool, baseline, truth, scores, most)
    with whole_file(Path(path)) as partial:
        partial.write_bytes(html)
    return len(html)


def make_page(
    case: Case,
    made: str,
    tool: str,
    baseline: Case | None,
    truth: np.ndarray | None,
    scores: dict | None,
    most_voxels: int,
) -> bytes:
    """The page as UTF-8; most_voxels is the viewer's limit."""
    lesions = locate_lesions(case)
    judged = None if truth is None else compare(lesions, case.mask, truth)
    everything = case.mask if truth is None else case.mask | truth
    box = picture_box(case.study, everything, most_voxels)
    boxes = [(case, box)]
    earlier = None
    if baseline is not None:
        earlier = picture_box(baseline.study, baseline.mask, most_voxels)
        boxes.append((baseline, earlier))
    scale = min(scale_of(b, WIDTH_PX if baseline is None else PAIR_WIDTH_PX) for _, b in boxes)
    pictures = make_pictures(case.study, lesions, judged, box, scale)
    words = places(lesions, case.study.pet_suv, case.study.grid)
    context = {
        "name": case.study.name,
        "made": made,
        "tool": tool,
        "sections": records.sections(case.record, box.grid.spacing_mm_zyx, case.study.grid.spacing_mm_zyx),
        "provenance": records.provenance(case.record, tool, made),
        "use": records.intended_use(case.record),
        "warnings": warnings_of(case),
        "headline": figures.headline(case.table, words),
        "facts": figures.facts(case.table),
        "patient": figures.patient(case.table),
        "columns": figures.columns(judged is not None),
        "rows": figures.rows(case.table, words, judged),
        "pictures": pictures,
        "judged": judged,
        "missed_rows": missed_rows(judged, case.study, lesions.count),
        "scores": figures.scores(scores) if scores else [],
        "has_ct": has_ct(case.study),
        "spacing": " × ".join(f"{s:.2f}" for s in box.grid.spacing_mm_xyz),
        "coarse": max(box.factors_zyx) > 1,
        "ramp": SUV_RANGE[0],
        "baseline": None,
    }
    if baseline is not None:
        before = locate_lesions(baseline)
        changed = changes.changes(baseline.table, case.table)
        context["headline"] += " " + changes.headline(changed, baseline.study.name)
        context["facts"] = changes.with_baseline(context["facts"], baseline.table)
        context["warnings"] = [*changes.differences(baseline, case), *context["warnings"]]
        context["baseline"] = {
            "name": baseline.study.name,
            "provenance": records.provenance(baseline.record, tool, ""),
            "warnings": warnings_of(baseline),
            "pictures": make_pictures(baseline.study, before, None, earlier, scale),
            "rows": figures.rows(baseline.table, places(before, baseline.study.pet_suv, baseline.study.grid), None),
            "columns": figures.columns(False),
            "changes": changed,
        }
    data, blobs = viewer_data(case, lesions, judged, box, pictures)
    return render(context, data, blobs)


def warnings_of(case: Case) -> list[str]:
    """The record's warnings, then those of reading and measuring that it does not have."""
    lines = records.warnings(case.record)
    measured = case.table["provenance"].get("warnings") or []
    return list(dict.fromkeys([*lines, *case.warnings, *map(str, measured)]))


def locate_lesions(case: Case) -> Located:
    sizes = [row["voxels"] for row in case.table["lesions"]]
    counted = case.table["provenance"]
    return locate(case.mask, sizes, counted["connectivity"], counted["min_voxels"])


def missed_rows(judged: Compared | None, study: Study, first: int) -> list[dict]:
    """The lesions that only the truth has, as rows of the table; first: how many rows come before."""
    if judged is None or not judged.missed.count:
        return []
    missed, values = judged.missed, study.pet_suv.reshape(-1)[judged.missed.voxels]
    volume_ml = np.bincount(missed.owner) * study.grid.voxel_volume_ml
    highest = np.full(missed.count, -np.inf)
    np.maximum.at(highest, missed.owner, values)
    lesions = [
        {"number": first + k + 1, "volume_ml": float(volume_ml[k]), "suv_max": float(highest[k])} for k in range(missed.count)
    ]
    return [figures.row(one, place, MISSED, True) for one, place in zip(lesions, places(missed, study.pet_suv, study.grid))]


def viewer_data(
    case: Case, lesions: Located, judged: Compared | None, box: volumes.Box, pictures: list[Picture]
) -> tuple[dict, dict[str, str]]:
    """(JSON-able facts for the scripts, name -> base64 of gzip)."""
    part = case.study.pet_suv[box.slices()]
    packed = {"pet": volumes.pack_pet(volumes.block_mean(part, box.factors_zyx))}
    if has_ct(case.study):
        packed["ct"] = volumes.pack_ct(volumes.block_mean(case.study.ct_hu[box.slices()], box.factors_zyx))
    shown = with_missed(lesions, judged)
    packed["labels"] = volumes.pack_labels(volumes.block_labels(shown, box))
    if judged:
        packed["truth"] = volumes.pack_labels(volumes.block_labels(judged.touched, box))
    hottest = box.to_viewer(hottest_voxels(shown, case.study.pet_suv))
    middle = box.to_viewer(middles(shown))
    verdicts = [*(judged.verdicts if judged else ["lesion"] * lesions.count), *["missed"] * (shown.count - lesions.count)]
    data = {
        "shape": box.grid.shape_zyx,
        "spacing": box.grid.spacing_mm_zyx,
        "origin": box.grid.origin_mm_xyz,
        "direction": box.grid.direction,
        "factors": box.factors_zyx,
        "volumes": {k: {"dtype": v.dtype, "slope": v.slope} for k, v in packed.items()},
        "lesions": [
            {"hottest": np.round(hottest[k], 2).tolist(), "middle": np.round(middle[k], 2).tolist(), "verdict": verdicts[k]}
            for k in range(shown.count)
        ],
        "views": [{"axis": p.axis, "step": p.view.step_px, "rows": p.view.rows, "columns": p.view.columns} for p in pictures],
        "spin": make_spin(part, shown, judged.touched if judged else None, box, pictures[0].view.height_px),
    }
    return data, {k: v.text for k, v in packed.items()} | {"niivue": squeezed_viewer()}


def with_missed(lesions: Located, judged: Compared | None) -> Located:
    """The table's lesions, then those that only the truth has."""
    if judged is None:
        return lesions
    return Located(
        lesions.shape_zyx,
        np.concatenate([lesions.voxels, judged.missed.voxels]),
        np.concatenate([lesions.owner, judged.missed.owner + lesions.count]),
        lesions.count + judged.missed.count,
    )


def hottest_voxels(lesions: Located, pet_suv: np.ndarray) -> np.ndarray:
    """int (count, 3): where each lesion's maximum lies, of equals the first in scan order."""
    order = np.lexsort((-lesions.voxels, pet_suv.reshape(-1)[lesions.voxels]))  # the last of a lesion is its hottest
    best = np.zeros(lesions.count, np.int64)
    best[lesions.owner[order]] = lesions.voxels[order]
    return np.stack(np.unravel_index(best, lesions.shape_zyx), axis=1)


def middles(lesions: Located) -> np.ndarray:
    """float (count, 3): the mean of each lesion's voxel indices."""
    index = lesions.indices_zyx()
    size = np.bincount(lesions.owner, minlength=lesions.count)
    return np.stack([np.bincount(lesions.owner, index[:, k], minlength=lesions.count) / size for k in range(3)], axis=1)


def vendored() -> str:
    """NiiVue's script."""
    return files("l2s.report").joinpath("vendor", "niivue.umd.js").read_text(encoding="utf-8")


@cache
def squeezed_viewer() -> str:
    """The same as base64 of gzip; packing it takes longer than the rest of a small page."""
    return base64.b64encode(gzip.compress(vendored().encode(), 9, mtime=0)).decode()


def script_hash(text: str) -> str:
    """How a content security policy names a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render(context: dict, data: dict, blobs: dict[str, str]) -> bytes:
    """Fills the template."""
    from jinja2 import Environment, StrictUndefined
    from jinja2.loaders import DictLoader

    place = files("l2s.report").joinpath("template")
    names = ("page.html", "parts.html", "page.css", *CHAIN)
    text = {name: place.joinpath(name).read_text(encoding="utf-8") for name in names}
    script = "\n".join(text[name] for name in CHAIN)
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {script_hash(script)} {script_hash(vendored())}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "connect-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    environment = Environment(
        loader=DictLoader(text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html").render(
        **context, data=data, blobs=blobs, css=text["page.css"], script=script, policy=policy
    )
    return page.encode("utf-8")
