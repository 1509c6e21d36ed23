"""DICOM Structured Report by TID 1500: what was measured on each lesion and on the patient. Encoding by highdicom.

Every code is in DICOM PS3.16 or in the SNOMED CT subset that DICOM uses; a figure that has no code there is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import PYDICOM_ROOT_UID, generate_uid

from l2s.errors import InputError
from l2s.io.dicom_out import (
    ARTIFICIAL_INTELLIGENCE,
    CATEGORY,
    LESION,
    MANUFACTURER,
    RESEARCH_USE,
    Findings,
    encoding,
    lesion_name,
    save,
    stamp,
)

SERIES_NUMBER = 9002

TITLE = Code("126003", "DCM", "PET Measurement Report")  # CID 7021
PROCEDURE = Code("44136-0", "LN", "PET unspecified body region")  # CID 100; what was scanned is not known here
COMMENT = Code("121106", "DCM", "Comment")
VOLUME = Code("118565006", "SCT", "Volume")
METABOLIC_VOLUME = Code("126032", "DCM", "Metabolic Volume")  # CID 7466
LESION_GLYCOLYSIS = Code("126033", "DCM", "Total Lesion Glycolysis")  # CID 7466
LESION_COUNT = Code("246206008", "SCT", "Number of lesions")
SUM_OF_VOXELS = Code("126030", "DCM", "Sum of segmented voxel method for volume")  # CID 7474
MAXIMUM = Code("56851009", "SCT", "Maximum")  # these four: CID 7464
MEAN = Code("373098007", "SCT", "Mean")
PEAK = Code("126031", "DCM", "Peak Value Within ROI")
TOTAL = Code("255619001", "SCT", "Total")
CUBIC_CENTIMETRE = Code("cm3", "UCUM", "cubic centimeter")
GRAM = Code("g", "UCUM", "gram")
NO_UNITS = Code("1", "UCUM", "no units")


@dataclass(frozen=True)
class SuvType:
    """How DICOM names one normalisation of uptake: the concept, its unit (CID 85) and its method."""

    concept: Code
    unit: Code
    method: Code


SUV_TYPES = {
    "bw": SuvType(
        Code("126401", "DCM", "SUVbw"),
        Code("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight"),
        Code("126410", "DCM", "SUV body weight calculation method"),
    ),
    "lbm_janmahasatian": SuvType(
        Code("126405", "DCM", "SUVlbm(Janma)"),
        Code("g/ml{SUVlbm(Janma)}", "UCUM", "Standardized Uptake Value lean body mass (Janma)"),
        Code("126414", "DCM", "SUV lean body mass calculation Janmahasatian method"),
    ),
    "lbm_james": SuvType(
        Code("126402", "DCM", "SUVlbm"),
        Code("g/ml{SUVlbm}", "UCUM", "Standardized Uptake Value lean body mass (James)"),
        Code("126411", "DCM", "SUV lean body mass calculation method"),
    ),
    "lbm_james128": SuvType(
        Code("126406", "DCM", "SUVlbm(James128)"),
        Code("g/ml{SUVlbm(James128)}", "UCUM", "Standardized Uptake Value lean body mass (James 128 multiplier)"),
        Code("126415", "DCM", "SUV lean body mass calculation method using 128 multiplier"),
    ),
}


@dataclass(frozen=True)
class LesionFigures:
    """What was measured on one lesion; None or NaN where a figure is unknown, and then it is left out.

    Attributes:
        number: the lesion's number in the mask, from 1.
        volume_ml: its volume.
        suv_max, suv_mean, suv_peak: uptake; the peak in a sphere of 1 ml.
        tlg_g: total lesion glycolysis, SUVmean x volume.
    """

    number: int
    volume_ml: float
    suv_max: float | None = None
    suv_mean: float | None = None
    suv_peak: float | None = None
    tlg_g: float | None = None


@dataclass(frozen=True)
class Figures:
    """What was measured on a patient.

    Attributes:
        lesions: one a lesion; those that are not measured are left out.
        tmtv_ml: total metabolic tumour volume.
        tlg_g: total lesion glycolysis of all lesions.
        suv_max: the largest uptake in any lesion.
        suv_type: a key of SUV_TYPES.
    """

    lesions: tuple[LesionFigures, ...]
    tmtv_ml: float
    tlg_g: float | None = None
    suv_max: float | None = None
    suv_type: str = "bw"


class MeasuredLesion(Protocol):
    """What is taken of a row of the table of measures (l2s.measure.lesions.Lesion, which no module of io may import)."""

    number: int
    volume_ml: float
    suv_max: float
    suv_mean: float
    suv_peak_global: float
    tlg_suv_ml: float


class MeasuredPatient(Protocol):
    """The same of the patient's row (l2s.measure.lesions.Patient)."""

    tmtv_ml: float
    tlg_suv_ml: float
    suv_max: float | None


