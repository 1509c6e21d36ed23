"""Lesions: where they sit, how large and how hot they are. Each is drawn in its own small box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2s.phantom.anatomy import Anatomy
from l2s.phantom.growth import grow, largest_piece
from l2s.phantom.implants import Tumour, draw_volume, transplant
from l2s.phantom.shapes import Box, smooth_noise
from l2s.phantom.sites import draw_place, starting_voxels
from l2s.phantom.tissues import HU, Tissue, members
from l2s.phantom.uptake import SUV, blend

MAX_LESIONS = 25
UNEVEN_ABOVE_ML = 15.0
TRIES = 40
LEAST_IMPLANT_SUV = 2.5
HOT_ORGANS = members(
    Tissue.AIR,
    Tissue.GREY,
    Tissue.WHITE,
    Tissue.BLADDER,
    Tissue.URINE,
    Tissue.MYOCARDIUM,
    Tissue.KIDNEY_CORTEX,
    Tissue.KIDNEY_MEDULLA,
)
# kind: share among lesions, volume in ml (median, sd of its logarithm, low, high)
KINDS = {
    "node": (0.34, (2.0, 1.1, 0.3, 80.0)),
    "lung": (0.14, (2.5, 1.5, 0.3, 100.0)),
    "lung_mass": (0.06, (80.0, 0.7, 20.0, 350.0)),
    "liver": (0.11, (5.0, 1.2, 0.5, 100.0)),
    "bone": (0.16, (3.0, 1.1, 0.3, 80.0)),
    "soft_tissue": (0.12, (140.0, 1.0, 20.0, 1000.0)),
    "organ": (0.07, (12.0, 0.9, 1.0, 100.0)),
}
LARGE, LARGE_ML = ("lung_mass", "soft_tissue"), 20.0
MOST_LARGE = 2  # masses in one patient
BONE = members(Tissue.MARROW, Tissue.CORTICAL, Tissue.FATTY_MARROW, Tissue.DISC)


@dataclass(frozen=True)
class Scene:
    """What lesions are drawn into.

    Attributes:
        anatomy: the patient.
        suv, hu: images before blur, changed in place.
        taken: bool, voxels of earlier lesions.
        pools: flat indices of the tissue in which a kind of lesion starts.
        patient_suv: middle SUV of this patient's lesions.
        sigma_mm: the scanner's blur.
        tumours: real ones that take the place of drawn shapes; none: all are drawn.
    """

    anatomy: Anatomy
    suv: np.ndarray
    hu: np.ndarray
    taken: np.ndarray
    pools: dict[str, np.ndarray]
    patient_suv: float
    sigma_mm: float
    tumours: Sequence[Tumour]


@dataclass(frozen=True)
class Lesion:
    """One lesion as drawn.

    Attributes:
        kind: one of KINDS.
        site: where, more closely.
        slices: its box on the canvas.
        weight: float32 share 0..1 of each voxel of the box that is lesion.
        suv: mean SUV of its living part before the scanner's blur.
        volume_ml: sum of the weights.
        centre_mm_xyz: centre of mass in body coordinates.
        donor: the patient whose tumour it is; empty for a drawn one.
    """

    kind: str
    site: str
    slices: Box
    weight: np.ndarray
    suv: float
    volume_ml: float
    centre_mm_xyz: tuple[float, float, float]
    donor: str = ""


def draw_count(rng: np.random.Generator) -> int:
    """0 in a quarter of the patients, else 1..25, mostly few."""
    return 0 if rng.random() < 0.25 else int(np.clip(np.round(rng.lognormal(np.log(3.2), 0.95)), 1, MAX_LESIONS))


def add_lesions(
    rng: np.random.Generator,
    anatomy: Anatomy,
    suv: np.ndarray,
    hu: np.ndarray,
    count: int,
    sigma_mm: float,
    tumours: Sequence[Tumour] = (),
) -> list[Lesion]:
    """Draw lesions into the SUV and HU images (in place); fewer than count where the field has no room for them.

    Args:
        rng: draws everything.
        anatomy: the patient.
        suv, hu: images before blur.
        count: how many to try.
        sigma_mm: the scanner's blur, to keep out lesions that nobody would see.
        tumours: real ones to implant instead of drawn shapes.
    """
    if count == 0:
        return []
    names = list(KINDS)
    share = np.array([KINDS[n][0] for n in names])
    # a disease has its favourite organs: concentrate the shares for each patient
    share = rng.dirichlet(share * 3.0) if count > 1 else share / share.sum()
    scene = Scene(
        anatomy,
        suv,
        hu,
        np.zeros(suv.shape, dtype=bool),
        starting_voxels(anatomy),
        float(np.clip(rng.lognormal(np.log(7.5), 0.5), 2.5, 25.0)),
        sigma_mm,
        tumours,
    )
    found, large = [], 0
    for _ in range(TRIES + 3 * count):
        if len(found) == count:
            break
        kind = names[int(rng.choice(len(names), p=share))]
        if kind in LARGE and large == MOST_LARGE:
            continue
        lesion = _try_implant(rng, scene, kind) if tumours else _try_one(rng, scene, kind)
        if lesion is not None:
            found.append(lesion)
            large += lesion.volume_ml >= LARGE_ML
    return found


def _try_one(rng: np.random.Generator, scene: Scene, kind: str) -> Lesion | None:
    """One lesion drawn into the scene, or None where it does not fit."""
    canvas = scene.anatomy.canvas
    place, site = draw_place(rng, scene.anatomy, kind, scene.pools.get(kind))
    if place is None:
        return None
    middle, spread, low, high = KINDS[kind][1]
    volume = float(np.clip(rng.lognormal(np.log(middle), spread), low, high))
    shape = grow(rng, canvas, place, volume, kind)
    if shape is None:
        return None
    slices, weight = shape
    if kind == "soft_tissue":
        _bulge(scene, slices, weight)
    inside = BONE if kind == "bone" and rng.random() < 0.7 else None
    weight = _fitted(scene, slices, weight, inside)
    got = float(weight.sum()) * canvas.voxel_volume_ml
    if got < max(0.45 * volume, low) or not (weight > 0.5).any():
        return None
    pace = 0.7 if kind == "soft_tissue" else 1.15 if volume > 20 else 1.0
    level = float(np.clip(scene.patient_suv * pace * rng.lognormal(0.0, 0.35), 2.0, 30.0))
    level = _visible(scene.suv, slices, weight, level, got, scene.sigma_mm)
    if level is None:
        return None
    _fill(rng, scene, slices, weight, level, got, kind)
    return _taken(scene, kind, site, slices, weight, level, got)


def _try_implant(rng: np.random.Generator, scene: Scene, kind: str) -> Lesion | None:
    """One real tumour, turned and shrunk into the scene, or None where it does not fit."""
    canvas = scene.anatomy.canvas
    tumour = scene.tumours[int(rng.integers(len(scene.tumours)))]
    volume = draw_volume(rng, tumour)
    # none but limbs and lungs have room for a large one
    if volume >= LARGE_ML and kind not in LARGE:
        kind = "lung_mass" if kind == "lung" else "soft_tissue"
    place, site = draw_place(rng, scene.anatomy, kind, scene.pools.get(kind))
    shape = None if place is None else transplant(rng, canvas, place, tumour, volume, upright=kind == "soft_tissue")
    if shape is None:
        return None
    slices, weight, suv = shape
    if kind == "soft_tissue":
        _bulge(scene, slices, weight)
    weight = _fitted(scene, slices, weight)
    got = float(weight.sum()) * canvas.voxel_volume_ml
    if got < 0.45 * volume or not (weight > 0.5).any():
        return None
    mean = float((suv * weight).sum() / weight.sum())
    # cold sarcomas are told by MRI: what PET is to find takes up FDG
    level = max(mean * rng.lognormal(0.0, 0.25), LEAST_IMPLANT_SUV)
    level = _visible(scene.suv, slices, weight, level, got, scene.sigma_mm)
    if level is None:
        return None
    blend(scene.suv, slices, weight, suv * np.float32(level / mean))
    if kind != "bone":
        blend(scene.hu, slices, weight, 40.0 + rng.normal(0.0, 7.0))
    return _taken(scene, kind, site, slices, weight, level, got, tumour.donor)


def _fitted(scene: Scene, slices: Box, weight: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """The weight's largest piece outside of hot organs and earlier lesions, and inside of some tissues where these are named."""
    tissue = scene.anatomy.canvas.tissue[slices]
    weight = weight * ~(HOT_ORGANS[tissue] | scene.taken[slices])
    return largest_piece(weight if inside is None else weight * inside[tissue])


