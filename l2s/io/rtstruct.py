"""RTSTRUCT contours -> a mask on a grid, for evaluation against what a physician drew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from l2s.errors import InputError
from l2s.io.dicom_series import read_header
from l2s.io.headers import as_number, items, raw, text
from l2s.study import Grid

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
OFF_PLANE = 0.2  # slice distances that a contour may lie off its slice: bed joints stay below a tenth
FLAT = 0.1  # slice distances over which a contour's points may scatter across its plane
SAME_PLANE = 0.01  # slice distances: contours nearer than this are drawn in one plane


def read_rtstruct(path: Path, grid: Grid, roi_name: str) -> np.ndarray:
    """One region as a mask.

    A voxel belongs to the region where its centre lies within the contours by the even-odd rule: a contour inside another is a hole,
    one inside the hole an island again. A centre on an edge belongs to the side of larger indices.

    Args:
        path: an RTSTRUCT file.
        grid: the grid that the contours were drawn on: their planes must be its slices along one of its axes.
        roi_name: the region's name, as the file has it.

    Returns:
        bool (z, y, x) on the grid; all False where the region has no contour.

    Raises:
        InputError: no such region or several of that name, an open contour, or contours that do not lie in the grid's slices.
    """
    dataset = _read(path)
    regions = _regions(dataset, path)
    numbers = [number for name, number in regions if name == roi_name]
    if len(numbers) != 1:
        names = ", ".join(sorted({name for name, _ in regions})) or "none"
        what = "no region is" if not numbers else f"{len(numbers)} regions are"
        raise InputError(f"{path}: {what} named {roi_name!r}; it has {names}")
    contours = [grid.mm_to_index_zyx(points) for points in _contours(dataset, numbers[0], path, roi_name)]
    mask = np.zeros(grid.shape_zyx, bool)
    if not contours:
        return mask
    axis = _axis(contours)
    planes: dict[int, list[tuple[float, np.ndarray]]] = {}
    for points in contours:
        places = points[:, axis]
        place = float(places.mean())
        index = int(np.rint(place))
        if np.ptp(places) > FLAT or abs(place - index) > OFF_PLANE or not 0 <= index < grid.shape_zyx[axis]:
            raise InputError(
                f"{path}: a contour of {roi_name!r} lies at slice {place:.2f} of {grid.shape_zyx[axis]} (scatter {np.ptp(places):.2f}), "
                f"not within {OFF_PLANE} of a slice: it was drawn on another image; give that image's grid"
            )
        planes.setdefault(index, []).append((place, np.delete(points, axis, axis=1)))
    for index, members in planes.items():
        if max(p for p, _ in members) - min(p for p, _ in members) > SAME_PLANE:
            raise InputError(
                f"{path}: contours of {roi_name!r} in different planes fall on slice {index}: drawn on a finer image; give that "
                "image's grid"
            )
        plane = np.zeros(np.delete(grid.shape_zyx, axis), bool)
        for _, points in members:
            plane ^= fill(points, plane.shape)
        np.moveaxis(mask, axis, 0)[index] = plane
    return mask


def fill(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres lie in a polygon by the even-odd rule.

    Args:
        points: (n, 2) corners as fractional (row, column) indices; the last joins the first.
        shape: rows and columns of the answer.

    Returns:
        bool, of that shape. Parts outside the picture are cut off.
    """
    toggles = np.zeros((shape[0], shape[1] + 1), bool)
    begin, end = points, np.roll(points, -1, axis=0)
    for (r0, c0), (r1, c1) in zip(begin, end):
        low, high = (r0, r1) if r0 <= r1 else (r1, r0)
        # half-open, so that a corner on a row counts once
        rows = np.arange(max(0, int(np.ceil(low))), min(shape[0], int(np.ceil(high))))
        if not len(rows):
            continue
        crossings = c0 + (rows - r0) * (c1 - c0) / (r1 - r0)
        np.logical_xor.at(toggles, (rows, np.clip(np.ceil(crossings), 0, shape[1]).astype(int)), True)
    return np.logical_xor.accumulate(toggles, axis=1)[:, :-1]


def _axis(contours: list[np.ndarray]) -> int:
    """The axis that the contours' planes are perpendicular to: the one that their points scatter least along."""
    scatter = np.max([np.ptp(points, axis=0) for points in contours], axis=0)
    return int(np.argmin(scatter))


def _read(path: Path):
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        dataset = read_header(path)
        kind = text(dataset, "SOPClassUID")
    except InputError as error:
        raise InputError(f"{path} cannot be read as RTSTRUCT ({error})") from error
    if kind != RTSTRUCT_CLASS:
        raise InputError(f"{path} is no RTSTRUCT (SOP class {kind}); name an RT Structure Set")
    return dataset


def _regions(dataset, path: Path) -> list[tuple[str, int]]:
    try:
        return [
            (text(item, "ROIName") or "", int(as_number(raw(item, "ROINumber"), "ROINumber")))
            for item in raw(dataset, "StructureSetROISequence") or ()
        ]
    except TypeError:
        raise InputError(f"{path}: a region has no number; export the RTSTRUCT again") from None


def _contours(dataset, number: int, path: Path, roi_name: str) -> list[np.ndarray]:
    """(n, 3) points in mm, LPS, of each contour of a region. Single points enclose nothing and are passed over."""
    out = []
    for region in items(dataset, "ROIContourSequence"):
        refers_to = as_number(raw(region, "ReferencedROINumber"), "ReferencedROINumber")
        if refers_to is None:  # it may be the region's own
            raise InputError(f"{path}: contours without ReferencedROINumber belong to no region; export the RTSTRUCT again")
        if refers_to != number:
            continue
        for contour in items(region, "ContourSequence"):
            kind = text(contour, "ContourGeometricType")
            if kind == "POINT":
                continue
            if kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                raise InputError(f"{path}: a contour of {roi_name!r} is {kind}; closed ones (CLOSED_PLANAR) are read")
            found = raw(contour, "ContourData") or ()
            values = np.array([as_number(v, "ContourData") for v in (found if hasattr(found, "__iter__") else (found,))])
            if len(values) % 3 or len(values) < 9:
                raise InputError(
                    f"{path}: a contour of {roi_name!r} has {len(values)} numbers; three or more points of three are needed"
                )
            out.append(values.reshape(-1, 3))
    return out
