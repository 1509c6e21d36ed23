"""One synthetic whole-body PET/CT with truth, and folders full of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from l2s.errors import InputError
from l2s.phantom import scanner as sc
from l2s.phantom.anatomy import Anatomy, hu_image, make_anatomy
from l2s.phantom.implants import Tumour
from l2s.phantom.lesions import MAX_LESIONS, Lesion, add_lesions, draw_count
from l2s.phantom.shapes import Canvas
from l2s.phantom.tissues import Tissue, hu_table
from l2s.phantom.uptake import suv_image
from l2s.study import Grid, Study

WORK_MM = 4.0  # drawn at about this spacing, then brought to the grid: the PET's resolution is coarser anyway
COARSEST_MM = 5.5
MAP_ENDINGS = (".nii.gz", ".nii", ".mha")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """A synthetic case.

    Attributes:
        study: PET in SUV and CT in HU.
        truth: bool (z, y, x), the lesions on the PET before the scanner's blur.
        facts: JSON-able: seed, patient, scanner, physiology, and `lesions`, a list of {kind, site, volume_ml, suv, centre_mm_xyz}.
    """

    study: Study
    truth: np.ndarray
    facts: dict


def make_case(
    seed: int,
    grid: Grid,
    organ_maps: Path | Sequence[Path] | None = None,
    lesions: int | None = None,
    tumours: Sequence[Tumour] = (),
) -> Sample:
    """A seeded case on any grid; the array's axes are taken as the body's (z to the head, y to the back, x to the left).

    Args:
        seed: 0 or larger; the same seed, grid and maps give the same bits.
        grid: where the voxels lie. A grid smaller than the body shows a random part of it.
        organ_maps: real organ label maps (labels 1..10) to take the organs from, a folder or files; None: the organs are drawn.
        lesions: how many lesions; None: drawn at random, none in a quarter of the cases. A field without room gets fewer.
        tumours: real tumours to implant instead of drawn lesions.

    Raises:
        InputError: a negative seed or number, more than 25 lesions, or a folder without maps.
    """
    if seed < 0:
        raise InputError(f"seed is {seed}: it must be 0 or larger")
    if lesions is not None and not 0 <= lesions <= MAX_LESIONS:
        raise InputError(f"lesions is {lesions}: it must lie between 0 and {MAX_LESIONS}")
    if min(grid.shape_zyx) < 1 or min(grid.spacing_mm_zyx) <= 0:
        raise InputError(
            f"the grid {grid.shape_zyx} at {grid.spacing_mm_zyx} mm is empty: give at least one voxel and a spacing above 0"
        )
    # one stream a stage: a change in one leaves the others as they were
    body_rng, uptake_rng, lesion_rng, scan_rng = (np.random.default_rng([seed, k]) for k in range(4))
    factors = [_factor(s) for s in grid.spacing_mm_zyx]
    shape = tuple(max(int(np.ceil(n * f)), 2) for n, f in zip(grid.shape_zyx, factors))
    spacing = tuple(s / f for s, f in zip(grid.spacing_mm_zyx, factors))
    anatomy = make_anatomy(body_rng, shape, spacing, map_files(organ_maps))
    scanner = sc.random_scanner(scan_rng)
    suv, physiology = suv_image(uptake_rng, anatomy)
    hu = hu_image(anatomy, hu_table(uptake_rng, scanner.contrast))
    count = draw_count(lesion_rng) if lesions is None else lesions
    found = add_lesions(lesion_rng, anatomy, suv, hu, count, scanner.fwhm_mm / sc.FWHM_PER_SIGMA, tumours)
    pet, ct, share = _scan(scan_rng, anatomy, scanner, suv, hu, found, grid, factors)
    name = f"phantom_{seed}"
    facts = _facts(seed, anatomy, scanner, physiology, found, grid)
    return Sample(Study(pet, ct, grid, None, name), share > 0.5, facts)


def _factor(spacing_mm: float) -> float:
    """Working voxels for one of the grid's along an axis: 1/k where the grid is fine, k where it is coarse."""
    if spacing_mm > COARSEST_MM:
        return float(np.ceil(spacing_mm / COARSEST_MM))
    return 1.0 / max(int(round(WORK_MM / spacing_mm)), 1)


def map_files(maps: Path | Sequence[Path] | None) -> list[Path]:
    """The organ maps of a folder, sorted; files and None as they are.

    Raises:
        InputError: the folder holds none.
    """
    if maps is None or not isinstance(maps, (str, Path)):
        return list(maps or ())
    folder = Path(maps)
    files = sorted(p for p in folder.iterdir() if p.name.endswith(MAP_ENDINGS)) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder} holds no organ maps ({', '.join(MAP_ENDINGS)}): name the folder of the label maps")
    return files


