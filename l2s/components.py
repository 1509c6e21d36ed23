"""Connected components as one flat table: each question about all components is a single pass over the foreground voxels.

A whole-body volume has 50 million voxels and a thousandth of them are foreground. Asking each component for its own mask costs
components x volume; a table of (voxel, component) pairs costs the foreground. Fusion, metrics and pictures all read this table.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from l2s.errors import InputError

DENSE = (
    0.02  # share of the mask's box from which scipy's labelling of every voxel is faster than following the foreground's alone
)
STEPS = {6: 1, 18: 2, 26: 3}  # connectivity -> along how many axes a neighbour may differ


@dataclass(frozen=True)
class Components:
    """The connected components of a mask.

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


def label(mask: np.ndarray, connectivity: int = 18) -> Components:
    """The connected components of a bool mask (z, y, x); none for an empty mask.

    Args:
        mask: the foreground.
        connectivity: 6 (faces join), 18 (faces and edges, as autoPET counts lesions) or 26 (faces, edges and corners).

    Raises:
        InputError: another connectivity.
    """
    if connectivity not in STEPS:
        raise InputError(f"connectivity {connectivity}: one of {', '.join(map(str, STEPS))}")
    voxels = np.flatnonzero(mask)
    if not len(voxels):
        return Components(np.empty(0, np.int64), np.empty(0, np.intp), np.empty(0, np.int64))
    index = np.unravel_index(voxels, mask.shape)
    start = [int(i.min()) for i in index]
    shape = [int(i.max()) + 1 - a for i, a in zip(index, start)]
    inside = tuple(i - a for i, a in zip(index, start))
    if len(voxels) > DENSE * np.prod(shape, dtype=float):
        owner, count = label_box(mask[tuple(slice(a, a + n) for a, n in zip(start, shape))], inside, connectivity)
    else:
        owner, count = label_voxels(inside, shape, connectivity)
    return Components(voxels, owner, np.bincount(owner, minlength=count))


def label_box(mask: np.ndarray, inside: tuple[np.ndarray, ...], connectivity: int) -> tuple[np.ndarray, int]:
    """(owner of each voxel, count) by labelling the whole box."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=ndimage.generate_binary_structure(3, STEPS[connectivity]))
    return labels[inside].astype(np.intp) - 1, count


def label_voxels(inside: tuple[np.ndarray, ...], shape, connectivity: int) -> tuple[np.ndarray, int]:
    """(owner of each voxel, count) by joining each foreground voxel to its neighbours; inside holds their (z, y, x), in scan order."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    padded = [n + 2 for n in shape]  # a rim, so that no neighbour's index wraps around
    at = np.ravel_multi_index([i + 1 for i in inside], padded)
    # rank 1..n of the foreground voxel at a place, 0 elsewhere; the system hands out only the pages that are written or read
    rank = np.zeros(np.prod(padded), np.int32)
    rank[at] = np.arange(1, len(at) + 1, dtype=np.int32)
    stride_z, stride_y = padded[1] * padded[2], padded[2]
    edges = []
    for dz, dy, dx in neighbours_before(connectivity):
        other = rank[at + (dz * stride_z + dy * stride_y + dx)]
        own = np.flatnonzero(other)
        edges.append((own, other[own] - 1))
    rows, columns = (np.concatenate(ends) for ends in zip(*edges))
    graph = sparse.coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(len(at), len(at)))
    count, owner = connected_components(graph, directed=False)
    return owner.astype(np.intp), int(count)


def neighbours_before(connectivity: int) -> list[tuple[int, int, int]]:
    """Half of the neighbours of a voxel as steps (z, y, x), those that come before it in scan order."""
    cube = itertools.product((-1, 0, 1), repeat=3)
    return [d for d in cube if d < (0, 0, 0) and sum(map(abs, d)) <= STEPS[connectivity]]


def largest_first(components: Components, least_voxels: int = 1) -> Components:
    """The components of at least so many voxels, numbered from the largest to the smallest; equals keep their scan order.

    This is how lesions are numbered everywhere: lesion 1 of tables, pictures and DICOM is component 0 here.
    """
    order = np.argsort(-components.sizes, kind="stable")
    order = order[components.sizes[order] >= least_voxels]
    number = np.full(components.count, -1, np.intp)
    number[order] = np.arange(len(order))
    owner = number[components.owner]
    kept = owner >= 0
    return Components(components.voxels[kept], owner[kept], components.sizes[order])


def count_inside(components: Components, mask: np.ndarray) -> np.ndarray:
    """int64 (count,): how many voxels of a bool mask (z, y, x) lie in each component."""
    hit = mask.reshape(-1)[components.voxels]
    return np.bincount(components.owner[hit], minlength=components.count)


def maximum(components: Components, values: np.ndarray) -> np.ndarray:
    """float32 (count,): the largest of float32 values (z, y, x) in each component."""
    out = np.full(components.count, -np.inf, dtype=np.float32)
    np.maximum.at(out, components.owner, values.reshape(-1)[components.voxels])
    return out
