"""One picture of a study and its lesion mask: PET from the front and from the side, and the CT through the largest lesion.

Pillow draws it: it needs no display, no home folder and no font cache, which a read-only container does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2s.components import label
from l2s.report.draw import Panel, compose
from l2s.study import Study
from l2s.wholefile import whole_file

SUV_RANGE = (10.0, 0.0)  # black to white, fixed, so that two pictures compare: the liver is light grey, a hot lesion black
CT_HU_RANGE = (-160.0, 240.0)  # the usual soft tissue window
BODY_SUV = 0.4  # a column whose maximum is below it shows air
MARGIN_MM = 25.0


@dataclass(frozen=True)
class Lesions:
    """What the caption and the CT plane need.

    Attributes:
        count: 18-connected components of the mask.
        volume_ml: of all of them.
        largest_ml: of the largest; 0 where there is none.
        plane: index along y of the coronal plane with the most voxels of the largest lesion; the middle plane where there is none.
    """

    count: int
    volume_ml: float
    largest_ml: float
    plane: int


def mip(array: np.ndarray, axis: int) -> np.ndarray:
    """Maximum along an axis of a (z, y, x) array, head up: axis 1 is the view from the front (z, x), axis 2 from the side (z, y)."""
    return array.max(axis=axis)[::-1]


def preview(study: Study, mask: np.ndarray, path: Path) -> None:
    """Writes a PNG: coronal and sagittal MIP of the PET, a coronal CT plane, and the mask's outline on each.

    Args:
        study: PET (SUV) and CT (HU), (z, y, x) in LPS.
        mask: bool (z, y, x) on the same grid; may be empty.
        path: the file; it appears complete or not at all.
    """
    path = Path(path)
    lesions = find_lesions(mask, study.grid.voxel_volume_ml)
    image = compose(make_panels(study, mask, lesions), study.name, caption(lesions))
    with whole_file(path) as partial:
        image.save(partial, format="PNG")


def find_lesions(mask: np.ndarray, voxel_volume_ml: float) -> Lesions:
    """Counts the mask's components and finds the plane of the largest."""
    table = label(mask)
    if not table.count:
        return Lesions(0, 0.0, 0.0, mask.shape[1] // 2)
    largest = table.voxels[table.owner == np.argmax(table.sizes)]
    plane = int(np.argmax(np.bincount(largest // mask.shape[2] % mask.shape[1])))
    return Lesions(table.count, float(len(table.voxels) * voxel_volume_ml), float(len(largest) * voxel_volume_ml), plane)


def caption(lesions: Lesions) -> str:
    if not lesions.count:
        return "No lesion marked"
    if lesions.count == 1:
        return f"1 lesion, {lesions.volume_ml:.1f} ml"
    return f"{lesions.count} lesions, {lesions.volume_ml:.1f} ml in all, the largest {lesions.largest_ml:.1f} ml"


def make_panels(study: Study, mask: np.ndarray, lesions: Lesions) -> list[Panel]:
    """The three views, without the columns of air at either side."""
    spacing_z, spacing_y, spacing_x = study.grid.spacing_mm_zyx
    front, side = mip(study.pet_suv, 1), mip(study.pet_suv, 2)
    front_mask, side_mask = mip(mask, 1), mip(mask, 2)
    across, along = body(front, front_mask, spacing_x), body(side, side_mask, spacing_y)
    height_mm = len(front) * spacing_z
    width_mm, depth_mm = (across.stop - across.start) * spacing_x, (along.stop - along.start) * spacing_y
    cut_mm = (lesions.plane + 0.5 - along.start) * spacing_y
    where = "largest lesion" if lesions.count else "middle"
    ct, ct_mask = study.ct_hu[::-1, lesions.plane, across], mask[::-1, lesions.plane, across]
    return [
        Panel(
            "PET, maximum, from the front", front[:, across], front_mask[:, across], SUV_RANGE, (width_mm, height_mm), ("R", "L")
        ),
        Panel(
            "PET, maximum, from the left",
            side[:, along],
            side_mask[:, along],
            SUV_RANGE,
            (depth_mm, height_mm),
            ("A", "P"),
            cut_mm,
        ),
        Panel(f"CT, coronal, through the {where}", ct, ct_mask, CT_HU_RANGE, (width_mm, height_mm), ("R", "L")),
    ]


def body(view: np.ndarray, mask: np.ndarray, spacing_mm: float) -> slice:
    """The columns of a PET projection that show the body or the mask, with a margin; all of them where nothing does."""
    hit = np.flatnonzero((np.nan_to_num(view) > BODY_SUV).any(axis=0) | mask.any(axis=0))
    if not len(hit):
        return slice(0, view.shape[1])
    margin = int(np.ceil(MARGIN_MM / spacing_mm))
    return slice(max(0, int(hit[0]) - margin), min(view.shape[1], int(hit[-1]) + 1 + margin))
