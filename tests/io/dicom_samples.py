"""Small DICOM series for tests: complete headers, real pixel data, nothing of a patient."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

PET_CLASS = "1.2.840.10008.5.1.4.1.1.128"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"
STUDY, FRAME = "1.2.3.4.5", "1.2.3.4.5.6"

COMMON = {
    "StudyInstanceUID": STUDY,
    "FrameOfReferenceUID": FRAME,
    "StudyDate": "20240531",
    "SeriesDate": "20240531",
    "AcquisitionDate": "20240531",
    "PatientName": "SECRET^NAME",
    "PatientID": "SECRET-ID",
    "PatientBirthDate": "19500102",
    "PatientAge": "074Y",
    "PatientSex": "M",
    "ImageType": ["ORIGINAL", "PRIMARY"],
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 16,
    "HighBit": 15,
    "PixelRepresentation": 1,
}
PET = COMMON | {
    "SOPClassUID": PET_CLASS,
    "Modality": "PT",
    "SeriesInstanceUID": "1.2.3.4.5.7",
    "SeriesNumber": "3",
    "SeriesDescription": "PET AC",
    "Manufacturer": "SIEMENS",
    "PatientWeight": "80",
    "PatientSize": "1.75",
    "SeriesTime": "100000",
    "AcquisitionTime": "100000",
    "CorrectedImage": ["NORM", "ATTN", "SCAT", "DECY"],
    "AttenuationCorrectionMethod": "measured",
    "Units": "BQML",
    "DecayCorrection": "START",
    "SeriesType": ["WHOLE BODY", "IMAGE"],
    "FrameReferenceTime": "0",
    "ActualFrameDuration": "180000",
    "RescaleSlope": "1",
    "RescaleIntercept": "0",
}
DRUG = {
    "Radiopharmaceutical": "FDG",
    "RadiopharmaceuticalStartTime": "090000",
    "RadionuclideTotalDose": "400000000",
    "RadionuclideHalfLife": "6586.2",
}
CT = COMMON | {
    "SOPClassUID": CT_CLASS,
    "Modality": "CT",
    "SeriesInstanceUID": "1.2.3.4.5.8",
    "SeriesNumber": "2",
    "SeriesDescription": "CT WB",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "RescaleSlope": "1",
    "RescaleIntercept": "-1024",
    "RescaleType": "HU",
}
CREATORS = {"GEMS_PETD_01": 0x0009, "SIEMENS MED PT": 0x0071, "Philips PET Private Group": 0x7053}


def header(base: dict, drug: dict | None = None, private=(), **changes) -> Dataset:
    """A header; a change to None leaves the element out. private: (creator, element, VR, value); drug: changes to DRUG."""
    out = Dataset()
    for keyword, value in (base | changes).items():
        if value is not None:
            setattr(out, keyword, value)
    if out.get("Modality") == "PT" and drug != "none":
        item = Dataset()
        code = None
        for keyword, value in (DRUG | (drug or {})).items():
            if keyword == "nuclide":
                code = value
            elif value is not None:
                setattr(item, keyword, value)
        if code:
            entry = Dataset()
            entry.CodeValue, entry.CodingSchemeDesignator, entry.CodeMeaning = code
            item.RadionuclideCodeSequence = Sequence([entry])
        out.RadiopharmaceuticalInformationSequence = Sequence([item])
    for creator, element, kind, value in private:
        out.private_block(CREATORS[creator], creator, create=True).add_new(element, kind, value)
    return out


def pet_header(drug: dict | None = None, private=(), **changes) -> Dataset:
    return header(PET, drug, private, **changes)


def series(
    base: Dataset,
    volume: np.ndarray,
    spacing_mm=(3.0, 4.0, 5.0),
    origin_mm=(-30.0, -20.0, 100.0),
    orientation=(1, 0, 0, 0, 1, 0),
    offsets_mm=None,
    slopes=None,
) -> list[Dataset]:
    """One dataset a slice of an int16 volume (slices, rows, columns).

    spacing_mm: slices, rows, columns. offsets_mm: places of the slices along the normal instead of the regular ones.
    """
    normal = np.cross(orientation[:3], orientation[3:])
    offsets = np.arange(len(volume)) * spacing_mm[0] if offsets_mm is None else offsets_mm
    out = []
    for k, (plane, offset) in enumerate(zip(volume, offsets)):
        ds = copy.deepcopy(base)
        ds.SOPInstanceUID = generate_uid(entropy_srcs=[base.SeriesInstanceUID, str(k)])
        ds.InstanceNumber = len(volume) - k  # numbered against their order in space, as some scanners do
        ds.ImagePositionPatient = [round(float(v), 6) for v in np.asarray(origin_mm) + offset * normal]
        ds.ImageOrientationPatient = [float(v) for v in orientation]
        ds.PixelSpacing = [float(v) for v in spacing_mm[1:]]
        ds.SliceThickness = "99"  # nobody may read it as the distance of slices
        ds.Rows, ds.Columns = plane.shape
        if slopes is not None:
            ds.RescaleSlope = slopes[k]
        ds.PixelData = np.ascontiguousarray(plane, "<i2").tobytes()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        out.append(ds)
    return out


def save(folder: Path, datasets: list[Dataset], name="{:03d}") -> list[Path]:
    """Writes datasets under names that say nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, ds in enumerate(datasets):
        paths.append(folder / name.format(k))
        ds.save_as(paths[-1], enforce_file_format=True)
    return paths


