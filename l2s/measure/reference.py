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
BLOOD_FACTOR = 2.0  # Wahl 2009: where the liver is diseased, 2.0 x blood pool mean + 2 SD
RESPONSE_PERCENT, RESPONSE_SUL = 30.0, 0.8  # Wahl 2009: a change of 30 % and of 0.8 SUL
FEW_PEAK_VOXELS = 7  # fewer in the sphere of 1 ml, from voxels of 6.2 mm on: a mean over them hardly differs from a maximum
PROGRESS_TLG_PERCENT = 75.0  # Wahl 2009: total lesion glycolysis up by 75 %
LIVER_PERCENT, LIVER_SUL = 20.0, 0.3  # Wahl 2009: the liver of both scans within 20 % and 0.3 SUL, else they do not compare

DEAUVILLE_SOURCE = (
    "Deauville: Barrington et al., J Clin Oncol 2014;32:3048 (maxima; 5 from above 2 x liver SUVmax, or new lesions)"
)
NEW_IS_FIVE = "a new lesion would make it 5, which one mask does not tell"
DEAUVILLE_FIVE = 2.0  # Barrington 2014: score 5 for 2 to 3 times the liver's SUVmax; the lower bound is taken

# normal FDG uptake (SUVmean) and CT (mean HU, with or without contrast), widely: beyond it a region is hardly what it is called
PLAUSIBLE = {"liver": ((1.0, 4.0), (0.0, 120.0)), "blood pool": ((0.7, 4.0), (0.0, 400.0))}


@dataclass(frozen=True)
class Region:
    """Voxels of normal tissue.

    Attributes:
        voxels: int64 (n,), flat C-order indices into the study's arrays.
        source: in words where it comes from, for the table.
        is_label: whether it is a whole label of an organ map, rim and vessels included.
    """

    voxels: np.ndarray
    source: str
    is_label: bool = False


@dataclass(frozen=True)
class Reference:
    """Uptake of a region, lesion voxels left out.

    Attributes:
        source: the region's.
        volume_ml: of the voxels that were left.
        suv_mean, suv_sd, suv_max: body-weight SUV; sd is that of the voxels (population).
        sul_mean, sul_sd: the same by lean body mass; None where weight, height or sex are unknown.
        lesion_voxels: voxels of the region that lesions cover and that were left out.
        mean_hu: of the CT; None where there is none.
        notes: what makes it doubtful, one clause each.
    """

    source: str
    volume_ml: float
    suv_mean: float
    suv_sd: float
    suv_max: float
    sul_mean: float | None
    sul_sd: float | None
    lesion_voxels: int
    mean_hu: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Percist:
    """PERCIST 1.0 on the hottest lesion, by body uptake per lean mass (SUL). A value that cannot be worked out is None, `reason` says why.

    Attributes:
        lean_mass_kg: lean body mass.
        lean_mass_formula: 'janmahasatian' or 'james'.
        sul_peak: the largest global SULpeak of all lesions.
        tlg_sul_ml: total lesion glycolysis by SUL.
        threshold_sul: 1.5 x liver mean + 2 SD, SUL; without a liver region 2.0 x blood pool mean + 2 SD.
        threshold_from: 'liver' or 'blood pool'.
        measurable: whether sul_peak reaches the threshold.
        left_out: components below the minimum volume, one of them hotter than sul_peak; 0: none is.
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
    threshold_from: str | None
    measurable: bool | None
    left_out: int
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
        connectivity, min_volume_ml: how its lesions were counted.
        left_out: its Percist's.
        threshold_from: 'liver' or 'blood pool'.
    """

    name: str
    measurable: bool | None
    sul_peak: float | None
    tlg_sul_ml: float | None
    liver_sul_mean: float | None
    lean_mass_formula: str
    connectivity: int = 18
    min_volume_ml: float = 0.0
    left_out: int = 0
    threshold_from: str | None = "liver"


def region_of_labels(labels: np.ndarray, numbers: tuple[int, ...], source: str) -> Region:
    """The voxels (z, y, x) of a label image that carry one of the numbers.

    Raises:
        InputError: none does.
    """
    voxels = np.flatnonzero(np.isin(labels, numbers))
    if not len(voxels):
        present = ", ".join(f"{v:g}" for v in np.unique(labels)[:20])
        raise InputError(f"{source}: no voxel has label {', '.join(map(str, numbers))}; the image holds {present}")
    return Region(voxels, f"{source}, label {', '.join(map(str, numbers))}", is_label=True)


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


