"""The patient's frame: a reference body in mm, stretched to one patient, and the part of it that the scan shows.

The reference body is 172 cm tall with z = 0 at the hip joints, x to the left, y to the back, y = 0 in the middle of the trunk. Every
structure is written down once in reference coordinates; a patient is a piecewise linear change of z, a scale and a sway of x and y.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2s.errors import InputError
from l2s.study import Grid, to_lps

REFERENCE_CM = 172.0
VERTEX_Z, MID_THIGH_Z, FEET_Z = 804.0, -230.0, -890.0
LUNG_WIDTH_MM, LUNG_DEPTH_MM = 264.0, 182.0
MIN_ORGAN_VOXELS = 150  # of the 4 x 4 x 6 mm look at the map: 15 ml
SPLEEN, KIDNEYS, LIVER, BLADDER, LUNGS, BRAIN, HEART, STOMACH, PROSTATE, SALIVARY = range(1, 11)


@dataclass(frozen=True)
class Frame:
    """How reference coordinates become the patient's, and who the patient is.

    Attributes:
        reference_z, z_mm: knots of the change of z.
        sway_x_mm, sway_y_mm: sideways shift at each knot.
        scale_x, scale_y: width and depth of the skeleton against the reference.
        height_cm, bmi: body size.
        male: sex.
        arms: 'up' or 'down'.
    """

    reference_z: tuple[float, ...]
    z_mm: tuple[float, ...]
    sway_x_mm: tuple[float, ...]
    sway_y_mm: tuple[float, ...]
    scale_x: float
    scale_y: float
    height_cm: float
    bmi: float
    male: bool
    arms: str

    def z(self, reference_z):
        """Patient z in mm of reference z; beyond the outer knots the mean stretch goes on."""
        return _through(np.asarray(reference_z, dtype=float), self.reference_z, self.z_mm)

    def reference(self, z_mm):
        """The inverse of z."""
        return _through(np.asarray(z_mm, dtype=float), self.z_mm, self.reference_z)

    def sway(self, z_mm) -> tuple[np.ndarray, np.ndarray]:
        """Shift of x and of y at patient z."""
        return np.interp(z_mm, self.z_mm, self.sway_x_mm), np.interp(z_mm, self.z_mm, self.sway_y_mm)

    def points(self, reference_xyz) -> np.ndarray:
        """Patient positions (..., 3) of reference positions (..., 3), both x, y, z in mm."""
        p = np.asarray(reference_xyz, dtype=float)
        z = self.z(p[..., 2])
        dx, dy = self.sway(z)
        return np.stack([p[..., 0] * self.scale_x + dx, p[..., 1] * self.scale_y + dy, z], axis=-1)

    def semi(self, reference_xyz) -> np.ndarray:
        """Semi-axes or lengths in the patient: scaled, not shifted."""
        stretch = (self.z_mm[-1] - self.z_mm[0]) / (self.reference_z[-1] - self.reference_z[0])
        return np.asarray(reference_xyz, dtype=float) * (self.scale_x, self.scale_y, stretch)


def _through(value, knots_from, knots_to):
    x, y = np.asarray(knots_from), np.asarray(knots_to)
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    return np.interp(value, x, y) + slope * (np.minimum(value - x[0], 0.0) + np.maximum(value - x[-1], 0.0))


def random_frame(rng: np.random.Generator) -> Frame:
    """A patient without an organ map: height 150..195 cm, body-mass index 17..42, a slightly crooked stance."""
    male = bool(rng.random() < 0.55)
    height = float(np.clip(rng.normal(176.0 if male else 164.0, 7.5), 150.0, 195.0))
    bmi = float(np.clip(rng.lognormal(np.log(25.5), 0.17), 17.0, 42.0))
    knots = np.array([FEET_Z, -200.0, 20.0, 240.0, 440.0, 562.0, 690.0, VERTEX_Z])
    steps = np.diff(knots) * rng.normal(1.0, 0.035, len(knots) - 1)
    z = np.concatenate([[0.0], np.cumsum(steps)])
    z = (z - np.interp(0.0, knots, z)) * height / REFERENCE_CM
    sway_x, sway_y = np.cumsum(rng.normal(0.0, (3.0, 4.0), (len(knots), 2)), axis=0).T
    sway_x, sway_y = sway_x - sway_x[3], sway_y - sway_y[3]
    girth = (height / REFERENCE_CM) ** 0.7 * (1.0 if male else 0.93)
    return Frame(
        tuple(knots),
        tuple(z),
        tuple(sway_x),
        tuple(sway_y),
        float(girth * rng.normal(1.0, 0.03)),
        float(girth * rng.normal(1.0, 0.04)),
        height,
        bmi,
        male,
        "up" if rng.random() < 0.65 else "down",
    )


@dataclass(frozen=True)
class OrganMap:
    """A real organ label map and the affine (per axis) that puts it into body coordinates.

    Attributes:
        labels: uint8 (z, y, x) in LPS order.
        start_mm_zyx, spacing_mm_zyx: body position of voxel 0 and voxel edges there, after a random stretch.
        name: the file's name.
    """

    labels: np.ndarray
    start_mm_zyx: tuple[float, float, float]
    spacing_mm_zyx: tuple[float, float, float]
    name: str

    def index(self, axis: int, position_mm: np.ndarray) -> np.ndarray:
        """Nearest voxel along one axis, -1 where the map does not reach."""
        found = np.rint((position_mm - self.start_mm_zyx[axis]) / self.spacing_mm_zyx[axis]).astype(int)
        return np.where((found >= 0) & (found < self.labels.shape[axis]), found, -1)


def load_map(rng: np.random.Generator, files: list) -> OrganMap:
    """One of the label maps, stretched by up to about 10 % an axis so that 60 patients make many.

    Raises:
        InputError: a file holds no three-dimensional map, or no file holds both lungs and brain.
    """
    import SimpleITK as sitk

    for path in (files[k] for k in rng.permutation(len(files))):
        image = sitk.ReadImage(str(path))
        if image.GetDimension() != 3:
            raise InputError(f"{path} has {image.GetDimension()} dimensions: an organ map has 3")
        stored = Grid.from_itk(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
        labels, grid = to_lps(sitk.GetArrayViewFromImage(image), stored)
        present = np.bincount(labels[::4, ::4, ::4].astype(np.uint8).ravel(), minlength=BRAIN + 1)
        if min(present[LUNGS], present[BRAIN]) >= MIN_ORGAN_VOXELS // 8:
            return _placed(rng, labels, grid, path.name)
    raise InputError(f"no map in {files[0].parent} has lungs ({LUNGS}) and brain ({BRAIN}), which the body is built around")


def _placed(rng: np.random.Generator, labels: np.ndarray, grid: Grid, name: str) -> OrganMap:
    """The map with the lungs' top at the reference height and their middle on the axis."""
    stretch = rng.normal(1.0, (0.04, 0.05, 0.05)).clip(0.88, 1.12)
    spacing = np.asarray(grid.spacing_mm_zyx) * stretch
    # the last slices of a brain that the field of view cuts are often unlabelled: they count as not reached
    filled = np.flatnonzero(labels[:, ::4, ::4].any(axis=(1, 2)))
    if filled[-1] >= len(labels) - 6:
        labels = labels[: filled[-1] - 1]
    lung_z, lung_y, lung_x = _ends(labels[::2, ::2, ::2] == LUNGS)
    start = (562.0 - spacing[0] * 2 * lung_z[1], -spacing[1] * sum(lung_y), -spacing[2] * sum(lung_x))
    return OrganMap(np.ascontiguousarray(labels), tuple(map(float, start)), tuple(map(float, spacing)), name)


