"""What the scanner makes of a patient: blur, noise that follows counts, CT noise, the couch, and PET and CT not quite in place.

Resolution and post-filter as in the EANM guideline for FDG (Boellaard et al. 2015, Eur J Nucl Med Mol Imaging 42:328); OSEM noise grows
with the local mean (Barrett, Wilson and Tsui 1994, Phys Med Biol 39:833).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from l2s.phantom.shapes import Canvas

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True)
class Scanner:
    """One examination's settings.

    Attributes:
        fwhm_mm: resolution of the reconstructed PET.
        noise: standard deviation of SUV in a liver of SUV 2.2 of a patient of normal width, as a share of the mean.
        filter_fwhm_mm: grain of the noise.
        haze: standard deviation of the SUV outside the body.
        ct_noise_hu: standard deviation of CT in a patient of normal width.
        shift_mm_zyx: PET against CT, rigid.
        breath_mm: further shift up of the PET around the diaphragm.
        contrast: intravenous contrast in CT.
        ct_radius_mm: the CT's field of view; beyond it -1024.
        couch: half width, bend and thickness of the couch; its shell's HU last.
    """

    fwhm_mm: float
    noise: float
    filter_fwhm_mm: float
    haze: float
    ct_noise_hu: float
    shift_mm_zyx: tuple[float, float, float]
    breath_mm: float
    contrast: bool
    ct_radius_mm: float
    couch: tuple[float, float, float, float] | None


def random_scanner(rng: np.random.Generator) -> Scanner:
    """Settings of one of many scanners."""
    return Scanner(
        float(rng.uniform(4.0, 7.0)),
        float(np.clip(rng.lognormal(np.log(0.11), 0.4), 0.04, 0.3)),
        float(rng.uniform(4.0, 8.0)),
        float(np.exp(rng.uniform(np.log(0.002), np.log(0.03)))),
        float(rng.uniform(8.0, 25.0)),
        tuple(float(v) for v in rng.normal(0.0, (1.5, 1.2, 1.2))),
        float(np.clip(rng.normal(4.0, 4.0), -4.0, 12.0)),
        bool(rng.random() < 0.4),
        250.0 if rng.random() < 0.35 else 1e4,
        tuple(float(rng.uniform(*v)) for v in ((180, 225), (5, 45), (20, 60), (-400, 500))) if rng.random() < 0.9 else None,
    )


def interpolate(image: np.ndarray, axis: int, position: np.ndarray) -> np.ndarray:
    """Linear interpolation along one axis at fractional indices; beyond the ends the end repeats."""
    position = np.clip(position, 0.0, image.shape[axis] - 1)
    low = np.minimum(position.astype(int), max(image.shape[axis] - 2, 0))
    share = (position - low).astype(np.float32)
    if not share.any() and np.array_equal(low, np.arange(image.shape[axis])):
        return image
    shape = [1, 1, 1]
    shape[axis] = len(position)
    share = share.reshape(shape)
    lower = np.take(image, low, axis=axis)
    upper = np.take(image, np.minimum(low + 1, image.shape[axis] - 1), axis=axis)
    upper -= lower
    upper *= share
    lower += upper
    return lower


def pet_positions(scanner: Scanner, canvas: Canvas, diaphragm_mm: float) -> list[np.ndarray]:
    """Where on the canvas each PET voxel looks, one array of fractional indices an axis."""
    out = []
    for axis, coordinate in enumerate((canvas.z_mm, canvas.y_mm, canvas.x_mm)):
        shift = np.full(len(coordinate), scanner.shift_mm_zyx[axis])
        if axis == 0:
            shift += scanner.breath_mm * np.exp(-0.5 * ((coordinate - diaphragm_mm) / 45.0) ** 2)
        out.append(np.arange(len(coordinate)) - shift / canvas.spacing_mm_zyx[axis])
    return out


def blur(image: np.ndarray, fwhm_mm: float, spacing_mm_zyx) -> np.ndarray:
    """Gaussian blur."""
    return ndimage.gaussian_filter(image, [fwhm_mm / FWHM_PER_SIGMA / s for s in spacing_mm_zyx], mode="nearest", truncate=3.0)


def noise_scale(suv: np.ndarray, body: np.ndarray, scanner: Scanner, spacing_mm_zyx) -> np.ndarray:
    """Standard deviation of the noise at each voxel.

    Variance follows the local activity, and grows with the attenuation on the way out: in the middle of a wide body most photons are lost.
    """
    coarse = tuple(slice(None, None, 2) for _ in range(3))
    step = [2.0 * s for s in spacing_mm_zyx]
    activity = ndimage.gaussian_filter(suv[coarse], [16.0 / s for s in step], mode="nearest", truncate=2.0)
    reach = [22.0 / step[0], 75.0 / step[1], 75.0 / step[2]]
    path = ndimage.gaussian_filter(body[coarse].astype(np.float32), reach, mode="constant", truncate=1.6)
    scale = scanner.noise * np.sqrt(2.2 * np.maximum(activity, 0.0) * np.exp(3.0 * (path - 0.55)))
    for axis, n in enumerate(suv.shape):
        scale = interpolate(scale, axis, (np.arange(n)) / 2.0)
    # the streaky background outside the body
    return scale + np.float32(scanner.haze)


def add_pet_noise(rng: np.random.Generator, suv: np.ndarray, scale: np.ndarray, scanner: Scanner, spacing_mm_zyx) -> np.ndarray:
    """suv with correlated noise of the given standard deviation; never negative, as OSEM leaves it."""
    white = rng.standard_normal(suv.shape, dtype=np.float32)
    grain = blur(white, scanner.filter_fwhm_mm, spacing_mm_zyx)
    grain /= max(float(grain.std()), 1e-6)
    # OSEM noise is skewed: positive swings are larger than negative ones
    skewed = grain + 0.15 * (grain * grain - 1.0)
    return np.maximum(suv + scale * skewed, 0.0, dtype=np.float32)


def ct_image(rng: np.random.Generator, hu: np.ndarray, body: np.ndarray, canvas: Canvas, scanner: Scanner) -> np.ndarray:
    """HU with partial volume, noise that is stronger in wide sections, the couch and the edge of the field of view."""
    if scanner.couch:
        _couch(hu, body, canvas, scanner.couch)
    out = blur(hu, 4.5, canvas.spacing_mm_zyx)
    width = body.any(axis=1).sum(axis=1) * canvas.spacing_mm_zyx[2]
    width = ndimage.gaussian_filter1d(width, 3.0, mode="nearest", output=np.float64)
    level = scanner.ct_noise_hu * np.clip(width / 380.0, 0.35, 1.6)
    white = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = white + 0.5 * ndimage.uniform_filter1d(white, 3, axis=2) if scanner.ct_noise_hu > 16 else white
    out += grain * level[:, None, None].astype(np.float32)
    if scanner.ct_radius_mm < 1e3:
        y, x = canvas.y_mm - canvas.y_mm.mean(), canvas.x_mm - canvas.x_mm.mean()
        out[:, (y[:, None] ** 2 + x[None, :] ** 2) > scanner.ct_radius_mm**2] = -1024.0
    return np.clip(out, -1024.0, 3071.0)


def _couch(hu: np.ndarray, body: np.ndarray, canvas: Canvas, couch: tuple[float, float, float, float]) -> None:
    """A curved couch top just behind the lowest part of the body: a thin shell around foam."""
    rows = np.flatnonzero(body.any(axis=(0, 2)))
    if not len(rows):
        return
    half, bend, thick, shell_hu = couch
    x = canvas.x_mm - float(canvas.x_mm.mean())
    top = float(canvas.y_mm[rows[-1]]) + 4.0 - (np.minimum(np.abs(x), half) / half) ** 2 * bend
    below = canvas.y_mm[:, None] - top[None, :]
    wide = (np.abs(x) < half)[None, :]
    step = 0.5 * canvas.spacing_mm_zyx[1]
    foam = wide & (below > 0) & (below < thick)
    shell = wide & ((np.abs(below) < step) | (np.abs(below - thick) < step))
    free = ~body
    for mask, value in ((foam, -900.0), (shell, shell_hu)):
        hu[:, mask] = np.where(free[:, mask], np.float32(value), hu[:, mask])
