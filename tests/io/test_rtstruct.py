"""RTSTRUCT -> mask: holes, islands, planes along any axis; a slow literal twin says which voxel lies inside."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from l2s.errors import InputError
from l2s.io.dicom import read_pet
from l2s.io.images import read_image
from l2s.io.rtstruct import RTSTRUCT_CLASS, fill, read_rtstruct
from l2s.study import Grid

GRID = Grid((9, 20, 30), (3.0, 2.0, 1.5), (-10.0, 5.0, 100.0))
OBLIQUE = Grid((9, 20, 30), (3.0, 2.0, 1.5), (-10.0, 5.0, 100.0), ((0.8, -0.6, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, 1.0)))


def write(path, grid, contours, name="GTV", kind="CLOSED_PLANAR"):
    """An RTSTRUCT of one region; contours are lists of (z, y, x) indices."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = RTSTRUCT_CLASS, "1.2.3", "RTSTRUCT"
    roi, region = Dataset(), Dataset()
    roi.ROINumber, roi.ROIName = 4, name
    region.ReferencedROINumber = 4
    region.ContourSequence = Sequence()
    for points in contours:
        contour = Dataset()
        contour.ContourGeometricType = kind
        contour.ContourData = [f"{v:.4f}" for v in grid.index_to_mm_xyz(np.array(points, float)).ravel()]
        region.ContourSequence.append(contour)
    ds.StructureSetROISequence, ds.ROIContourSequence = Sequence([roi]), Sequence([region])
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return path


def square(axis, index, low, high):
    """A square contour from low to high in the plane index along axis."""
    corners = [(low, low), (low, high), (high, high), (high, low)]
    return [tuple(np.insert(np.array(c, float), axis, index)) for c in corners]


@pytest.mark.parametrize("grid", [GRID, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_holes_and_islands_in_planes_along_every_axis(tmp_path, grid, axis):
    contours = [square(axis, 3, 0.5, 7.5), square(axis, 3, 1.5, 6.5), square(axis, 3, 2.5, 4.5), square(axis, 4, 0.5, 2.5)]
    mask = read_rtstruct(write(tmp_path / "r", grid, contours), grid, "GTV")
    wanted = np.zeros(grid.shape_zyx, bool)
    plane = np.moveaxis(wanted, axis, 0)
    plane[3, 1:8, 1:8] = True
    plane[3, 2:7, 2:7] = False
    plane[3, 3:5, 3:5] = True
    plane[4, 1:3, 1:3] = True
    np.testing.assert_array_equal(mask, wanted)


def literal(points, shape):
    """Even-odd by a ray to larger columns, one pixel and one edge at a time."""
    out = np.zeros(shape, bool)
    for row in range(shape[0]):
        for column in range(shape[1]):
            inside = False
            for (r0, c0), (r1, c1) in zip(points, [*points[1:], points[0]]):
                if (r0 <= row) != (r1 <= row) and c0 + (row - r0) * (c1 - c0) / (r1 - r0) > column:
                    inside = not inside
            out[row, column] = inside
    return out


def test_filling_equals_its_slow_twin():
    rng = np.random.default_rng(4)
    for k in range(60):
        points = rng.uniform(-3, 15, (rng.integers(3, 12), 2))
        if k % 3 == 0:
            points = np.rint(points)  # corners and edges on the centres of pixels
        np.testing.assert_array_equal(fill(points, (12, 11)), literal([tuple(p) for p in points], (12, 11)), err_msg=str(k))


def test_a_keyhole_is_a_hole():
    # outer square, a channel of no width, the hole backwards: how writers without XOR draw it
    points = [
        (0.5, 0.5),
        (0.5, 7.5),
        (7.5, 7.5),
        (7.5, 0.5),
        (0.5, 0.5),
        (2.5, 2.5),
        (4.5, 2.5),
        (4.5, 4.5),
        (2.5, 4.5),
        (2.5, 2.5),
    ]
    mask = fill(np.array(points), (9, 9))
    assert mask.sum() == 49 - 4
    assert not mask[3:5, 3:5].any()


def test_contours_of_another_image_are_refused(tmp_path):
    between = write(tmp_path / "a", GRID, [square(0, 3.5, 1, 5)])
    with pytest.raises(InputError, match="slice 3.50 of 9"):
        read_rtstruct(between, GRID, "GTV")
    outside = write(tmp_path / "b", GRID, [square(0, 12, 1, 5)])
    with pytest.raises(InputError, match="slice 12.00 of 9"):
        read_rtstruct(outside, GRID, "GTV")
    finer = write(tmp_path / "c", GRID, [square(0, 3, 1, 5), square(0, 3.1, 1, 5)])
    with pytest.raises(InputError, match="finer image"):
        read_rtstruct(finer, GRID, "GTV")
    slanted = write(tmp_path / "d", GRID, [[(2, 1, 1), (2, 8, 1), (4, 8, 9), (4, 1, 9)]])
    with pytest.raises(InputError, match="drawn on another image"):
        read_rtstruct(slanted, GRID, "GTV")


def test_bad_files_are_one_line(tmp_path):
    good = write(tmp_path / "good", GRID, [square(0, 3, 1, 5)])
    with pytest.raises(InputError, match="no region is named 'liver'; it has GTV"):
        read_rtstruct(good, GRID, "liver")
    with pytest.raises(InputError, match="OPEN_PLANAR"):
        read_rtstruct(write(tmp_path / "open", GRID, [square(0, 3, 1, 5)], kind="OPEN_PLANAR"), GRID, "GTV")
    with pytest.raises(InputError, match="no such file"):
        read_rtstruct(tmp_path / "none", GRID, "GTV")
    (tmp_path / "text").write_text("x" * 400)
    with pytest.raises(InputError, match="RTSTRUCT"):
        read_rtstruct(tmp_path / "text", GRID, "GTV")
    assert not read_rtstruct(write(tmp_path / "empty", GRID, []), GRID, "GTV").any()


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda region: setattr(region.ContourSequence[0], "ContourData", "1.5"), "has 1 numbers"),
        (lambda region: setattr(region.ContourSequence[0], "ContourData", "0"), "has . numbers"),
        (lambda region: setattr(region.ContourSequence[0], "ContourData", None), "has 0 numbers"),
        (lambda region: delattr(region, "ReferencedROINumber"), "without ReferencedROINumber"),
    ],
)
def test_broken_contours_are_one_line(tmp_path, spoil, line):
    path = write(tmp_path / "r", GRID, [square(0, 3, 1, 5)])
    dataset = pydicom.dcmread(path)
    spoil(dataset.ROIContourSequence[0])
    dataset.save_as(path)
    with pytest.raises(InputError, match=line):
        read_rtstruct(path, GRID, "GTV")


def test_the_tumour_of_sts001(data):
    folder = data / "sts001_wholebody"
    pet = read_pet(folder)
    path = next((folder / "FDG_PET" / "mask").glob("*.dcm"))
    mask = read_rtstruct(path, pet.grid, "GTV_Mass")
    assert 366 <= mask.sum() * pet.grid.voxel_volume_ml <= 375
    # the mask that others made of the same contours, on the crop
    truth, grid, _, _ = read_image(data / "sts" / "STS_001" / "GTV.nii.gz")
    start = np.rint(pet.grid.mm_to_index_zyx(grid.index_to_mm_xyz((0, 0, 0)))).astype(int)
    same = mask[tuple(slice(a, a + n) for a, n in zip(start, grid.shape_zyx))]
    assert same.sum() == mask.sum()
    np.testing.assert_array_equal(same, truth > 0)
