"""The pictures of a page: projections of the PET with the lesions' outlines and numbers, still and rotating."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np

from l2s.report import spin, volumes
from l2s.report.draw import shade
from l2s.report.lesions import Compared, Located
from l2s.report.mip import SUV_RANGE, mip
from l2s.report.outlines import Mark, View, letters, mark_lesions, outline_path
from l2s.study import Study
from l2s.working import AIR_HU, body_box

HEIGHT_PX, WIDTH_PX = 610, 620  # of front and side view together, on a screen of usual size
PAIR_WIDTH_PX = 410  # of one study's two views where two studies stand side by side
FINE = 2  # picture pixels a screen pixel, for sharp screens and print
SPIN_PX_A_BIN = 1.5
JPEG_QUALITY = 88


@dataclass(frozen=True)
class Picture:
    """One projection as the template draws it.

    Attributes:
        title: of the view.
        href: a PNG as a data address.
        view: its size.
        ends: letters at the left and the right edge.
        marks: one for each lesion of the table.
        missed: one for each lesion that only the truth has.
        truth: SVG path data of the other true lesions' outlines.
        bar_px, bar_mm: the length scale.
        axis: 1 front, 2 side: which axis of (z, y, x) it looks along.
    """

    title: str
    href: str
    view: View
    ends: tuple[str, str]
    marks: list[Mark]
    missed: list[Mark]
    truth: list[str]
    bar_px: float
    bar_mm: int
    axis: int


def has_ct(study: Study) -> bool:
    return bool(np.isfinite(study.ct_hu[:: max(1, len(study.ct_hu) // 8)]).any())


def picture_box(study: Study, mask: np.ndarray, most_voxels: int) -> volumes.Box:
    """The body and all of the mask; what the viewer shows and the projections look through."""
    ct = study.ct_hu if has_ct(study) else np.broadcast_to(np.float32(AIR_HU), study.pet_suv.shape)
    start, stop = body_box(study.pet_suv, ct, study.grid.spacing_mm_zyx)
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        if len(hit):
            start = (*start[:axis], min(start[axis], int(hit[0])), *start[axis + 1 :])
            stop = (*stop[:axis], max(stop[axis], int(hit[-1]) + 1), *stop[axis + 1 :])
    return volumes.viewer_box(study.grid, start, stop, most_voxels)


def scale_of(box: volumes.Box, width_px: float) -> float:
    """Pixels a mm at which front and side view fit the page."""
    depth_mm, across_mm, height_mm = view_mm(box)
    return min(HEIGHT_PX / height_mm, width_px / (across_mm + depth_mm))


def view_mm(box: volumes.Box) -> tuple[float, float, float]:
    """(y, x, z) extent of the box."""
    z, y, x = np.subtract(box.stop_zyx, box.start_zyx) * np.divide(box.grid.spacing_mm_zyx, box.factors_zyx)
    return float(y), float(x), float(z)


def make_pictures(study: Study, lesions: Located, judged: Compared | None, box: volumes.Box, scale: float) -> list[Picture]:
    """Front and side view, head up, at scale pixels a mm."""
    depth_mm, across_mm, height_mm = view_mm(box)
    part = study.pet_suv[box.slices()]
    bar_mm = next((mm for mm in (100, 50, 20, 10) if mm < 0.6 * min(across_mm, depth_mm)), 5)
    made = []
    for title, axis, width_mm, ends in (("Front", 1, across_mm, ("R", "L")), ("Left side", 2, depth_mm, ("A", "P"))):
        plane = mip(part, axis)
        view = View(*plane.shape, round(width_mm * scale, 1), round(height_mm * scale, 1))
        taken = letters(view)  # shared: a missed lesion may lie on one of the mask's
        image = shade(plane, SUV_RANGE, (round(view.width_px * FINE), round(view.height_px * FINE)))
        made.append(
            Picture(
                title,
                data_address(image, "PNG"),
                view,
                ends,
                mark_lesions(outlines_on(lesions, box, axis, view), view, 0, taken),
                mark_lesions(outlines_on(judged.missed, box, axis, view), view, lesions.count, taken) if judged else [],
                [path for path, _ in outlines_on(judged.touched, box, axis, view)] if judged else [],
                bar_mm * scale,
                bar_mm,
                axis,
            )
        )
    return made


def outlines_on(lesions: Located, box: volumes.Box, axis: int, view: View) -> list[tuple[str, tuple[float, float, float, float]]]:
    """(SVG path, box) of each lesion on a view along that axis."""
    index = lesions.indices_zyx() - box.start_zyx
    rows, columns = view.rows - 1 - index[:, 0], index[:, 3 - axis]
    order = np.argsort(lesions.owner, kind="stable")
    ends = np.searchsorted(lesions.owner[order], np.arange(lesions.count + 1))
    return [outline_path(rows[order[a:b]], columns[order[a:b]], view) for a, b in zip(ends, ends[1:])]


def make_spin(part: np.ndarray, lesions: Located, truth: Located | None, box: volumes.Box, height_px: float) -> dict:
    """The rotating view: half a turn of frames, of outlines around all lesions and of those around the truth where there is one."""
    top = max(SUV_RANGE)
    upright = spin.columns(spin.steps(spin.pool(np.nan_to_num(part), box.factors_zyx), top))
    marked = {"outlines": spin.columns(drawn(lesions, box))} | ({"truths": spin.columns(drawn(truth, box))} if truth else {})
    spacing = box.grid.spacing_mm_zyx
    bin_mm = min(spacing[1:])
    frames, lines = [], {name: [] for name in marked}
    for turn in spin.turns(box.grid.shape_zyx[1:], spacing[1:], bin_mm):
        plane = spin.project(upright, turn)
        width_mm, height_mm = plane.shape[1] * bin_mm, plane.shape[0] * spacing[0]
        view = View(*plane.shape, width_mm * height_px / height_mm, height_px)
        size = (round(plane.shape[1] * SPIN_PX_A_BIN), round(height_mm / bin_mm * SPIN_PX_A_BIN))
        frames.append(data_address(shade(plane * (top / 255), SUV_RANGE, size), "JPEG"))
        for name, mask in marked.items():
            rows, columns = np.nonzero(spin.project(mask, turn))
            lines[name].append(outline_path(rows, columns, view)[0] if len(rows) else "")
    return {"frames": frames, "width": round(view.width_px, 1), "height": height_px, "bin_mm": bin_mm} | lines


def drawn(lesions: Located, box: volumes.Box) -> np.ndarray:
    """uint8 (z, y, x) on the viewer's grid: 1 where a block holds a voxel of a lesion."""
    marked = np.zeros(box.grid.shape_zyx, np.uint8)
    marked[tuple(((lesions.indices_zyx() - box.start_zyx) // box.factors_zyx).T)] = 1
    return marked


def data_address(image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"quality": JPEG_QUALITY} if kind == "JPEG" else {"compress_level": 6}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
