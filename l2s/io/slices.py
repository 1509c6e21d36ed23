"""A PET series' slices and the planes of a mask: which slice shows which plane, whatever the order and orientation of either.

Only headers are read here. Results as DICOM refer to these slices and lie in their pixel grid.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.sequence import Sequence as Items

from l2s.errors import InputError
from l2s.io.dicom_series import read_header
from l2s.io.headers import number, numbers, quiet, raw
from l2s.study import Grid

log = logging.getLogger(__name__)

LARGE_BYTES = 2**16
TOLERANCE_VOXELS = 0.1  # real bed joints move a slice by 0.01 of the spacing; a wrong series is off by more than this
QUANTITATIVE_UNITS = ("BQML", "GML", "CM2ML", "CNTS")
COUNTS = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
GEOMETRY = (*COUNTS, "Rows", "Columns")
IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True)
class Slices:
    """The slices of one series in the order of a mask's planes.

    Attributes:
        headers: one a plane, from the first plane to the last.
        axes: the mask's axes (0 z, 1 y, 2 x) that run along planes, rows (downwards in a slice) and columns.
        flip_rows, flip_columns: whether a slice's rows or columns run against that axis of the mask.
        plane_mm: the distance of the mask's planes.
        off_planes: how far the worst slice lies off its plane, in planes.
    """

    headers: tuple[Dataset, ...]
    axes: tuple[int, int, int]
    flip_rows: bool
    flip_columns: bool
    plane_mm: float
    off_planes: float

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
    name = "the PET series"  # its UID leads back to a patient, and this line may go into a log
    corner, along_rows, along_columns = _corners(sources, grid)
    axis_columns, axis_rows = (int(np.abs(v[0]).argmax()) for v in (along_columns, along_rows))
    if axis_columns == axis_rows:
        raise InputError(f"{name}: its slices do not lie along the mask's axes; give the PET series that the mask was made on")
    axis_planes = 3 - axis_rows - axis_columns
    flip_rows, flip_columns = bool(along_rows[0, axis_rows] < 0), bool(along_columns[0, axis_columns] < 0)

    # where each slice's first pixel, last pixel of the first column and last pixel of the first row should be in the mask
    shape = grid.shape_zyx
    plane, remedy = np.rint(corner[:, axis_planes]), "give the PET series that the mask was made on"
    if plane_tolerance > TOLERANCE_VOXELS:
        remedy = "too irregular a series for results as DICOM: write images (nii.gz, mha) alone"
        if len(sources) == shape[axis_planes]:  # the nearest plane may be a neighbour's
            plane = corner[:, axis_planes].argsort(kind="stable").argsort().astype(float)
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
            f"{remedy}"
        )
    order = np.argsort(plane, kind="stable")
    if not np.array_equal(plane[order], np.arange(shape[axis_planes])):
        missing = sorted(set(range(shape[axis_planes])) - set(plane.astype(int).tolist()))
        what = f"no slice for plane {missing[0]}" if missing else "two slices at one position"
        raise InputError(
            f"{name}: {len(sources)} slices for {shape[axis_planes]} planes of the mask, {what}; give the complete PET series"
        )
    axes = (axis_planes, axis_rows, axis_columns)
    plane_mm, off_planes = grid.spacing_mm_zyx[axis_planes], float(off[:, axis_planes].max())
    return Slices(tuple(sources[k] for k in order), axes, flip_rows, flip_columns, plane_mm, off_planes)


def _check_headers(sources: Sequence[Dataset]) -> None:
    if not sources:
        raise InputError("no DICOM slices were given (at least 1): name the folder of the PET series")
    for k, header in enumerate(sources, 1):
        lacking = [key for key in (*IDENTITY, *GEOMETRY) if raw(header, key) is None]
        if lacking:
            raise InputError(
                f"slice {k} of {len(sources)} has no {lacking[0]}; results cannot refer to it: export the series again (multi-frame PET is "
                "not read)"
            )
        for key, count in COUNTS.items():
            numbers(header, key, count)
        for key in ("Rows", "Columns"):
            number(header, key)
    for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"):
        values = {str(header[key].value) for header in sources}
        if len(values) > 1:
            raise InputError(f"the slices have {len(values)} values of {key}; give one series")


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


def read_pet_series(folder: Path) -> dict[str, list[Dataset]]:
    """The headers of all PET slices under a folder by SeriesInstanceUID; copies, other files and modalities are passed over.

    Raises:
        InputError: the folder is absent or holds no PET slice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the one that holds the PET series")
    series: dict[str, dict[str, Dataset]] = {}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (InvalidDicomError, EOFError):
            continue
        if header.get("Modality") == "PT" and "SeriesInstanceUID" in header and "SOPInstanceUID" in header:
            series.setdefault(str(header.SeriesInstanceUID), {}).setdefault(str(header.SOPInstanceUID), header)
    if not series:
        raise InputError(f"{folder}: none of its {len(files)} files is a PET slice in DICOM; name the folder of the PET series")
    return {uid: list(headers.values()) for uid, headers in series.items()}


def read_headers(files: Sequence[Path]) -> list[Dataset]:
    """The headers of a series' files, for match and prepare, where the files are known.

    Private elements, and those of more than LARGE_BYTES, are left out: results take nothing from them, and they stay in memory for the
    whole run otherwise.

    Raises:
        InputError: a file cannot be read.
    """
    headers = []
    for path in files:
        header = read_header(path)
        with quiet():
            for tag in [t for t in header.keys() if t.is_private or _size(header, t) > LARGE_BYTES]:  # noqa: SIM118 - values unread
                del header[tag]
        headers.append(header)
    return headers


def _size(dataset: Dataset, tag) -> int:
    """Bytes of an element that pydicom has not decoded yet; a sequence's are those of its items."""
    element = dataset.get_item(tag, keep_deferred=True)
    value = element.value
    if isinstance(value, Items):
        return sum(_size(item, inner) for item in value for inner in item.keys())  # noqa: SIM118 - values unread
    if value is None:
        return getattr(element, "length", 0)  # its reading was put off
    return len(value) if isinstance(value, str | bytes) else 0


def choose_series(series: dict[str, list[Dataset]], grid: Grid, uid: str | None = None) -> Slices:
    """The series that a mask was made on: the one named, or the only one that fits its grid, a quantitative one first.

    Raises:
        InputError: none fits, or more than one does.
    """
    if uid is not None:
        if uid not in series:
            raise InputError(f"no PET series {uid}; there are: {', '.join(sorted(series))}")
        return match(series[uid], grid)
    fitting, refused = {}, []
    for key, headers in series.items():
        try:
            fitting[key] = match(headers, grid)
        except InputError as error:
            refused.append(str(error))
    quantitative = {k: s for k, s in fitting.items() if _is_quantitative(s.headers[0])}
    left = quantitative or fitting
    if not left:
        raise InputError(refused[0] if len(refused) == 1 else f"none of {len(series)} PET series fits the mask: {refused[0]}")
    if len(left) > 1:
        raise InputError(f"{len(left)} PET series fit the mask: {', '.join(sorted(left))}; name one with --series")
    chosen = next(iter(left.values()))
    log.info("PET series %s, %d slices", chosen.headers[0].SeriesInstanceUID, len(chosen.headers))
    return chosen


def _is_quantitative(header: Dataset) -> bool:
    """Attenuation corrected, in units that SUV is made of: some series without correction claim ATTN, but count in PROPCNTS."""
    return "ATTN" in _values(header.get("CorrectedImage")) and header.get("Units") in QUANTITATIVE_UNITS


def _values(value) -> list:
    """A DICOM value as a list: absent, one or several."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
