"""Methods side by side on a few cases, as in the paper's Figure 3: the PET from the front with each method's outline.

The cases are chosen by rule and not by eye: of each data set the best, the median and the worst by the Dice of RANKED_BY.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from l2s import components
from l2s.measure.table import figure as digits
from l2s.report import draw as ink
from l2s.report.mip import SUV_RANGE, body, mip
from l2s.wholefile import whole_file
from training.scores import TRUTH, Row, load_masks

log = logging.getLogger(__name__)

RANKED_BY = "L2SNet + voxelwise"
METHODS = ("SUV > 2.5", "2D U-Net", "3D U-Net", "L2SNet", "L2SNet + voxelwise", "L2SNet + componentwise")
RULE = f"Cases by rule: best, median and worst Dice of {RANKED_BY} in each data set, ties by name; cases without lesion are left out."
CELL_PX = (210, 400)  # the most a panel takes, width and height: a whole body fills the height, a crop the width
LABEL_PX, TEXT_PX, HEAD_PX, GAP_PX = 170, 66, 118, 14
BAR_MM = (200, 100, 50, 20)


def choose(rows: list[Row]) -> list[tuple[str, Row]]:
    """(rank, its row) of the cases to show, data set by data set; of two cases the best and the worst."""
    chosen = []
    for data in dict.fromkeys(r.data for r in rows):
        ranked = [r for r in rows if r.data == data and r.method == RANKED_BY and not math.isnan(r.scores.dice)]
        ranked.sort(key=lambda r: (-r.scores.dice, r.scores.case))
        last = len(ranked) - 1
        full = [(0, "best"), (last // 2, "median"), (last, "worst")]
        # too few cases for three ranks: no case is shown twice
        places = {-1: [], 0: [(0, "only case")], 1: [full[0], full[2]]}.get(last, full)
        chosen += [(rank, ranked[k]) for k, rank in places]
    return chosen


def draw(rows: list[Row], masks: dict[tuple[str, str], Path], path: Path) -> None:
    """Writes the picture as PNG; none where no case has a lesion.

    Args:
        rows: of all methods and cases; a method of METHODS that has none gets no column.
        masks: what scores.save_masks wrote, by (data, case).
        path: the file; it appears complete or not at all.
    """
    chosen = choose(rows)
    if not chosen:
        log.warning("no figure: no case has a lesion")
        return
    columns = [m for m in METHODS if any(r.method == m for r in rows)]
    by_key = {(r.data, r.scores.case, r.method): r for r in rows}
    bands = [
        band(rank, row, [by_key[row.data, row.scores.case, m] for m in columns], masks[row.data, row.scores.case])
        for rank, row in chosen
    ]
    page = Image.new("RGB", (bands[0].width, HEAD_PX + sum(b.height + GAP_PX for b in bands)), ink.PAPER_RGB)
    pen = ImageDraw.Draw(page)
    black, white = SUV_RANGE
    ink.write(pen, (GAP_PX, 12), "Lesions by method", 22, ink.INK_RGB, "la")
    ink.write(pen, (page.width - GAP_PX, 14), "Research use only", 18, ink.LESION_RGB, "ra")
    note = (
        f"PET, maximum from the front, SUV {white:.0f} white to {black:.0f} black and above. Orange: the column's mask. "
        "Blue: lesions of which it marks no voxel (FNV)."
    )
    for line, words in enumerate((note, RULE)):
        ink.write(pen, (GAP_PX, 42 + 19 * line), ink.fit(pen, words, 13, page.width - 2 * GAP_PX), 13, ink.FAINT_RGB, "la")
    for k, name in enumerate(["Truth", *columns]):
        middle = LABEL_PX + k * (CELL_PX[0] + GAP_PX) + CELL_PX[0] // 2
        ink.write(pen, (middle, HEAD_PX - 10), ink.fit(pen, name, 15, CELL_PX[0]), 15, ink.INK_RGB, "md")
    top = HEAD_PX
    for image in bands:
        page.paste(image, (0, top))
        top += image.height + GAP_PX
    with whole_file(path) as partial:
        page.save(partial, format="PNG")


def band(rank: str, chosen: Row, shown: list[Row], path: Path) -> Image.Image:
    """One case: its name and scale, the truth, and a panel a method with its scores below."""
    kept = load_masks(path)
    spacing_z, _, spacing_x = kept.spacing_mm_zyx
    masks = [kept.masks[TRUTH], *(kept.masks[row.method] for row in shown)]
    fronts = [mip(mask, 1) for mask in masks]
    # one cut for all panels of the case: the body's columns, and whatever a method marked beside it
    across = body(kept.front_suv, np.any(fronts, axis=0), spacing_x)
    size_mm = ((across.stop - across.start) * spacing_x, len(kept.front_suv) * spacing_z)
    scale = min(CELL_PX[0] / size_mm[0], CELL_PX[1] / size_mm[1])
    height = round(size_mm[1] * scale)
    page = Image.new("RGB", (LABEL_PX + len(masks) * (CELL_PX[0] + GAP_PX), max(height, 110) + TEXT_PX), ink.PAPER_RGB)
    pen = ImageDraw.Draw(page)
    write_label(pen, rank, chosen, scale)
    truth = chosen.scores
    texts = [[f"{truth.truth_ml:.1f} ml", f"{truth.truth_lesions} lesion{'s' * (truth.truth_lesions != 1)}"]]
    texts += [
        [f"Dice {digits(s.dice, 3)}", f"FPV {digits(s.fpv_ml, 1)} ml, FNV {digits(s.fnv_ml, 1)} ml"]
        for s in (r.scores for r in shown)
    ]
    known = components.label(masks[0])
    for k, (mask, front, text) in enumerate(zip(masks, fronts, texts)):
        panel = ink.Panel("", kept.front_suv[:, across], front[:, across], SUV_RANGE, size_mm, ("R", "L"))
        image = ink.draw_panel(panel, scale)
        image.paste(ink.CUT_RGB, (0, 0), ink.outline(mip(missed(known, mask), 1)[:, across], image.size))
        left = LABEL_PX + k * (CELL_PX[0] + GAP_PX)
        page.paste(image, (left + (CELL_PX[0] - image.width) // 2, 0))
        for line, words in enumerate(text):
            size = 15 if line == 0 else 13
            ink.write(pen, (left + CELL_PX[0] // 2, height + 6 + 22 * line), words, size, ink.INK_RGB, "ma")
    return page


def missed(known: components.Components, mask: np.ndarray) -> np.ndarray:
    """bool (z, y, x): the truth's components that share no voxel with the mask."""
    out = np.zeros(mask.shape, dtype=bool)
    lost = components.count_inside(known, mask) == 0
    out.reshape(-1)[known.voxels[lost[known.owner]]] = True
    return out


def write_label(pen: ImageDraw.ImageDraw, rank: str, row: Row, scale: float) -> None:
    """The rank and names at the left of a case's panels, and a bar of a round length."""
    ink.write(pen, (GAP_PX, 4), rank, 18, ink.INK_RGB, "la")
    for line, words in enumerate((row.data, row.scores.case)):
        ink.write(pen, (GAP_PX, 32 + 20 * line), ink.fit(pen, words, 13, LABEL_PX - 2 * GAP_PX), 13, ink.FAINT_RGB, "la")
    room = LABEL_PX - 2 * GAP_PX
    length_mm = next((mm for mm in BAR_MM if mm * scale <= room), BAR_MM[-1])
    right = GAP_PX + round(length_mm * scale)
    pen.line([(GAP_PX, 86), (right, 86)], fill=ink.INK_RGB, width=2)
    for x in (GAP_PX, right):
        pen.line([(x, 81), (x, 91)], fill=ink.INK_RGB, width=2)
    ink.write(pen, (GAP_PX, 94), f"{length_mm} mm", 13, ink.INK_RGB, "la")
