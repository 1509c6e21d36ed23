"""DICOM files -> a table of series, from headers alone; and a series -> its stack: slices in order and the grid that they span."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from l2s.errors import InputError
from l2s.io.dicom_files import BLOCK_BYTES, MAX_RATIO, SMALL_BYTES
from l2s.io.headers import lenient, malformed, number, numbers, quiet, raw, short, text, texts
from l2s.study import Grid, orthonormal

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

log = logging.getLogger(__name__)

BROKEN = (OSError, EOFError, KeyError, AssertionError, RuntimeError, RecursionError, MemoryError, zlib.error)
KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesNumber",
    "SeriesDescription", "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "InstanceNumber", "TransferSyntaxUID", "NumberOfSlices", "PatientID", "RescaleType",
)  # fmt: skip
DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR: it lists what the folder shows anyway
MIN_SLICES = 8
SAME_DIRECTION = 1e-3  # cosines of slices that lie in one orientation; scanners print six digits
DRIFT = 0.1  # of a pixel, across the stack: more is a tilted gantry
JOINT = 0.05  # of the slice distance, from the regular position: bed joints stay below it
GAP = 1.5  # slice distances: beyond it a slice is missing
DUPLICATE = 0.02  # slice distances: nearer slices lie in one place
MAX_EDGE = 4096  # pixels; PET has up to 512, CT up to 1024
MAX_VOXELS = 2**31
DEFLATED = "1.2.840.10008.1.2.1.99"
LARGE_BYTES = 64 * 2**10  # no element that is needed comes near; scanners put raw data of megabytes into private ones
PRIVATE_GROUPS = (0x0009, 0x0071, 0x7053)  # of GE, Siemens and Philips: suv.py reads some of them


class UnreadableFile(InputError):
    """The disk or the file's rights are at fault, not its content."""


@dataclass(frozen=True)
class Instance:
    """One file: where its slice lies. None where the header does not say.

    orientation: the six numbers of ImageOrientationPatient; spacing_mm: (between rows, between columns).
    """

    path: Path
    uid: str
    sop_class: str
    rows: int
    columns: int
    frames: int
    position_mm_xyz: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, ...] | None


@dataclass(frozen=True)
class Series:
    """The files of one SeriesInstanceUID. header is that of one of its slices, without voxels.

    patient: a hash of the PatientID, to compare it by; empty where there is none. problem: why the series as a whole cannot be used,
    if so.
    """

    uid: str
    study_uid: str
    frame_uid: str
    modality: str
    number: int | None
    description: str
    image_type: tuple[str, ...]
    sop_class: str
    instances: tuple[Instance, ...]
    header: Dataset
    patient: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Table:
    """All series of an input, sorted by study, number and UID, and what was passed over.

    Attributes:
        warnings: one line each, without file names: these may hold a patient's, and warnings go into records.
        passed_over: the same file by file, for the user's eyes.
    """

    series: tuple[Series, ...]
    warnings: tuple[str, ...]
    passed_over: tuple[str, ...]


def read_table(files: Sequence[Path], root: Path) -> Table:
    """The series of DICOM files. Files with damaged headers are passed over with a warning.

    Args:
        files: DICOM files.
        root: what the user named; files are spoken of relative to it.

    Raises:
        InputError: the disk or a file's rights do not let it be read.
    """
    groups: dict[str, list[tuple[Path, Dataset]]] = {}
    passed_over: list[str] = []
    for path in files:
        try:
            header = read_header(path, KEYWORDS)
            if DIRECTORY in (text(header, "SOPClassUID"), text(header.file_meta, "MediaStorageSOPClassUID")):
                continue
            uid = text(header, "SeriesInstanceUID")
        except UnreadableFile:
            raise  # a series without it would look whole
        except InputError as error:
            passed_over.append(f"{_relative(path, root)}: {error}")
            continue
        if uid is None:
            passed_over.append(f"{_relative(path, root)}: no SeriesInstanceUID")
            continue
        groups.setdefault(uid, []).append((path, header))
    warnings = []
    if passed_over:
        warnings.append(f"{len(passed_over)} DICOM files cannot be read and were passed over; l2s inspect names them")
    copies: list[str] = []
    series = [_series(uid, members, root, copies) for uid, members in groups.items()]
    if copies:
        warnings.append(f"{len(copies)} files are copies of others and were passed over")
    series.sort(key=lambda s: (s.study_uid, s.number if s.number is not None else 1 << 31, s.uid))
    return Table(tuple(series), tuple(warnings), tuple(passed_over + copies))


