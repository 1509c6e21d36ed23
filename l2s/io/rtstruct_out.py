"""DICOM RT Structure Set: one region a lesion, as closed polygons along the pixels' edges in the planes of the PET's slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ImplicitVRLittleEndian, RTStructureSetStorage

from l2s.io.borrowed import PATIENT_AND_STUDY
from l2s.io.contours import outlines
from l2s.io.dicom_out import (
    ARTIFICIAL_INTELLIGENCE,
    CATEGORY,
    LESION,
    MANUFACTURER,
    RESEARCH_USE,
    Findings,
    colour_rgb,
    encoding,
    lesion_name,
    save,
    stamp,
)

SERIES_NUMBER = 9003
STUDY_COMPONENT_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, retired: a study has no other class
DECIMALS = 4  # of a contour's mm: DICOM allows 16 characters a number


def write_rtstruct(path: Path, findings: Findings, one_region: bool = False) -> Dataset | None:
    """Writes the lesions as an RT Structure Set.

    Where there is no lesion nothing is written and a former file at path is removed, as write_seg does and for its reason.

    Args:
        path: of the file; it is replaced in one step.
        findings: of dicom_out.prepare.
        one_region: all lesions as one region instead of one each.

    Returns:
        The object as written; None where there is no lesion.

    Raises:
        InputError: the file cannot be written.
    """
    if findings.count == 0:
        Path(path).unlink(missing_ok=True)
        return None
    dataset = make_rtstruct(findings, one_region)
    save(path, dataset)
    return dataset


def make_rtstruct(findings: Findings, one_region: bool = False) -> Dataset:
    """The structure set of one lesion or more.

    Raises:
        InputError: the headers do not allow one.
    """
    lesions = list(range(1, findings.count + 1))
    regions = [("FDG-avid lesions", lesions)] if one_region else [(lesion_name(n), [n]) for n in lesions]
    with encoding("RTSTRUCT"):
        dataset = _frame(findings, "one" if one_region else "each")
        dataset.StructureSetROISequence = [_region(findings, k, *region) for k, region in enumerate(regions, 1)]
        dataset.ROIContourSequence = [_contours(findings, k, numbers) for k, (_, numbers) in enumerate(regions, 1)]
        dataset.RTROIObservationsSequence = [_observation(k) for k in range(1, len(regions) + 1)]
    return dataset


def _frame(findings: Findings, what: str) -> Dataset:
    """Everything but the regions: patient, study, series, equipment, references, approval."""
    producer, first = findings.producer, findings.context
    dataset = Dataset()
    for keyword in PATIENT_AND_STUDY:
        if keyword in first:
            dataset[keyword] = first[keyword]
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = findings.uid("rtstruct", what, "instance")
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = findings.uid("rtstruct", what, "series")
    dataset.SeriesNumber = SERIES_NUMBER
    dataset.InstanceNumber = 1
    dataset.SeriesDescription = f"{producer.name} lesions, RTSTRUCT. Research use only"
    dataset.OperatorsName = ""
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = producer.name
    dataset.SoftwareVersions = producer.version
    dataset.FrameOfReferenceUID = first.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")
    dataset.StructureSetLabel = "FDG lesions"
    dataset.StructureSetName = f"FDG-avid lesions by {producer.name}"
    dataset.StructureSetDescription = f"FDG-avid lesions by {producer.name} {producer.version}. {RESEARCH_USE}"
    dataset.StructureSetDate = dataset.StructureSetTime = ""
    stamp(dataset, findings)
    dataset.ReferencedFrameOfReferenceSequence = [_references(findings)]
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.file_meta = FileMetaDataset()
    # implicit: a contour's text may be longer than the 64 KiB that an explicit length can say
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return dataset


def _references(findings: Findings) -> Dataset:
    """All slices of the series, in its frame of reference."""
    first = findings.slices.headers[0]
    series = Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = [_image(header) for header in findings.slices.headers]
    study = Dataset()
    study.ReferencedSOPClassUID = STUDY_COMPONENT_CLASS
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def _region(findings: Findings, roi: int, name: str, numbers: list[int]) -> Dataset:
    """Name, origin and volume of a region."""
    producer = findings.producer
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [_code(ARTIFICIAL_INTELLIGENCE)]
    algorithm.AlgorithmName = producer.name
    algorithm.AlgorithmVersion = producer.version
    algorithm.AlgorithmSource = MANUFACTURER
    if producer.parameters:
        algorithm.AlgorithmParameters = "\n".join(producer.parameters)
    item = Dataset()
    item.ROINumber = roi
    item.ReferencedFrameOfReferenceUID = findings.slices.headers[0].FrameOfReferenceUID
    item.ROIName = name
    item.ROIDescription = RESEARCH_USE
    volume_ml = sum(int(findings.voxels[n - 1]) for n in numbers) * findings.voxel_volume_ml
    item.ROIVolume = f"{volume_ml:.6g}"
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{producer.name} {producer.version}"
    item.ROIDerivationAlgorithmIdentificationSequence = [algorithm]
    return item


def _contours(findings: Findings, roi: int, numbers: list[int]) -> Dataset:
    """The polygons of a region, plane by plane."""
    item = Dataset()
    item.ROIDisplayColor = list(colour_rgb(roi))
    item.ReferencedROINumber = roi
    item.ContourSequence = []
    for number in numbers:
        planes, rows, columns = findings.boxes[number - 1]
        for plane in range(planes.start, planes.stop):
            inside = findings.labels[plane, rows, columns] == number
            for polygon in outlines(inside):
                item.ContourSequence.append(_contour(findings.slices.headers[plane], polygon + (rows.start, columns.start)))
    for k, contour in enumerate(item.ContourSequence, 1):
        contour.ContourNumber = k
    return item


def _contour(header: Dataset, corners: np.ndarray) -> Dataset:
    """One polygon of (row, column) pixel corners, in mm."""
    contour = Dataset()
    contour.ContourImageSequence = [_image(header)]
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(corners)
    contour.ContourData = [f"{v:.{DECIMALS}f}" for v in corners_to_mm_xyz(header, corners).ravel()]
    return contour


def corners_to_mm_xyz(header: Dataset, corners: np.ndarray) -> np.ndarray:
    """LPS positions (n, 3) of (row, column) pixel corners of a slice; corner (0, 0) is half a pixel before the first pixel's centre."""
    cosines = np.asarray(header.ImageOrientationPatient, float)
    row_mm, column_mm = (float(v) for v in header.PixelSpacing)
    down = (corners[:, :1] - 0.5) * row_mm * cosines[3:]
    right = (corners[:, 1:] - 0.5) * column_mm * cosines[:3]
    return np.asarray(header.ImagePositionPatient, float) + down + right


def _observation(roi: int) -> Dataset:
    """What a region is: a lesion. No interpreted type: GTV and its kin are a physician's words."""
    item = Dataset()
    item.ObservationNumber = roi
    item.ReferencedROINumber = roi
    item.SegmentedPropertyCategoryCodeSequence = [_code(CATEGORY)]
    item.RTROIIdentificationCodeSequence = [_code(LESION)]
    item.RTROIInterpretedType = ""
    item.ROIInterpreter = ""
    return item


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item