def _ends(mask: np.ndarray) -> list[tuple[float, float]]:
    """First and last index of a mask along each axis in its main run of rows, leaving out 0.5 % at each end.

    Real maps have stray voxels, and bowel loops labelled as bladder.
    """
    flat = np.count_nonzero(mask, axis=2)
    rows = flat.sum(axis=1)
    weak = np.flatnonzero(rows <= 0.04 * rows.max())
    fullest = int(rows.argmax())
    low, high = weak[weak < fullest].max(initial=-1) + 1, weak[weak > fullest].min(initial=len(rows))
    out = []
    for first, shadow in (
        (low, rows[low:high]),
        (0, flat[low:high].sum(axis=0)),
        (0, np.count_nonzero(mask[low:high], axis=(0, 1))),
    ):
        share = np.cumsum(shadow) / shadow.sum()
        out.append((float(first + np.searchsorted(share, 0.005)), float(first + np.searchsorted(share, 0.995))))
    return out


def map_frame(rng: np.random.Generator, organ_map: OrganMap) -> Frame:
    """The frame in which the reference body fits a real organ map: knots at bladder, kidneys, lungs and brain."""
    look = organ_map.labels[::2, ::2, ::2]
    step = np.asarray(organ_map.spacing_mm_zyx) * 2
    extent = {}
    for label in (KIDNEYS, BLADDER, LUNGS, BRAIN):
        mask = look == label
        if np.count_nonzero(mask) >= MIN_ORGAN_VOXELS:
            extent[label] = [organ_map.start_mm_zyx[a] + np.array(e) * step[a] for a, e in enumerate(_ends(mask))]
    lung = extent[LUNGS]
    knots = [(562.0, lung[0][1], 0.0, 0.0)]
    if BLADDER in extent:
        e = extent[BLADDER]
        knots.append((-18.0 + 0.25 * (e[0][1] - e[0][0]), e[0][0] + 0.25 * (e[0][1] - e[0][0]), e[2].mean(), e[1].mean() + 25))
    if KIDNEYS in extent:
        e = extent[KIDNEYS]
        knots.append((238.0, e[0].mean(), e[2].mean() * 0.5, e[1].mean() - 42.0))
    e = extent[BRAIN]
    cut = e[0][1] > organ_map.start_mm_zyx[0] + step[0] * (len(look) - 3)
    knots += [(680.0, e[0][0], e[2].mean(), e[1].mean() - 5.0)]
    knots += [] if cut else [(795.0, e[0][1], e[2].mean(), e[1].mean() - 5.0)]
    return _fit_frame(rng, sorted(knots), lung, np.count_nonzero(look == PROSTATE) > 40)


