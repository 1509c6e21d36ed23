"""The outline of a 2D mask along the edges of its pixels: closed polygons whose area is exactly that of the pixels.

Corners are whole numbers: pixel (row, column) is the square from (row, column) to (row + 1, column + 1). A polygon never runs through
a pixel's centre, so every reader that asks which centres lie inside gets the mask back.
"""

from __future__ import annotations

import numpy as np

Corner = tuple[int, int]


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed polygons of a bool mask (row, column), their last corner joined to the first; an empty mask has none.

    A polygon surrounds the pixels that share edges. Its holes are part of it by a cut of no width (a keyhole), as DICOM PS3.3
    C.8.8.6.3 has it for closed planar contours: readers that fill each polygon and readers that combine them by XOR agree.

    Returns:
        int (n, 2) arrays of (row, column) corners, without corners on straight lines.
    """
    rings = _trace(mask)
    whole = {id(ring): ring for ring in rings if _area(ring) > 0}
    at = {corner: ring for ring in whole.values() for corner in ring}
    # a hole's way to the left ends at a polygon or at a hole further left: those to the left are joined first
    for hole in sorted((ring for ring in rings if _area(ring) < 0), key=lambda ring: min(c for _, c in ring)):
        _join(hole, at)
    return [np.array(_straightened(ring)) for ring in whole.values()]


def _trace(mask: np.ndarray) -> list[list[Corner]]:
    """All borders as rings of corners one pixel edge apart, the mask on the right-hand side; holes run the other way round."""
    padded = np.pad(mask.astype(bool), 1)
    inside = padded[1:-1, 1:-1]
    above, left = inside & ~padded[:-2, 1:-1], inside & ~padded[1:-1, :-2]
    below, right = inside & ~padded[2:, 1:-1], inside & ~padded[1:-1, 2:]
    steps: dict[Corner, list[Corner]] = {}  # corner -> the ways on from there; two where pixels touch by a corner
    for edges, (row, column), (drow, dcolumn) in (
        (above, (0, 0), (0, 1)),
        (right, (0, 1), (1, 0)),
        (below, (1, 1), (0, -1)),
        (left, (1, 0), (-1, 0)),
    ):
        for r, c in (np.argwhere(edges) + (row, column)).tolist():
            steps.setdefault((r, c), []).append((drow, dcolumn))
    rings, walked = [], set()
    for first in [(corner, step) for corner, ways in steps.items() for step in ways]:
        ring, edge = [], first
        while edge not in walked:
            walked.add(edge)
            corner, step = edge
            ring.append(corner)
            corner = (corner[0] + step[0], corner[1] + step[1])
            ways, turn = steps[corner], (step[1], -step[0])
            # where pixels touch by a corner the way turns right and keeps to its pixel: they become two polygons
            edge = (corner, turn if len(ways) == 2 else ways[0])
        if ring:
            rings.append(ring)
    return rings


def _area(ring: list[Corner]) -> int:
    """Twice the signed area: positive for the outside of pixels, negative for a hole."""
    rows, columns = np.array(ring).T
    return int(np.sum(columns * np.roll(rows, -1) - rows * np.roll(columns, -1)))


def _join(hole: list[Corner], at: dict[Corner, list[Corner]]) -> None:
    """Splices a hole into the polygon to its left, by a straight cut along a line between pixels."""
    row, column = start = min(hole, key=lambda corner: (corner[1], corner[0]))
    column -= 1
    while (row, column) not in at:
        column -= 1
    ring = at[row, column]
    place, first = ring.index((row, column)), hole.index(start)
    ring[place + 1 : place + 1] = [*hole[first:], *hole[: first + 1], (row, column)]
    for corner in hole:
        at[corner] = ring


def _straightened(ring: list[Corner]) -> list[Corner]:
    """The ring without the corners at which it goes straight on."""
    n = len(ring)

    def step(k: int) -> Corner:
        (r0, c0), (r1, c1) = ring[k % n], ring[(k + 1) % n]
        return (int(np.sign(r1 - r0)), int(np.sign(c1 - c0)))

    return [ring[k] for k in range(n) if step(k - 1) != step(k)]
