"""Lean body mass, ideal weight and surface of a patient, for the SUV that is not per body weight: of headers (io), of scores (measure)."""

from __future__ import annotations

from l2s.errors import InputError

WEIGHT_KG = (0.3, 500.0)
HEIGHT_M = (0.2, 2.6)


def lean_janmahasatian_kg(weight_kg: float, height_m: float, sex: str) -> float:
    """Lean body mass by Janmahasatian et al. 2005 (Clin Pharmacokinet 44:1051), which stays sensible in the obese."""
    bmi = weight_kg / height_m**2
    return 9270 * weight_kg / (6680 + 216 * bmi) if sex == "M" else 9270 * weight_kg / (8780 + 244 * bmi)


def lean_james_kg(weight_kg: float, height_m: float, sex: str, male_term: float = 128.0) -> float:
    """Lean body mass by James 1976.

    Args:
        male_term: 128; DICOM's older SUV type LBM has 120 (Morgan 1994), a misprint that lived on.

    Raises:
        InputError: the patient is so heavy that the parabola has come down again and means nothing.
    """
    ratio = weight_kg / (100 * height_m)
    linear, square = (1.10, male_term) if sex == "M" else (1.07, 148.0)
    if ratio > linear / (2 * square) * 100 * height_m:  # beyond the vertex a heavier body would be leaner
        raise InputError(
            f"James's lean body mass has no meaning for {weight_kg:g} kg at {height_m:g} m (limit "
            f"{linear / (2 * square) * (100 * height_m) ** 2:.0f} kg); use Janmahasatian's"
        )
    return linear * weight_kg - square * ratio**2


def ideal_kg(height_m: float, sex: str) -> float:
    """Ideal body weight by Devine as DICOM's SUV type IBW has it.

    Raises:
        InputError: the height gives no positive weight.
    """
    over_cm = 100 * height_m - 152
    weight = 48.0 + 1.06 * over_cm if sex == "M" else 45.5 + 0.91 * over_cm
    if weight <= 0:
        raise InputError(f"the ideal weight has no meaning for a height of {height_m:g} m; use another SUV series")
    return weight


def surface_cm2(weight_kg: float, height_m: float) -> float:
    """Body surface by Du Bois 1916."""
    return 71.84 * weight_kg**0.425 * (100 * height_m) ** 0.725
