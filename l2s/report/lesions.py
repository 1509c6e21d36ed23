"""Which voxels belong to which row of the lesion table, and what of it a truth confirms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2s.components import Components, count_inside, label, largest_first
from l2s.errors import InputError

HIT, FALSE, MISSED = "hit", "false", "missed"
MIDLINE_MM = 15.0  # nearer to the middle of the body than this, a lesion is neither left nor right
BODY_SUV = 0.4  # a column of voxels whose maximum is below it shows air
WHOLE_MM = 400.0  # a field of view narrower than this may show one side of the body alone


@dataclass(frozen=True)
class Located:
    """Lesions as a flat table of voxels, in the order of the lesion table.

    Attributes:
        shape_zyx: of the volume.
        voxels: int64 (n,), flat C-order indices.
        owner: int (n,), the lesion of each voxel, 0..count-1.
        count: how many lesions.
    """

    shape_zyx: tuple[int, int, int]
    voxels: np.ndarray
    owner: np.ndarray
    count: int

    def indices_zyx(self) -> np.ndarray:
        """int (n, 3)."""
        return np.stack(np.unravel_index(self.voxels, self.shape_zyx), axis=1)


def locate(mask: np.ndarray, sizes: list[int], connectivity: int = 18, min_voxels: int = 1) -> Located:
    """The voxels of each lesion of a table.

    Args:
        mask: bool (z, y, x).
        sizes: voxels of each lesion, in the table's order (the largest first).
        connectivity: 6, 18 or 26, what the table was made with.
        min_voxels: smaller components are in no row.

    Raises:
        InputError: the mask's lesions are not those of the table.
    """
    table = largest_first(label(mask, connectivity), min_voxels)
    if table.sizes.tolist() != list(sizes):
        raise InputError(
            f"the lesion table has {len(sizes)} lesions of {sum(sizes)} voxels, the mask {table.count} of {int(table.sizes.sum())}: they "
            "do not belong together; run `l2s measure` on this folder again"
        )
    return Located(mask.shape, table.voxels, table.owner, table.count)


@dataclass(frozen=True)
class Compared:
    """Lesions against a truth: a lesion is hit where it shares a voxel with the truth; a true one is found where the mask has one of its.

    Attributes:
        verdicts: 'hit' or 'false' for each row of the lesion table.
        missed: the true lesions (18-connected) that no voxel of the mask touches.
        touched: the other true lesions.
        true_lesions, found: how many there are, how many of them were found.
    """

    verdicts: tuple[str, ...]
    missed: Located
    touched: Located
    true_lesions: int
    found: int


def compare(lesions: Located, mask: np.ndarray, truth: np.ndarray) -> Compared:
    """Judges each lesion by the truth, both bool (z, y, x) on one grid.

    Raises:
        InputError: the shapes differ.
    """
    if truth.shape != mask.shape:
        raise InputError(f"the truth has shape {truth.shape}, the mask {mask.shape}: bring the truth to the PET's grid")
    hit = truth.reshape(-1)[lesions.voxels]
    shared = np.bincount(lesions.owner[hit], minlength=lesions.count)
    true = label(truth)
    touched = count_inside(true, mask) > 0
    missed, met = (some_of(true, mask.shape, keep) for keep in (~touched, touched))
    return Compared(tuple(HIT if n else FALSE for n in shared), missed, met, true.count, met.count)


def some_of(table: Components, shape_zyx: tuple[int, int, int], keep: np.ndarray) -> Located:
    """Those components that keep, bool (count,), names, numbered anew."""
    number = np.cumsum(keep) - 1
    voxels = keep[table.owner] if table.count else np.zeros(0, bool)
    return Located(shape_zyx, table.voxels[voxels], number[table.owner[voxels]], int(keep.sum()))


def places(lesions: Located, pet_suv: np.ndarray, grid) -> list[str]:
    """Where each lesion's middle lies, in words: side of the body's middle, mm below the top of the scan.

    The body's middle is the middle of what is above 0.4 SUV in the lesion's own plane. A field of view that may show a part of the body
    only, such as a leg, has no middle to speak of: then the words give the mm alone.
    """
    if not lesions.count:
        return []
    index = lesions.indices_zyx()
    weight = np.bincount(lesions.owner, minlength=lesions.count)
    middle = np.stack([np.bincount(lesions.owner, index[:, k], minlength=lesions.count) / weight for k in range(3)], axis=1)
    words = []
    for z, _, x in middle:
        below_mm = (grid.shape_zyx[0] - 1 - z) * grid.spacing_mm_zyx[0]
        body = np.flatnonzero(np.nan_to_num(pet_suv[round(z)]).max(axis=0) > BODY_SUV)
        if not len(body) or pet_suv.shape[2] * grid.spacing_mm_zyx[2] < WHOLE_MM:
            words.append(f"{below_mm:.0f} mm")
            continue
        off_mm = (x - (body[0] + body[-1]) / 2) * grid.spacing_mm_zyx[2]
        side = "midline" if abs(off_mm) < MIDLINE_MM else "left" if off_mm > 0 else "right"
        words.append(f"{side}, {below_mm:.0f} mm")
    return words
