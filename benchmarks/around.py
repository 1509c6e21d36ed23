"""Seconds of everything around the networks on a case of autoPET's size: reading, resampling, fusion, metrics, writing, imports.

    python -m benchmarks.around [--quick] [--repeats 3] [--components 100]

PET and CT are a phantom's, probability and cue are made up with an exact number of components. Files lie in a temporary folder and are
read from the page cache. Rows run in turn; the median and the fastest are shown, and rows above 1 s are marked.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.special import expit

from benchmarks.made import AUTOPET_SHAPE_ZYX, AUTOPET_SPACING_MM_ZYX, answers, lesion_mask
from benchmarks.timing import in_turn, machine, table
from l2s import components, engine, fuse, pipeline, weights
from l2s.io.images import read_image, sitk_image, write_image, write_mask
from l2s.io.studies import read_study
from l2s.measure.metrics import evaluate_masks
from l2s.measure.surface import surface_scores
from l2s.phantom.sample import make_case
from l2s.report.mip import preview
from l2s.study import Grid, Study
from l2s.working import body_box, from_working, to_working

LIMIT_S = 1.0
QUICK_SHAPE_ZYX, QUICK_SPACING_MM_ZYX = (80, 100, 100), (12.0, 8.1, 8.1)
IMPORTS = {
    "process.py --help": ["process.py", "--help"],
    "l2s --help": ["-m", "l2s.cli", "--help"],
    "import l2s.challenge": ["-c", "import l2s.challenge"],
    "import torch": ["-c", "import torch"],
    "import l2s.pipeline (torch, timm)": ["-c", "import l2s.pipeline"],
}


def write_inputs(folder: Path, study: Study) -> None:
    """PET as float32 and CT as int16, in each format and with and without compression."""
    import SimpleITK as sitk

    for name, array in (("pet", study.pet_suv), ("ct", np.rint(study.ct_hu).astype(np.int16))):
        image = sitk_image(array, study.grid)
        sitk.WriteImage(image, str(folder / f"{name}.mha"), True)
        sitk.WriteImage(image, str(folder / f"{name}_raw.mha"), False)
        write_image(folder / f"{name}.nii.gz", array, study.grid)
        sitk.WriteImage(image, str(folder / f"{name}.nii"), False)


def reading(folder: Path) -> dict[str, Callable]:
    rows = {}
    for name in ("pet", "ct"):
        for file in (f"{name}.mha", f"{name}_raw.mha", f"{name}.nii.gz", f"{name}.nii"):
            size = (folder / file).stat().st_size / 2**20
            rows[f"read {file} ({size:.0f} MiB)"] = lambda path=folder / file: read_image(path)
    rows["read_study, both .mha"] = lambda: read_study(folder / "pet.mha", folder / "ct.mha", "case")
    rows["read_study, both raw .mha"] = lambda: read_study(folder / "pet_raw.mha", folder / "ct_raw.mha", "case")
    return rows


def resampling(study: Study, spacing_mm_zyx) -> dict[str, Callable]:
    """To the bundled spacing and to the PET's own, and back."""
    rows, plan = {}, engine.choose("cpu")
    for label, spacing in (("the weights' spacing", spacing_mm_zyx), ("the PET's spacing", study.grid.spacing_mm_zyx)):
        working = to_working(study, spacing)
        shape = " x ".join(map(str, working.grid.shape_zyx))
        rows[f"to_working, {label} (box {shape})"] = lambda s=spacing: to_working(study, s)
        rows[f"from_working, {label}"] = lambda w=working: from_working(w.pet_suv, w, study.grid, -30.0)
        rows[f"from_working and sigmoid, {label}"] = lambda w=working: pipeline.on_pet_grid(w.pet_suv, w, study.grid, plan)
    rows["body_box, the PET's grid"] = lambda: body_box(study.pet_suv, study.ct_hu, study.grid.spacing_mm_zyx)
    return rows