def _scan(
    rng, anatomy: Anatomy, scanner: sc.Scanner, suv, hu, found: list[Lesion], grid: Grid, factors
) -> tuple[np.ndarray, ...]:
    """PET, CT and the lesions' share of each voxel on the grid."""
    canvas = anatomy.canvas
    body = canvas.tissue != Tissue.AIR
    spacing = canvas.spacing_mm_zyx
    share = np.zeros(suv.shape, dtype=np.float32)
    for lesion in found:
        np.maximum(share[lesion.slices], lesion.weight, out=share[lesion.slices])
    ct = sc.ct_image(rng, hu, body, canvas, scanner)
    pet = sc.blur(suv, scanner.fwhm_mm, spacing)
    for axis, position in enumerate(sc.pet_positions(scanner, canvas, float(anatomy.frame.z(350.0)))):
        pet = sc.interpolate(pet, axis, position)
        share = sc.interpolate(share, axis, position) if found else share
    pet = sc.add_pet_noise(rng, pet, sc.noise_scale(pet, body, scanner, spacing), scanner, spacing)
    return tuple(_to_grid(a, grid.shape_zyx, factors) for a in (pet, ct, share))


def _to_grid(image: np.ndarray, shape_zyx, factors) -> np.ndarray:
    """The working image on the grid: means of blocks where the grid is coarser, linear between voxels where it is finer."""
    for axis, (n, factor) in enumerate(zip(shape_zyx, factors)):
        if factor > 1:
            k = int(factor)
            blocks = [image.take(range(j, n * k, k), axis=axis) for j in range(k)]
            image = np.mean(blocks, axis=0, dtype=np.float32)
        else:
            image = sc.interpolate(image, axis, (np.arange(n) + 0.5) * factor - 0.5)
    return np.ascontiguousarray(image, dtype=np.float32)


def _facts(seed: int, anatomy: Anatomy, scanner: sc.Scanner, physiology: dict, found: list[Lesion], grid: Grid) -> dict:
    frame, canvas = anatomy.frame, anatomy.canvas
    return {
        "seed": seed,
        "height_cm": round(frame.height_cm, 1),
        "bmi": round(frame.bmi, 1),
        "sex": "male" if frame.male else "female",
        "arms": frame.arms,
        "organ_map": anatomy.organ_map,
        "scanner": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(scanner).items()},
        "physiology": physiology,
        "lesions": [
            {
                "kind": lesion.kind,
                "site": lesion.site,
                "volume_ml": round(lesion.volume_ml, 3),
                "suv": lesion.suv,
                "centre_mm_xyz": _world(lesion, canvas, grid, scanner, float(frame.z(350.0))),
            }
            | ({"donor": lesion.donor} if lesion.donor else {})
            for lesion in found
        ],
    }


def _world(lesion: Lesion, canvas: Canvas, grid: Grid, scanner: sc.Scanner, diaphragm_mm: float) -> list[float]:
    """The lesion's centre on the PET in the study's world coordinates."""
    x, y, z = lesion.centre_mm_xyz
    breath = scanner.breath_mm * np.exp(-0.5 * ((z - diaphragm_mm) / 45.0) ** 2)
    moved = np.array([z + breath, y, x]) + scanner.shift_mm_zyx
    first = np.array([a[0] - s / 2 for a, s in zip((canvas.z_mm, canvas.y_mm, canvas.x_mm), canvas.spacing_mm_zyx)])
    index = (moved - first) / grid.spacing_mm_zyx - 0.5
    return [round(float(v), 1) for v in grid.index_to_mm_xyz(index)]


def write_case(folder: Path, name: str, sample: Sample) -> Path:
    """Write FOLDER/NAME/images/{ct,pet}/NAME.mha, truth.mha and facts.json; returns the case's folder.

    Each file appears under its name only when it is complete.

    Raises:
        InputError: the folder cannot be written.
    """
    from l2s.io.images import write_image, write_mask

    case, study = Path(folder) / name, sample.study
    write_image(case / "images" / "ct" / f"{name}.mha", np.rint(study.ct_hu).astype(np.int16), study.grid)
    write_image(case / "images" / "pet" / f"{name}.mha", study.pet_suv, study.grid)
    write_mask(case / "truth.mha", sample.truth, study.grid)
    part = case / ".facts.part.json"
    part.write_text(json.dumps(sample.facts, indent=1) + "\n")
    part.replace(case / "facts.json")
    return case


def write_cases(
    out: Path, cases: int, seed: int, shape_zyx, spacing_mm_zyx, organ_maps: Path | None = None, log=logger.info
) -> list[Path]:
    """Write cases phantom_0001, phantom_0002 ... with seeds seed, seed + 1 ...; returns their folders.

    Args:
        out: folder, made if absent.
        cases: how many, at least 1.
        seed: of the first case.
        shape_zyx, spacing_mm_zyx: the grid.
        organ_maps: folder of real organ maps, or None.
        log: called with a line of text after each case.

    Raises:
        InputError: as make_case, or cases below 1.
    """
    if cases < 1:
        raise InputError(f"cases is {cases}: ask for at least 1")
    shape = tuple(int(n) for n in shape_zyx)
    spacing = tuple(float(s) for s in spacing_mm_zyx)
    origin = tuple(-0.5 * n * s for n, s in zip(shape[::-1], spacing[::-1]))
    folders = []
    for k in range(cases):
        sample = make_case(seed + k, Grid(shape, spacing, origin), organ_maps)
        folders.append(write_case(out, f"phantom_{k + 1:04d}", sample))
        volume = float(sample.truth.sum()) * sample.study.grid.voxel_volume_ml
        log(f"{folders[-1].name}: seed {seed + k}, {len(sample.facts['lesions'])} lesions, {volume:.1f} ml")
    return folders