def uptake(
    region: Region,
    pet_suv: np.ndarray,
    lesions: np.ndarray,
    voxel_ml: float,
    sul_factor: float | None,
    ct_hu: np.ndarray | None = None,
    tissue: str = "liver",
) -> Reference:
    """Uptake of a region without the voxels (flat indices, ascending) of lesions.

    Args:
        region: where.
        pet_suv: float32 (z, y, x).
        lesions: left out, also those too small to be counted.
        voxel_ml: of the grid.
        sul_factor: SUL of an SUV of 1; None: not known.
        ct_hu: float32 (z, y, x), NaN where there is no CT.
        tissue: of PLAUSIBLE: what the region is meant to be.

    Raises:
        InputError: nothing of the region is left.
    """
    healthy = np.setdiff1d(region.voxels, lesions, assume_unique=True)
    if not len(healthy):
        raise InputError(f"{region.source}: lesions cover all {len(region.voxels)} voxels of it; name a healthy region")
    values = pet_suv.reshape(-1)[healthy].astype(np.float64)
    mean, sd = float(values.mean()), float(values.std())
    hu = math.nan if ct_hu is None else float(ct_hu.reshape(-1)[healthy].mean(dtype=np.float64))
    return Reference(
        source=region.source,
        volume_ml=len(healthy) * voxel_ml,
        suv_mean=mean,
        suv_sd=sd,
        suv_max=float(values.max()),
        sul_mean=None if sul_factor is None else mean * sul_factor,
        sul_sd=None if sul_factor is None else sd * sul_factor,
        lesion_voxels=len(region.voxels) - len(healthy),
        mean_hu=None if math.isnan(hu) else hu,
        notes=tuple(doubts(region, tissue, mean, hu)),
    )


def doubts(region: Region, tissue: str, suv_mean: float, hu: float) -> list[str]:
    """What makes a region doubtful as a sample of a tissue; hu may be NaN."""
    lines = []
    (low, high), (thin, dense) = PLAUSIBLE[tissue]
    if not low <= suv_mean <= high:
        lines.append(f"the {tissue} region's SUVmean is {suv_mean:.2f}, usual is {low:g} to {high:g}: is it {tissue}?")
    if not math.isnan(hu) and not thin <= hu <= dense:
        lines.append(f"the {tissue} region's mean is {hu:.0f} HU, usual is {thin:g} to {dense:g}: is it {tissue}?")
    if region.is_label:
        lines.append(
            f"the {tissue} region is a whole label, not eroded: its rim has uptake of the neighbours; compare with a sphere"
        )
    return lines


def deauville(suv_max: float | None, liver: Reference | None, blood: Reference | None, left_out: int = 0) -> Deauville:
    """The score of the hottest lesion; suv_max None: no lesion.

    1 no lesion; 2 up to the blood pool; 3 above it and up to the liver; 4 above the liver; 5 above twice the liver. All are SUVmax.
    New lesions are 5 too. left_out counts components below the minimum volume where one of them is hotter than all lesions: then only 5
    is certain.
    """
    if suv_max is not None and liver is not None and suv_max > DEAUVILLE_FIVE * liver.suv_max:
        return Deauville(5, f"SUVmax {suv_max:.2f} is above 2 x the liver's {liver.suv_max:.2f}")
    if left_out:
        return Deauville(None, not_scored(left_out))
    if suv_max is None:
        return Deauville(1, "no lesion in the mask")
    if blood and suv_max <= blood.suv_max and (liver is None or suv_max <= liver.suv_max):
        return Deauville(2, f"SUVmax {suv_max:.2f} is not above the blood pool's {blood.suv_max:.2f}; {NEW_IS_FIVE}")
    if liver is None:
        return Deauville(None, "no liver region was given")
    if suv_max > liver.suv_max:
        return Deauville(
            4, f"SUVmax {suv_max:.2f} is above the liver's {liver.suv_max:.2f}, not above twice of it; {NEW_IS_FIVE}"
        )
    if blood is None:
        return Deauville(
            None, f"SUVmax {suv_max:.2f} is not above the liver's {liver.suv_max:.2f}: 2 or 3; no blood pool region was given"
        )
    return Deauville(
        3,
        f"SUVmax {suv_max:.2f} is above the blood pool's {blood.suv_max:.2f}, not above the liver's {liver.suv_max:.2f}; "
        f"{NEW_IS_FIVE}",
    )


