"""The ten organs of the label maps: drawn as dented ellipsoids in the reference body, or taken from a real map, then given an inside.

Volumes of the drawn organs follow the reference adult of ICRP Publication 89 (2002) with a spread between people.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from l2s.phantom import frame as fr
from l2s.phantom.frame import Frame, OrganMap
from l2s.phantom.shapes import Box, Canvas, ellipsoid, paint, rotation
from l2s.phantom.tissues import Tissue, members


def drawn_organs(rng: np.random.Generator, canvas: Canvas, frame: Frame) -> np.ndarray:
    """uint8 (z, y, x) organ labels 1..10 in the order of the real maps, 0 elsewhere."""
    labels = np.zeros(canvas.tissue.shape, dtype=np.uint8)

    def draw(label, centre, semi, turn=(0.0, 0.0, 0.0), rough=0.12, square=0.0, jitter=6.0, spread=0.07):
        place = frame.points(np.asarray(centre) + rng.normal(0.0, jitter, 3))
        size = frame.semi(np.asarray(semi) * rng.normal(1.0, spread))
        slices, value = ellipsoid(canvas, place, size, rotation(turn), rough, square)
        labels[slices][value < 1.0] = label

    for side in (-1, 1):
        draw(fr.LUNGS, (side * 74, 0, 432), (58, 86, 128), (0.0, side * 0.12, 0.0), 0.08, 0.5, 3.0, 0.03)
    mediastinum, z, y, x = _column(canvas, frame)
    labels[mediastinum][np.broadcast_to(np.abs(x) < 26 + 6 * np.sin(z / 40.0), labels[mediastinum].shape) & (y < 200)] = 0
    draw(fr.HEART, (22, -32, 412), (46, 44, 58), (0.5, -0.5, 0.3), 0.08, 0.0, 5.0)
    draw(fr.STOMACH, (58, -34, 318), (36, 38, 62), (0.3, -0.5, 0.0), 0.2, 0.0, 8.0, 0.18)
    dome = rng.normal(0.0, 8.0)
    draw(fr.LIVER, (-72, -2, 304 + dome), (62, 80, 84), (0.1, 0.2, 0.0), 0.14, 0.4, 3.0, 0.06)
    draw(fr.LIVER, (-8, -46, 338 + dome), (72, 40, 40), (0.0, 0.15, 0.2), 0.14, 0.2, 5.0, 0.12)
    draw(fr.SPLEEN, (96, 40, 322), (25, 42, 54), (0.5, 0.2, 0.3), 0.15, 0.0, 5.0, 0.13)
    for side in (-1, 1):
        draw(fr.KIDNEYS, (side * 60, 44, 240 + side * 6), (27, 29, 56), (-0.2, side * 0.25, side * 0.5), 0.1, 0.0, 4.0)
    fill = float(np.clip(rng.lognormal(np.log(150.0), 0.6), 35.0, 500.0)) ** (1 / 3)  # ml
    draw(fr.BLADDER, (0, -22, -6 + 4.5 * fill), (7.2 * fill, 6.0 * fill, 5.3 * fill), (0.0, 0.0, 0.0), 0.06, 0.2, 3.0, 0.0)
    if frame.male:
        draw(fr.PROSTATE, (0, 2, -20), (21, 18, 18), jitter=2.0, spread=0.15)
    draw(fr.BRAIN, (0, 4, 737), (66, 83, 60), (0.15, 0.0, 0.0), 0.05, 0.2, 2.0, 0.03)
    for side in (-1, 1):
        draw(fr.SALIVARY, (side * 58, 14, 668), (10, 19, 25), (0.0, 0.0, side * 0.3), 0.2, 0.0, 2.0, 0.12)
        draw(fr.SALIVARY, (side * 27, -28, 630), (9, 15, 10), jitter=2.0, spread=0.12)
    return labels


def _column(canvas: Canvas, frame: Frame) -> tuple[Box, np.ndarray, np.ndarray, np.ndarray]:
    """The rows of the chest, with coordinates relative to the midline."""
    low, high = np.searchsorted(canvas.z_mm, (frame.z(290.0), frame.z(600.0)))
    z = canvas.z_mm[low:high, None, None]
    dx, dy = frame.sway(z)
    box = (slice(int(low), int(high)), slice(None), slice(None))
    return box, z, canvas.y_mm[None, :, None] - dy, canvas.x_mm[None, None, :] - dx


def mapped_organs(rng: np.random.Generator, canvas: Canvas, frame: Frame, organ_map: OrganMap) -> np.ndarray:
    """Organ labels from a real map; rows that the map does not reach are drawn."""
    rows, columns, lines = (organ_map.index(a, v) for a, v in enumerate((canvas.z_mm, canvas.y_mm, canvas.x_mm)))
    labels = organ_map.labels[np.ix_(rows, columns, lines)]
    labels[:, columns < 0, :] = 0
    labels[:, :, lines < 0] = 0
    missing = rows < 0
    if missing.any():
        labels[missing] = drawn_organs(rng, canvas, frame)[missing]
    return labels


def paint_organs(rng: np.random.Generator, canvas: Canvas, frame: Frame, labels: np.ndarray) -> dict[int, Box]:
    """Paint the organs with their inner parts onto the canvas; returns each organ's box."""
    boxes = {i: b for i, b in enumerate(ndimage.find_objects(labels, 10), 1) if b is not None}
    plain = {fr.LUNGS: Tissue.LUNG, fr.LIVER: Tissue.LIVER, fr.SPLEEN: Tissue.SPLEEN, fr.BLADDER: Tissue.BLADDER}
    plain |= {fr.PROSTATE: Tissue.PROSTATE, fr.SALIVARY: Tissue.SALIVARY}
    for label, tissue in plain.items():
        if label in boxes:
            paint(canvas, boxes[label], labels[boxes[label]] == label, tissue)
    if fr.BRAIN in boxes:
        _brain(rng, canvas, boxes[fr.BRAIN], labels[boxes[fr.BRAIN]] == fr.BRAIN)
    if fr.KIDNEYS in boxes:
        _kidneys(rng, canvas, frame, boxes[fr.KIDNEYS], labels[boxes[fr.KIDNEYS]] == fr.KIDNEYS)
    if fr.STOMACH in boxes:
        _stomach(rng, canvas, boxes[fr.STOMACH], labels[boxes[fr.STOMACH]] == fr.STOMACH)
    if fr.HEART in boxes:
        _heart(rng, canvas, boxes[fr.HEART], labels[boxes[fr.HEART]] == fr.HEART)
    return boxes


