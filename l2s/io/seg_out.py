"""DICOM Segmentation: one segment a lesion, in the pixel grid of the PET's slices. Encoding by highdicom."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
from highdicom.color import CIELabColor
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

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

SERIES_NUMBER = 9001
BINARY, LABELMAP = "BINARY", "LABELMAP"


def write_seg(path: Path, findings: Findings, kind: str = BINARY) -> hd.seg.Segmentation | None:
    """Writes the lesions as a Segmentation.

    A Segmentation without a segment is not allowed, and one with an empty segment would be read as a lesion: where there is none,
    nothing is written, a former file at path is removed, and the SR alone states that no lesion was found.

    Args:
        path: of the file; it is replaced in one step.
        findings: of dicom_out.prepare.
        kind: BINARY, which every reader knows, uncompressed as it has to be; or LABELMAP (DICOM of 2024), one byte a voxel in RLE.

    Returns:
        The object as written, for write_sr to refer to; None where there is no lesion.

    Raises:
        InputError: the file cannot be written.
    """
    if findings.count == 0:
        Path(path).unlink(missing_ok=True)
        return None
    segmentation = make_seg(findings, kind)
    save(path, segmentation)
    return segmentation


def make_seg(findings: Findings, kind: str = BINARY) -> hd.seg.Segmentation:
    """The Segmentation of one lesion or more.

    Raises:
        InputError: the headers do not allow one.
    """
    producer = findings.producer
    if kind == LABELMAP and "gdcm" in RLELosslessEncoder.available_plugins:
        # gdcm 3.2 aborts the whole process on some frames; pydicom's own encoder, the other one, does not
        RLELosslessEncoder.remove_plugin("gdcm")
    with encoding("SEG"):
        segmentation = hd.seg.Segmentation(
            source_images=[findings.context, *findings.slices.headers[1:]],
            pixel_array=findings.labels,
            segmentation_type=kind,
            segment_descriptions=[_describe(findings, number) for number in range(1, findings.count + 1)],
            series_instance_uid=findings.uid("seg", kind, "series"),
            series_number=SERIES_NUMBER,
            sop_instance_uid=findings.uid("seg", kind, "instance"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=producer.name,
            software_versions=producer.version,
            device_serial_number="none",
            content_description=f"FDG-avid lesions. {RESEARCH_USE}",
            content_label="FDG_LESIONS",
            transfer_syntax_uid=RLELossless if kind == LABELMAP else ExplicitVRLittleEndian,
            series_description=f"{producer.name} lesions, SEG. Research use only",
            specific_character_set=None,
        )
        if "SpecificCharacterSet" in findings.context:
            segmentation.SpecificCharacterSet = findings.context.SpecificCharacterSet
        stamp(segmentation, findings)
    organization = findings.uid("seg", kind, "dimensions")
    segmentation.DimensionOrganizationSequence[0].DimensionOrganizationUID = organization
    for index in segmentation.DimensionIndexSequence:
        index.DimensionOrganizationUID = organization
    return segmentation


def _describe(findings: Findings, number: int) -> hd.seg.SegmentDescription:
    producer = findings.producer
    algorithm = hd.AlgorithmIdentificationSequence(producer.name, ARTIFICIAL_INTELLIGENCE, producer.version, MANUFACTURER)
    if producer.parameters:
        algorithm[0].AlgorithmParameters = "\n".join(producer.parameters)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=lesion_name(number),
        segmented_property_category=CATEGORY,
        segmented_property_type=LESION,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=findings.tracking_uids[number - 1],
        tracking_id=lesion_name(number),
        display_color=CIELabColor.from_rgb(*colour_rgb(number)),
    )
