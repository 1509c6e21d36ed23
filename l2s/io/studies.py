"""PET and CT files -> Study, with every check that tells SUV, HU and one patient's space from what is not."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from l2s.errors import InputError
from l2s.io.images import read_grid, read_image, sitk_image
from l2s.study import Grid, Study

log = logging.getLogger(__name__)

SPACING_MM = (0.2, 20.0)  # scanners and the resampled data of the field lie between 0.5 and 10
MIN_VOXELS_AN_AXIS = 8
MAX_SUV = 1000.0  # above it the values are Bq/ml
MIN_SUV = -100.0  # below it the values are HU
MAX_HU = 40000.0  # metal saturates at 3071 or 30710; beyond it the values are no HU
AIR_HU = -1024.0
HU_AIR = -200.0  # every CT with lung, bowel gas or room air goes below


def read_study(pet_path: Path, ct_path: Path, name: str) -> tuple[Study, list[str]]:
    """PET and CT files -> a Study on the PET's grid, and warnings.

    The CT is raised to -1024 HU at least, and resampled to the PET grid where it lies on another (linear, -1024 HU outside).

    Raises:
        InputError: a file cannot be used (see read_image), the PET is no SUV image, or the two do not overlap in space.
    """
    for path in (Path(pet_path), Path(ct_path)):
        check_limits(path.name, read_grid(path))
    with ThreadPoolExecutor(2) as pool:  # unpacking leaves Python's lock free
        reads = [pool.submit(read_image, path) for path in (pet_path, ct_path)]
    pet, grid, stored, warnings = reads[0].result()
    check_pet(pet, Path(pet_path).name)
    ct, ct_grid, _, ct_warnings = reads[1].result()
    warnings = warnings + ct_warnings
    warnings += check_ct(ct, Path(ct_path).name)
    lift_to_air(ct)
    ct, lines = ct_on_grid(ct, ct_grid, grid, Path(pet_path).name, Path(ct_path).name)
    warnings += lines
    return Study(pet, ct, grid, stored, name), warnings


def read_pet(pet_path: Path, name: str) -> tuple[Study, list[str]]:
    """A PET file alone -> a Study whose CT is NaN, and warnings: enough for measuring, not for segmenting.

    Raises:
        InputError: the file cannot be used (see read_image) or is no SUV image.
    """
    check_limits(Path(pet_path).name, read_grid(pet_path))
    pet, grid, stored, warnings = read_image(pet_path)
    check_pet(pet, Path(pet_path).name)
    return Study(pet, np.broadcast_to(np.float32(np.nan), pet.shape), grid, stored, name), warnings


def check_limits(name: str, grid: Grid) -> None:
    """Raises InputError, before a voxel is read, where the grid is not that of a PET or CT of a body."""
    if min(grid.shape_zyx) < MIN_VOXELS_AN_AXIS:
        shown = " x ".join(map(str, grid.size_xyz))
        raise InputError(f"{name} has {shown} voxels (limit: at least {MIN_VOXELS_AN_AXIS} an axis); give a whole volume")
    if not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in grid.spacing_mm_xyz):
        shown = " x ".join(f"{s:g}" for s in grid.spacing_mm_xyz)
        raise InputError(f"{name} has a spacing of {shown} mm (limits {SPACING_MM[0]} to {SPACING_MM[1]} mm); mend its header")


def _corner(grid: Grid) -> str:
    return "(" + ", ".join(f"{v:.0f}" for v in grid.origin_mm_xyz) + ")"


def check_finite(array: np.ndarray, name: str) -> None:
    """Raises InputError where a voxel is NaN or infinite."""
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinite voxels; none may be")


def check_pet(pet: np.ndarray, name: str) -> None:
    """Raises InputError where the values cannot be SUV."""
    low, high = float(pet.min()), float(pet.max())
    if low < MIN_SUV:
        raise InputError(
            f"{name}: smallest value {low:g} (limit {MIN_SUV:g}): these are Hounsfield units; PET and CT are swapped"
        )
    if high > MAX_SUV:
        raise InputError(
            f"{name}: largest value {high:g} (limit {MAX_SUV:g}): this is Bq/ml, not SUV; convert it to body-weight SUV first: "
            "Bq/ml x weight in g / injected Bq, decay-corrected to the start of the scan"
        )
    if high <= 0:
        raise InputError(f"{name}: no voxel above 0 (largest {high:g}): an empty PET; export it again")


def check_ct(ct_hu: np.ndarray, name: str) -> list[str]:
    """Warnings about a CT; raises InputError where the values cannot be Hounsfield units."""
    if ct_hu.min() >= 0 or ct_hu.max() > MAX_HU:
        raise InputError(
            f"{name}: values from {ct_hu.min():g} to {ct_hu.max():g}; Hounsfield units go below 0 and not above {MAX_HU:g}: "
            "give the CT in HU"
        )
    if ct_hu.min() > HU_AIR:
        return [f"{name}: no voxel below {HU_AIR:g}, the smallest is {ct_hu.min():g}: are these Hounsfield units?"]
    return []


def lift_to_air(ct_hu: np.ndarray) -> None:
    """Sets to AIR_HU, in place, what lies below it.

    Scanners mark what lies outside the round field of view by -2000 or -3024, which would bleed into the skin when resampled.
    """
    np.maximum(ct_hu, AIR_HU, out=ct_hu)


def ct_on_grid(ct_hu: np.ndarray, ct_grid: Grid, grid: Grid, pet_name: str, ct_name: str) -> tuple[np.ndarray, list[str]]:
    """(the CT on the PET's grid, warnings): as it is where it lies on it, else resampled (linear, -1024 HU outside).

    Raises:
        InputError: the two do not overlap in space.
    """
    if ct_grid.matches(grid):
        return ct_hu, []
    inside = grid.overlap_fraction(ct_grid)
    if inside == 0:
        raise InputError(
            f"{pet_name} and {ct_name} do not overlap in space (PET from {_corner(grid)} mm, CT from "
            f"{_corner(ct_grid)} mm); give both of one study in one frame of reference"
        )
    log.info("CT is not on the PET grid: resampled, linear")
    warnings = []
    if inside < 0.5:
        warnings.append(f"the CT covers {inside:.0%} of the PET's field of view; elsewhere it is taken as air")
    return resample_ct(ct_hu, ct_grid, grid), warnings


def check_study(study: Study) -> list[str]:
    """Warnings about a study made in memory, by the rules that files meet.

    Raises:
        InputError: too small, of absurd spacing, not finite, no SUV or no HU.
    """
    check_limits(study.name, study.grid)
    for what, array in (("PET", study.pet_suv), ("CT", study.ct_hu)):
        check_finite(array, f"{study.name}: the {what}")
    check_pet(study.pet_suv, f"{study.name}'s PET")
    return check_ct(study.ct_hu, f"{study.name}'s CT")


def resample_ct(ct_hu: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """ct_hu on the target grid: linear, -1024 HU outside; any two LPS grids."""
    import SimpleITK as sitk

    image = sitk_image(ct_hu, source)
    reference = sitk.Image(target.size_xyz, sitk.sitkUInt8)
    reference.SetSpacing(target.spacing_mm_xyz)
    reference.SetOrigin(target.origin_mm_xyz)
    reference.SetDirection(target.direction9)
    return sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), sitk.sitkLinear, AIR_HU, sitk.sitkFloat32))
