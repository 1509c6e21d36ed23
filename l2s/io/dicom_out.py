"""What the DICOM results share: the numbered lesions in the slices' pixel grid, who made them, names and UIDs, writing a file.

`prepare` comes first; seg_out.py, sr_out.py and rtstruct_out.py take what it gives, so that all three speak
of the same lesions by the same tracking UIDs. docs/dicom-results.md says what a receiver finds in the files.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import PYDICOM_ROOT_UID, generate_uid

from l2s import components
from l2s.errors import InputError
from l2s.io.borrowed import mend, zone_of
from l2s.io.headers import malformed, quiet
from l2s.io.slices import Slices, match
from l2s.study import Grid
from l2s.wholefile import whole_file

log = logging.getLogger(__name__)

RESEARCH_USE = "Research use only. Not for diagnosis."
MANUFACTURER = "l2s"
FORMATS = ("seg", "sr", "rtstruct")
MAX_LESIONS = 1000  # a segment each, 20 ms each; more is noise, and viewers list every one of them

# DICOM PS3.16: CID 7150, CID 7151 (as in the segmentation categories and types of DICOM), CID 7162
CATEGORY = Code("49755003", "SCT", "Morphologically Abnormal Structure")
LESION = Code("52988006", "SCT", "Lesion")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

# Okabe and Ito's colours, told apart by colour-blind readers; black left out
COLOURS_RGB = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


@dataclass(frozen=True)
class Producer:
    """Which algorithm made the mask: goes into every object.

    Attributes:
        version: of the software.
        name: of the algorithm.
        parameters: further facts as KEY=VALUE lines, such as the weights' name and SHA-256.
    """

    version: str
    name: str = "L2SNet"
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """The lesions of one mask, in the pixel grid of the slices that it was made on.

    Attributes:
        labels: uint8 or uint16 (plane, row, column), 0 background, 1..count the lesions, the largest first; plane k is
            slices.headers[k].
        count: lesions; 0 is an answer too.
        slices: the source series.
        voxel_volume_ml: of one voxel of the mask.
        producer: who made them.
        seed: None for new UIDs at each call; else UIDs follow from it, the series and the mask.
    """

    labels: np.ndarray
    count: int
    slices: Slices
    voxel_volume_ml: float
    producer: Producer
    seed: str | None = None

    @cached_property
    def content(self) -> str:
        """SHA-256 of what the objects are made of, so that equal UIDs mean equal content."""
        digest = hashlib.sha256(repr((self.slices.headers[0].SeriesInstanceUID, self.producer, self.labels.shape)).encode())
        inside = np.flatnonzero(self.labels)
        digest.update(inside.tobytes())
        digest.update(self.labels.reshape(-1)[inside].tobytes())
        return digest.hexdigest()

    def uid(self, *what: str) -> str:
        """A UID under pydicom's root for one thing; the same thing gets the same one where there is a seed."""
        return str(generate_uid(PYDICOM_ROOT_UID, None if self.seed is None else [self.seed, self.content, *what]))

    @cached_property
    def _mended(self) -> tuple[Dataset, list[str]]:
        return mend(self.slices.headers, self.slices.plane_mm)

    @property
    def context(self) -> Dataset:
        """The first slice's header, fit to lend patient and study (see borrowed.mend)."""
        return self._mended[0]

    @property
    def warnings(self) -> list[str]:
        """What of the patient's and study's attributes could not be taken over."""
        return self._mended[1]

    @cached_property
    def tracking_uids(self) -> tuple[str, ...]:
        """One a lesion, in order of their numbers: shared by SEG, SR and RTSTRUCT."""
        return tuple(self.uid("lesion", str(n)) for n in range(1, self.count + 1))

    @cached_property
    def boxes(self) -> list[tuple[slice, slice, slice]]:
        """The box (plane, row, column) around each lesion, in order of their numbers."""
        from scipy import ndimage

        return ndimage.find_objects(self.labels, self.count)

    @cached_property
    def voxels(self) -> np.ndarray:
        """int64 (count,): voxels of each lesion."""
        return np.bincount(self.labels[self.labels > 0], minlength=self.count + 1)[1:]

    def sources_of(self, number: int) -> tuple[Dataset, ...]:
        """Headers of the slices that lesion `number` (from 1) runs through."""
        planes = self.boxes[number - 1][0]
        return self.slices.headers[planes]


def lesion_name(number: int) -> str:
    return f"FDG-avid lesion {number}"


def colour_rgb(number: int) -> tuple[int, int, int]:
    """The display colour of a lesion; neighbours in number differ."""
    return COLOURS_RGB[(number - 1) % len(COLOURS_RGB)]