def depth_mm(canvas: Canvas, mask: np.ndarray) -> np.ndarray:
    """Distance in mm from each voxel of a mask to the nearest voxel outside it; the array's faces count as outside."""
    distance = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=canvas.spacing_mm_zyx)
    return distance[1:-1, 1:-1, 1:-1].astype(np.float32)


def _centre_xyz(canvas: Canvas, slices: Box, mask: np.ndarray) -> np.ndarray:
    z, y, x = ndimage.center_of_mass(mask)
    step = canvas.spacing_mm_zyx
    return np.array(
        [
            canvas.x_mm[slices[2].start] + x * step[2],
            canvas.y_mm[slices[1].start] + y * step[1],
            canvas.z_mm[slices[0].start] + z * step[0],
        ]
    )


def _brain(rng: np.random.Generator, canvas: Canvas, slices: Box, mask: np.ndarray) -> None:
    """Folded cortex around white matter, basal ganglia and thalami, ventricles; the skull is drawn by the skeleton."""
    depth = depth_mm(canvas, mask)
    grain, lumps = canvas.grain[slices], canvas.lumps[slices]
    grey = depth < 8.0 + 4.5 * grain + 2.0 * lumps
    midline = np.abs(canvas.x_mm[slices[2]] - np.float32(_centre_xyz(canvas, slices, mask)[0]))[None, None, :]
    grey |= (midline < 6.0) & (depth > 8.0) & (depth < 34.0)
    paint(canvas, slices, mask, Tissue.WHITE)
    paint(canvas, slices, mask & grey, Tissue.GREY)
    paint(canvas, slices, mask & (depth < 1.5 * canvas.spacing_mm_zyx[1]) & (grain > 0.9), Tissue.CSF)
    centre = _centre_xyz(canvas, slices, mask)
    for side in (-1, 1):
        for offset, semi in (((22, -8, 0), (9, 19, 13)), ((12, 12, 2), (9, 14, 10))):
            part, value = ellipsoid(canvas, centre + (side * offset[0], offset[1], offset[2]), semi)
            paint(canvas, part, value < 1.0, Tissue.GREY, members(Tissue.WHITE))
        part, value = ellipsoid(canvas, centre + (side * 11, 0, 16), (5 * rng.uniform(0.6, 1.6), 32, 8))
        paint(canvas, part, value < 1.0, Tissue.CSF, members(Tissue.WHITE, Tissue.GREY))


