"""MHA and NIfTI files <-> arrays in LPS order.

MHA headers go through SimpleITK, NIfTI through nibabel: ITK refuses a NIfTI whose direction cosines are rounded, nibabel gives the affine
as it stands in the file. Compressed voxels go through ISA-L, which unpacks twice as fast as zlib and packs several times as fast. In memory
every image is LPS; the file's own grid travels along and is what results are written on.
"""

from __future__ import annotations

import math
import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from isal import igzip, isal_zlib

from l2s.errors import InputError
from l2s.study import Grid, from_lps, orthonormal, to_lps
from l2s.wholefile import whole_file

NIFTI_ENDINGS = (".nii.gz", ".nii")
ENDINGS = (".mha", *NIFTI_ENDINGS)
MAX_VOXELS = 2**30  # 4 GiB as float32; a total-body scan at 2 mm has a sixth of it
ROUNDING = 1e-6  # cosines closer than this to orthonormal are printing, not a fault of the file
MAX_HEADER_BYTES = 2**16
DTYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4"}
DTYPES |= {"MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"}
DTYPES |= {"MET_FLOAT": "f4", "MET_DOUBLE": "f8"}
BLOCK_BYTES = 2**20
PACKING = 1  # of ISA-L's 0 to 3: masks as small as by zlib's quickest
GEOMETRY_MM = 1e-3  # what float32 affines of NIfTI lose over a metre


def plain_utf8(name: str) -> str:
    """The name of a file or folder for tables and pages: bytes that are no UTF-8 are spelt out, so that two names stay two."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def stem(path: Path) -> str:
    """The file's name without .mha, .nii or .nii.gz, as UTF-8."""
    name = plain_utf8(Path(path).name)
    for ending in ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    raise InputError(f"{name}: format is not read; convert it to one of {', '.join(ENDINGS)}")


def read_image(path: Path) -> tuple[np.ndarray, Grid, Grid, list[str]]:
    """One 3D image.

    Args:
        path: .mha, .nii or .nii.gz.

    Returns:
        float32 array (z, y, x) in LPS order; its LPS grid; the file's own grid; warnings.

    Raises:
        InputError: the file is absent, unreadable, truncated, not 3D and scalar, of absurd size or spacing, sheared, or holds NaN.
    """
    path = Path(path)
    stored = read_grid(path)
    array = _read_voxels(path, stored.shape_zyx)
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    if bad:
        first = tuple(int(v) for v in np.argwhere(~np.isfinite(array))[0])
        raise InputError(
            f"{path.name}: {bad} of {array.size} voxels are NaN or infinite, first at (z, y, x) {first}; none may be: export it again"
        )
    direction, off = orthonormal(stored.direction, path.name)
    warnings = []
    if off > ROUNDING:
        warnings.append(f"{path.name}: direction cosines were {off:.2g} off orthonormal and were re-orthonormalised")
    view, grid = to_lps(array, replace(stored, direction=direction))
    return np.ascontiguousarray(view), grid, stored, warnings