def not_scored(left_out: int) -> str:
    """Why no score is given where components were left out that may be the hottest."""
    if left_out == 1:
        return "1 component below the minimum volume was left out, hotter than all lesions: not scored"
    return f"{left_out} components below the minimum volume were left out, the hottest one among them: not scored"


def percist(
    suv_peak: float | None,
    tlg_suv_ml: float,
    body: Body,
    formula: str,
    liver: Reference | None,
    blood: Reference | None,
    baseline: Baseline | None,
    left_out: int = 0,
    counted: tuple[int, float] = (18, 0.0),
    peak_voxels: int = FEW_PEAK_VOXELS,
) -> Percist:
    """PERCIST 1.0 of one study, and its response where there is a baseline.

    Args:
        suv_peak: the largest global SUVpeak of all lesions; None: no lesion.
        tlg_suv_ml: of all lesions.
        body: for lean mass.
        formula: of lean mass.
        liver, blood: references; without a liver the blood pool gives the threshold, as PERCIST has it for a diseased liver.
        baseline: the earlier study.
        left_out: components of the mask below the minimum volume, where one of them is hotter than suv_peak; else 0.
        counted: connectivity and minimum volume in ml of this study's lesions.
        peak_voxels: of the sphere of SUVpeak.
    """
    mass = lean_mass_kg(body, formula)
    earlier = baseline.name if baseline else None
    if mass is None:
        lacking = [word for word, v in (("weight", body.weight_kg), ("height", body.height_cm), ("sex", body.sex)) if v is None]
        reason = (f"{', '.join(lacking)} not known: no lean body mass",)
        return Percist(None, formula, None, None, None, None, None, left_out, earlier, None, None, None, reason, ())
    factor = mass / body.weight_kg
    peak = None if suv_peak is None else suv_peak * factor
    tlg = tlg_suv_ml * factor
    threshold, threshold_from = threshold_of(liver, blood)
    lacks = [] if threshold_from else ["no liver or blood pool region was given: no threshold"]
    if peak is None:
        lacks.append(not_scored(left_out) if left_out else "no lesion in the mask")
    measurable = None if threshold is None else peak is not None and peak >= threshold
    if left_out and not measurable:
        measurable = None  # the hottest is not measured
    notes = [line for one in (liver, blood) if one for line in one.notes]
    if threshold_from == "blood pool":
        notes.append("no liver region: the threshold is the blood pool's, which PERCIST has for a diseased liver")
    if peak_voxels < FEW_PEAK_VOXELS:
        notes.append(coarse_peak(peak_voxels))
    if left_out and peak is not None:
        notes.append(f"sul_peak is not the hottest component's, which was left out for its volume ({left_out} were)")
    if baseline is None:
        lacks.append("no baseline: no response category")
        return Percist(
            mass,
            formula,
            peak,
            tlg,
            threshold,
            threshold_from,
            measurable,
            left_out,
            None,
            None,
            None,
            None,
            tuple(lacks),
            tuple(notes),
        )
    if line := not_counted_alike(baseline, counted):
        response, lines, more = None, [line], []
    else:
        response, lines, more = respond(peak, tlg, formula, liver, blood, baseline, left_out)
    change = None if peak is None or not baseline.sul_peak else peak - baseline.sul_peak
    percent = None if change is None else 100 * change / baseline.sul_peak
    return Percist(
        mass,
        formula,
        peak,
        tlg,
        threshold,
        threshold_from,
        measurable,
        left_out,
        earlier,
        response,
        percent,
        change,
        tuple(dict.fromkeys([*lacks, *lines])),
        (*notes, *more),
    )


def threshold_of(liver: Reference | None, blood: Reference | None) -> tuple[float | None, str | None]:
    """(least SULpeak of a measurable lesion, the tissue that it comes from), by the liver before the blood pool; None without both."""
    if liver:
        return MEASURABLE_FACTOR * liver.sul_mean + MEASURABLE_SD * liver.sul_sd, "liver"
    if blood:
        return BLOOD_FACTOR * blood.sul_mean + MEASURABLE_SD * blood.sul_sd, "blood pool"
    return None, None


