"""Normal tissue to compare lesions with, and the two scores that do: PERCIST 1.0 and Deauville.

Both read a region of liver and of blood pool that the user names; nothing here guesses where the liver is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from l2s import body as bodies
from l2s.errors import InputError
from l2s.study import Body, Grid

LEAN_MASS = ("janmahasatian", "james")
WEIGHT_KG = bodies.WEIGHT_KG
HEIGHT_CM = tuple(100 * v for v in bodies.HEIGHT_M)

PERCIST_SOURCE = "PERCIST 1.0: Wahl et al., J Nucl Med 2009;50(Suppl 1):122S"
MEASURABLE_FACTOR, MEASURABLE_SD = 1.5, 2.0  # Wahl 2009: SULpeak at least 1.5 x liver mean + 2 SD
RESPONSE_PERCENT, RESPONSE_SUL = 30.0, 0.8  # Wahl 2009: a change of 30 % and of 0.8 SUL
PROGRESS_TLG_PERCENT = 75.0  # Wahl 2009: total lesion glycolysis up by 75 %
LIVER_PERCENT, LIVER_SUL = 20.0, 0.3  # Wahl 2009: the liver of both scans within 20 % and 0.3 SUL, else they do not compare

DEAUVILLE_SOURCE = "Deauville: Barrington et al., J Clin Oncol 2014;32:3048 (maxima; 5 from above 2 x liver SUVmax)"
DEAUVILLE_FIVE = 2.0  # Barrington 2014: score 5 for 2 to 3 times the liver's SUVmax; the lower bound is taken


@dataclass(frozen=True)
class Region:
    """Voxels of normal tissue.

    Attributes:
        voxels: int64 (n,), flat C-order indices into the study's arrays.
        source: in words where it comes from, for the table.
    """

    voxels: np.ndarray
    source: str


@dataclass(frozen=True)
class Reference:
    """Uptake of a region, lesion voxels left out.

    Attributes:
        source: the region's.
        volume_ml: of the voxels that were left.
        suv_mean, suv_sd, suv_max: body-weight SUV; sd is that of the voxels (population).
        sul_mean, sul_sd: the same by lean body mass; None where weight, height or sex are unknown.
        lesion_voxels: voxels of the region that lesions cover and that were left out.
    """

    source: str
    volume_ml: float
    suv_mean: float
    suv_sd: float
    suv_max: float
    sul_mean: float | None
    sul_sd: float | None
    lesion_voxels: int


@dataclass(frozen=True)
class Percist:
    """PERCIST 1.0 on the hottest lesion, by body uptake per lean mass (SUL). A value that cannot be worked out is None, `reason` says why.

    Attributes:
        lean_mass_kg: lean body mass.
        lean_mass_formula: 'janmahasatian' or 'james'.
        sul_peak: the largest global SULpeak of all lesions.
        tlg_sul_ml: total lesion glycolysis by SUL.
        threshold_sul: 1.5 x liver mean + 2 SD, SUL.
        measurable: whether sul_peak reaches the threshold.
        baseline: the earlier study's name; None: none was given.
        response: 'CMR', 'PMR', 'SMD' or 'PMD' against the baseline.
        sul_peak_change_percent, sul_peak_change: against the baseline's.
        reason: why something is None, one clause each.
        notes: what the reader must check by eye.
        source: of the rules.
    """

    lean_mass_kg: float | None
    lean_mass_formula: str
    sul_peak: float | None
    tlg_sul_ml: float | None
    threshold_sul: float | None
    measurable: bool | None
    baseline: str | None
    response: str | None
    sul_peak_change_percent: float | None
    sul_peak_change: float | None
    reason: tuple[str, ...]
    notes: tuple[str, ...]
    source: str = PERCIST_SOURCE


@dataclass(frozen=True)
class Deauville:
    """The five-point score of the hottest lesion, by maxima.

    Attributes:
        score: 1 to 5; None where the references do not decide it.
        reason: the comparison that decided, or what is lacking.
        source: of the rule.
    """

    score: int | None
    reason: str
    source: str = DEAUVILLE_SOURCE


@dataclass(frozen=True)
class Baseline:
    """What PERCIST needs of an earlier study; None where that study's table has none.

    Attributes:
        name: which study.
        measurable, sul_peak, tlg_sul_ml: its Percist's.
        liver_sul_mean: its liver's.
        lean_mass_formula: by which its SUL were made.
    """

    name: str
    measurable: bool | None
    sul_peak: float | None
    tlg_sul_ml: float | None
    liver_sul_mean: float | None
    lean_mass_formula: str


def region_of_labels(labels: np.ndarray, numbers: tuple[int, ...], source: str) -> Region:
    """The voxels (z, y, x) of a label image that carry one of the numbers.

    Raises:
        InputError: none does.
    """
    voxels = np.flatnonzero(np.isin(labels, numbers))
    if not len(voxels):
        present = ", ".join(f"{v:g}" for v in np.unique(labels)[:20])
        raise InputError(f"{source}: no voxel has label {', '.join(map(str, numbers))}; the image holds {present}")
    return Region(voxels, f"{source}, label {', '.join(map(str, numbers))}")


def region_of_sphere(grid: Grid, centre_mm_xyz: tuple[float, float, float], diameter_mm: float) -> Region:
    """The voxels whose centres lie in a sphere (its rim included).

    Args:
        grid: the study's.
        centre_mm_xyz: LPS.
        diameter_mm: PERCIST takes 30 in the liver's right lobe.

    Raises:
        InputError: the sphere holds no voxel centre or reaches out of the image.
    """
    shown = f"sphere at ({', '.join(f'{v:g}' for v in centre_mm_xyz)}) mm LPS, diameter {diameter_mm:g} mm"
    if not (diameter_mm > 0 and all(math.isfinite(v) for v in (*centre_mm_xyz, diameter_mm))):
        raise InputError(f"{shown}: three coordinates and a diameter above 0 are needed")
    centre = grid.mm_to_index_zyx(centre_mm_xyz)
    reach = diameter_mm / 2 / np.asarray(grid.spacing_mm_zyx)
    if (centre - reach < -0.5).any() or (centre + reach > np.asarray(grid.shape_zyx) - 0.5).any():
        corner, end = (grid.index_to_mm_xyz(i) for i in ((0, 0, 0), np.asarray(grid.shape_zyx) - 1))
        ends = " to ".join("(" + ", ".join(f"{v:.0f}" for v in p) + ")" for p in (corner, end))
        raise InputError(f"{shown}: reaches out of the image, which goes from {ends} mm; move or shrink it")
    low = np.ceil(centre - reach).astype(int)
    high = np.floor(centre + reach).astype(int) + 1
    axes = [np.arange(max(a, 0), min(b, n)) for a, b, n in zip(low, high, grid.shape_zyx)]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = index[(((index - centre) * grid.spacing_mm_zyx) ** 2).sum(axis=1) <= (diameter_mm / 2) ** 2]
    if not len(inside):
        raise InputError(f"{shown}: holds no voxel centre (voxels of {' x '.join(f'{s:g}' for s in grid.spacing_mm_xyz)} mm)")
    return Region(np.ravel_multi_index(inside.T, grid.shape_zyx), shown)


def check_body(body: Body) -> None:
    """Raises InputError for a weight, height or sex that cannot be."""
    if body.weight_kg is not None and not WEIGHT_KG[0] <= body.weight_kg <= WEIGHT_KG[1]:
        raise InputError(f"weight {body.weight_kg:g} kg: limits {WEIGHT_KG[0]:g} to {WEIGHT_KG[1]:g} kg")
    if body.height_cm is not None and not HEIGHT_CM[0] <= body.height_cm <= HEIGHT_CM[1]:
        raise InputError(f"height {body.height_cm:g} cm: limits {HEIGHT_CM[0]:g} to {HEIGHT_CM[1]:g} cm; give centimetres")
    if body.sex is not None and body.sex not in ("M", "F"):
        raise InputError(f"sex {body.sex!r}: M or F; the formulas of lean body mass know no other")


def lean_mass_kg(body: Body, formula: str = "janmahasatian") -> float | None:
    """Lean body mass by Janmahasatian or James (body.py); None where weight, height or sex are unknown.

    Raises:
        InputError: an unknown formula, or a body that James's has no meaning for.
    """
    if formula not in LEAN_MASS:
        raise InputError(f"lean body mass by {formula!r}: one of {', '.join(LEAN_MASS)}")
    check_body(body)
    if None in (body.weight_kg, body.height_cm, body.sex):
        return None
    lean = bodies.lean_janmahasatian_kg if formula == "janmahasatian" else bodies.lean_james_kg
    return lean(body.weight_kg, body.height_cm / 100, body.sex)


def uptake(region: Region, pet_suv: np.ndarray, lesions: np.ndarray, voxel_ml: float, sul_factor: float | None) -> Reference:
    """Uptake of a region without the voxels (flat indices, ascending) of lesions.

    Raises:
        InputError: nothing of the region is left.
    """
    healthy = np.setdiff1d(region.voxels, lesions, assume_unique=True)
    if not len(healthy):
        raise InputError(f"{region.source}: lesions cover all {len(region.voxels)} voxels of it; name a healthy region")
    values = pet_suv.reshape(-1)[healthy].astype(np.float64)
    mean, sd = float(values.mean()), float(values.std())
    return Reference(
        source=region.source,
        volume_ml=len(healthy) * voxel_ml,
        suv_mean=mean,
        suv_sd=sd,
        suv_max=float(values.max()),
        sul_mean=None if sul_factor is None else mean * sul_factor,
        sul_sd=None if sul_factor is None else sd * sul_factor,
        lesion_voxels=len(region.voxels) - len(healthy),
    )


def deauville(suv_max: float | None, liver: Reference | None, blood: Reference | None) -> Deauville:
    """The score of the hottest lesion; suv_max None: no lesion.

    1 no lesion; 2 up to the blood pool; 3 above it and up to the liver; 4 above the liver; 5 above twice the liver. All are SUVmax.
    """
    if suv_max is None:
        return Deauville(1, "no lesion in the mask")
    if blood and suv_max <= blood.suv_max and (liver is None or suv_max <= liver.suv_max):
        return Deauville(2, f"SUVmax {suv_max:.2f} is not above the blood pool's {blood.suv_max:.2f}")
    if liver is None:
        return Deauville(None, "no liver region was given")
    if suv_max > DEAUVILLE_FIVE * liver.suv_max:
        return Deauville(5, f"SUVmax {suv_max:.2f} is above 2 x the liver's {liver.suv_max:.2f}")
    if suv_max > liver.suv_max:
        return Deauville(4, f"SUVmax {suv_max:.2f} is above the liver's {liver.suv_max:.2f}, not above twice of it")
    if blood is None:
        return Deauville(
            None, f"SUVmax {suv_max:.2f} is not above the liver's {liver.suv_max:.2f}: 2 or 3; no blood pool region was given"
        )
    return Deauville(
        3, f"SUVmax {suv_max:.2f} is above the blood pool's {blood.suv_max:.2f}, not above the liver's {liver.suv_max:.2f}"
    )


def percist(
    suv_peak: float | None,
    tlg_suv_ml: float,
    body: Body,
    formula: str,
    liver: Reference | None,
    blood: Reference | None,
    baseline: Baseline | None,
) -> Percist:
    """PERCIST 1.0 of one study, and its response where there is a baseline.

    Args:
        suv_peak: the largest global SUVpeak of all lesions; None: no lesion.
        tlg_suv_ml: of all lesions.
        body: for lean mass.
        formula: of lean mass.
        liver, blood: references.
        baseline: the earlier study.
    """
    mass = lean_mass_kg(body, formula)
    earlier = baseline.name if baseline else None
    if mass is None:
        lacking = [word for word, v in (("weight", body.weight_kg), ("height", body.height_cm), ("sex", body.sex)) if v is None]
        reason = (f"{', '.join(lacking)} not known: no lean body mass",)
        return Percist(None, formula, None, None, None, None, earlier, None, None, None, reason, ())
    factor = mass / body.weight_kg
    peak = None if suv_peak is None else suv_peak * factor
    tlg = tlg_suv_ml * factor
    lacks = [] if liver else ["no liver region was given: no threshold"]
    if peak is None:
        lacks.append("no lesion in the mask")
    threshold = MEASURABLE_FACTOR * liver.sul_mean + MEASURABLE_SD * liver.sul_sd if liver else None
    measurable = None if threshold is None else peak is not None and peak >= threshold
    if baseline is None:
        lacks.append("no baseline: no response category")
        return Percist(mass, formula, peak, tlg, threshold, measurable, None, None, None, None, tuple(lacks), ())
    response, lines, notes = respond(peak, tlg, formula, liver, blood, baseline)
    change = None if peak is None or not baseline.sul_peak else peak - baseline.sul_peak
    percent = None if change is None else 100 * change / baseline.sul_peak
    return Percist(
        mass, formula, peak, tlg, threshold, measurable, earlier, response, percent, change, (*lacks, *lines), tuple(notes)
    )


def respond(
    peak: float | None, tlg: float, formula: str, liver: Reference | None, blood: Reference | None, baseline: Baseline
) -> tuple[str | None, list[str], list[str]]:
    """(response category or None, why not, notes) from the hottest lesion of each study; all by SUL.

    CMR: no lesion, or the hottest one below the liver's mean and, where it is given, not above the blood pool's. PMD: SULpeak up by more
    than 30 % and 0.8, or TLG up by 75 % while SULpeak has not fallen. PMR: down by at least 30 % and 0.8. Else SMD. New lesions make PMD
    too, but two masks alone do not tell new from old.
    """
    if baseline.lean_mass_formula != formula:
        return None, [f"the baseline's SUL are by {baseline.lean_mass_formula}, these by {formula}: measure it again"], []
    if baseline.sul_peak is None or not baseline.measurable:
        why = "has no SULpeak" if baseline.sul_peak is None else "is not measurable"
        if baseline.sul_peak is not None and baseline.measurable is None:
            why = "was measured without a liver region"
        return None, [f"the baseline {why}: no response category"], []
    notes = ["new lesions (PMD) are not told from old ones: compare the pictures"]
    if liver is not None and baseline.liver_sul_mean is not None:
        off = abs(liver.sul_mean - baseline.liver_sul_mean)
        if off > LIVER_SUL or off > baseline.liver_sul_mean * LIVER_PERCENT / 100:
            notes.append(
                f"the liver's SUL mean is {liver.sul_mean:.2f}, the baseline's {baseline.liver_sul_mean:.2f}: "
                f"more than {LIVER_SUL} or {LIVER_PERCENT:g} % apart, the two scans do not compare by PERCIST"
            )
    if peak is None:
        return "CMR", [], notes
    if liver is None:
        notes.append("no liver region here: a complete response is not told from a partial one")
    elif peak < liver.sul_mean and (blood is None or peak <= blood.sul_mean):
        return "CMR", [], notes
    change, percent = peak - baseline.sul_peak, 100 * (peak - baseline.sul_peak) / baseline.sul_peak
    if percent > RESPONSE_PERCENT and change > RESPONSE_SUL:
        return "PMD", [], notes
    if baseline.tlg_sul_ml and change >= 0 and 100 * (tlg / baseline.tlg_sul_ml - 1) >= PROGRESS_TLG_PERCENT:
        return "PMD", [], notes
    if percent <= -RESPONSE_PERCENT and change <= -RESPONSE_SUL:
        return "PMR", [], notes
    return "SMD", [], notes
