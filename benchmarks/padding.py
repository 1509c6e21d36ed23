"""Whether an answer hangs on how much air stage 1 pads: false positive volume of cue and mask, by rows of air above the head.

    python -m benchmarks.padding [--quick] [--weights FOLDER] [--cases 6] [--rows 0 8 16 24 28] [--windows tiles]

Planes are padded to multiples of 32 rows, so that a body's height decides. Each phantom is cut at its feet until just so many rows are
padded; all cuts of it show the same head. Weights that have learned what padding is give the same figures in every column.
"""

from __future__ import annotations

import argparse

import numpy as np

import l2s
from benchmarks.timing import machine, table
from l2s import weights
from l2s.localize.network import STRIDE
from l2s.phantom.sample import make_case
from l2s.study import Grid, Study
from l2s.working import body_box

SHAPE_MM_ZYX, QUICK_MM_ZYX = (1088, 448, 576), (400, 240, 280)
SEED = 88_000_000  # of no training and no evaluation


def cut(study: Study, truth: np.ndarray, rows: int) -> tuple[Study, np.ndarray]:
    """The body from above, as many planes of it as leave so many rows of air to be padded."""
    spacing = study.grid.spacing_mm_zyx
    start, stop = body_box(study.pet_suv, study.ct_hu, spacing)
    first = start[0] + (stop[0] - start[0] + rows) % STRIDE
    box = (slice(first, stop[0]), *(slice(a, b) for a, b in zip(start[1:], stop[1:])))
    pet, ct, truth = (np.ascontiguousarray(array[box]) for array in (study.pet_suv, study.ct_hu, truth))
    return Study(pet, ct, Grid(pet.shape, spacing, (0.0, 0.0, 0.0))), truth


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--quick", action="store_true", help="small fields of view: shows that it runs, not what weights do")
    p.add_argument("--weights", help="default: the bundled ones")
    p.add_argument("--cases", type=int, default=6)
    p.add_argument("--rows", type=int, nargs="+", default=[0, 8, 16, 24, 28], help=f"of air, each below {STRIDE}")
    p.add_argument("--windows", choices=["tiles", "gaussian"], default="tiles")
    args = p.parse_args()
    if any(not 0 <= rows < STRIDE for rows in args.rows):
        p.error(f"--rows {args.rows}: each from 0 to {STRIDE - 1}")
    folder = weights.find(args.weights)
    manifest, _ = weights.read_manifest(folder)
    spacing = manifest.spacing_mm_zyx
    extent = QUICK_MM_ZYX if args.quick else SHAPE_MM_ZYX
    grid = Grid(tuple(round(mm / step) for mm, step in zip(extent, spacing)), spacing, (0.0, 0.0, 0.0))
    voxel_ml = float(np.prod(spacing)) / 1000
    false = np.zeros((2, len(args.rows), args.cases))
    print(f"{machine(args.cases)} phantoms at {spacing} mm; {manifest.name}\n", flush=True)
    for case in range(args.cases):
        sample = make_case(SEED + case, grid)
        for column, rows in enumerate(args.rows):
            study, truth = cut(sample.study, sample.truth, rows)
            result = l2s.segment(study, weights=folder, device="cpu", windows=args.windows)
            for line, marked in enumerate((result.cue > 0.5, result.mask > 0)):
                false[line, column, case] = (marked & ~truth).sum() * voxel_ml
    heads = ["false positive ml a phantom", *(f"{rows} rows of air" for rows in args.rows)]
    means, largest = false.mean(2), false.max(2)
    lines = [
        [f"{name}, {kind}", *(f"{value:.0f}" for value in values[line])]
        for line, name in enumerate(("cue", "mask"))
        for kind, values in (("mean", means), ("largest", largest))
    ]
    print(table(heads, lines))


if __name__ == "__main__":
    main()