def pet_volume(shape=(12, 10, 14)) -> np.ndarray:
    """Every voxel its own value, so that any flip or swap shows; up to SUV 20 or so with PET's header."""
    return (np.arange(np.prod(shape), dtype=np.int16) + 100).reshape(shape) * np.int16(15)


def pet_series(drug=None, private=(), volume=None, geometry=None, **changes) -> list[Dataset]:
    return series(pet_header(drug, private, **changes), pet_volume() if volume is None else volume, **(geometry or {}))


def ct_series(volume=None, geometry=None, **changes) -> list[Dataset]:
    if volume is None:
        volume = np.full((14, 24, 30), 1024, np.int16)
        volume[:, :4] = 24
        volume[3:, 8:, 12:] = 1084
    wide = {"spacing_mm": (3.0, 2.0, 2.5), "origin_mm": (-31.0, -22.0, 97.0)} | (geometry or {})
    return series(header(CT, **changes), volume, **wide)


def study(folder: Path, **changes) -> Path:
    """A PET and a CT; changes go to the PET."""
    save(folder / "a", pet_series(**changes))
    save(folder / "b", ct_series())
    return folder


def hot_study(folder: Path, **changes) -> Path:
    """A PET/CT that can be segmented: 8 mm, a body in air, a block of SUV 14 in it; turned, slices to the feet. Changes go to the PET.

    By ADMIN, 80 kg and 400 MBq are 5000 Bq/ml for each SUV.
    """
    random = np.random.default_rng(0)
    geometry = {
        "spacing_mm": (8.0, 8.0, 8.0),
        "origin_mm": (90.0, -80.0, 300.0),
        "orientation": (-0.98480775, 0.17364818, 0, 0.17364818, 0.98480775, 0),
    }
    shape = (20, 22, 26)
    suv, hu = random.uniform(0.2, 1.5, shape), np.full(shape, -1000.0)
    suv[8:12, 10:14, 12:16] = 14
    hu[:, 4:-4, 4:-4] = random.normal(40, 10, hu[:, 4:-4, 4:-4].shape)
    pet = {"RescaleSlope": "2.5", "DecayCorrection": "ADMIN", "PatientID": "SECRET-ID", "StudyID": "SECRET-STUDY"} | changes
    save(folder / "a", pet_series(volume=np.rint(suv * 2000).astype(np.int16), geometry=geometry, **pet))
    save(folder / "b", ct_series(volume=np.rint(hu + 1024).astype(np.int16), geometry=geometry))
    return folder
