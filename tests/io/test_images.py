"""Images in and out: every orientation, exact geometry, and each way in which a file can be wrong."""

import errno
import gzip
import itertools
import os
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from l2s.errors import InputError
from l2s.io import images, studies
from l2s.study import Grid

SHAPE_XYZ = (9, 11, 13)


def ramp(size_xyz=SHAPE_XYZ) -> np.ndarray:
    """A (z, y, x) array with a value of its own at each voxel."""
    return np.arange(np.prod(size_xyz), dtype=np.float32).reshape(size_xyz[::-1]) / 8


def directions():
    """All 48 signed permutations."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(order), range(3)] = signs
            yield matrix


def write(path: Path, direction=None, array=None, spacing=(2.0, 3.0, 4.5), origin=(-31.5, 17.25, 400.125)) -> sitk.Image:
    image = sitk.GetImageFromArray(ramp() if array is None else array)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(np.asarray(direction).ravel())
    sitk.WriteImage(image, str(path), True)
    return image


def turn(degrees=(5.0, -8.0, 12.0)) -> np.ndarray:
    a, b, c = np.radians(degrees)
    x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    y = [[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]]
    z = [[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]]
    return np.array(z) @ y @ x


def check_against_itk(path: Path, image: sitk.Image) -> None:
    """Every 7th voxel lies where ITK says, with its value."""
    array, grid, stored, _ = images.read_image(path)
    assert stored.matches(Grid.from_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()), 1e-3)
    values = sitk.GetArrayViewFromImage(image)
    for z, y, x in list(np.ndindex(values.shape))[::7]:
        point = image.TransformIndexToPhysicalPoint((x, y, z))
        index = grid.mm_to_index_zyx(point)
        np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
        assert array[tuple(np.rint(index).astype(int))] == values[z, y, x]


@pytest.mark.parametrize("ending", [".mha", ".nii.gz"])
def test_all_48_orientations_become_lps_and_come_back(tmp_path, ending):
    path, back = tmp_path / f"in{ending}", tmp_path / f"out{ending}"
    seen = 0
    for direction in directions():
        if ending == ".nii.gz" and np.linalg.det(direction) < 0:
            continue  # ITK itself cannot write these as NIfTI; the next test covers them
        image = write(path, direction)
        array, grid, stored, warnings = images.read_image(path)
        np.testing.assert_allclose(grid.direction, np.eye(3), atol=1e-6)
        assert warnings == []
        check_against_itk(path, image)
        images.write_image(back, array, stored)
        again = sitk.ReadImage(str(back))
        assert (sitk.GetArrayFromImage(again) == sitk.GetArrayFromImage(image)).all()
        for ours, theirs in ((again.GetSpacing(), image.GetSpacing()), (again.GetOrigin(), image.GetOrigin())):
            np.testing.assert_allclose(ours, theirs, atol=0 if ending == ".mha" else 1e-4)
        np.testing.assert_allclose(again.GetDirection(), image.GetDirection(), atol=0 if ending == ".mha" else 1e-6)
        seen += 1
    assert seen == (48 if ending == ".mha" else 24)


def test_nifti_affines_of_all_48_orientations(tmp_path):
    path = tmp_path / "in.nii.gz"
    for direction in directions():
        affine = np.eye(4)
        affine[:3, :3] = direction * (2.0, 3.0, 4.5)
        affine[:3, 3] = (-31.5, 17.25, 400.125)
        values = ramp().transpose(2, 1, 0)
        nibabel.save(nibabel.Nifti1Image(values, affine), path)
        array, grid, stored, _ = images.read_image(path)
        for x, y, z in ((0, 0, 0), (8, 0, 3), (2, 10, 12)):
            ras = affine @ (x, y, z, 1)
            index = tuple(np.rint(grid.mm_to_index_zyx((-ras[0], -ras[1], ras[2]))).astype(int))
            assert array[index] == values[x, y, z]
        images.write_image(tmp_path / "out.nii.gz", array, stored)
        again = nibabel.load(tmp_path / "out.nii.gz")
        np.testing.assert_allclose(again.affine, affine, atol=1e-5)
        assert (np.asarray(again.dataobj) == values).all()


def test_the_ibsi_orientation_phantom(data, tmp_path):
    path = data / "ibsi2_orientation/image/orientation.nii.gz"
    array, grid, stored, _ = images.read_image(path)
    theirs = sitk.ReadImage(str(path))
    check_against_itk(path, theirs)
    images.write_image(tmp_path / "again.nii.gz", array, stored)
    again = sitk.ReadImage(str(tmp_path / "again.nii.gz"))
    assert (sitk.GetArrayFromImage(again) == sitk.GetArrayFromImage(theirs)).all()
    np.testing.assert_allclose(again.GetDirection(), theirs.GetDirection(), atol=1e-6)
    # value = i + j + k of the file's own indices: one step along any LPS axis changes it by +-1, the same everywhere
    for axis in range(3):
        steps = np.unique(np.diff(array, axis=axis))
        assert len(steps) == 1
        assert abs(steps[0]) == abs(steps[0]).round() > 0


@pytest.mark.parametrize("ending", [".mha", ".nii.gz"])
def test_an_oblique_image_keeps_its_geometry(tmp_path, ending):
    path = tmp_path / f"in{ending}"
    for direction in list(directions())[::5]:
        if np.linalg.det(direction) < 0:
            continue
        image = write(path, turn() @ direction)
        check_against_itk(path, image)
        array, grid, stored, _ = images.read_image(path)
        assert abs(np.asarray(grid.direction) - turn()).max() < 1e-5
        images.write_mask(tmp_path / f"mask{ending}", array > 100, stored)
        mask = sitk.ReadImage(str(tmp_path / f"mask{ending}"))
        np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-6)
        assert mask.GetPixelID() == sitk.sitkUInt8
        assert (sitk.GetArrayFromImage(mask) == (sitk.GetArrayFromImage(image) > 100)).all()


@pytest.mark.parametrize("ending", [".mha", ".nii.gz"])
def test_rounded_cosines_are_mended_with_a_warning(tmp_path, ending):
    direction = turn().round(3)
    path = tmp_path / f"in{ending}"
    if ending == ".mha":
        write(path, direction)
    else:
        affine = np.eye(4)
        affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ direction * 3.0
        nibabel.save(nibabel.Nifti1Image(ramp().transpose(2, 1, 0), affine), path)
    array, grid, stored, warnings = images.read_image(path)
    d = np.asarray(grid.direction)
    np.testing.assert_allclose(d @ d.T, np.eye(3), atol=1e-12)
    assert "re-orthonormalised" in warnings[0]
    # what is written lies exactly where the file lay, rounded cosines and all
    images.write_mask(tmp_path / f"mask{ending}", array > 5, stored)
    assert images.read_image(tmp_path / f"mask{ending}")[2].matches(stored, 1e-4)


def test_a_sheared_image_is_refused(tmp_path):
    sheared = np.eye(3)
    sheared[0, 1] = 0.05
    write(tmp_path / "in.mha", sheared)
    with pytest.raises(InputError, match="sheared"):
        images.read_image(tmp_path / "in.mha")


def test_scaled_integers_become_their_values(tmp_path):
    image = nibabel.Nifti1Image(np.arange(8**3, dtype=np.int16).reshape(8, 8, 8), np.diag([3.0, 3, 3, 1]))
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "in.nii.gz")
    array, *_ = images.read_image(tmp_path / "in.nii.gz")
    assert array.dtype == np.float32
    assert (array.min(), array.max()) == (-10, 511 * 0.5 - 10)


def bad_files():
    def empty(p):
        p.write_bytes(b"")

    def garbage(p):
        p.write_bytes(np.random.default_rng(0).bytes(5000))

    def two_d(p):
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((20, 20), np.float32)), str(p))

    def four_d(p):
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 9, 9, 9), np.float32), isVector=False), str(p))

    def vector(p):
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((9, 9, 9, 3), np.float32), isVector=True), str(p))

    def tiny(p):
        write(p, array=np.zeros((9, 9, 7), np.float32))

    def nan(p):
        values = ramp()
        values[3, 2, 1] = np.nan
        write(p, array=values)

    def infinite(p):
        values = ramp()
        values[3, 2, 1:3] = -np.inf
        write(p, array=values)

    def fine(p):
        write(p, spacing=(0.01, 3, 3))

    def coarse(p):
        write(p, spacing=(3, 3, 300))

    cases = [
        (empty, "0 bytes"),
        (garbage, "cannot be read"),
        (tiny, "7 x 9 x 9"),
        (nan, "1 of 1287 voxels are NaN.*3, 2, 1"),
        (infinite, "2 of 1287"),
    ]
    cases += [(two_d, "2D"), (four_d, "4D"), (vector, "3 values|4D|5D"), (fine, "0.01 x 3 x 3"), (coarse, "3 x 3 x 300")]
    return [pytest.param(make, line, id=make.__name__) for make, line in cases]


@pytest.mark.parametrize("ending", [".mha", ".nii.gz", ".nii"])
@pytest.mark.parametrize(("make", "line"), bad_files())
def test_a_bad_file_has_its_line(tmp_path, make, line, ending):
    path = tmp_path / f"in{ending}"
    make(path)
    with pytest.raises(InputError, match=line) as caught:
        studies.read_study(path, path, "case")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("share", [0.5, 0.95])
@pytest.mark.parametrize("ending", [".mha", ".nii", ".nii.gz"])
def test_a_truncated_file_is_refused(tmp_path, capfd, ending, compress, share):
    path = tmp_path / f"in{ending}"
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    sitk.WriteImage(image, str(path), compress)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(InputError, match="truncated|cannot be read"):
        images.read_image(path)


def test_a_zero_spacing_is_refused(tmp_path):
    write(tmp_path / "in.mha")
    raw = (tmp_path / "in.mha").read_bytes()
    (tmp_path / "in.mha").write_bytes(raw.replace(b"ElementSpacing = 2 3 4.5", b"ElementSpacing = 2 0 4.5"))
    with pytest.raises(InputError, match=r"in\.mha"):
        images.read_image(tmp_path / "in.mha")


def test_unknown_endings_and_absent_files(tmp_path):
    with pytest.raises(InputError, match=r"scan\.tif: format"):
        images.read_image(tmp_path / "scan.tif")
    with pytest.raises(InputError, match="no such file"):
        images.read_image(tmp_path / "scan.mha")


def test_stems():
    assert [images.stem(Path(n)) for n in ("a.b.mha", "x.nii.gz", "y.nii", "Z.NII.GZ")] == ["a.b", "x", "y", "Z"]
    latin, other = (images.stem(Path(os.fsdecode(name))) for name in (b"M\xfcller.mha", b"M\xf6ller.mha"))
    assert latin == r"M\xfcller" != other, "two names that are no UTF-8 stay two"


def test_nothing_half_written_stays(tmp_path, monkeypatch):
    array, _, stored, _ = images.read_image(_written(tmp_path))
    (tmp_path / "mask.mha").write_text("the old one")

    def fails(path, own, grid):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "_write_mha", fails)
    with pytest.raises(InputError, match="No space left"):
        images.write_mask(tmp_path / "mask.mha", array > 1, stored)
    assert (tmp_path / "mask.mha").read_text() == "the old one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mha", "mask.mha"]


def test_a_lying_disk_is_caught(tmp_path, monkeypatch):
    array, _, stored, _ = images.read_image(_written(tmp_path))
    right = images._write_mha
    monkeypatch.setattr(images, "_write_mha", lambda path, own, grid: right(path, own * 0, grid))
    with pytest.raises(InputError, match="read back differs"):
        images.write_mask(tmp_path / "mask.mha", array > 1, stored)
    assert not (tmp_path / "mask.mha").exists()


def _written(folder: Path) -> Path:
    write(folder / "in.mha")
    return folder / "in.mha"


def pet_and_ct(folder: Path, ct_spacing=(2.0, 3.0, 4.5), ct_origin=(-31.5, 17.25, 400.125), ct_array=None):
    pet = np.abs(np.sin(ramp())) * 8
    write(folder / "pet.mha", array=pet)
    write(folder / "ct.mha", array=ramp() - 1000 if ct_array is None else ct_array, spacing=ct_spacing, origin=ct_origin)
    return folder / "pet.mha", folder / "ct.mha"


def test_a_ct_on_the_pet_grid_is_taken_as_it_is(tmp_path):
    study, warnings = studies.read_study(*pet_and_ct(tmp_path), "case")
    assert (study.ct_hu == ramp() - 1000).all()
    assert warnings == []
    assert study.name == "case"


def test_a_ct_elsewhere_is_resampled_linearly_with_air_outside(tmp_path):
    # HU = -700 + 2*x_mm + y_mm - z_mm/2 on a finer grid that ends 10 mm short in x
    size, spacing, origin = (10, 30, 60), (1.0, 1.5, 1.0), (-31.5, 17.25, 400.125)
    grid = Grid.from_itk(size, spacing, origin, np.eye(3).ravel())
    mm = grid.index_to_mm_xyz(np.stack(np.indices(grid.shape_zyx), axis=-1))
    values = (-700 + mm @ [2.0, 1.0, -0.5]).astype(np.float32)
    study, _ = studies.read_study(*pet_and_ct(tmp_path, spacing, origin, values), "case")
    target = study.grid.index_to_mm_xyz(np.stack(np.indices(study.grid.shape_zyx), axis=-1))
    inside = target[..., 0] <= origin[0] + 9.0
    np.testing.assert_allclose(study.ct_hu[inside], (-700 + target @ [2.0, 1.0, -0.5])[inside], atol=1e-2)
    assert (study.ct_hu[target[..., 0] > origin[0] + 9.6] == -1024).all()


@pytest.mark.parametrize("spacing", [(2.0, 3.0, 4.5), (1.0, 1.5, 2.25)], ids=["on the PET's grid", "elsewhere"])
@pytest.mark.parametrize("ending", [".mha", ".nii", ".nii.gz"])
def test_marks_outside_the_field_of_view_are_air(tmp_path, spacing, ending):
    hu = np.full((26, 22, 18) if spacing[0] == 1 else SHAPE_XYZ[::-1], 40, np.float32)
    hu[:, :, ::2] = -3024
    pet, _ = pet_and_ct(tmp_path)
    found = []
    for name, array in (("marked", hu), ("air", np.maximum(hu, -1024))):
        write(tmp_path / f"{name}{ending}", array=array, spacing=spacing)
        found.append(studies.read_study(pet, tmp_path / f"{name}{ending}", "case")[0].ct_hu)
    assert found[0].min() == -1024
    assert np.array_equal(*found)


def test_no_overlap_is_refused_and_little_is_warned(tmp_path):
    with pytest.raises(InputError, match="do not overlap"):
        studies.read_study(*pet_and_ct(tmp_path, ct_origin=(500.0, 0.0, 0.0)), "case")
    _, warnings = studies.read_study(*pet_and_ct(tmp_path, ct_origin=(-31.5, 17.25, 440.0)), "case")
    assert any("covers" in line for line in warnings)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda pet: pet * 0, "no voxel above 0"),
        (lambda pet: pet * 5000, "Bq/ml"),
        (lambda pet: pet * 100 - 1000, "swapped"),
    ],
)
def test_a_pet_that_is_no_suv(tmp_path, change, line):
    pet, ct = pet_and_ct(tmp_path)
    write(pet, array=change(sitk.GetArrayFromImage(sitk.ReadImage(str(pet)))))
    with pytest.raises(InputError, match=line):
        studies.read_study(pet, ct, "case")


def test_a_ct_without_air_is_warned_of(tmp_path):
    _, warnings = studies.read_study(*pet_and_ct(tmp_path, ct_array=ramp() - 100), "case")
    assert any("Hounsfield" in line for line in warnings)


@pytest.mark.parametrize("ending", [".mha", ".nii.gz"])
def test_a_grid_is_read_from_the_header_alone(tmp_path, ending, capfd):
    path = tmp_path / f"in{ending}"
    values = ramp()
    values[0, 0, 0] = np.nan
    write(path, turn(), array=values)
    grid = images.read_grid(path)
    assert grid.shape_zyx == SHAPE_XYZ[::-1]
    if ending == ".mha":
        path.write_bytes(path.read_bytes()[:-500])
        assert images.read_grid(path).matches(grid)


def test_gzip_of_something_else(tmp_path):
    with gzip.open(tmp_path / "in.nii.gz", "wb") as file:
        file.write(b"no image at all" * 100)
    with pytest.raises(InputError, match="cannot be read as NIfTI"):
        images.read_image(tmp_path / "in.nii.gz")


@pytest.mark.parametrize("spacing", [(2.03642010688781, 2.03642010688781, 3.0), (4.07283, 3.0 / 7, 0.1 + 0.2)])
def test_the_mask_s_geometry_is_the_pet_s_to_the_last_bit(tmp_path, spacing):
    direction = turn((1.234567, -33.3, 71.0)).round(4)  # rounded cosines: mended in memory, never in the file
    write(tmp_path / "pet.mha", direction, spacing=spacing, origin=(1 / 3, -1e3 / 7, 912.3456789012345))
    array, _, stored, _ = images.read_image(tmp_path / "pet.mha")
    images.write_mask(tmp_path / "mask.mha", array > 50, stored)
    images.write_mask(tmp_path / "empty.mha", array < 0, images.read_grid(tmp_path / "pet.mha"))
    pet = sitk.ReadImage(str(tmp_path / "pet.mha"))
    for name in ("mask.mha", "empty.mha"):
        mask = sitk.ReadImage(str(tmp_path / name))
        for part in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(mask, part)() == getattr(pet, part)()


def mha(path: Path, data: bytes, **fields) -> Path:
    """A MetaImage by hand, 4 x 3 x 2 voxels; a field of None is left out."""
    given = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "CompressedData": "False", "DimSize": "4 3 2"}
    given |= {"CompressedDataSize": len(data), "ElementSpacing": "1 1 1", "ElementType": "MET_USHORT"} | fields
    header = "".join(f"{key} = {value}\n" for key, value in given.items() if value is not None)
    path.write_bytes(header.encode() + b"ElementDataFile = LOCAL\n" + data)
    return path


VOXELS = np.arange(1, 25, dtype="<u2")


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {key: word}
            for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
            for word in ("T", "t", "1", "tRUE", "yes", "0")
        ),
        {"BinaryDataByteOrderMSB": "True", "ElementByteOrderMSB": "False"},
        {"BinaryDataByteOrderMSB": "False", "ElementByteOrderMSB": "True"},
        *({"BinaryData": word} for word in ("T", "1", None)),
        *({"CompressedData": word} for word in ("T", "t", "1", "true", "no")),
        *({"DimSize": size} for size in ("4.0 3 2", "4.7 3 2", "4 3 2 1")),
    ],
    ids=str,
)
def test_a_header_means_what_it_means_to_itk(tmp_path, fields):
    packed = fields.get("CompressedData", "no") != "no"
    path = mha(tmp_path / "in.mha", zlib.compress(VOXELS.tobytes()) if packed else VOXELS.tobytes(), **fields)
    array, _, stored, _ = images.read_image(path)
    expected = sitk.ReadImage(str(path), sitk.sitkFloat32)
    assert np.array_equal(array, sitk.GetArrayFromImage(expected))
    assert (array.size, stored.size_xyz) == (24, expected.GetSize())


@pytest.mark.parametrize("kind", ["MET_LONG", "MET_ULONG"])
def test_a_long_of_metaio_has_four_bytes(tmp_path, kind):
    path = mha(tmp_path / "in.mha", VOXELS.astype("<i4").tobytes(), ElementType=kind)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32))
    assert np.array_equal(images.read_image(path)[0], expected)
    assert expected.max() == 24


@pytest.mark.parametrize("word", ["False", "0", "no"])
def test_text_by_any_word_is_refused(tmp_path, word):
    with pytest.raises(InputError, match="text"):
        images.read_image(mha(tmp_path / "in.mha", VOXELS.tobytes(), BinaryData=word))


@pytest.mark.parametrize(
    ("key", "value"), [("vox_offset", np.nan), ("vox_offset", np.inf), ("vox_offset", -1e30), ("dim", [3, -9, 9, 9, 1, 1, 1, 1])]
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_damaged_nifti_header_is_one_line(tmp_path, key, value, ending):
    image = nibabel.Nifti1Image(ramp((9, 9, 9)), np.eye(4))
    raw = bytearray(image.to_bytes())
    image.header[key] = value
    raw[:348] = image.header.binaryblock
    path = tmp_path / f"in{ending}"
    path.write_bytes(gzip.compress(raw) if ending == ".nii.gz" else raw)
    with pytest.raises(InputError, match=r"in\.nii") as caught:
        images.read_image(path)
    assert "\n" not in str(caught.value)


def test_an_image_without_voxels_is_refused(tmp_path):
    with pytest.raises(InputError, match="0 x 3 x 2 voxels .limit: at least 1"):
        images.read_grid(mha(tmp_path / "in.mha", b"", DimSize="0 3 2"))


def test_a_failing_disk_is_told_from_damage(tmp_path, monkeypatch):
    """`l2s` exits with 75 where the error's cause is the machine's."""
    write(tmp_path / "in.nii")

    def broken(*args, **options):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(nibabel, "load", broken)
    with pytest.raises(InputError, match="Input/output") as caught:
        images.read_image(tmp_path / "in.nii")
    assert caught.value.__cause__.errno == errno.EIO


@pytest.mark.parametrize("place", [b"M\xfcller.mha", b"M\xfcller/in.mha"])
def test_itk_never_sees_a_name_that_is_no_utf8(tmp_path, place):
    """It would abort the process."""
    path = tmp_path / os.fsdecode(place)
    path.parent.mkdir(exist_ok=True)
    write(tmp_path / "good.mha")
    path.write_bytes((tmp_path / "good.mha").read_bytes())
    array, _, stored, _ = images.read_image(tmp_path / "good.mha")
    for work in (lambda: images.read_image(path), lambda: images.write_image(path, array, stored)):
        with pytest.raises(InputError, match=r"M.xfcller.* not UTF-8; rename") as caught:
            work()
        assert str(caught.value).encode()
    nifti = path.with_suffix(".nii.gz")
    images.write_image(nifti, array, stored)
    assert np.array_equal(images.read_image(nifti)[0], array)


def test_an_absurd_spacing_still_has_a_geometry(tmp_path):
    write(tmp_path / "in.mha", spacing=(2.0, 3.0, 450.0))
    grid = images.read_grid(tmp_path / "in.mha")
    assert grid.spacing_mm_zyx == (450.0, 3.0, 2.0)
    images.write_mask(tmp_path / "mask.mha", np.zeros(grid.shape_zyx, bool), grid)
    assert sitk.ReadImage(str(tmp_path / "mask.mha")).GetSpacing() == (2.0, 3.0, 450.0)


def oblique_affine() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = turn() * (2.0, 3.0, 4.5)
    affine[:3, 3] = (12.5, -40.0, 300.0)
    return affine


@pytest.mark.parametrize(("sform", "qform"), [(0, 1), (1, 0), (2, 0), (1, 1), (2, 1)])
def test_sform_and_qform_are_read_as_itk_reads_them(tmp_path, sform, qform):
    image = nibabel.Nifti1Image(ramp().transpose(2, 1, 0), oblique_affine())
    image.set_sform(oblique_affine(), sform)
    image.set_qform(oblique_affine(), qform)
    nibabel.save(image, tmp_path / "in.nii.gz")
    check_against_itk(tmp_path / "in.nii.gz", sitk.ReadImage(str(tmp_path / "in.nii.gz")))


def test_a_nifti_without_orientation_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(ramp(), None), tmp_path / "in.nii.gz")
    with pytest.raises(InputError, match="orientation is unknown"):
        images.read_image(tmp_path / "in.nii.gz")


def test_complex_values_are_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(ramp().astype(np.complex64), np.eye(4)), tmp_path / "in.nii.gz")
    with pytest.raises(InputError, match="2 values a voxel"):
        images.read_image(tmp_path / "in.nii.gz")


def test_a_header_that_lies_about_its_size_reads_no_voxel(tmp_path):
    write(tmp_path / "in.mha")
    raw = (tmp_path / "in.mha").read_bytes()
    (tmp_path / "in.mha").write_bytes(raw.replace(b"DimSize = 9 11 13", b"DimSize = 9 11 99999999"))
    with pytest.raises(InputError, match="9 x 11 x 99999999 voxels"):
        images.read_image(tmp_path / "in.mha")


def test_one_wrong_byte_in_a_compressed_block_is_found(tmp_path, capfd):
    path = tmp_path / "in.mha"
    write(path, array=np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32))
    good = path.read_bytes()
    for place in (len(good) // 2, len(good) - 2, len(good) - 3000):
        bad = bytearray(good)
        bad[place] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(InputError, match="damaged|truncated"):
            images.read_image(path)
    assert capfd.readouterr().err == ""


def test_voxels_in_a_file_of_their_own_are_refused(tmp_path):
    path = tmp_path / "in.mha"
    write(path)
    path.write_bytes(path.read_bytes().replace(b"ElementDataFile = LOCAL", b"ElementDataFile = in.raw"))
    (tmp_path / "in.raw").write_bytes(bytes(10_000))
    with pytest.raises(InputError, match="not in the file itself|cannot be read"):
        images.read_image(path)


@pytest.mark.parametrize("array", [ramp() * 0, ramp() + 1, ramp() * 1e4 - 1000])
def test_a_ct_that_is_no_hu_is_refused(tmp_path, array):
    with pytest.raises(InputError, match="CT in HU"):
        studies.read_study(*pet_and_ct(tmp_path, ct_array=array), "case")


def test_a_small_label_image_is_read_as_it_is(tmp_path):
    write(tmp_path / "in.mha", array=np.ones((5, 5, 5), np.uint8), spacing=(0.1, 30.0, 3.0))
    assert images.read_image(tmp_path / "in.mha")[0].shape == (5, 5, 5)


def test_voxels_are_those_that_itk_reads(tmp_path, monkeypatch):
    """The slow twin: SimpleITK's own reading, for every voxel type, byte order and both ways of storing."""
    monkeypatch.setattr(images, "BLOCK_BYTES", 37)  # blocks that end within a voxel
    path, rng = tmp_path / "in.mha", np.random.default_rng(0)
    for code in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        array = (
            (rng.normal(size=(7, 6, 5)) * 1e6).astype(code) if code[0] == "f" else rng.integers(0, 120, (7, 6, 5)).astype(code)
        )
        for compress in (True, False):
            sitk.WriteImage(sitk.GetImageFromArray(array), str(path), compress)
            expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32))
            assert np.array_equal(images._read_mha(path, (7, 6, 5)), expected), (code, compress)
    swapped = path.read_bytes()
    path.write_bytes(swapped.replace(b"MSB = False", b"MSB = True")[: -array.nbytes] + array.byteswap().tobytes())
    assert np.array_equal(images._read_mha(path, (7, 6, 5)), expected)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32)), expected)


def test_more_voxels_than_the_header_says_are_passed_over(tmp_path):
    path = tmp_path / "in.mha"
    write(path)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 9 11 13", b"DimSize = 9 11 12"))
    assert np.array_equal(images.read_image(path)[0], ramp()[:12])


def test_voxels_as_text_are_refused(tmp_path):
    path = tmp_path / "in.mha"
    write(path)
    path.write_bytes(path.read_bytes().replace(b"BinaryData = True", b"BinaryData = False"))
    with pytest.raises(InputError, match="binary .mha"):
        images.read_image(path)