def deciding(mask: np.ndarray, logits: np.ndarray, cue_logits: np.ndarray, grid: Grid) -> dict[str, Callable]:
    """Sigmoid, fusion, component tables and metrics."""
    probability, cue = expit(logits), expit(cue_logits)
    answer = fuse.apply("voxelwise", probability, cue)
    table_of = components.label(mask)
    return {
        "sigmoid": lambda: expit(logits),
        "fuse voxelwise": lambda: fuse.apply("voxelwise", probability, cue),
        "fuse componentwise": lambda: fuse.apply("componentwise", probability, cue),
        "component table": lambda: components.label(mask),
        "count inside and maximum of each": lambda: (
            components.count_inside(table_of, answer),
            components.maximum(table_of, probability),
        ),
        "metrics (Dice, FPV, FNV, lesions)": lambda: evaluate_masks(mask, answer, grid.voxel_volume_ml),
        "surface figures (l2s evaluate)": lambda: surface_scores(mask, answer, grid.spacing_mm_zyx),
    }


def writing(folder: Path, study: Study, mask: np.ndarray) -> dict[str, Callable]:
    """The mask with its read-back, and the preview."""
    return {
        "write mask .mha": lambda: write_mask(folder / "mask.mha", mask, study.grid),
        "write mask .nii.gz": lambda: write_mask(folder / "mask.nii.gz", mask, study.grid),
        "write probability .nii.gz": lambda: write_image(folder / "probability.nii.gz", study.pet_suv, study.grid),
        "preview picture": lambda: preview(study, mask, folder / "preview.png"),
    }


def importing() -> dict[str, Callable]:
    """Each in a fresh Python."""
    rows = {
        name: lambda a=arguments: subprocess.run([sys.executable, *a], check=True, capture_output=True)
        for name, arguments in IMPORTS.items()
    }
    return rows | {"load and verify the weights": lambda: weights.load(weights.find())}


def compression(folder: Path, mask: np.ndarray, grid: Grid, repeats: int) -> str:
    """ITK's levels on the mask: the bare writing, without our read-back."""
    import SimpleITK as sitk

    image = sitk_image(mask.astype(np.uint8), grid)

    def write(level: int) -> int:
        path = folder / "level.mha"
        sitk.WriteImage(image, str(path), useCompression=level > 0, compressionLevel=level)
        return path.stat().st_size

    levels = (0, 1, 2, 3, 5, 6, 9)
    seconds, sizes = in_turn({str(level): lambda v=level: write(v) for level in levels}, repeats)
    rows = [[name, f"{statistics.median(s):.3f}", str(sizes[name])] for name, s in seconds.items()]
    return table(["ITK level (0: none)", "s", "bytes"], rows)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--quick", action="store_true", help="a small volume: shows that it runs, not how fast")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--components", type=int, default=100)
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    shape, spacing = (QUICK_SHAPE_ZYX, QUICK_SPACING_MM_ZYX) if args.quick else (AUTOPET_SHAPE_ZYX, AUTOPET_SPACING_MM_ZYX)
    grid = Grid(shape, spacing, (0.0, 0.0, 0.0))
    print(f"{machine(args.repeats)}; {' x '.join(map(str, shape))} voxels (z, y, x), {args.components} components\n", flush=True)
    study = make_case(args.seed, grid, lesions=10).study
    mask = lesion_mask(shape, args.components, args.seed)
    logits, cue_logits = answers(mask, args.seed)
    working_spacing = weights.read_manifest(weights.find())[0].spacing_mm_zyx
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, study)
        calls = reading(folder) | resampling(study, working_spacing) | deciding(mask, logits, cue_logits, grid)
        seconds, _ = in_turn(calls | writing(folder, study, mask) | importing(), args.repeats)
        rows = []
        for what, taken in seconds.items():
            middle = statistics.median(taken)
            rows.append([what, f"{middle:.3f}", f"{min(taken):.3f}", f"above {LIMIT_S:g} s" if middle > LIMIT_S else ""])
        print(table(["what", "s, median", "s, fastest", ""], rows), end="\n\n")
        print(compression(folder, mask, grid, args.repeats))


if __name__ == "__main__":
    main()