def figures_of(lesions: Sequence[MeasuredLesion], patient: MeasuredPatient) -> Figures:
    """The figures of a table of measures, in body-weight SUV.

    DICOM's Peak Value Within ROI is the largest mean of a 1 ml sphere anywhere in the region: IBSI's global peak.
    """
    rows = tuple(
        LesionFigures(one.number, one.volume_ml, one.suv_max, one.suv_mean, one.suv_peak_global, one.tlg_suv_ml)
        for one in lesions
    )
    return Figures(rows, patient.tmtv_ml, patient.tlg_suv_ml, patient.suv_max)


def volumes_of(findings: Findings) -> Figures:
    """The figures that the mask alone gives: counted voxels, no uptake."""
    volumes = (findings.voxels * findings.voxel_volume_ml).tolist()
    return Figures(tuple(LesionFigures(n, v) for n, v in enumerate(volumes, 1)), float(sum(volumes)))


def write_sr(path: Path, findings: Findings, figures: Figures, segmentation: Dataset | None = None) -> Dataset:
    """Writes the figures as a Comprehensive SR by TID 1500.

    Each lesion is a measurement group (TID 1411) that refers to its segment, or, without a Segmentation, one (TID 1501) that names the
    slices it runs through. The patient's totals are a group of their own (TID 1501); a patient without lesions has this one alone,
    with a count of 0.

    Args:
        path: of the file; it is replaced in one step.
        findings: of dicom_out.prepare; the one that the Segmentation was written from.
        figures: lesion numbers are those of findings.
        segmentation: what write_seg returned.

    Returns:
        The document as written.

    Raises:
        InputError: a number or the SUV type does not exist, or the file cannot be written.
    """
    document = make_sr(findings, figures, segmentation)
    save(path, document)
    return document


def make_sr(findings: Findings, figures: Figures, segmentation: Dataset | None = None) -> Dataset:
    """The document that write_sr writes.

    Raises:
        InputError: see write_sr; or the headers do not allow one.
    """
    if figures.suv_type not in SUV_TYPES:
        raise InputError(f"SUV type {figures.suv_type!r} has no code in DICOM here; one of {', '.join(SUV_TYPES)}")
    strange = [row.number for row in figures.lesions if not 1 <= row.number <= findings.count]
    if strange:
        raise InputError(
            f"there is no lesion {strange[0]} in the mask (it has {findings.count}); measure the mask that is written"
        )
    producer, headers = findings.producer, findings.slices.headers
    groups = [_lesion_group(findings, row, SUV_TYPES[figures.suv_type], segmentation) for row in figures.lesions]
    report = sr.MeasurementReport(
        observation_context=_observer(findings),
        procedure_reported=PROCEDURE,
        imaging_measurements=[*groups, _patient_group(findings, figures)],
        title=TITLE,
    )
    report[0].ContentSequence.append(sr.TextContentItem(COMMENT, RESEARCH_USE, sr.RelationshipTypeValues.CONTAINS))
    with encoding("SR"):
        document = sr.ComprehensiveSR(
            evidence=[findings.context, *headers[1:], *([segmentation] if segmentation is not None else [])],
            content=report[0],
            series_instance_uid=findings.uid("sr", "series", repr(figures)),
            series_number=SERIES_NUMBER,
            sop_instance_uid=findings.uid("sr", "instance", repr(figures), str(segmentation and segmentation.SOPInstanceUID)),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=producer.name,
            software_versions=producer.version,
            series_description=f"{producer.name} lesions, SR. Research use only",
            is_complete=True,
            specific_character_set=None,
        )
    document.CompletionFlagDescription = RESEARCH_USE
    if "SpecificCharacterSet" in findings.context:
        document.SpecificCharacterSet = findings.context.SpecificCharacterSet
    stamp(document, findings)
    return document


