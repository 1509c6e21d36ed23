"""Small PET series as a scanner would send them, for the tests of DICOM results: any orientation, valid headers."""

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid

from l2s.study import Grid

OBLIQUE = ((0.96, -0.28, 0.0), (0.28, 0.96, 0.0), (0.0, 0.0, 1.0))  # turned about the body's axis, 0.28^2 + 0.96^2 = 1


def grid(
    shape_zyx=(7, 9, 11), spacing_zyx=(3.0, 2.0, 2.5), direction=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
) -> Grid:
    return Grid(shape_zyx, spacing_zyx, (-20.0, 12.5, -300.0), direction)


def series(on: Grid, axes=(0, 1, 2), flip_rows=False, flip_columns=False, **attributes) -> list[Dataset]:
    """One slice a plane. axes: which of the grid's axes (z, y, x) run along planes, rows (down) and columns."""
    planes, rows, columns = axes
    towards = np.asarray(on.direction).T[::-1]  # LPS unit vectors along z, y, x
    seed = repr((on, axes, flip_rows, flip_columns))
    slices = []
    for plane in range(on.shape_zyx[planes]):
        corner = [0, 0, 0]
        corner[planes] = plane
        corner[rows] = on.shape_zyx[rows] - 1 if flip_rows else 0
        corner[columns] = on.shape_zyx[columns] - 1 if flip_columns else 0
        header = Dataset()
        header.SOPClassUID = PositronEmissionTomographyImageStorage
        header.SOPInstanceUID = generate_uid(entropy_srcs=[seed, str(plane)])
        header.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
        header.SeriesInstanceUID = generate_uid(entropy_srcs=[seed])
        header.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
        header.PatientName, header.PatientID, header.PatientSex = "Phantom^Generated", "G1", "F"
        header.PatientBirthDate, header.PatientWeight = "19500101", "70"
        header.StudyDate, header.StudyTime, header.StudyID = "20200102", "101112", "7"
        header.AccessionNumber, header.ReferringPhysicianName = "A1", "Doctor^Who"
        header.SpecificCharacterSet = "ISO_IR 100"
        header.PositionReferenceIndicator = ""
        header.Modality, header.SeriesNumber, header.InstanceNumber = "PT", 3, plane + 1
        header.CorrectedImage, header.Units = ["ATTN", "DECY"], "BQML"
        header.ImagePositionPatient = [round(float(v), 6) for v in on.index_to_mm_xyz(corner)]
        right = towards[columns] * (-1 if flip_columns else 1)
        down = towards[rows] * (-1 if flip_rows else 1)
        header.ImageOrientationPatient = [float(v) for v in (*right, *down)]
        header.PixelSpacing = [on.spacing_mm_zyx[rows], on.spacing_mm_zyx[columns]]
        header.SliceThickness = on.spacing_mm_zyx[planes]
        header.Rows, header.Columns = on.shape_zyx[rows], on.shape_zyx[columns]
        for keyword, value in attributes.items():
            setattr(header, keyword, value)
        slices.append(header)
    return slices


def write(folder, slices: list[Dataset]) -> None:
    """The slices as files, with pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for header in slices:
        file = Dataset()
        file.update(header)
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = 16
        file.HighBit, file.PixelRepresentation = 15, 0
        file.RescaleSlope, file.RescaleIntercept = "1", "0"
        file.PixelData = np.zeros((header.Rows, header.Columns), np.uint16).tobytes()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        pydicom.dcmwrite(folder / f"{header.SOPInstanceUID}.dcm", file, enforce_file_format=True)


def lesions(on: Grid) -> np.ndarray:
    """Three lesions that no flip or swap of axes maps onto themselves: a block with a hole, a diagonal pair, a single voxel."""
    mask = np.zeros(on.shape_zyx, bool)
    mask[1:4, 1:5, 1:6] = True
    mask[1:4, 2:4, 2] = False  # a tunnel: a hole in each plane across it
    mask[5, 6, 7] = mask[5, 7, 8] = True  # 18-connected by an edge
    mask[6, 1, 9] = True
    return mask
