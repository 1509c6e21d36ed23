"""Real tumours, cut out of a patient's PET, turned and shrunk into a phantom: real texture and outline, at sizes too small to be had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2s.phantom.shapes import Box, Canvas, rotation
from l2s.study import Study

SMALL_ML = (0.3, 10.0)  # log-uniform: what a patient's other lesions measure
SMALL_SHARE = 0.75
SHRINK = (0.4, 1.0)  # of the volume, for the others
FINE_BELOW_ML = 20.0  # smaller ones are a few voxels wide: their weights are means of finer samples


@dataclass(frozen=True)
class Tumour:
    """One tumour's box.

    Attributes:
        donor: the patient.
        suv: float32 (z, y, x).
        inside: float32 (z, y, x), 1 in the tumour's mask.
        spacing_mm_zyx: of both.
    """

    donor: str
    suv: np.ndarray
    inside: np.ndarray
    spacing_mm_zyx: tuple[float, float, float]

    @property
    def volume_ml(self) -> float:
        return float(self.inside.sum() * np.prod(self.spacing_mm_zyx)) / 1000.0


def cut_tumour(study: Study, truth: np.ndarray, donor: str) -> Tumour | None:
    """The largest 18-connected component of a truth mask (z, y, x) and the PET in its box; None where the mask is empty."""
    labels, count = ndimage.label(truth, ndimage.generate_binary_structure(3, 2))
    if not count:
        return None
    largest = int(np.argmax(np.bincount(labels.ravel())[1:])) + 1
    slices = ndimage.find_objects(labels)[largest - 1]
    inside = np.pad((labels[slices] == largest).astype(np.float32), 1)
    suv = np.pad(study.pet_suv[slices].astype(np.float32), 1, mode="edge")
    return Tumour(donor, suv, inside, study.grid.spacing_mm_zyx)


def draw_volume(rng: np.random.Generator, tumour: Tumour) -> float:
    """The volume in ml at which a tumour is implanted, never above its own."""
    if rng.random() < SMALL_SHARE:
        return float(min(np.exp(rng.uniform(*np.log(SMALL_ML))), tumour.volume_ml))
    return float(tumour.volume_ml * rng.uniform(*SHRINK))


def transplant(
    rng: np.random.Generator, canvas: Canvas, place_xyz: np.ndarray, tumour: Tumour, volume_ml: float, upright: bool
) -> tuple[Box, np.ndarray, np.ndarray] | None:
    """The tumour at a place in mm, turned at random and shrunk to a volume.

    Args:
        upright: turn about the body's long axis alone (a large sarcoma lies along its limb).

    Returns:
        (box on the canvas, weight 0..1, SUV), or None where the box leaves the canvas.
    """
    shrink = (volume_ml / tumour.volume_ml) ** (1 / 3)
    step, first = np.array(canvas.spacing_mm_zyx), np.array([canvas.z_mm[0], canvas.y_mm[0], canvas.x_mm[0]])
    size, spacing = np.array(tumour.suv.shape), np.array(tumour.spacing_mm_zyx)
    reach = float(np.linalg.norm(size * spacing)) / 2 * shrink + step.max()
    start = np.floor((place_xyz[::-1] - reach - first) / step).astype(int)
    stop = np.ceil((place_xyz[::-1] + reach - first) / step).astype(int) + 1
    start, stop = np.maximum(start, 0), np.minimum(stop, canvas.tissue.shape)
    if (stop - start < 2).any():
        return None
    turn = rotation(np.array([0.0, 0.0, rng.uniform(0, 2 * np.pi)])) if upright else rotation(rng)
    turn_zyx = turn[::-1, ::-1]
    centre = np.array(ndimage.center_of_mass(tumour.inside))
    fine = 4 if volume_ml < FINE_BELOW_ML else 2

    # fine sample f of the box -> mm from the place -> mm in the tumour -> its index
    matrix = turn_zyx * (step / fine)[None, :] / shrink / spacing[:, None]
    origin = first + start * step - (fine - 1) / (2 * fine) * step - place_xyz[::-1]
    offset = centre + (turn_zyx @ origin) / shrink / spacing
    shape = tuple(int(n) * fine for n in stop - start)
    blocks = [int(m) for n in stop - start for m in (n, fine)]
    inside, lit = (
        ndimage.affine_transform(a, matrix, offset, shape, order=1).reshape(blocks).mean(axis=(1, 3, 5))
        for a in (tumour.inside, tumour.inside * tumour.suv)
    )
    weight = np.clip(inside, 0.0, 1.0)
    suv = np.divide(lit, inside, out=np.zeros_like(lit), where=inside > 1e-3)
    return tuple(slice(int(a), int(b)) for a, b in zip(start, stop)), weight, suv