def _observer(findings: Findings) -> sr.ObservationContext:
    producer = findings.producer
    # one version of one algorithm is one device, wherever it runs
    uid = generate_uid(PYDICOM_ROOT_UID, [MANUFACTURER, producer.name, producer.version])
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid, name=producer.name, manufacturer_name=MANUFACTURER, model_name=f"{producer.name} {producer.version}"
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=Code("121007", "DCM", "Device"), observer_identifying_attributes=device
        )
    )


def _algorithm(findings: Findings) -> sr.AlgorithmIdentification:
    producer = findings.producer
    return sr.AlgorithmIdentification(
        producer.name, producer.version, producer.parameters or None, ARTIFICIAL_INTELLIGENCE, MANUFACTURER
    )


def _lesion_group(
    findings: Findings, row: LesionFigures, suv: SuvType, segmentation: Dataset | None
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations:
    """One lesion: by its segment where there is one, else by its slices."""
    tracking = sr.TrackingIdentifier(uid=findings.tracking_uids[row.number - 1], identifier=lesion_name(row.number))
    slices = [(header.SOPClassUID, header.SOPInstanceUID) for header in findings.sources_of(row.number)]
    measurements = _measurements(
        (VOLUME, row.volume_ml, CUBIC_CENTIMETRE, None, SUM_OF_VOXELS),
        (suv.concept, row.suv_max, suv.unit, MAXIMUM, suv.method),
        (suv.concept, row.suv_mean, suv.unit, MEAN, suv.method),
        (suv.concept, row.suv_peak, suv.unit, PEAK, suv.method),
        (LESION_GLYCOLYSIS, row.tlg_g, GRAM, None, None),
    )
    if segmentation is None:
        return sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking,
            finding_category=CATEGORY,
            finding_type=LESION,
            algorithm_id=_algorithm(findings),
            measurements=measurements,
            source_images=[sr.SourceImageForMeasurementGroup(*uids) for uids in slices],
        )
    segment = sr.ReferencedSegment(
        segmentation.SOPClassUID,
        segmentation.SOPInstanceUID,
        row.number,
        source_images=[sr.SourceImageForSegmentation(*uids) for uids in slices],
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_segment=segment,
        finding_category=CATEGORY,
        finding_type=LESION,
        algorithm_id=_algorithm(findings),
        measurements=measurements,
    )


def _patient_group(findings: Findings, figures: Figures) -> sr.MeasurementsAndQualitativeEvaluations:
    """The totals over all measured lesions."""
    suv = SUV_TYPES[figures.suv_type]
    tracking = sr.TrackingIdentifier(uid=findings.uid("patient"), identifier="All FDG-avid lesions")
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        finding_category=CATEGORY,
        finding_type=LESION,
        algorithm_id=_algorithm(findings),
        measurements=_measurements(
            (LESION_COUNT, len(figures.lesions), NO_UNITS, None, None),
            (METABOLIC_VOLUME, figures.tmtv_ml, CUBIC_CENTIMETRE, TOTAL, SUM_OF_VOXELS),
            (LESION_GLYCOLYSIS, figures.tlg_g, GRAM, TOTAL, None),
            (suv.concept, figures.suv_max, suv.unit, MAXIMUM, suv.method),
        ),
    )


def _measurements(*rows: tuple[Code, float | None, Code, Code | None, Code | None]) -> list[sr.Measurement]:
    """TID 300 items of (concept, value, unit, derivation, method); unknown values are left out."""
    return [
        sr.Measurement(name=concept, value=value, unit=unit, derivation=derivation, method=method)
        for concept, value, unit, derivation, method in rows
        if value is not None and math.isfinite(value)
    ]