def read_grid(path: Path) -> Grid:
    """The file's own grid from its header alone, exactly as stored: what a mask needs, also where the voxels cannot be used.

    Raises:
        InputError: the file is absent, its header cannot be read, or it is not that of one 3D volume of single values.
    """
    path = Path(path)
    stem(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy it again")
    return _nifti_grid(_open_nifti(path), path.name) if _is_nifti(path) else _mha_grid(path)


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_ENDINGS)


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _read_voxels(path: Path, shape_zyx: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    """(z, y, x) of dtype in the file's own order; shape_zyx is that of its grid."""
    return _read_nifti(path, dtype) if _is_nifti(path) else _read_mha(path, shape_zyx, dtype)


def _check_volume(name: str, size_xyz, spacing_xyz, components: int) -> None:
    """Raises InputError where the header is not that of one 3D volume."""
    if len(size_xyz) != 3 or components != 1:
        what = f"{len(size_xyz)}D" + (f" with {components} values a voxel" if components != 1 else "")
        raise InputError(f"{name} is {what}; one 3D volume of single values is read: export it as such")
    shown = " x ".join(map(str, size_xyz))
    if min(size_xyz) < 1:
        raise InputError(f"{name} has {shown} voxels (limit: at least 1 an axis); mend its header")
    if math.prod(size_xyz) > MAX_VOXELS:
        raise InputError(f"{name} has {shown} voxels (limit {MAX_VOXELS} in all); resample it to a coarser grid")
    if not all(0 < s < math.inf for s in spacing_xyz):
        shown = " x ".join(f"{s:g}" for s in spacing_xyz)
        raise InputError(f"{name} has a spacing of {shown} mm, which spans no volume (limit: above 0); mend its header")


def _check_itk_opens(path: Path) -> None:
    """Raises InputError for a path that is no UTF-8, at which SimpleITK aborts the process."""
    if plain_utf8(str(path)) != str(path):
        raise InputError(f"{plain_utf8(str(path))}: its name is not UTF-8; rename the file or folder")


def _mha_grid(path: Path) -> Grid:
    import SimpleITK as sitk

    _check_itk_opens(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("MetaImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:  # SimpleITK raises nothing more precise
        reason = _reason(error).removeprefix("Reason: ")
        said = "" if reason == "Success" else f" ({reason})"  # ITK's word for a file that is no MHA
        raise InputError(f"{path} cannot be read as MHA{said}; copy it again, or convert it if it is none") from None
    size, spacing = reader.GetSize(), reader.GetSpacing()
    _check_volume(path.name, size, spacing, reader.GetNumberOfComponents())
    return Grid.from_itk(size, spacing, reader.GetOrigin(), reader.GetDirection())


def _read_mha(path: Path, shape: tuple[int, ...], wanted: type = np.float32) -> np.ndarray:
    """The voxels straight from the file: ITK would return a damaged compressed block as if it were good, and is slower."""
    fields, offset = _mha_fields(path)
    is_big = _is_true(fields, "BinaryDataByteOrderMSB", _is_true(fields, "ElementByteOrderMSB", False))
    dtype = np.dtype(DTYPES[fields["ElementType"]]).newbyteorder(">" if is_big else "<")
    with path.open("rb") as file:
        file.seek(offset)
        if _is_true(fields, "CompressedData", False):
            voxels = _inflate(file, dtype, math.prod(shape), path, wanted)
        else:
            found, expected = path.stat().st_size - offset, dtype.itemsize * math.prod(shape)
            if found < expected:
                raise InputError(f"{path} is truncated: {found} of {expected} bytes of voxels; copy it again")
            voxels = np.fromfile(file, dtype, math.prod(shape)).astype(wanted, copy=False)
    return voxels.reshape(shape)


def _mha_fields(path: Path) -> tuple[dict[str, str], int]:
    """The header's fields, and where the voxels begin.

    Raises:
        InputError: the voxels are elsewhere, or are not stored as plain binary numbers.
    """
    fields, offset = {}, 0
    with path.open("rb") as file:
        for line in file:
            offset += len(line)
            key, _, value = line.decode("ascii", "replace").partition("=")
            fields[key.strip()] = value.strip()
            if key.strip() == "ElementDataFile" or offset > MAX_HEADER_BYTES:
                break
    if fields.get("ElementDataFile") != "LOCAL":
        raise InputError(f"{path}: its voxels are not in the file itself; save it as one .mha file")
    if fields.get("ElementType") not in DTYPES:
        raise InputError(f"{path}: ElementType {fields.get('ElementType')} is not read; one of {', '.join(DTYPES)}")
    if not _is_true(fields, "BinaryData", True) or fields.get("HeaderSize", "0") != "0":
        raise InputError(f"{path}: its voxels are text or begin at a place of their own; save it as a binary .mha file")
    return fields, offset


def _is_true(fields: dict[str, str], key: str, absent: bool) -> bool:
    """A boolean as MetaIO takes it: by its first letter."""
    return fields[key].startswith(("T", "t", "1")) if key in fields else absent


def _inflate(file, dtype: np.dtype, count: int, path: Path, wanted: type) -> np.ndarray:
    """wanted (count,) from a zlib stream, block by block: no second copy of the volume, and zlib's own checksum is verified."""
    out, done, rest = np.empty(count, wanted), 0, b""
    inflate = isal_zlib.decompressobj()
    try:
        while not inflate.eof and (block := file.read(BLOCK_BYTES)):
            piece = rest + inflate.decompress(block)
            whole = min(len(piece) // dtype.itemsize, count - done)
            out[done : done + whole] = np.frombuffer(piece, dtype, whole)
            done, rest = done + whole, piece[whole * dtype.itemsize :]
    except isal_zlib.error as error:
        raise InputError(f"{path} is damaged: its compressed voxels cannot be unpacked ({error}); copy it again") from None
    if done < count or not inflate.eof:
        raise InputError(f"{path} is truncated: {done} of {count} voxels and no end of the compressed block; copy it again")
    return out


def _reason(error: Exception) -> str:
    """The last line of a message without ITK's addresses."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].split("): ")[-1].strip()[:120]


def _open_nifti(path: Path):
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        return nibabel.load(path)
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, OverflowError, TypeError) as error:
        raise InputError(f"{path} cannot be read as NIfTI ({_reason(error)}); copy it again") from error


def _nifti_grid(image, name: str) -> Grid:
    """The affine (the sform, else the qform) as an LPS grid."""
    dtype = image.get_data_dtype()
    _check_volume(name, image.shape, image.header.get_zooms()[:3], 2 if dtype.kind == "c" else len(dtype.fields or "1"))
    if not image.header["sform_code"] and not image.header["qform_code"]:
        # readers guess here, and not alike: nibabel and ITK differ in left, right, front and back
        raise InputError(f"{name}: sform and qform codes are 0, so its orientation is unknown; convert it again from its source")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # RAS -> LPS
    if not np.isfinite(affine).all():
        raise InputError(f"{name}: its affine {image.affine.tolist()} is not finite; mend its header")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    _check_volume(name, image.shape, spacing, 1)
    return Grid.from_itk(image.shape, spacing, affine[:3, 3], (affine[:3, :3] / spacing).ravel())


def _read_nifti(path: Path, dtype: type) -> np.ndarray:
    from nibabel.arrayproxy import ArrayProxy

    stored = _open_nifti(path).dataobj
    try:
        if _is_packed(path):
            with igzip.open(path) as file:
                same = (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter)
                array = np.asanyarray(ArrayProxy(file, same, mmap=False), dtype=dtype)
        else:
            array = np.asanyarray(stored, dtype=dtype)
    except (OSError, EOFError, isal_zlib.error, ValueError, OverflowError) as error:
        raise InputError(f"{path} is truncated or damaged ({_reason(error)}); copy it again") from error
    return array.transpose(2, 1, 0)


def write_image(path: Path, array: np.ndarray, stored: Grid) -> None:
    """Writes an LPS array on the stored grid, compressed, through a temporary name, and reads it back.

    Args:
        path: .mha, .nii or .nii.gz; an existing file is replaced in one step.
        array: (z, y, x) in LPS order; its dtype is the file's.
        stored: the grid of the file, in its own orientation.

    Raises:
        InputError: the disk refused it, or what was read back differs.
    """
    path = Path(path)
    own = np.ascontiguousarray(from_lps(array, replace(stored, direction=orthonormal(stored.direction, path.name)[0])))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            (_write_nifti if _is_nifti(path) else _write_mha)(partial, own, stored)
            # in its own type: a total-body mask as float32 takes four times the mask
            grid = read_grid(partial)
            again = _read_voxels(partial, grid.shape_zyx, own.dtype.type)
            if not np.array_equal(again, own) or not grid.matches(stored, GEOMETRY_MM):
                raise InputError(f"{path}: what was read back differs from what was written; check the disk")
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written ({_reason(error)}); check the folder's rights and its space") from error


def write_mask(path: Path, mask: np.ndarray, stored: Grid) -> None:
    """Writes a bool LPS mask as uint8 0/1 on the stored grid; see write_image."""
    write_image(path, mask.astype(np.uint8), stored)


def _write_mha(path: Path, own: np.ndarray, stored: Grid) -> None:
    import SimpleITK as sitk

    _check_itk_opens(path)
    sitk.WriteImage(sitk_image(own, stored), str(path), useCompression=True)


def _write_nifti(path: Path, own: np.ndarray, stored: Grid) -> None:
    import nibabel

    affine = np.eye(4)
    affine[:3, :3] = np.asarray(stored.direction) * stored.spacing_mm_xyz
    affine[:3, 3] = stored.origin_mm_xyz
    image = nibabel.Nifti1Image(own.transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, dtype=own.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    with path.open("wb") as file:
        if _is_packed(path):  # without a name and a time, so that the same mask gives the same bytes
            with igzip.IGzipFile("", "wb", PACKING, file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)


def sitk_image(array: np.ndarray, grid: Grid):
    """SimpleITK's image of an array (z, y, x) on a grid."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing_mm_xyz)
    image.SetOrigin(grid.origin_mm_xyz)
    image.SetDirection(grid.direction9)
    return image
