"""The body around the organs: outline, fat, muscle and cavities of trunk and head, and limbs, in reference coordinates (frame.py).

Reference sizes: a 172 cm adult as in ICRP Publication 89 (2002); positions read off the real organ maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2s.phantom import frame as fr
from l2s.phantom.frame import Frame
from l2s.phantom.shapes import Canvas, paint_tube
from l2s.phantom.tissues import Tissue, members

# z, half width, half depth, y of the middle, squareness: the muscle's surface of head and trunk without subcutaneous fat
OUTLINE = np.array(
    [
        *[(-110, 8, 8, 14, 0.0), (-90, 60, 40, 14, 0.1), (-65, 156, 82, 14, 0.4), (-20, 176, 108, 14, 0.5)],
        *[(40, 174, 112, 12, 0.5), (90, 160, 106, 8, 0.45), (150, 144, 98, 5, 0.4), (210, 142, 97, 3, 0.3)],
        *[(280, 150, 103, 2, 0.3), (350, 160, 109, 2, 0.35), (430, 166, 113, 4, 0.4), (490, 172, 110, 6, 0.45)],
        *[(535, 178, 94, 10, 0.4), (560, 150, 76, 14, 0.3), (580, 94, 64, 13, 0.2), (605, 60, 58, 9, 0.0)],
        *[(625, 57, 62, 4, 0.0), (640, 60, 76, -8, 0.0), (660, 66, 92, -8, 0.05), (690, 73, 97, -3, 0.1)],
        *[(730, 78, 99, 1, 0.1), (760, 76, 95, 3, 0.1), (780, 64, 81, 4, 0.0), (793, 46, 58, 5, 0.0)],
        *[(801, 24, 30, 5, 0.0), (806, 1, 1, 5, 0.0)],
    ]
)
# z, thickness of subcutaneous fat relative to the belly's
FAT_Z = (-900, -430, -100, 0, 120, 300, 480, 570, 620, 660, 700)
FAT_SHARE = (0.25, 0.4, 0.9, 1.2, 1.1, 0.8, 0.6, 0.5, 0.25, 0.2, 0.13)
SPINE_Z = (-20, 20, 60, 95, 150, 200, 250, 340, 450, 530, 580, 630, 692)
SPINE_Y = (88, 82, 68, 46, 32, 32, 38, 52, 62, 52, 36, 20, 16)
# z, thickness in mm of the muscular wall around the cavities
WALL_Z = (-30, 10, 60, 120, 200, 300, 420, 545, 560)
WALL_MM = (70, 50, 40, 28, 18, 23, 28, 32, 60)
SOFT = members(Tissue.FAT, Tissue.MUSCLE, Tissue.VISCERAL_FAT)


@dataclass(frozen=True)
class Trunk:
    """The trunk's measured cross-sections, one row a canvas row.

    Attributes:
        half_x, half_y, mid_x, mid_y, square: the muscle's surface in mm; half 0 where there is no trunk.
        fat_mm: subcutaneous fat.
    """

    half_x: np.ndarray
    half_y: np.ndarray
    mid_x: np.ndarray
    mid_y: np.ndarray
    square: np.ndarray
    fat_mm: np.ndarray

    def depth(self, canvas: Canvas, rows: slice, grow_mm) -> np.ndarray:
        """Squared distance from the middle in half-axes that are grow_mm (number or one a row) larger; below 1 is inside."""
        grow = np.broadcast_to(np.asarray(grow_mm, dtype=np.float32), self.half_x.shape)
        a = np.maximum(self.half_x + grow, 1.0) * (self.half_x > 0)
        b = np.maximum(self.half_y + grow, 1.0) * (self.half_x > 0)
        a, b = (np.where(v > 0, v, 1e-3)[rows, None].astype(np.float32) for v in (a, b))
        u = ((canvas.x_mm[None, :] - self.mid_x[rows, None]) / a).astype(np.float32) ** 2
        v = ((canvas.y_mm[None, :] - self.mid_y[rows, None]) / b).astype(np.float32) ** 2
        u, v = u[:, None, :], v[:, :, None]
        return u + v - self.square[rows, None, None].astype(np.float32) * np.minimum(u, 1.5) * np.minimum(v, 1.5)


def measure_trunk(rng: np.random.Generator, canvas: Canvas, frame: Frame, labels: np.ndarray) -> Trunk:
    """Cross-sections of this patient, wide enough for the organs everywhere."""
    z = np.clip(frame.reference(canvas.z_mm), OUTLINE[0, 0] - 50, OUTLINE[-1, 0] + 50)
    table = np.stack([np.interp(z, OUTLINE[:, 0], OUTLINE[:, k], left=0.0, right=0.0) for k in range(1, 5)])
    half_x, half_y, mid_y, square = table
    dx, dy = frame.sway(canvas.z_mm)
    build = 1.0 + 0.012 * (frame.bmi - 24.0)
    trunk_share = np.interp(z, (540, 620), (1.0, 0.25))
    belly = np.interp(z, (-40, 60, 180, 300, 420), (0.0, 0.6, 1.0, 0.7, 0.0)) * max(frame.bmi - 22.0, 0.0)
    scale_x = frame.scale_x * (1.0 + (build - 1.0) * trunk_share)
    scale_y = frame.scale_y * (1.0 + (build - 1.0) * trunk_share)
    fat = max(2.5 + 1.45 * (frame.bmi - 17.0) * (0.8 if frame.male else 1.25), 2.0)
    trunk = Trunk(
        half_x * scale_x + 0.9 * belly,
        half_y * scale_y + 1.6 * belly,
        dx,
        dy + mid_y * scale_y - 1.6 * belly,
        square,
        np.maximum(fat * np.interp(z, FAT_Z, FAT_SHARE) * rng.uniform(0.85, 1.15), 2.0),
    )
    return _make_room(canvas, trunk, labels)


def _make_room(canvas: Canvas, trunk: Trunk, labels: np.ndarray) -> Trunk:
    """Widen cross-sections until every organ voxel lies within 82 % (as a squared distance) of the muscle's surface."""
    depth = trunk.depth(canvas, slice(None), 0.0)
    need = np.where((labels > 0) & (labels != fr.SALIVARY), depth, 0.0).max(axis=(1, 2))
    need = np.where(trunk.half_x > 0, np.sqrt(np.maximum(need / 0.82, 1.0)), 1.0).clip(1.0, 1.5)
    rows = max(int(round(40.0 / canvas.spacing_mm_zyx[0])), 1)
    need = ndimage.gaussian_filter1d(ndimage.maximum_filter1d(need, 2 * (rows // 2) + 1), rows / 2.5, mode="nearest")
    return Trunk(trunk.half_x * need, trunk.half_y * need, trunk.mid_x, trunk.mid_y, trunk.square, trunk.fat_mm)


def paint_trunk(canvas: Canvas, frame: Frame, trunk: Trunk) -> None:
    """Subcutaneous fat, muscle with fat between, and the cavities' fat."""
    rows = np.flatnonzero(trunk.half_x > 0)
    if not len(rows):
        return
    rows = slice(int(rows[0]), int(rows[-1]) + 1)
    view, dents = canvas.tissue[rows], 0.035 * canvas.lumps[rows]
    z = frame.reference(canvas.z_mm[rows])
    view[trunk.depth(canvas, rows, trunk.fat_mm) + dents < 1.0] = Tissue.FAT
    lean = trunk.depth(canvas, rows, 0.0) + dents
    view[lean < 1.0] = Tissue.MUSCLE
    # sheets of fat lie between the muscles, thicker where the patient is heavy
    sheet = np.float32(np.clip(0.05 + 0.006 * (frame.bmi - 20.0), 0.03, 0.16))
    view[(lean < 0.93) & (np.abs(canvas.lumps[rows] + 0.25 * canvas.grain[rows]) < sheet)] = Tissue.FAT
    wall = np.interp(z, WALL_Z, WALL_MM)
    cavity = trunk.depth(canvas, rows, -np.interp(canvas.z_mm, canvas.z_mm[rows], wall)) + dents
    inside = (cavity < 1.0) & ((z > -25) & (z < 565))[:, None, None]
    view[inside] = Tissue.VISCERAL_FAT


def paint_limbs(rng: np.random.Generator, canvas: Canvas, frame: Frame) -> dict[str, np.ndarray]:
    """Arms and legs without bones; returns the limbs' axes in mm, by name."""
    lines = {}
    fat = np.interp(frame.bmi, (17, 40), (3.0, 26.0)) * (0.8 if frame.male else 1.3)
    spread = rng.normal(0.0, 4.0)
    for side, name in ((-1, "right"), (1, "left")):
        x = side * np.array([86, 88, 83 + spread, 80 + spread, 78])
        leg = frame.points(np.stack([x, (6, 2, 0, 12, 6), (-20, -180, -420, -600, -860)], axis=-1))
        thick = np.array([88, 82, 55, 49, 32]) * frame.scale_x * (1.0 + 0.008 * (frame.bmi - 24.0))
        _limb(canvas, leg, thick, fat)
        lines[f"leg_{name}"] = leg
        jitter = rng.normal(0.0, 6.0, (3, 3))
        if frame.arms == "up":
            way = np.array([(side * 172, 12, 548), (side * 158, -18, 800), (side * 40, -20, 872)]) + jitter
        else:
            way = np.array([(side * 186, 12, 540), (side * 226, 26, 260), (side * 228, -16, 20)]) + jitter
            way = np.vstack([way, way[-1] + (-side * 6, -6, -95)])
        arm = frame.points(way)
        if frame.arms == "down":
            arm[1:, 0] += side * np.interp(frame.bmi, (22, 40), (0.0, 60.0))
        thick = np.array([46, 38, 30, 26])[: len(arm)] * frame.scale_x * (1.0 + 0.01 * (frame.bmi - 24.0))
        _limb(canvas, arm, thick, 0.55 * fat)
        lines[f"arm_{name}"] = arm
    return lines


def _limb(canvas: Canvas, line: np.ndarray, thick: np.ndarray, fat_mm: float) -> None:
    nothing = members(Tissue.AIR)
    paint_tube(canvas, line, thick + fat_mm, Tissue.FAT, nothing)
    paint_tube(canvas, line, thick, Tissue.MUSCLE, members(Tissue.AIR, Tissue.FAT))


def spine_point(frame: Frame, reference_z) -> np.ndarray:
    """Centre of the vertebral bodies in mm at reference heights."""
    z = np.asarray(reference_z, dtype=float)
    return frame.points(np.stack([np.zeros_like(z), np.interp(z, SPINE_Z, SPINE_Y), z], axis=-1))
