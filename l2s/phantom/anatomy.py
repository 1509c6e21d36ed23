"""A patient's anatomy on a canvas: every voxel one tissue, and the lines along which uptake and lesions lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2s.phantom import body, skeleton, viscera
from l2s.phantom.frame import Frame, field_axes, load_map, map_frame, random_frame
from l2s.phantom.organs import drawn_organs, mapped_organs, paint_organs
from l2s.phantom.shapes import Box, Canvas, make_canvas
from l2s.phantom.tissues import Tissue


@dataclass(frozen=True)
class Anatomy:
    """One patient in the field of view.

    Attributes:
        canvas: the voxels with their tissue.
        frame: reference coordinates -> mm.
        lines: centre lines in mm (n, 3) x, y, z of vessels, muscles, limbs, ureters, airways and bowel by name.
        bowel_radii: radii in mm along the lines 'colon' and 'small_bowel'.
        organ_boxes: box of each organ label 1..10 that the field shows.
        organ_map: name of the real map behind the organs, or None.
    """

    canvas: Canvas
    frame: Frame
    lines: dict[str, np.ndarray]
    bowel_radii: dict[str, np.ndarray]
    organ_boxes: dict[int, Box]
    organ_map: str | None


def make_anatomy(rng: np.random.Generator, shape_zyx, spacing_mm_zyx, map_files: list[Path]) -> Anatomy:
    """A random patient seen through a field of the given shape.

    Args:
        rng: draws everything.
        shape_zyx, spacing_mm_zyx: the canvas.
        map_files: real organ label maps to take the organs from; empty: the organs are drawn.
    """
    organ_map = load_map(rng, map_files) if map_files else None
    frame = map_frame(rng, organ_map) if organ_map else random_frame(rng)
    canvas = make_canvas(rng, *field_axes(rng, frame, shape_zyx, spacing_mm_zyx))
    labels = mapped_organs(rng, canvas, frame, organ_map) if organ_map else drawn_organs(rng, canvas, frame)
    trunk = body.measure_trunk(rng, canvas, frame, labels)
    body.paint_trunk(canvas, frame, trunk)
    lines = body.paint_limbs(rng, canvas, frame)
    limbs = list(lines.items())
    viscera.paint_glands(rng, canvas, frame)
    lines |= viscera.paint_muscles(canvas, frame)
    bowel = viscera.paint_bowel(rng, canvas, frame)
    lines |= viscera.paint_vessels(rng, canvas, frame)
    for name, line in limbs:
        skeleton.paint_limb_bones(canvas, frame, name, line)
    skeleton.paint_skeleton(canvas, frame, trunk)
    skeleton.paint_head(canvas, frame, labels)
    skeleton.paint_spine(canvas, frame)
    lines |= viscera.paint_airways(canvas, frame)
    boxes = paint_organs(rng, canvas, frame, labels)
    lines |= viscera.ureters(rng, frame) | {name: line for name, (line, _) in bowel.items()}
    return Anatomy(canvas, frame, lines, {n: r for n, (_, r) in bowel.items()}, boxes, organ_map.name if organ_map else None)


def hu_image(anatomy: Anatomy, table: np.ndarray) -> np.ndarray:
    """float32 HU without blur or noise: the table's tissues with texture, lung vessels and the lungs' gradient to the back."""
    canvas = anatomy.canvas
    hu = table[canvas.tissue]
    lung = np.flatnonzero(canvas.tissue == Tissue.LUNG)
    if len(lung):
        grain, lumps = canvas.grain.ravel()[lung], canvas.lumps.ravel()[lung]
        y = canvas.y_mm[(lung // len(canvas.x_mm)) % len(canvas.y_mm)]
        dependent = 0.7 * (y - np.float32(y.mean()))
        vessels = 420.0 * np.clip(np.abs(grain) - 1.45, 0.0, 1.0) + 15.0 * lumps
        hu.ravel()[lung] += dependent + vessels
    hu += 6.0 * canvas.grain * (canvas.tissue != Tissue.AIR)
    return hu
