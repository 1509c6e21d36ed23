"""The skeleton in reference coordinates (frame.py): spine, cage, girdles, limbs and skull, cortical bone around marrow."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from l2s.phantom import frame as fr
from l2s.phantom.body import SOFT, Trunk, spine_point
from l2s.phantom.frame import Frame
from l2s.phantom.shapes import Canvas, ellipsoid, paint, paint_tube, rotation, smooth_line
from l2s.phantom.tissues import Tissue, members


def paint_limb_bones(canvas: Canvas, frame: Frame, name: str, line: np.ndarray) -> None:
    """Bones of one limb along its axis in mm; name is leg_ or arm_ with right or left."""
    side = -1 if name.endswith("right") else 1
    if name.startswith("leg"):
        shaft = frame.points([(side * 114, 10, -45), (side * 106, -8, -160), (side * 88, -4, -405)])
        _bone(canvas, np.vstack([shaft, [line[2] - (0, 0, 15)]]), (18, 15, 15, 26), Tissue.FATTY_MARROW)
        _bone(canvas, line[2:] + (0, -8, 0), (24, 13, 14), Tissue.FATTY_MARROW)
        _bone(canvas, line[3:] + (side * 26, 8, 0), 7, Tissue.FATTY_MARROW)
        return
    _bone(canvas, line[:2], (15, 12), Tissue.FATTY_MARROW)
    _bone(canvas, line[:1] + np.array([(-side * 2, 0, 8), (side * 2, 0, -8)]), 22, Tissue.MARROW)
    for shift in (-9, 9):
        _bone(canvas, line[1:3] + (shift, 4, 0), 8, Tissue.FATTY_MARROW)


def _bone(canvas: Canvas, points: np.ndarray, radii, marrow: Tissue, wall_mm: float = 4.0) -> None:
    radii = np.broadcast_to(np.asarray(radii, dtype=float), len(points))
    paint_tube(canvas, points, radii, Tissue.CORTICAL, SOFT)
    paint_tube(canvas, points, np.maximum(radii - wall_mm, 1.5), marrow, members(Tissue.CORTICAL))


def paint_spine(canvas: Canvas, frame: Frame) -> None:
    """Vertebrae with discs, canal with cord, arches, spinous and transverse processes, from sacrum to skull."""
    low, high = np.searchsorted(canvas.z_mm, (frame.z(62.0), frame.z(692.0)))
    if low >= high:
        return
    rows = slice(int(low), int(high))
    z = frame.reference(canvas.z_mm[rows])
    centre = spine_point(frame, z)
    reach = 48.0
    columns = slice(*np.searchsorted(canvas.y_mm, (centre[:, 1].min() - 35, centre[:, 1].max() + 75)).tolist())
    lines = slice(*np.searchsorted(canvas.x_mm, (centre[:, 0].min() - reach, centre[:, 0].max() + reach)).tolist())
    box = (rows, columns, lines)
    dx = canvas.x_mm[lines][None, None, :] - centre[:, 0, None, None].astype(np.float32)
    dy = canvas.y_mm[columns][None, :, None] - centre[:, 1, None, None].astype(np.float32)
    radius = (np.interp(z, (60, 200, 400, 560, 620, 692), (25, 22, 17, 13, 11, 11)) * frame.scale_x)[:, None, None]
    # the vertebrae are 36 mm apart in the lumbar spine and 17 mm in the neck
    count = np.interp(z, (60, 240, 560, 692), (0.0, 5.0, 17.0, 24.4))
    phase = (count % 1.0)[:, None, None]
    body = (dx / (radius * 1.12)) ** 2 + (dy / (radius * 0.88)) ** 2
    paint(canvas, box, body < 1.0, Tissue.MARROW)
    paint(canvas, box, (body < 1.0) & (body > 0.78), Tissue.CORTICAL)
    paint(canvas, box, (body < 1.0) & (phase < 0.2), Tissue.DISC)
    canal_y = dy - radius * 0.88 - 8.0
    ring = np.sqrt(dx**2 + canal_y**2)
    paint(canvas, box, (ring < 15.0) & (ring > 9.0) & (body > 1.0) & (phase > 0.25) & (phase < 0.9), Tissue.CORTICAL)
    spinous = (np.abs(dx) < 5.0) & (canal_y > 8.0) & (canal_y < 34.0 * frame.scale_y) & (phase > 0.3) & (phase < 0.75)
    paint(canvas, box, spinous, Tissue.MARROW)
    transverse = (np.abs(dx) < 34.0) & (np.abs(canal_y + 2.0) < 6.0) & (ring > 14.0) & (phase > 0.35) & (phase < 0.65)
    paint(canvas, box, transverse & (z < 560)[:, None, None], Tissue.CORTICAL)
    paint(canvas, box, (ring < 9.0) & (body > 1.0), Tissue.CSF)
    paint(canvas, box, (ring < 6.0) & (body > 1.0) & (z > 235)[:, None, None], Tissue.CORD)


def paint_skeleton(canvas: Canvas, frame: Frame, trunk: Trunk) -> None:
    """Ribs, sternum, shoulder girdle, pelvis and hips; the spine lies above them."""
    _ribs(canvas, frame, trunk)
    over = SOFT | members(Tissue.CORTICAL)
    for side in (-1, 1):
        clavicle = [(side * 18, -52, 548), (side * 80, -44, 566), (side * 160, 2, 566)]
        _bone(canvas, smooth_line(frame.points(clavicle), 20.0), 7.0, Tissue.MARROW, 3.0)
        shoulder = frame.points((side * 112, 72, 492))
        for tissue, semi in ((Tissue.CORTICAL, (48, 8, 70)), (Tissue.MARROW, (42, 4, 62))):
            slices, value = ellipsoid(canvas, shoulder, frame.semi(semi), rotation((0.1, side * 0.2, -side * 0.5)))
            paint(canvas, slices, value < 1.0, tissue, over)
        wing = frame.points((side * 84, 30, 92))
        for tissue, semi in ((Tissue.CORTICAL, (11, 56, 62)), (Tissue.MARROW, (6, 50, 56))):
            slices, value = ellipsoid(canvas, wing, frame.semi(semi), rotation((0.2, side * 0.3, side * 0.55)))
            paint(canvas, slices, value < 1.0, tissue, over)
        hip = frame.points((side * 86, 4, 2))
        for radius, tissue in ((34, Tissue.CORTICAL), (31, Tissue.MARROW), (26, Tissue.DISC), (24, Tissue.MARROW)):
            slices, value = ellipsoid(canvas, hip, (radius, radius, radius))
            paint(canvas, slices, value < 1.0, tissue)
        _bone(canvas, frame.points([(side * 88, 4, 0), (side * 116, 12, -30)]), (16, 20), Tissue.MARROW)
        _bone(canvas, frame.points([(side * 66, -38, 4), (side * 4, -56, -22)]), (11, 9), Tissue.MARROW)
        sitting = frame.points([(side * 72, 34, -14), (side * 58, 30, -62), (side * 12, -46, -40)])
        _bone(canvas, sitting, (14, 12, 8), Tissue.MARROW)
    for tissue, semi in ((Tissue.CORTICAL, (54, 20, 58)), (Tissue.MARROW, (49, 15, 53))):
        slices, value = ellipsoid(canvas, frame.points((0, 72, 66)), frame.semi(semi), rotation((0.45, 0, 0)))
        paint(canvas, slices, value < 1.0, tissue)


def _ribs(canvas: Canvas, frame: Frame, trunk: Trunk) -> None:
    low, high = np.searchsorted(canvas.z_mm, (frame.z(268.0), frame.z(562.0)))
    if low >= high:
        return
    rows = slice(int(low), int(high))
    z = frame.reference(canvas.z_mm[rows])[:, None, None]
    under_skin = np.interp(z.ravel(), (268, 450, 560), (7, 14, 38))
    outer = trunk.depth(canvas, rows, -np.interp(canvas.z_mm, canvas.z_mm[rows], under_skin))
    y = canvas.y_mm[None, :, None] - trunk.mid_y[rows, None, None]
    x = canvas.x_mm[None, None, :] - trunk.mid_x[rows, None, None]
    shell = (outer < 1.0) & (outer > 0.83)
    level = (z - 0.42 * y) / 26.0  # ribs fall towards the front
    rib = shell & (level % 1.0 < 0.42) & (z - 0.9 * y < 560) & ((y > -80) | (z > 330))
    view = canvas.tissue[rows]
    view[rib] = Tissue.CORTICAL
    view[rib & (outer > 0.87) & (outer < 0.96) & (level % 1.0 > 0.08) & (level % 1.0 < 0.34)] = Tissue.MARROW
    breastbone = shell & (np.abs(x) < 19) & (y < 0) & (z > 385) & (z < 550)
    view[breastbone] = Tissue.CORTICAL
    view[breastbone & (np.abs(x) < 15) & (outer > 0.86)] = Tissue.MARROW


def paint_head(canvas: Canvas, frame: Frame, labels: np.ndarray) -> None:
    """Skull around the brain, face, jaw and airways."""
    found = ndimage.find_objects((labels == fr.BRAIN).astype(np.uint8))
    if found:
        pad = [int(np.ceil(14.0 / s)) for s in canvas.spacing_mm_zyx]
        box = tuple(slice(max(s.start - p, 0), s.stop + p) for s, p in zip(found[0], pad))
        gap = ndimage.distance_transform_edt(labels[box] != fr.BRAIN, sampling=canvas.spacing_mm_zyx)
        low = frame.z(676.0) - canvas.z_mm[box[0]][:, None, None] > 0
        view = canvas.tissue[box]
        view[(gap > 0) & (gap < 4.5)] = Tissue.CSF
        view[(gap >= 4.5) & (gap < 10.5) & ~low & (view != Tissue.AIR)] = Tissue.CORTICAL
        view[(gap >= 4.5) & (gap < 14.0) & ~low & (view == Tissue.AIR)] = Tissue.SKIN
    for side in (-1, 1):
        jaw = smooth_line(frame.points([(side * 52, 8, 664), (side * 46, -22, 640), (side * 20, -70, 632), (0, -78, 632)]), 12.0)
        _bone(canvas, jaw, 7.0, Tissue.MARROW, 3.0)
        teeth = smooth_line(frame.points([(side * 26, -42, 656), (side * 18, -74, 656), (0, -82, 656)]), 12.0)
        paint_tube(canvas, teeth, 6.0, Tissue.CORTICAL)
        for centre, semi, tissue in (
            ((side * 32, -70, 712), (13, 13, 13), Tissue.EYE),
            ((side * 33, -58, 688), (14, 16, 14), Tissue.GAS),
            ((side * 62, 24, 690), (9, 13, 12), Tissue.CORTICAL),
        ):
            slices, value = ellipsoid(canvas, frame.points(centre), frame.semi(semi), rough=0.15)
            paint(canvas, slices, value < 1.0, tissue)
    slices, value = ellipsoid(canvas, frame.points((0, -62, 692)), frame.semi((11, 26, 18)), rough=0.3)
    paint(canvas, slices, value < 1.0, Tissue.GAS)
    paint_tube(canvas, frame.points([(0, -18, 688), (0, -14, 650), (0, -14, 618)]), (7, 6, 6), Tissue.GAS)
