"""Seconds and memory of all lesion measures on a whole-body grid, step by step.

    python -m benchmarks.measures [--quick] [--lesions 1 10 100 1000] [--repeats 3]

The masks are balls and the images are noise (made.py): the time depends on the number of foreground voxels and of lesions only.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.made import AUTOPET_SHAPE_ZYX, AUTOPET_SPACING_MM_ZYX, lesion_mask, noise
from benchmarks.timing import in_turn, machine, peak_mib, table
from l2s.components import label, largest_first
from l2s.measure import peak, shape
from l2s.measure.lesions import measure
from l2s.study import Grid, Study


def row(study: Study, maps: tuple[np.ndarray, np.ndarray], count: int, repeats: int) -> list[str]:
    """One number of lesions."""
    mask = lesion_mask(study.grid.shape_zyx, count, seed=1)
    components = largest_first(label(mask))
    index = np.stack(np.unravel_index(components.voxels, mask.shape), axis=1)
    spacing = study.grid.spacing_mm_zyx
    seconds, answers = in_turn(
        {
            "label": lambda: label(mask),
            "peaks": lambda: peak.peaks(components, index, study.pet_suv, spacing),
            "meshes": lambda: shape.meshes(components, index, spacing),
            "all": lambda: measure(study, mask, *maps),
        },
        repeats,
    )
    found = answers["all"].patient
    assert found.lesions == count
    return [str(count), f"{found.tmtv_ml:.0f}", *(f"{min(s):.3f}" for s in seconds.values())]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--quick", action="store_true", help="a small volume: shows that it runs, not how fast")
    p.add_argument("--lesions", type=int, nargs="+", default=[1, 10, 100, 1000])
    p.add_argument("--repeats", type=int, default=3)
    args = p.parse_args()
    grid = Grid((60, 80, 80) if args.quick else AUTOPET_SHAPE_ZYX, AUTOPET_SPACING_MM_ZYX, (0.0, 0.0, 0.0))
    print(f"{machine(args.repeats)}; {' x '.join(map(str, grid.shape_zyx))} voxels (z, y, x)\n", flush=True)
    pet, ct, probability, cue = (noise(grid.shape_zyx, seed) for seed in range(4))
    study = Study(pet + np.float32(5), ct, grid)
    before = peak_mib()
    rows = [row(study, (probability, cue), count, args.repeats) for count in args.lesions]
    print(table(["lesions", "ml", "label, s", "SUVpeak, s", "meshes, s", "measure in all, s"], rows))
    print(f"\npeak memory {peak_mib():.0f} MiB, of it {before:.0f} before the first mask")


if __name__ == "__main__":
    main()
