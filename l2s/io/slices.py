"""A PET series' slices and the planes of a mask: which slice shows which plane, whatever the order and orientation of either.

Headers alone say so. Results as DICOM refer to these slices and lie in their pixel grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from l2s.errors import InputError
from l2s.study import Grid

TOLERANCE_VOXELS = 0.1  # real bed joints move a slice by 0.01 of the spacing; a wrong series is off by more than this
IRREGULAR_VOXELS = 0.5  # slices that the PET was resampled from, at irregular bed joints, lie up to so far off its planes
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True)
class Slices:
    """The slices of one series in the order of a mask's planes.

    Attributes:
        headers: one a plane, from the first plane to the last.
        axes: the mask's axes (0 z, 1 y, 2 x) that run along planes, rows (downwards in a slice) and columns.
        flip_rows, flip_columns: whether a slice's rows or columns run against that axis of the mask.
    """

    headers: tuple[Dataset, ...]
    axes: tuple[int, int, int]
    flip_rows: bool
    flip_columns: bool

    def as_stored(self, array: np.ndarray) -> np.ndarray:
        """A view (plane, row, column) in the slices' own pixel order of an array (z, y, x) on the mask's grid."""
        step = [slice(None, None, -1 if flip else 1) for flip in (False, self.flip_rows, self.flip_columns)]
        return array.transpose(self.axes)[tuple(step)]


def match(sources: Sequence[Dataset], grid: Grid, plane_tolerance: float = TOLERANCE_VOXELS) -> Slices:
    """Finds the plane of each slice.

    Args:
        sources: headers of the slices of one series, in any order, axial or not, oblique or not.
        grid: the mask's LPS grid.
        plane_tolerance: how far a slice may lie off its plane, in planes. Above the default only for slices that are known to be the
            mask's own: an irregular series that was resampled to a regular grid; each slice then shows the plane next to it.

    Raises:
        InputError: the slices are not of one series, a header lacks its geometry, or slices and planes are not the same set of
            positions within TOLERANCE_VOXELS in the plane and plane_tolerance across.
    """
    _check_headers(sources)
    name = f"series {sources[0].SeriesInstanceUID}"
    corner, along_rows, along_columns = _corners(sources, grid)
    axis_columns, axis_rows = (int(np.abs(v[0]).argmax()) for v in (along_columns, along_rows))
    if axis_columns == axis_rows:
        raise InputError(f"{name}: its slices do not lie along the mask's axes; give the PET series that the mask was made on")
    axis_planes = 3 - axis_rows - axis_columns
    flip_rows, flip_columns = bool(along_rows[0, axis_rows] < 0), bool(along_columns[0, axis_columns] < 0)

    # where each slice's first pixel, last pixel of the first column and last pixel of the first row should be in the mask
    plane = np.rint(corner[:, axis_planes])
    shape = grid.shape_zyx
    expected = np.zeros((3, len(sources), 3))
    expected[:, :, axis_planes] = plane
    expected[:, :, axis_rows] = (shape[axis_rows] - 1) * flip_rows
    expected[:, :, axis_columns] = (shape[axis_columns] - 1) * flip_columns
    expected[1, :, axis_rows] = (shape[axis_rows] - 1) * (not flip_rows)
    expected[2, :, axis_columns] = (shape[axis_columns] - 1) * (not flip_columns)
    off = np.abs(np.stack([corner, corner + along_rows, corner + along_columns]) - expected).max(axis=0)
    limit = np.full(3, TOLERANCE_VOXELS)
    limit[axis_planes] = plane_tolerance
    if (off > limit).any():
        worst, axis = np.unravel_index((off / limit).argmax(), off.shape)
        at = ", ".join(f"{float(v):g}" for v in sources[worst].ImagePositionPatient)
        raise InputError(
            f"{name}: the slice at ({at}) mm lies {off[worst, axis]:.2g} voxels off the mask's grid (limit {limit[axis]:g}); "
            "give the PET series that the mask was made on"
        )
    order = np.argsort(plane, kind="stable")
    if not np.array_equal(plane[order], np.arange(shape[axis_planes])):
        missing = sorted(set(range(shape[axis_planes])) - set(plane.astype(int).tolist()))
        what = f"no slice for plane {missing[0]}" if missing else "two slices at one position"
        raise InputError(
            f"{name}: {len(sources)} slices for {shape[axis_planes]} planes of the mask, {what}; give the complete PET series"
        )
    return Slices(tuple(sources[k] for k in order), (axis_planes, axis_rows, axis_columns), flip_rows, flip_columns)


def _check_headers(sources: Sequence[Dataset]) -> None:
    if not sources:
        raise InputError("no DICOM slices were given (at least 1): name the folder of the PET series")
    for header in sources:
        lacking = [key for key in (*IDENTITY, *GEOMETRY) if header.get(key) in (None, "")]
        if lacking:
            raise InputError(
                f"slice {header.get('SOPInstanceUID', 'without UID')} has no {lacking[0]}; results cannot refer to it: export the "
                "series again (multi-frame PET is not read)"
            )
    for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"):
        values = sorted({str(header[key].value) for header in sources})
        if len(values) > 1:
            raise InputError(f"the slices have {len(values)} values of {key} ({values[0]}, {values[1]} ...); give one series")


def _corners(sources: Sequence[Dataset], grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 3) each, in the mask's (z, y, x) indices: a slice's first pixel centre, the way down its rows, the way along its columns."""
    position = np.array([h.ImagePositionPatient for h in sources], float)
    cosines = np.array([h.ImageOrientationPatient for h in sources], float)
    spacing = np.array([h.PixelSpacing for h in sources], float)
    last = np.array([(h.Rows - 1, h.Columns - 1) for h in sources], float)
    corner = grid.mm_to_index_zyx(position)
    down = grid.mm_to_index_zyx(position + cosines[:, 3:] * (spacing[:, :1] * last[:, :1])) - corner
    right = grid.mm_to_index_zyx(position + cosines[:, :3] * (spacing[:, 1:] * last[:, 1:])) - corner
    return corner, down, right