def _kidneys(rng: np.random.Generator, canvas: Canvas, frame: Frame, slices: Box, mask: np.ndarray) -> None:
    """Cortex, medulla, and the hot pelvis with calyces towards the midline."""
    depth = depth_mm(canvas, mask)
    paint(canvas, slices, mask, Tissue.KIDNEY_CORTEX)
    paint(canvas, slices, mask & (depth > 8.0 + 2.0 * canvas.grain[slices]), Tissue.KIDNEY_MEDULLA)
    middle = float(frame.sway(float(canvas.z_mm[slices[0]].mean()))[0])
    for side in (-1, 1):
        half = mask & (side * (canvas.x_mm[slices[2]] - middle) > 0)[None, None, :]
        if np.count_nonzero(half) * canvas.voxel_volume_ml < 10.0:
            continue
        centre = _centre_xyz(canvas, slices, half) - (side * 9.0, 2.0, 0.0)
        wide = rng.lognormal(0.0, 0.25)
        part, value = ellipsoid(canvas, centre, (10 * wide, 9 * wide, 19), rotation((0.0, side * 0.2, side * 0.5)), 0.45)
        paint(canvas, part, value < 1.0, Tissue.URINE, members(Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA, Tissue.VISCERAL_FAT))


def _stomach(rng: np.random.Generator, canvas: Canvas, slices: Box, mask: np.ndarray) -> None:
    """A folded wall, fluid below and gas in front (the patient lies on the back)."""
    depth = depth_mm(canvas, mask)
    paint(canvas, slices, mask, Tissue.STOMACH)
    inside = mask & (depth > 6.5 + 1.5 * canvas.grain[slices])
    paint(canvas, slices, inside, Tissue.LUMEN)
    y = canvas.y_mm[slices[1]]
    level = y[0] + (y[-1] - y[0]) * rng.uniform(0.0, 0.6)
    paint(canvas, slices, inside & (y < level)[None, :, None], Tissue.GAS)


def _heart(rng: np.random.Generator, canvas: Canvas, slices: Box, mask: np.ndarray) -> None:
    """Blood, with the left ventricle as a thick cup open towards the base and a thin right ventricular wall."""
    paint(canvas, slices, mask, Tissue.BLOOD)
    axis = np.array([0.62, -0.62, -0.48]) + rng.normal(0.0, 0.12, 3)
    axis /= np.linalg.norm(axis)
    across = np.cross(axis, (0.0, 0.0, 1.0))
    across /= np.linalg.norm(across)
    turn = np.stack([across, np.cross(axis, across), axis], axis=1)
    size = (np.count_nonzero(mask) * canvas.voxel_volume_ml / 600.0) ** (1 / 3) * rng.uniform(0.9, 1.05)
    centre = _centre_xyz(canvas, slices, mask) + axis * 12.0 * size + np.array([6.0, 6.0, 0.0]) * size
    outer, wall = np.array([33.0, 33.0, 50.0]) * size, rng.uniform(9.5, 12.5)
    muscle = members(Tissue.BLOOD)
    part, value = ellipsoid(canvas, centre - axis * 8.0, outer, turn)
    z, y, x = canvas.z_mm[part[0]], canvas.y_mm[part[1]], canvas.x_mm[part[2]]
    along = sum(
        np.float32(a) * (v - np.float32(c)).reshape(s)
        for a, v, c, s in zip(axis, (x, y, z), centre, ((1, 1, -1), (1, -1, 1), (-1, 1, 1)))
    )
    inner = ellipsoid(canvas, centre - axis * 8.0, outer - wall, turn)
    paint(canvas, part, (value < 1.0) & (along > -26.0 * size), Tissue.MYOCARDIUM, muscle)
    paint(canvas, inner[0], inner[1] < 1.0, Tissue.BLOOD)
    depth = depth_mm(canvas, mask)
    front = ellipsoid(canvas, centre + np.array([-34.0, -14.0, -6.0]) * size, outer * 0.95, turn)
    shell = (front[1] < 1.0) & (front[1] > 0.75)
    paint(canvas, front[0], shell, Tissue.MYOCARDIUM, muscle)
    paint(canvas, slices, mask & (depth < 2.5) & (canvas.grain[slices] > 0.3), Tissue.VISCERAL_FAT)