def read_header(path: Path, keywords: Sequence[str] | None = None, defer_bytes: int | None = None) -> Dataset:
    """A file's header without voxels.

    Args:
        keywords: read these alone.
        defer_bytes: of top-level elements above this size no value is read.

    Raises:
        InputError: it cannot be read, or is deflated and swells like a bomb.
    """
    import pydicom

    try:
        with quiet():
            _check_deflated(path)
            header = pydicom.dcmread(
                path,
                stop_before_pixels=True,
                force=True,
                specific_tags=list(keywords) if keywords else None,
                defer_size=defer_bytes,
            )
    except InputError:
        raise
    except (*malformed(), *BROKEN) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise UnreadableFile(
                f"{path} cannot be read ({error.strerror}); mend its rights or the disk, or leave it out"
            ) from error
        raise InputError(f"unreadable header: {short(error)}") from error
    if not hasattr(header, "file_meta"):
        raise InputError("unreadable header: no DICOM")
    return header


def read_slice_header(path: Path) -> Dataset:
    """A slice's header as it is kept for a whole series: without voxels, without elements above 64 KiB, and of private ones with
    those of suv.py alone.

    Raises:
        InputError: see read_header.
    """
    header = read_header(path, defer_bytes=LARGE_BYTES)
    _shed(header)
    return header


def _shed(header: Dataset) -> None:
    for tag, element in list(header.items()):  # items() leaves elements as they were read: asking for one would fetch its value
        size = getattr(element, "length", None)  # of an element that is not decoded yet
        value = getattr(element, "value", None)
        if size in (None, 0xFFFFFFFF):
            size = len(value) if isinstance(value, bytes | str) else 0
        if size > LARGE_BYTES or (tag.is_private and tag.group not in PRIVATE_GROUPS):
            del header[tag]
        elif getattr(element, "VR", None) == "SQ" and not isinstance(value, bytes) and value is not None:
            for item in value:
                _shed(item)


def _check_deflated(path: Path) -> None:
    """Raises InputError where a deflated file would swell like a bomb: pydicom inflates it whole, however large that gets."""
    from pydicom import filereader

    with path.open("rb") as file:
        filereader.read_preamble(file, True)
        # the public function for this refuses files without preamble, and such a one may be deflated too
        if str(filereader._read_file_meta_info(file).get("TransferSyntaxUID")) != DEFLATED:
            return
        packed, total = os.fstat(file.fileno()).st_size, 0
        unzip = zlib.decompressobj(-zlib.MAX_WBITS)
        rest = file.read(BLOCK_BYTES)
        while rest and not unzip.eof:
            total += len(unzip.decompress(rest, BLOCK_BYTES))
            if total > SMALL_BYTES and total > MAX_RATIO * packed:
                raise InputError(
                    f"a deflated file of {packed / 2**20:.1f} MiB swells beyond {SMALL_BYTES // 2**20} MiB and {MAX_RATIO} times its size: "
                    "this looks like a bomb"
                )
            rest = unzip.unconsumed_tail or file.read(BLOCK_BYTES)


