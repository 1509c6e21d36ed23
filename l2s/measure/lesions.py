"""A mask's lesions in numbers: one row a lesion, one for the patient. CSV, JSON, report and DICOM are written from this table.

Every figure of all lesions is one pass over the foreground voxels (components.py): a hundred lesions cost what one of their size costs.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

import numpy as np

from l2s.components import STEPS, Components, label, largest_first, maximum
from l2s.errors import InputError
from l2s.measure import peak, reference, shape
from l2s.measure.reference import Baseline, Deauville, Percist, Reference, Region
from l2s.study import Body, Grid, Study

CUE_SEEN = 0.5  # of the localizer's answer; the voxelwise rule cuts there too
MTV_SHARE = 0.41  # of a lesion's SUVmax: Boellaard et al., EANM guideline 2.0, 2015
MTV_LOW_SUV, MTV_HIGH_SUV = 2.5, 4.0


@dataclass(frozen=True)
class Settings:
    """How lesions are counted and what they are compared with.

    Attributes:
        connectivity: 6, 18 or 26.
        min_volume_ml: smaller components are no lesions; the patient's row says how many were left out.
        liver, blood: regions of normal tissue; None: not given.
        body: weight, height and sex; what is None here is taken from the study.
        lean_mass: 'janmahasatian' or 'james'.
        baseline: an earlier study, for PERCIST's response.
    """

    connectivity: int = 18
    min_volume_ml: float = 0.0
    liver: Region | None = None
    blood: Region | None = None
    body: Body = Body()
    lean_mass: str = "janmahasatian"
    baseline: Baseline | None = None


@dataclass(frozen=True)
class Lesion:
    """One lesion. SUV are body-weight SUV (g/ml). None: that figure has no source (no CT, no probability, no cue).

    Attributes:
        number: from 1, the largest first; equal volumes in scan order (z, y, x).
        voxels: how many.
        volume_ml: voxels x voxel volume (IBSI YEKZ).
        suv_max, suv_mean: over its voxels.
        suv_peak_local: mean of the 1 ml sphere around its hottest voxel (IBSI VJGA); tissue beside the lesion counts.
        suv_peak_global: the largest such mean around any of its voxels (IBSI 0F91).
        tlg_suv_ml: total lesion glycolysis, suv_mean x volume_ml.
        mtv_41pct_ml: volume of its voxels at or above 41 % of its suv_max.
        mtv_suv2_5_ml, mtv_suv4_ml: volume of its voxels at or above SUV 2.5 and 4.0.
        centroid_mm_xyz: LPS, mean of its voxel centres.
        centroid_voxel_xyz: the same as fractional voxel indices of the FILE, its fastest axis first, from 0 (NIfTI's i, j, k).
        maximum_mm_xyz: LPS centre of its hottest voxel, of equals the first in scan order.
        maximum_voxel_xyz: the same as indices of the file, as above.
        longest_diameter_mm: largest distance between two points of its surface mesh (IBSI L0JK), which runs through the middle
            between a voxel and its outer neighbour: one voxel alone has its longest edge.
        surface_mm2: area of the marching-cubes mesh at 0.5 of its mask (IBSI C0JK).
        mesh_volume_ml: volume inside that mesh (IBSI RNU0).
        sphericity: of the mesh, (36 pi V^2)^(1/3) / A (IBSI QCFX); 1 is a ball.
        mean_hu: over its voxels.
        probability_mean, probability_max: of the segmenter, over its voxels.
        cue_share: share of its voxels with a cue above 0.5.
    """

    number: int
    voxels: int
    volume_ml: float
    suv_max: float
    suv_mean: float
    suv_peak_local: float
    suv_peak_global: float
    tlg_suv_ml: float
    mtv_41pct_ml: float
    mtv_suv2_5_ml: float
    mtv_suv4_ml: float
    centroid_mm_xyz: tuple[float, float, float]
    centroid_voxel_xyz: tuple[float, float, float]
    maximum_mm_xyz: tuple[float, float, float]
    maximum_voxel_xyz: tuple[int, int, int]
    longest_diameter_mm: float
    surface_mm2: float
    mesh_volume_ml: float
    sphericity: float
    mean_hu: float | None
    probability_mean: float | None
    probability_max: float | None
    cue_share: float | None


@dataclass(frozen=True)
class Patient:
    """The whole body. Without a lesion volumes and counts are 0, all else that needs a lesion is None.

    Attributes:
        lesions: how many.
        tmtv_ml: volume of all lesions.
        tlg_suv_ml: sum of their TLG.
        suv_max: the largest.
        suv_mean: over all lesion voxels.
        suv_peak: the largest global SUVpeak.
        mtv_41pct_ml, mtv_suv2_5_ml, mtv_suv4_ml: sums over lesions.
        largest_ml: volume of the largest lesion.
        largest_share: largest_ml / tmtv_ml.
        dmax_centroids_mm: largest distance between two lesions' centroids; None with fewer than two lesions.
        dmax_voxels_mm: largest distance between the centres of two lesion voxels, of one lesion or of two.
        left_out_lesions, left_out_ml: components below the minimum volume, which no other figure counts.
        weight_kg, height_cm, sex: what SUL is worked out from; None: not known.
        liver, blood: references; None: no region given.
        percist, deauville: scores; they say themselves what they lack.
    """

    lesions: int
    tmtv_ml: float
    tlg_suv_ml: float
    suv_max: float | None
    suv_mean: float | None
    suv_peak: float | None
    mtv_41pct_ml: float
    mtv_suv2_5_ml: float
    mtv_suv4_ml: float
    largest_ml: float
    largest_share: float | None
    dmax_centroids_mm: float | None
    dmax_voxels_mm: float | None
    left_out_lesions: int
    left_out_ml: float
    weight_kg: float | None
    height_cm: float | None
    sex: str | None
    liver: Reference | None
    blood: Reference | None
    percist: Percist
    deauville: Deauville


@dataclass(frozen=True)
class Measures:
    """The table of one study.

    Attributes:
        lesions: the largest first; empty where the mask is.
        patient: the whole body.
        case: the study's name.
        mask_name: which mask was measured.
        connectivity, min_volume_ml: how lesions were counted.
        min_voxels: the same limit in voxels: components.largest_first(label(mask, connectivity), min_voxels) numbers the voxels.
        grid: where the arrays lie; mm are positions on it.
        peak_sphere_voxels, peak_sphere_ml: how many voxels of the grid SUVpeak's sphere of 1 ml holds, and their volume.
        warnings: one line each: what makes figures doubtful.
        weights_name, weights_sha256: by which the mask was made; None: unknown.
    """

    lesions: tuple[Lesion, ...]
    patient: Patient
    case: str
    mask_name: str
    connectivity: int
    min_volume_ml: float
    min_voxels: int
    grid: Grid
    peak_sphere_voxels: int
    peak_sphere_ml: float
    warnings: tuple[str, ...] = ()
    weights_name: str | None = None
    weights_sha256: str | None = None


def check(settings: Settings) -> None:
    """Raises InputError for settings that cannot be, before any work is done on them."""
    if settings.connectivity not in STEPS:
        raise InputError(f"connectivity {settings.connectivity}: one of {', '.join(map(str, STEPS))}")
    limit = settings.min_volume_ml
    if isinstance(limit, bool) or not isinstance(limit, numbers.Real):
        raise InputError(f"minimum volume {limit!r}: a number of ml is needed, 0 or more")
    if not (math.isfinite(limit) and limit >= 0):
        raise InputError(f"minimum volume {limit:g} ml: 0 or more")
    reference.lean_mass_kg(settings.body, settings.lean_mass)


def measure(
    study: Study,
    mask: np.ndarray,
    probability: np.ndarray | None = None,
    cue: np.ndarray | None = None,
    settings: Settings = Settings(),
    mask_name: str = "mask",
) -> Measures:
    """All figures of a mask.

    Args:
        study: PET in SUV and CT in HU on one grid; a CT of NaN alone is none.
        mask: bool (z, y, x) on that grid; may be empty.
        probability: float (z, y, x) 0..1, or None.
        cue: float (z, y, x) 0..1, or None.
        settings: how to count, what to compare with.
        mask_name: for the table.

    Raises:
        InputError: shapes differ, or a setting cannot be.
    """
    for name, array in (("mask", mask), ("probability", probability), ("cue", cue)):
        if array is not None and array.shape != study.grid.shape_zyx:
            raise InputError(f"{name} has shape {array.shape}, the PET {study.grid.shape_zyx}: bring it to the PET's grid first")
    check(settings)
    body = Body(
        *(
            getattr(settings.body, k) if getattr(settings.body, k) is not None else getattr(study.body, k)
            for k in ("weight_kg", "height_cm", "sex")
        )
    )
    reference.check_body(body)
    voxel_ml = study.grid.voxel_volume_ml
    min_voxels = voxels_of(settings.min_volume_ml, voxel_ml)
    everything = label(mask, settings.connectivity)
    table = largest_first(everything, min_voxels)
    lesions = tuple(rows_of(table, study, probability, cue)) if table.count else ()
    patient = patient_of(lesions, table, everything, study, body, settings)
    in_sphere = len(peak.sphere_steps(study.grid.spacing_mm_zyx))
    warnings = [reference.coarse_peak(in_sphere)] if in_sphere < reference.FEW_PEAK_VOXELS else []
    warnings += [line for one in (patient.liver, patient.blood) if one for line in one.notes]
    return Measures(
        lesions=lesions,
        patient=patient,
        case=study.name,
        mask_name=mask_name,
        connectivity=settings.connectivity,
        min_volume_ml=settings.min_volume_ml,
        min_voxels=min_voxels,
        grid=study.grid,
        peak_sphere_voxels=in_sphere,
        peak_sphere_ml=in_sphere * voxel_ml,
        warnings=tuple(warnings),
    )


def voxels_of(min_volume_ml: float, voxel_ml: float) -> int:
    """The minimum volume in voxels, 1 at least."""
    # a limit that is a whole number of voxels must not lose them to rounding
    return max(1, math.ceil(min_volume_ml / voxel_ml - 1e-6))


def rows_of(table: Components, study: Study, probability: np.ndarray | None, cue: np.ndarray | None):
    """Yields each Lesion, from columns over all of them."""
    grid, voxel_ml = study.grid, study.grid.voxel_volume_ml
    stored = study.stored or grid
    values = study.pet_suv.reshape(-1)[table.voxels]
    index = np.stack(np.unravel_index(table.voxels, grid.shape_zyx), axis=1)  # (n, 3) as z, y, x
    total, size, owner = sums(table, values), table.sizes, table.owner
    suv_max = maximum(table, study.pet_suv)
    centroid = grid.index_to_mm_xyz(np.stack([sums(table, index[:, k]) / size for k in range(3)], axis=1))
    hottest_rows = first_rows(table, np.flatnonzero(values == suv_max[owner]))
    hottest = grid.index_to_mm_xyz(index[hottest_rows])
    # 41 % is asked in float64: float32 would round the limit itself
    above = [
        np.bincount(owner, v, table.count) * voxel_ml
        for v in (values >= MTV_SHARE * suv_max.astype(np.float64)[owner], values >= MTV_LOW_SUV, values >= MTV_HIGH_SUV)
    ]
    local, highest = peak.peaks(table, index, study.pet_suv, grid.spacing_mm_zyx)
    meshes = shape.meshes(table, index, grid.spacing_mm_zyx)
    hu = sums(table, study.ct_hu.reshape(-1)[table.voxels]) / size
    sure = None if probability is None else sums(table, probability.reshape(-1)[table.voxels]) / size
    surest = None if probability is None else maximum(table, probability)
    seen = None if cue is None else np.bincount(owner, cue.reshape(-1)[table.voxels] > CUE_SEEN, table.count) / size
    for k in range(table.count):
        centroid_file, hottest_file = (stored.mm_to_index_zyx(p[k])[::-1] for p in (centroid, hottest))
        yield Lesion(
            number=k + 1,
            voxels=int(size[k]),
            volume_ml=float(size[k] * voxel_ml),
            suv_max=float(suv_max[k]),
            suv_mean=float(total[k] / size[k]),
            suv_peak_local=float(local[k]),
            suv_peak_global=float(highest[k]),
            tlg_suv_ml=float(total[k] * voxel_ml),
            mtv_41pct_ml=float(above[0][k]),
            mtv_suv2_5_ml=float(above[1][k]),
            mtv_suv4_ml=float(above[2][k]),
            centroid_mm_xyz=tuple(float(v) for v in centroid[k]),
            centroid_voxel_xyz=tuple(float(v) for v in centroid_file),
            maximum_mm_xyz=tuple(float(v) for v in hottest[k]),
            maximum_voxel_xyz=tuple(round(float(v)) for v in hottest_file),
            longest_diameter_mm=float(meshes.diameter_mm[k]),
            surface_mm2=float(meshes.area_mm2[k]),
            mesh_volume_ml=float(meshes.volume_mm3[k] / 1000),
            sphericity=float((36 * math.pi * meshes.volume_mm3[k] ** 2) ** (1 / 3) / meshes.area_mm2[k]),
            mean_hu=None if math.isnan(hu[k]) else float(hu[k]),
            probability_mean=None if sure is None else float(sure[k]),
            probability_max=None if surest is None else float(surest[k]),
            cue_share=None if seen is None else float(seen[k]),
        )


def sums(table: Components, values: np.ndarray) -> np.ndarray:
    """float64 (count,): the sum of one value a foreground voxel over each component."""
    return np.bincount(table.owner, values, table.count)


def first_rows(table: Components, rows: np.ndarray) -> np.ndarray:
    """intp (count,): of some rows of the table, ascending, the first of each component; each component has one."""
    first = np.empty(table.count, np.intp)
    first[table.owner[rows[::-1]]] = rows[::-1]  # numpy keeps the last of several, which reversed is the first
    return first


def patient_of(
    lesions: tuple[Lesion, ...], table: Components, everything: Components, study: Study, body: Body, settings: Settings
) -> Patient:
    """The whole body's row from the lesions' rows and their voxels."""
    voxel_ml, n, left_out = study.grid.voxel_volume_ml, len(table.voxels), everything.count - table.count
    mass = reference.lean_mass_kg(body, settings.lean_mass)
    factor = None if mass is None else mass / body.weight_kg
    liver, blood = (
        None
        if region is None
        else reference.uptake(region, study.pet_suv, everything.voxels, voxel_ml, factor, study.ct_hu, tissue)
        for region, tissue in ((settings.liver, "liver"), (settings.blood, "blood pool"))
    )
    tlg = math.fsum(one.tlg_suv_ml for one in lesions)
    suv_max = max((one.suv_max for one in lesions), default=None)
    suv_peak = max((one.suv_peak_global for one in lesions), default=None)
    by_peak, by_max = (left_out if hotter else 0 for hotter in hotter_left_out(table, everything, study, suv_peak, suv_max))
    tmtv = n * voxel_ml
    centroids = np.array([one.centroid_mm_xyz for one in lesions])
    return Patient(
        lesions=len(lesions),
        tmtv_ml=tmtv,
        tlg_suv_ml=tlg,
        suv_max=suv_max,
        suv_mean=tlg / tmtv if lesions else None,
        suv_peak=suv_peak,
        mtv_41pct_ml=math.fsum(one.mtv_41pct_ml for one in lesions),
        mtv_suv2_5_ml=math.fsum(one.mtv_suv2_5_ml for one in lesions),
        mtv_suv4_ml=math.fsum(one.mtv_suv4_ml for one in lesions),
        largest_ml=max((one.volume_ml for one in lesions), default=0.0),
        largest_share=lesions[0].volume_ml / tmtv if lesions else None,
        dmax_centroids_mm=shape.farthest(centroids) if len(lesions) > 1 else None,
        dmax_voxels_mm=shape.farthest(shape.row_ends_mm(table.voxels, study.grid)) if lesions else None,
        left_out_lesions=left_out,
        left_out_ml=(len(everything.voxels) - n) * voxel_ml,
        weight_kg=body.weight_kg,
        height_cm=body.height_cm,
        sex=body.sex,
        liver=liver,
        blood=blood,
        percist=reference.percist(
            suv_peak,
            tlg,
            body,
            settings.lean_mass,
            liver,
            blood,
            settings.baseline,
            by_peak,
            (settings.connectivity, settings.min_volume_ml),
            len(peak.sphere_steps(study.grid.spacing_mm_zyx)),
        ),
        deauville=reference.deauville(suv_max, liver, blood, by_max),
    )


def hotter_left_out(
    table: Components, everything: Components, study: Study, suv_peak: float | None, suv_max: float | None
) -> tuple[bool, bool]:
    """Whether a component that the minimum volume left out is hotter than all lesions: by global SUVpeak, by SUVmax."""
    voxels = np.setdiff1d(everything.voxels, table.voxels, assume_unique=True)
    if not len(voxels):
        return False, False
    index = np.stack(np.unravel_index(voxels, study.grid.shape_zyx), axis=1)
    highest = peak.sphere_means(index, study.pet_suv, study.grid.spacing_mm_zyx).max()
    hottest = study.pet_suv.reshape(-1)[voxels].max()
    return suv_peak is None or bool(highest > suv_peak), suv_max is None or bool(hottest > suv_max)
