"""Organ label maps of other tools, brought to the PET's grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from l2s.errors import InputError
from l2s.io.images import read_image, sitk_image
from l2s.study import Grid


def read_labels(path: Path, grid: Grid) -> tuple[np.ndarray, list[str]]:
    """A label image on a grid, int32 (z, y, x), and warnings. One on another grid (the CT's) is resampled: nearest label, 0 outside.

    Raises:
        InputError: it cannot be read, holds no whole numbers from 0 up, or lies elsewhere in space.
    """
    values, found, _, warnings = read_image(path)
    if (values < 0).any() or (values != np.rint(values)).any():
        raise InputError(
            f"{path} is no label image: values from {values.min():g} to {values.max():g}; export whole numbers from 0 up"
        )
    labels = values.astype(np.int32)
    if found.matches(grid):
        return labels, warnings
    if grid.overlap_fraction(found) == 0:
        raise InputError(f"{path} does not overlap with the PET in space; give the organ map of this study")
    return resample_labels(labels, found, grid), [*warnings, f"{Path(path).name}: resampled to the PET grid, nearest label"]


def resample_labels(labels: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """int32 labels on the target grid: the nearest one, 0 outside; any two LPS grids."""
    import SimpleITK as sitk

    reference = sitk.Image(target.size_xyz, sitk.sitkUInt8)
    reference.SetSpacing(target.spacing_mm_xyz)
    reference.SetOrigin(target.origin_mm_xyz)
    reference.SetDirection(target.direction9)
    image = sitk_image(labels, source)
    return sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkInt32))