def _taken(
    scene: Scene, kind: str, site: str, slices: Box, weight: np.ndarray, level: float, volume_ml: float, donor: str = ""
) -> Lesion:
    """The lesion as a value; its voxels are taken from now on."""
    canvas = scene.anatomy.canvas
    scene.taken[slices] |= weight > 0.05
    centre = tuple(
        float((weight.sum(axis=tuple(k for k in range(3) if k != axis)) * mm[slices[axis]]).sum() / weight.sum())
        for axis, mm in ((2, canvas.x_mm), (1, canvas.y_mm), (0, canvas.z_mm))
    )
    return Lesion(kind, site, slices, weight.astype(np.float32), round(level, 2), volume_ml, centre, donor)


def _bulge(scene: Scene, slices: Box, weight: np.ndarray) -> None:
    """A large mass in a limb pushes the skin out: its air becomes fat, with a rim, if it is the smaller part of the mass."""
    canvas = scene.anatomy.canvas
    air = canvas.tissue[slices] == Tissue.AIR
    if (weight * air).sum() > 0.35 * weight.sum():
        return
    rim = ndimage.binary_dilation(weight > 0.1, iterations=2) & air
    canvas.tissue[slices][rim] = Tissue.FAT
    scene.suv[slices][rim] = SUV[Tissue.FAT][0]
    scene.hu[slices][rim] = HU[Tissue.FAT][0]


