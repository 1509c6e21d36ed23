"""Connected components as one flat table: each question about all components is a single pass over the foreground voxels.

A whole-body volume has 50 million voxels and a thousandth of them are foreground. Asking each component for its own mask costs
components x volume; a table of (voxel, component) pairs costs the foreground.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Components:
    """The 18-connected components of a mask.

    Attributes:
        voxels: int64 (n,), flat C-order index of each foreground voxel, ascending.
        owner: intp (n,), its component, 0..count-1, numbered in scan order.
        sizes: int64 (count,), voxels of each component.
    """

    voxels: np.ndarray
    owner: np.ndarray
    sizes: np.ndarray

    @property
    def count(self) -> int:
        return len(self.sizes)

    @property
    def largest(self) -> int:
        """Voxels of the largest component; 0 where there is none."""
        return int(self.sizes.max(initial=0))


def label(mask: np.ndarray) -> Components:
    """The 18-connected components (faces and edges touch, corners do not) of a bool mask (z, y, x); none for an empty mask."""
    from scipy import ndimage

    box = bounding_box(mask)
    if box is None:
        return Components(np.empty(0, np.int64), np.empty(0, np.intp), np.empty(0, np.int64))
    labels, count = ndimage.label(mask[box], structure=ndimage.generate_binary_structure(3, 2))
    inside = np.nonzero(labels)
    owner = labels[inside].astype(np.intp) - 1
    voxels = np.ravel_multi_index([i + s.start for i, s in zip(inside, box)], mask.shape)
    return Components(voxels, owner, np.bincount(owner, minlength=count))


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box of slices (z, y, x) that holds all of a bool mask; None for an empty one."""
    plane = mask.any(axis=2)
    hits = [np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0)), np.flatnonzero(mask.any(axis=(0, 1)))]
    if not len(hits[0]):
        return None
    return tuple(slice(int(h[0]), int(h[-1]) + 1) for h in hits)


def count_inside(components: Components, mask: np.ndarray) -> np.ndarray:
    """int64 (count,): how many voxels of a bool mask (z, y, x) lie in each component."""
    hit = mask.reshape(-1)[components.voxels]
    return np.bincount(components.owner[hit], minlength=components.count)


def maximum(components: Components, values: np.ndarray) -> np.ndarray:
    """float32 (count,): the largest of float32 values (z, y, x) in each component."""
    out = np.full(components.count, -np.inf, dtype=np.float32)
    np.maximum.at(out, components.owner, values.reshape(-1)[components.voxels])
    return out
