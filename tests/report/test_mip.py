import numpy as np
import pytest
from PIL import Image

from l2s.report import draw, mip
from l2s.study import Grid, Study

SPACING_MM_ZYX = (5.0, 2.0, 4.0)


def study(shape=(30, 40, 20), hot=(), suv=20.0, name="case") -> Study:
    pet = np.zeros(shape, np.float32)
    for at in hot:
        pet[at] = suv
    return Study(pet, np.full(shape, -1024, np.float32), Grid(shape, SPACING_MM_ZYX, (0.0, 0.0, 0.0)), name=name)


def empty(s: Study) -> np.ndarray:
    return np.zeros(s.grid.shape_zyx, bool)


def test_head_is_up_right_is_left_front_is_left():
    # a spot at the head, at the back, at the patient's right
    s = study(hot=[(29, 39, 0)])
    front, side, _ = mip.make_panels(s, empty(s), mip.find_lesions(empty(s), 0.04))
    assert front.marks == ("R", "L")
    assert side.marks == ("A", "P")
    assert np.argwhere(front.plane > 1).tolist() == [[0, 0]]
    assert np.argwhere(side.plane > 1).tolist() == [[0, side.plane.shape[1] - 1]]


def test_mip_is_the_maximum_along_the_axis():
    array = np.arange(24).reshape(2, 3, 4)
    assert mip.mip(array, 1).tolist() == [[20, 21, 22, 23], [8, 9, 10, 11]]
    assert mip.mip(array, 2).tolist() == [[15, 19, 23], [3, 7, 11]]


def test_ct_plane_goes_through_the_largest_lesion():
    s = study()
    mask = empty(s)
    mask[2:4, 10, 2:4] = True  # 4 voxels in plane 10
    mask[20:22, 30, 5:10] = True  # 10 voxels in plane 30, 2 in plane 31: one lesion of 12
    mask[20, 31, 5:7] = True
    lesions = mip.find_lesions(mask, 0.5)
    assert lesions == mip.Lesions(count=2, volume_ml=8.0, largest_ml=6.0, plane=30)
    assert mip.caption(lesions) == "2 lesions, 8.0 ml in all, the largest 6.0 ml"
    s.ct_hu[21, 30, 6] = 55
    _, side, ct = mip.make_panels(s, mask, lesions)
    assert np.argwhere(ct.plane == 55).tolist() == [[30 - 1 - 21, 6]]
    assert ct.mask.sum() == 10
    # the foremost lesion voxel is in plane 10, the margin is 13 voxels of 2 mm: the side view begins at plane 0
    assert side.cut_mm == 30.5 * 2.0


def test_captions():
    assert mip.caption(mip.find_lesions(np.zeros((3, 3, 3), bool), 0.5)) == "No lesion marked"
    assert mip.caption(mip.find_lesions(np.ones((3, 3, 3), bool), 0.5)) == "1 lesion, 13.5 ml"


def test_air_at_the_sides_is_left_out():
    s = study(shape=(10, 100, 100), hot=[(5, 50, slice(40, 60))], suv=1.0)
    front, side, ct = mip.make_panels(s, empty(s), mip.find_lesions(empty(s), 0.04))
    assert front.plane.shape == (10, 20 + 2 * 7) == ct.plane.shape  # 25 mm are 7 voxels of 4 mm
    assert side.plane.shape == (10, 1 + 2 * 13)
    assert front.size_mm == (34 * 4.0, 50.0)
    assert side.size_mm == (27 * 2.0, 50.0)
    assert side.cut_mm == 13.5 * 2.0  # the middle plane, 50, in a view that begins at plane 37
    nothing = study(shape=(10, 100, 100))
    assert mip.make_panels(nothing, empty(nothing), mip.find_lesions(empty(nothing), 0.04))[0].plane.shape == (10, 100)


def test_a_panel_has_the_proportions_of_the_body():
    panel = draw.Panel("t", np.zeros((30, 20), np.float32), np.zeros((30, 20), bool), (10.0, 0.0), (80.0, 150.0), ("R", "L"))
    assert draw.draw_panel(panel, 2.0).size == (160, 300)


def test_black_and_white_are_where_the_limits_say():
    plane = np.repeat(np.array([[0.0, 5.0, 10.0, 300.0]], np.float32), 4, axis=0)
    panel = draw.Panel("t", plane, np.zeros(plane.shape, bool), (10.0, 0.0), (400.0, 400.0), ("", ""))
    line = np.asarray(draw.draw_panel(panel, 1.0))[130, :, 0].astype(int)
    assert line[40] == 255
    assert line[150] == pytest.approx(127.5, abs=1)
    assert line[250] == line[390] == 0
    assert (np.diff(line[1:-1]) <= 0).all()  # 300 rings into no neighbour (the frame left out)


def test_outline_surrounds_the_mask_and_leaves_it_free():
    mask = np.zeros((10, 10), bool)
    mask[4:7, 3:6] = True
    ring = np.asarray(draw.outline(mask, (200, 200)))
    assert ring[110, 90] == 0  # the lesion's middle
    assert ring[10, 10] == 0
    assert ring[110].max() == 255  # crossed at both sides
    rows, columns = np.nonzero(ring > 128)
    # voxels 4..6 are pixels 80..139 down, 3..5 are 60..119 across; the line lies just outside
    assert 76 <= rows.min() <= 80
    assert 139 <= rows.max() <= 143
    assert 56 <= columns.min() <= 60
    assert 119 <= columns.max() <= 123


def test_one_voxel_has_an_outline_and_no_voxel_has_none():
    mask = np.zeros((10, 10), bool)
    assert not np.asarray(draw.outline(mask, (50, 50))).any()
    mask[3, 3] = True
    assert np.asarray(draw.outline(mask, (50, 50))).any()


def lesion_pixels(path, top: int) -> int:
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)[top:-90]
    return int((np.abs(image - draw.LESION_RGB).sum(axis=-1) < 30).sum())


def test_preview_writes_one_picture_with_the_mask_on_it(tmp_path):
    s = study(shape=(60, 80, 60), hot=[(slice(10, 50), slice(20, 60), slice(15, 45))], suv=2.0)
    mask = empty(s)
    mask[30:34, 40:44, 20:24] = True
    mip.preview(s, mask, tmp_path / "with.png")
    mip.preview(s, empty(s), tmp_path / "without.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["with.png", "without.png"]
    assert lesion_pixels(tmp_path / "with.png", draw.HEAD_PX) > 100
    assert lesion_pixels(tmp_path / "without.png", draw.HEAD_PX) == 0
    assert lesion_pixels(tmp_path / "without.png", 0) > 100  # 'Research use only'


def test_preview_bears_nan_flat_images_and_long_names(tmp_path):
    s = study(shape=(4, 3, 2), name="n" * 300)
    s.pet_suv[0, 0, 0] = np.nan
    mip.preview(s, empty(s), tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        assert image.width <= 2000


def test_a_failed_write_leaves_the_old_picture_alone(tmp_path, monkeypatch):
    target = tmp_path / "p.png"
    target.write_bytes(b"old")

    def half(self, path, format):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="No space"):
        mip.preview(study(), empty(study()), target)
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]
    assert target.read_bytes() == b"old"
