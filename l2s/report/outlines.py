"""Outlines of lesions on a projection as SVG paths, and a place for each number where it hides nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

DIGIT_PX, HEIGHT_PX, PAD_PX = 7.2, 13.0, 3.0  # of the numbers at 12 px
GROW_PX = 1.2  # the outline runs outside the lesion, so that it hides none of it
DIRECTIONS = tuple((math.cos(a), math.sin(a)) for a in np.arange(16) * math.pi / 8)
REACH_PX = (6, 14, 24, 36, 50, 66)
MOST_NUMBERS = 60  # more of them would cover the patient; the table has all


@dataclass(frozen=True)
class View:
    """How a projection's (row, column) turns into picture coordinates.

    Attributes:
        rows, columns: of the projection.
        width_px, height_px: of the picture.
    """

    rows: int
    columns: int
    width_px: float
    height_px: float

    @property
    def step_px(self) -> tuple[float, float]:
        """(down, across) pixels of a voxel."""
        return self.height_px / self.rows, self.width_px / self.columns


@dataclass(frozen=True)
class Mark:
    """One lesion on a projection.

    Attributes:
        path: SVG path data of its outline.
        box: (left, top, right, bottom) of the outline.
        number_at: (x, y) of the middle of its number; None where there is no room.
        leader: SVG path data of a line from the number to the lesion; empty where they are close.
    """

    path: str
    box: tuple[float, float, float, float]
    number_at: tuple[float, float] | None
    leader: str


def outline_path(rows: np.ndarray, columns: np.ndarray, view: View) -> tuple[str, tuple[float, float, float, float]]:
    """(SVG path, box) around the pixels of a projection that a lesion covers; holes have an outline too.

    Args:
        rows, columns: int (n,), the pixels, n > 0; doubles are welcome.
        view: the projection's size and the picture's.
    """
    from contourpy import contour_generator

    down, across = view.step_px
    top, left = int(rows.min()), int(columns.min())
    field = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), bool)
    field[rows - top, columns - left] = True
    # four samples a pixel: marching squares over the pixels themselves would halve a lesion of one voxel
    fine = np.pad(field.repeat(2, axis=0).repeat(2, axis=1), 1).astype(np.float32)
    lines = contour_generator(z=fine, line_type="Separate").lines(0.5)
    pieces, corners = [], []
    for line in lines:
        x = ((line[:, 0] - 0.5) / 2 + left) * across
        y = ((line[:, 1] - 0.5) / 2 + top) * down
        x, y = grown(x, y, GROW_PX)
        corners.append((x.min(), y.min(), x.max(), y.max()))
        x, y = smoothed(x[:-1]), smoothed(y[:-1])
        pieces.append("M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y)) + "Z")
    box = np.array(corners)
    return "".join(pieces), (*(float(v) for v in box[:, :2].min(axis=0)), *(float(v) for v in box[:, 2:].max(axis=0)))


def grown(x: np.ndarray, y: np.ndarray, by_px: float) -> tuple[np.ndarray, np.ndarray]:
    """A closed line (last point = first) moved outward by by_px along its normals; holes become smaller."""
    dx, dy = (np.roll(v[:-1], -1) - np.roll(v[:-1], 1) for v in (x, y))
    length = np.maximum(np.hypot(dx, dy), 1e-9)
    # contourpy runs around the higher values anti-clockwise in (x to the right, y up): the outside is at its right
    nx, ny = dy / length, -dx / length
    moved_x, moved_y = x[:-1] + by_px * nx, y[:-1] + by_px * ny
    return np.append(moved_x, moved_x[0]), np.append(moved_y, moved_y[0])


def smoothed(v: np.ndarray) -> np.ndarray:
    """A closed line's coordinate with the steps of the voxels rounded off: each point becomes the mean of itself and its neighbours."""
    return (np.roll(v, 1) + 2 * v + np.roll(v, -1)) / 4


def mark_lesions(
    outlines: list[tuple[str, tuple[float, float, float, float]]], view: View, first: int = 0, taken: list | None = None
) -> list[Mark]:
    """Outlines with their numbers. A number lies beside its lesion, off the other numbers and, where it can, off all lesions.

    The first MOST_NUMBERS get one.

    Args:
        outlines: (SVG path, box) of each.
        view: the projection.
        first: how many numbers come before these.
        taken: boxes where no number may lie; those of these numbers are added. None: those of letters.
    """
    boxes = np.array([box for _, box in outlines]).reshape(-1, 4)
    taken = letters(view) if taken is None else taken
    marks = []
    for k, (path, box) in enumerate(outlines):
        spot = place(k, first + k + 1, boxes, taken, view) if k < MOST_NUMBERS else None
        if spot is None:
            marks.append(Mark(path, box, None, ""))
            continue
        taken.append(around(spot, first + k + 1))
        marks.append(Mark(path, box, spot, leader(spot, box)))
    return marks


def letters(view: View) -> list[tuple[float, float, float, float]]:
    """The boxes of what stands on the picture already: the letters at its four edges and the length scale."""
    w, h = view.width_px, view.height_px
    return [
        (w / 2 - 8, 0, w / 2 + 8, 18),
        (w / 2 - 8, h - 20, w / 2 + 8, h),
        (0, h / 2 - 12, 18, h / 2 + 6),
        (w - 18, h / 2 - 12, w, h / 2 + 6),
        (0, h - 26, 70, h),
    ]


def around(spot: tuple[float, float], number: int) -> tuple[float, float, float, float]:
    """The box that a number takes up around a place."""
    half = (DIGIT_PX * len(str(number)) + PAD_PX) / 2
    return spot[0] - half, spot[1] - HEIGHT_PX / 2, spot[0] + half, spot[1] + HEIGHT_PX / 2


def place(k: int, number: int, boxes: np.ndarray, taken: list, view: View) -> tuple[float, float] | None:
    """The best place for the number of box k: on no other number, inside the picture, then on as few lesions and as near as can be."""
    left, top, right, bottom = boxes[k]
    middle = ((left + right) / 2, (top + bottom) / 2)
    best, least = None, math.inf
    for reach in REACH_PX:
        for cx, cy in DIRECTIONS:
            # an ellipse around the lesion's box
            spot = (middle[0] + cx * ((right - left) / 2 + reach + 4), middle[1] + cy * ((bottom - top) / 2 + reach))
            own = around(spot, number)
            if own[0] < 0 or own[1] < 0 or own[2] > view.width_px or own[3] > view.height_px:
                continue
            if any(area(own, other) > 0 for other in taken):
                continue
            covered = np.clip(np.minimum(boxes[:, 2], own[2]) - np.maximum(boxes[:, 0], own[0]), 0, None)
            covered = covered * np.clip(np.minimum(boxes[:, 3], own[3]) - np.maximum(boxes[:, 1], own[1]), 0, None)
            cost = float(covered.sum()) + reach * 2.0
            if cost < least:
                best, least = spot, cost
    return best


def area(a, b) -> float:
    """What two boxes share, in square pixels."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def leader(spot: tuple[float, float], box: tuple[float, float, float, float]) -> str:
    """A line from the number to the nearest point of the lesion's box, where that is further than the number is high."""
    x, y = min(max(spot[0], box[0]), box[2]), min(max(spot[1], box[1]), box[3])
    gap = math.hypot(x - spot[0], y - spot[1])
    if gap < HEIGHT_PX:
        return ""
    start = (spot[0] + (x - spot[0]) * 8 / gap, spot[1] + (y - spot[1]) * 8 / gap)
    return f"M{start[0]:.1f} {start[1]:.1f}L{x:.1f} {y:.1f}"