def prepare(
    mask: np.ndarray,
    grid: Grid,
    sources: Sequence[Dataset] | Slices,
    producer: Producer,
    seed: str | None = None,
    connectivity: int = 18,
    min_voxels: int = 1,
) -> Findings:
    """Numbers the lesions of a mask and finds the slice of each of its planes.

    Args:
        mask: bool (z, y, x) on grid; its lesions are numbered as in all tables (components.largest_first).
        grid: the mask's LPS grid.
        sources: headers of the PET series, in any order (slices.match), or what match made of them.
        producer: the algorithm.
        seed: makes UIDs repeatable: equal seed, series, producer and lesions give equal UIDs.
        connectivity: 6, 18 or 26 neighbours make one lesion.
        min_voxels: smaller components are left out, as the table of measures leaves them out.

    Raises:
        InputError: the slices are not those of the mask, or there are more than MAX_LESIONS lesions.
    """
    if mask.shape != grid.shape_zyx:
        raise InputError(f"the mask has shape {mask.shape}, its grid {grid.shape_zyx}; they must be equal")
    slices = sources if isinstance(sources, Slices) else match(sources, grid)
    found = components.largest_first(components.label(mask, connectivity), min_voxels)
    if found.count > MAX_LESIONS:
        raise InputError(
            f"the mask has {found.count} lesions (limit {MAX_LESIONS} in a DICOM result); leave out small ones with a minimum volume"
        )
    # uint8 where the numbers fit: a whole body stays small
    labels = np.zeros(mask.shape, np.uint8 if found.count < 2**8 else np.uint16)
    labels.reshape(-1)[found.voxels] = found.owner + 1
    return Findings(slices.as_stored(labels), found.count, slices, grid.voxel_volume_ml, producer, seed)


@contextmanager
def encoding(what: str) -> Iterator[None]:
    """Around the libraries that make and encode an object: without their warnings, which quote values, and a value may be a name.

    Raises:
        InputError: for whatever they raise on a value that they cannot take.
    """
    with quiet():
        try:
            yield
        except InputError:
            raise
        except (*malformed(), KeyError) as error:
            raise InputError(
                f"a DICOM {what} cannot be made from the headers of this PET series ({type(error).__name__}); export the series again, or "
                "leave this format out"
            ) from error


def stamp(dataset: Dataset, findings: Findings) -> None:
    """Sets the times of its making, in the scanner's time zone where the header has one: a header's times have one zone."""
    now = datetime.now(zone_of(findings.context))
    if "TimezoneOffsetFromUTC" in findings.context:
        dataset.TimezoneOffsetFromUTC = findings.context.TimezoneOffsetFromUTC
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    for kind in ("Content", "StructureSet"):
        if f"{kind}Date" in dataset:
            dataset[f"{kind}Date"].value, dataset[f"{kind}Time"].value = f"{now:%Y%m%d}", f"{now:%H%M%S}"


def save(path: Path, dataset: Dataset) -> None:
    """Writes a DICOM file through a temporary name.

    Raises:
        InputError: the disk refused it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial, encoding("object"):
            dataset.save_as(partial, enforce_file_format=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); check the folder's rights and its space"
        ) from error


def write_results(
    out: Path, findings: Findings, figures, formats: Sequence[str], one_region: bool = False, labelmap: bool = False
) -> list[str]:
    """Writes seg.dcm, sr.dcm and rtstruct.dcm of the formats asked for into a folder without former ones, and returns a line on each.

    Where there is no lesion an SR is written whatever was asked for: SEG and RTSTRUCT cannot say so.
    """
    from l2s.io import rtstruct_out, seg_out, sr_out

    lines, segmentation = [], None
    for line in findings.warnings:
        log.warning("%s", line)
    if findings.count == 0 and "sr" not in formats:
        formats = (*formats, "sr")
    if "seg" in formats:
        segmentation = seg_out.write_seg(out / "seg.dcm", findings, seg_out.LABELMAP if labelmap else seg_out.BINARY)
    if "rtstruct" in formats:
        rtstruct_out.write_rtstruct(out / "rtstruct.dcm", findings, one_region)
    if "sr" in formats:
        sr_out.write_sr(out / "sr.dcm", findings, figures, segmentation)
    for name in FORMATS:
        path = out / f"{name}.dcm"
        if name in formats and findings.count == 0 and name != "sr":
            lines.append(f"no {name}.dcm: no lesion, which only the SR can say")
        elif name in formats:
            lines.append(f"{path.name}: {findings.count} lesions, {figures.tmtv_ml:.2f} ml, {path.stat().st_size} bytes")
    return lines


def rehearse(slices: Slices, grid: Grid, formats: Sequence[str]) -> None:
    """Makes the objects of one voxel, and drops them: what these headers do not allow shows before the work instead of after it.

    Args:
        slices: of slices.match. grid: the mask's.

    Raises:
        InputError: an object cannot be made.
    """
    from l2s.io import rtstruct_out, seg_out, sr_out

    shape = tuple(grid.shape_zyx[axis] for axis in slices.axes)
    labels = np.zeros(shape, np.uint8)
    labels[0, 0, 0] = 1
    findings = Findings(labels, 1, slices, grid.voxel_volume_ml, Producer("0"))
    made = [sr_out.make_sr(findings, sr_out.volumes_of(findings))]
    if "seg" in formats:
        made.append(seg_out.make_seg(findings))
    if "rtstruct" in formats:
        made.append(rtstruct_out.make_rtstruct(findings))
    for dataset in made:
        with encoding(dataset.Modality):
            dataset.save_as(BytesIO(), enforce_file_format=True)