def _relative(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else Path(path.name)


def _series(uid: str, members: list[tuple[Path, Dataset]], root: Path, copies: list[str]) -> Series:
    """One row of the table; a series whose headers cannot be used gets its problem noted, so that the others are still read."""
    path, first = members[0]
    instances, problem = [], None
    try:
        instances = [_instance(p, h) for p, h in members]
        instances = _without_copies(instances, root, copies)
        for keyword in ("Modality", "StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "PatientID"):
            read = _patient if keyword == "PatientID" else text
            if (count := len({read(h, keyword) for _, h in members})) > 1:
                raise InputError(f"its slices disagree on {keyword} ({count} values); export the series again, alone")
        if text(first, "Modality") == "PT":
            first = read_slice_header(path)  # units, corrections, private elements
    except InputError as error:
        problem = str(error)
        instances = instances or [Instance(p, "", "", 0, 0, 1, None, None, None) for p, _ in members]

    def safely(keyword: str) -> str:
        try:
            return text(first, keyword) or ""
        except InputError:
            return ""

    try:
        kinds = texts(first, "ImageType")
        order = number(first, "SeriesNumber")
    except InputError:
        kinds, order = (), None
    if order is not None and abs(order) >= 1 << 31:  # an IS has 32 bits
        order = None
    return Series(
        uid=uid,
        study_uid=safely("StudyInstanceUID"),
        frame_uid=safely("FrameOfReferenceUID"),
        modality=safely("Modality"),
        number=None if order is None else int(order),
        description=safely("SeriesDescription"),
        image_type=kinds,
        sop_class=safely("SOPClassUID"),
        instances=tuple(instances),
        header=first,
        patient=_patient(first),
        problem=problem,
    )


def _patient(header: Dataset, keyword: str = "PatientID") -> str:
    """A hash of the PatientID, whatever it holds: it is compared, never shown."""
    value = lenient(raw, header, keyword)
    words = "" if value is None else str(value).strip(" \0")
    return hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:12] if words else ""


def _instance(path: Path, header: Dataset) -> Instance:
    return Instance(
        path=path,
        uid=text(header, "SOPInstanceUID") or "",
        sop_class=text(header, "SOPClassUID") or "",
        rows=int(number(header, "Rows") or 0),
        columns=int(number(header, "Columns") or 0),
        frames=int(number(header, "NumberOfFrames") or 1),
        position_mm_xyz=numbers(header, "ImagePositionPatient", 3),
        orientation=numbers(header, "ImageOrientationPatient", 6),
        spacing_mm=numbers(header, "PixelSpacing", 2),
    )


def _without_copies(instances: list[Instance], root: Path, copies: list[str]) -> list[Instance]:
    """Files that are copies of another, byte for byte, are dropped and listed in copies.

    Raises:
        InputError: two files have one SOPInstanceUID but are not the same.
    """
    kept: dict[str, Instance] = {}
    for instance in instances:
        other = kept.setdefault(instance.uid or str(instance.path), instance)
        if other is instance:
            continue
        names = f"{_relative(instance.path, root)}: the same SOPInstanceUID as {_relative(other.path, root)}"
        copies.append(names)
        if _digest(other.path) != _digest(instance.path):
            copies[-1] += ", but another content"
            raise InputError("two of its files have the same SOPInstanceUID but differ (l2s inspect names them); remove one")
    return list(kept.values())


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@dataclass(frozen=True)
class Stack:
    """A series' slices in the order of the volume's first axis.

    Attributes:
        series: whose slices these are.
        instances: along the normal of the slices (row direction x column direction), lowest first, as ITK orders them.
        grid: the regular grid from the first slice to the last, in the series' own orientation.
        offsets_mm: where each slice really lies along the normal, the first at 0.
        regular: whether every slice lies within JOINT of its regular place; else the voxels must be resampled.
    """

    series: Series
    instances: tuple[Instance, ...]
    grid: Grid
    offsets_mm: tuple[float, ...]
    regular: bool

    @property
    def worst(self) -> float:
        """The largest distance of a slice from its regular place, in slice distances."""
        spacing = self.grid.spacing_mm_zyx[0]
        return float(np.abs(np.asarray(self.offsets_mm) / spacing - np.arange(len(self.offsets_mm))).max())


def stack(series: Series) -> Stack:
    """The slices in order and their grid.

    Raises:
        InputError: too few slices, several frames a file, no, mixed or absurd orientation, size or spacing, a tilted gantry, slices
            missing or in one place. The line names the positions.
    """
    if series.problem:
        raise InputError(series.problem)
    instances = series.instances
    if any(i.frames > 1 for i in instances):
        raise InputError("it has several frames in one file; export it as classic single-slice objects")
    if len(instances) < MIN_SLICES:
        raise InputError(f"it has {len(instances)} slices (limit: at least {MIN_SLICES}); give the whole volume")
    for field, keyword in (("position_mm_xyz", "ImagePositionPatient"), ("orientation", "ImageOrientationPatient")):
        if lacking := sum(getattr(i, field) is None for i in instances):
            raise InputError(f"{lacking} of its {len(instances)} slices lack {keyword}; export it again")
    first = instances[0]
    orientations = np.array([i.orientation for i in instances])
    positions = np.array([i.position_mm_xyz for i in instances])
    odd = np.flatnonzero(np.abs(orientations - orientations[0]).max(axis=1) > SAME_DIRECTION)
    if len(odd):
        raise InputError(
            f"its slices have mixed orientations: at {_shown(positions[0])} mm {_shown(orientations[0])}, at "
            f"{_shown(positions[odd[0]])} mm {_shown(orientations[odd[0]])}; export each stack as a series of its own"
        )
    for field in ("rows", "columns", "spacing_mm"):
        if len({getattr(i, field) for i in instances}) > 1:
            values = sorted({str(getattr(i, field)) for i in instances})
            raise InputError(f"its slices differ in {field} ({', '.join(values[:3])}); export it again")
    if first.spacing_mm is None or min(first.spacing_mm) <= 0 or min(first.rows, first.columns) < 1:
        raise InputError(
            f"PixelSpacing is {first.spacing_mm}, {first.rows} rows, {first.columns} columns: no image; export it again"
        )
    if max(first.rows, first.columns) > MAX_EDGE or len(instances) * first.rows * first.columns > MAX_VOXELS:
        raise InputError(
            f"{first.columns:.6g} columns, {first.rows:.6g} rows and {len(instances)} slices (limits {MAX_EDGE}, {MAX_EDGE} and "
            f"{MAX_VOXELS} voxels): no image of a body; export it again"
        )
    row, column = orientations[0][:3], orientations[0][3:]
    direction, _ = orthonormal(np.stack([row, column, np.cross(row, column)], axis=1), "ImageOrientationPatient")
    normal = np.asarray(direction)[:, 2]
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    along, positions = along[order] - along[order[0]], positions[order]
    spacing = along[-1] / (len(along) - 1)
    _check_gaps(along, positions, instances)
    # a slice may be shifted in its own plane by rounding, not by a tilt of the gantry
    drift = np.abs(positions - positions[0] - along[:, None] * normal).max()
    if drift > DRIFT * min(first.spacing_mm):
        raise InputError(
            f"its slices are shifted against each other by up to {drift:.2f} mm in their own plane (limit "
            f"{DRIFT * min(first.spacing_mm):.2f} mm): a tilted gantry or mixed stacks; export it without tilt"
        )
    grid = Grid(
        (len(along), first.rows, first.columns),
        (float(spacing), *map(float, first.spacing_mm)),
        tuple(float(v) for v in positions[0]),
        direction,
    )
    worst = np.abs(along / spacing - np.arange(len(along))).max()
    return Stack(series, tuple(instances[k] for k in order), grid, tuple(float(v) for v in along), bool(worst <= JOINT))


def _check_gaps(along: np.ndarray, positions: np.ndarray, instances: Sequence[Instance]) -> None:
    """Raises InputError where two slices lie in one place or one is missing."""
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    same = np.flatnonzero(gaps <= max(DUPLICATE * usual, 1e-3))
    if len(same):
        raise InputError(
            f"{len(same) + 1} or more of its {len(instances)} slices share a place, first at {_shown(positions[same[0]])} mm: a dynamic or "
            "gated series, or two in one; export one frame as a series of its own"
        )
    wide = np.flatnonzero(gaps > GAP * usual)
    if len(wide):
        k = wide[0]
        raise InputError(
            f"slices are missing: between {_shown(positions[k])} and {_shown(positions[k + 1])} mm lie {gaps[k]:.2f} mm, elsewhere "
            f"{usual:.2f} mm ({len(wide)} such gaps); copy the whole series again"
        )


def _shown(values) -> str:
    return "(" + ", ".join(f"{v:g}" for v in np.round(values, 3)) + ")"


def read_voxels(built: Stack) -> np.ndarray:
    """float32 (slices, rows, columns): stored values by each slice's OWN slope and intercept, on the stack's regular grid.

    Raises:
        InputError: a slice has no voxels, or they are damaged, in colour, or in a compression that is not read.
    """
    out = np.empty(built.grid.shape_zyx, np.float32)
    for k, instance in enumerate(built.instances):
        out[k] = _slice(instance.path)
    return out if built.regular else _regular(out, built)


def _slice(path: Path) -> np.ndarray:
    """float64 (rows, columns), rescaled."""
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    try:
        with quiet():
            dataset = pydicom.dcmread(path, force=True)
            if "TransferSyntaxUID" not in dataset.file_meta:  # a file without preamble: pydicom saw how it is written
                implicit, little = dataset.original_encoding
                plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
                dataset.file_meta.TransferSyntaxUID = plain
            if int(number(dataset, "SamplesPerPixel") or 1) != 1 or text(dataset, "PhotometricInterpretation") != "MONOCHROME2":
                raise InputError(
                    f"{path}: voxels are {text(dataset, 'PhotometricInterpretation')}; MONOCHROME2 is read: this is a picture of the image"
                )
            if raw(dataset, "ModalityLUTSequence") is not None:
                raise InputError(
                    f"{path}: values go through a lookup table (ModalityLUTSequence), which is not read; export it again"
                )
            slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
            if not slope or slope < 0:
                raise InputError(
                    f"{path}: RescaleSlope is {'absent' if slope is None else f'{slope:g}'}; export the series again"
                )
            return dataset.pixel_array * slope + (intercept or 0.0)
    except InputError:
        raise
    except (*malformed(), *BROKEN) as error:
        raise InputError(f"{path}: its voxels cannot be read ({short(error)}); copy or export it again") from error


def _regular(slices: np.ndarray, built: Stack) -> np.ndarray:
    """Slices at built.offsets_mm, linearly interpolated to the regular places of the grid."""
    offsets = np.asarray(built.offsets_mm)
    wanted = np.arange(len(offsets)) * built.grid.spacing_mm_zyx[0]
    below = np.clip(np.searchsorted(offsets, wanted, side="right") - 1, 0, len(offsets) - 2)
    share = ((wanted - offsets[below]) / (offsets[below + 1] - offsets[below])).astype(np.float32)
    out = np.empty_like(slices)
    for k, (low, part) in enumerate(zip(below, np.clip(share, 0, 1))):
        out[k] = (1 - part) * slices[low] + part * slices[low + 1]
    return out