def _visible(suv: np.ndarray, slices: Box, weight: np.ndarray, level: float, volume_ml: float, sigma_mm: float) -> float | None:
    """The SUV at which the blurred lesion stands out of what lies around it, or None where that would take more than SUV 30."""
    around = suv[slices]
    background = float((around * weight).sum() / weight.sum())
    rim = around[(weight < 0.05)]
    rim = float(np.percentile(rim, 85)) if rim.size else background
    background = max(background, 0.8 * rim)
    radius = (volume_ml * 1000.0 * 3.0 / (4.0 * np.pi)) ** (1 / 3)
    # peak of a ball blurred by a Gaussian, as a share of its contrast
    t = radius / (math.sqrt(2.0) * sigma_mm)
    recovery = max(math.erf(t) - 2.0 / math.sqrt(math.pi) * t * math.exp(-(t**2)), 0.15)
    least = background + max(0.9, 0.6 * background) / recovery
    level = float(max(level, least))
    return level if level <= 30.0 else None


def _fill(
    rng: np.random.Generator, scene: Scene, slices: Box, weight: np.ndarray, level: float, volume_ml: float, kind: str
) -> None:
    """Uptake with texture and, in large lesions, a fall from core to rim or a cold dead core; CT numbers by kind."""
    hu = scene.hu
    radius_vox = (volume_ml / scene.anatomy.canvas.voxel_volume_ml * 3 / (4 * np.pi)) ** (1 / 3)
    texture = smooth_noise(rng, weight.shape, (max(radius_vox * 0.5, 1.0),) * 3)
    fine = smooth_noise(rng, weight.shape, (max(radius_vox * 0.25, 1.0),) * 3)
    uneven = rng.uniform(0.08, 0.2) if volume_ml < 20 else rng.uniform(0.15, 0.45)
    value = level * np.clip(1.0 + uneven * (texture + 0.6 * fine), 0.2, 2.0)
    dead = np.zeros(weight.shape, dtype=np.float32)
    if volume_ml > UNEVEN_ABOVE_ML:
        depth = ndimage.distance_transform_edt(np.pad(weight > 0.5, 1))[1:-1, 1:-1, 1:-1]
        core = depth / max(depth.max(), 1.0) + 0.25 * texture + 0.1 * fine
        # growth fastest inside: without such masses a network takes the rim for the core's spill and outlines tightly
        if rng.random() < 0.5:
            value = value * np.clip(1.0 + rng.uniform(0.5, 1.5) * (core - 0.5), 0.3, 2.0)
    if volume_ml > UNEVEN_ABOVE_ML and rng.random() < (0.65 if kind == "soft_tissue" else 0.35):
        dead = np.clip((core - rng.uniform(0.35, 0.7)) / 0.15, 0.0, 1.0)
        value = value + dead * (rng.uniform(0.8, 1.8) - value)
    blend(scene.suv, slices, weight, value)
    ct = {"node": 42.0, "lung": 38.0, "lung_mass": 38.0, "liver": None, "soft_tissue": 40.0, "organ": 42.0, "bone": None}[kind]
    if kind == "liver":
        blend(hu, slices, weight * rng.uniform(0.0, 1.0), hu[slices] - 22.0)
        return
    if kind == "bone":
        look = rng.random()
        ct = 55.0 if look < 0.35 else (620.0 if look < 0.65 else None)  # lytic, sclerotic, or nothing to see
        if ct is None:
            return
    blend(hu, slices, weight, ct + rng.normal(0.0, 7.0) + 5.0 * texture - 22.0 * dead)