def _fit_frame(rng: np.random.Generator, knots: list, lung: list, male: bool) -> Frame:
    """A frame through the knots, dropping those that would fold z over; the legs follow the fitted height."""
    kept = [knots[0]]
    for knot in knots[1:]:
        slope = (knot[1] - kept[-1][1]) / (knot[0] - kept[-1][0])
        if 0.6 < slope < 1.5:
            kept.append(knot)
    if len(kept) < 2:
        kept = [(562.0, lung[0][1], 0.0, 0.0), (238.0, lung[0][1] - 324.0, 0.0, 0.0)]
        kept.sort()
    reference, z, sway_x, sway_y = (np.array(v) for v in zip(*kept))
    slope = float(np.clip((z[-1] - z[0]) / (reference[-1] - reference[0]), 0.85, 1.15))
    z = np.concatenate([[z[0] + slope * (FEET_Z - reference[0])], z])
    width = float(lung[2][1] - lung[2][0]) / LUNG_WIDTH_MM
    depth = float(lung[1][1] - lung[1][0]) / LUNG_DEPTH_MM
    height = float(np.clip(REFERENCE_CM * slope, 150.0, 195.0))
    return Frame(
        (FEET_Z, *reference),
        tuple(z),
        (sway_x[0], *sway_x),
        (sway_y[0], *sway_y),
        float(np.clip(width, 0.86, 1.15)),
        float(np.clip(depth, 0.86, 1.15)),
        height,
        float(np.clip(rng.lognormal(np.log(25.5) + 0.8 * np.log(max(depth, 0.8)), 0.14), 17.0, 42.0)),
        bool(male),
        "up" if rng.random() < 0.75 else "down",
    )


def field_axes(rng: np.random.Generator, frame: Frame, shape_zyx, spacing_mm_zyx) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Body positions of the voxel centres of a field of view; a field smaller than the body shows a random part of it.

    The usual field ends a few cm above the head and reaches to mid-thigh.
    """
    length, depth, width = (n * s for n, s in zip(shape_zyx, spacing_mm_zyx))
    vertex, thigh, feet = (float(frame.z(v)) for v in (VERTEX_Z, MID_THIGH_Z, FEET_Z))
    top_usual = vertex + rng.uniform(5.0, 40.0)
    top_low = min(thigh + length, top_usual)
    if length > top_usual - feet:
        top = (vertex + feet + length) / 2
    elif length > 0.85 * (top_usual - thigh):
        top = top_usual if rng.random() < 0.85 else rng.uniform(min(top_low, top_usual - 60.0), top_usual)
    else:
        top = rng.uniform(top_low, top_usual)
    middle = float(np.clip(top - length / 2, feet, vertex))
    sway_x, sway_y = (float(v) for v in frame.sway(middle))
    # a small field looks a little beside the middle, but never past the body
    spare_x, spare_y = np.clip(150.0 - width / 2, 8.0, 60.0), np.clip(90.0 - depth / 2, 6.0, 35.0)
    x0, y0 = sway_x + rng.uniform(-spare_x, spare_x), sway_y + rng.uniform(-spare_y, spare_y)
    centres = (top - length / 2, y0, x0)
    return tuple(c + (np.arange(n) - (n - 1) / 2) * s for c, n, s in zip(centres, shape_zyx, spacing_mm_zyx))