def coarse_peak(voxels: int) -> str:
    """What a SUVpeak of so few voxels is worth."""
    is_one = voxels == 1
    return (
        f"SUVpeak's sphere of 1 ml holds {voxels} voxel{'' if is_one else 's'} of this grid (7 or more are usual): "
        f"it is {'the SUVmax' if is_one else 'close to SUVmax'}, and does not compare with a finer grid's"
    )


def not_counted_alike(baseline: Baseline, counted: tuple[int, float]) -> str | None:
    """Why lesions of two studies do not compare, where they were not counted by the same rules."""
    if (baseline.connectivity, baseline.min_volume_ml) == counted:
        return None
    return (
        f"the baseline's lesions are counted by {baseline.connectivity} neighbours from {baseline.min_volume_ml:g} ml, these by "
        f"{counted[0]} from {counted[1]:g} ml: measure one of them again"
    )


def respond(
    peak: float | None,
    tlg: float,
    formula: str,
    liver: Reference | None,
    blood: Reference | None,
    baseline: Baseline,
    left_out: int = 0,
) -> tuple[str | None, list[str], list[str]]:
    """(response category or None, why not, notes) from the hottest lesion of each study; all by SUL.

    CMR: no lesion, or the hottest one below the liver's mean and, where it is given, not above the blood pool's; without a liver not above
    the blood pool's. PMD: SULpeak up by more than 30 % and 0.8, or TLG up by 75 % while SULpeak has not fallen. PMR: down by at least 30 %
    and 0.8. Else SMD. New lesions make PMD too, but two masks alone do not tell new from old. Where a component that was left out for its
    volume is the hottest, PMD alone is certain.
    """
    if baseline.lean_mass_formula != formula:
        return None, [f"the baseline's SUL are by {baseline.lean_mass_formula}, these by {formula}: measure it again"], []
    if baseline.left_out:
        return None, [f"the baseline: {not_scored(baseline.left_out)}"], []
    if baseline.sul_peak is None or not baseline.measurable:
        why = "has no SULpeak" if baseline.sul_peak is None else "is not measurable"
        if baseline.sul_peak is not None and baseline.measurable is None:
            why = "was measured without a liver or blood pool region"
        return None, [f"the baseline {why}: no response category"], []
    notes = comparability(liver, blood, baseline)
    if peak is None:
        return (None, [not_scored(left_out)], notes) if left_out else ("CMR", [], notes)
    change, percent = peak - baseline.sul_peak, 100 * (peak - baseline.sul_peak) / baseline.sul_peak
    if percent > RESPONSE_PERCENT and change > RESPONSE_SUL:
        return "PMD", [], notes
    if baseline.tlg_sul_ml and change >= 0 and 100 * (tlg / baseline.tlg_sul_ml - 1) >= PROGRESS_TLG_PERCENT:
        return "PMD", [], notes
    if left_out:  # the hottest lesion is perhaps not the hottest
        return None, [not_scored(left_out)], notes
    if is_gone(peak, liver, blood):
        return "CMR", [], notes
    if percent <= -RESPONSE_PERCENT and change <= -RESPONSE_SUL:
        return "PMR", [], notes
    return "SMD", [], notes


def is_gone(peak: float, liver: Reference | None, blood: Reference | None) -> bool:
    """Whether a SULpeak is no more than normal tissue's: a complete response."""
    if liver is not None and peak >= liver.sul_mean:
        return False
    return peak <= blood.sul_mean if blood is not None else liver is not None


def comparability(liver: Reference | None, blood: Reference | None, baseline: Baseline) -> list[str]:
    """What a reader must check by eye before a response is believed."""
    notes = ["new lesions (PMD) are not told from old ones: compare the pictures"]
    if liver is None:
        what = "is judged by the blood pool alone" if blood else "is not told from a partial one"
        notes.append(f"no liver region here: a complete response {what}, and the two scans' livers were not compared")
    elif baseline.liver_sul_mean is None:
        notes.append("the baseline has no liver region: the two scans' livers were not compared")
    else:
        off = abs(liver.sul_mean - baseline.liver_sul_mean)
        if off > LIVER_SUL or off > baseline.liver_sul_mean * LIVER_PERCENT / 100:
            notes.append(
                f"the liver's SUL mean is {liver.sul_mean:.2f}, the baseline's {baseline.liver_sul_mean:.2f}: "
                f"more than {LIVER_SUL} or {LIVER_PERCENT:g} % apart, the two scans do not compare by PERCIST"
            )
    return notes
