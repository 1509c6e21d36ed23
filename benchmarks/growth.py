"""How time and peak memory grow with the volume and with the number of lesions; every point in a fresh process.

    python -m benchmarks.growth [--quick] [--times 1 2 4] [--lesions 0 10 100 1000] [--spacing-mm Z Y X] [--skip-volumes]

Volumes: one phantom on autoPET's grid, repeated along the body to 1, 2, 4 times its length and to a total-body scan of 400x400x1000,
through pipeline.segment (both networks, fusion; no files). A repeated body is no body: time and memory are what it shows.
Lesions: made-up balls on autoPET's grid, through all that depends on their number. Peak memory is the process's own, images included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.made import AUTOPET_SHAPE_ZYX, AUTOPET_SPACING_MM_ZYX, answers, lesion_mask
from benchmarks.timing import machine, peak_mib, table

TOTAL_BODY_PLANES = 1000
QUICK_SHAPE_ZYX, QUICK_SPACING_MM_ZYX = (40, 40, 48), (12.0, 12.0, 12.0)
QUICK_TOTAL_BODY_PLANES = 120
MAX_LESIONS_QUICK = 200  # of 1000: the small volume has no more room


def volume_point(folder: str, planes: int, spacing_mm, working_mm) -> dict:
    """pipeline.segment on the phantom in the folder, repeated to so many planes: {stage: seconds} with voxels and peak_mib."""
    from l2s import engine, pipeline, weights
    from l2s.study import Grid, Study

    arrays = []
    for name in ("pet", "ct"):
        base = np.load(Path(folder) / f"{name}.npy", mmap_mode="r")
        out = np.empty((planes, *base.shape[1:]), np.float32)
        for start in range(0, planes, len(base)):
            out[start : start + len(base)] = base[: planes - start]
        arrays.append(out)
    del base  # its mapped pages would count as this process's memory
    study = Study(*arrays, Grid(arrays[0].shape, tuple(spacing_mm), (0.0, 0.0, 0.0)))
    model, plan = weights.load(weights.find()), engine.choose("cpu")
    started = time.perf_counter()
    result = pipeline.segment(study, model, plan, pipeline.Settings(spacing_mm_zyx=tuple(working_mm) if working_mm else None))
    box = np.prod(np.subtract(*result.details["body_box_zyx"][::-1]))
    return {**result.seconds, "total": time.perf_counter() - started, "voxels": study.pet_suv.size, "box": int(box)}


def lesion_point(shape, count: int) -> dict:
    """{what: seconds} of fusion, component table, metrics and preview's figures with so many lesions."""
    from scipy.special import expit

    from l2s import fuse
    from l2s.components import label
    from l2s.measure.metrics import evaluate_masks
    from l2s.measure.surface import surface_scores
    from l2s.report.mip import find_lesions

    truth = lesion_mask(tuple(shape), count)
    probability, cue = (expit(logits) for logits in answers(truth))
    calls = {
        "voxelwise": lambda: fuse.apply("voxelwise", probability, cue),
        "componentwise": lambda: fuse.apply("componentwise", probability, cue),
        "component table": lambda: label(truth),
        "metrics": lambda: evaluate_masks(truth, probability > 0.5, 0.0124),
        "surfaces": lambda: surface_scores(truth, probability > 0.5, AUTOPET_SPACING_MM_ZYX),
        "preview's figures": lambda: find_lesions(truth, 0.0124),
    }
    seconds = {}
    for name, call in calls.items():
        started = time.perf_counter()
        call()
        seconds[name] = time.perf_counter() - started
    return seconds


def fresh(kind: str, *arguments) -> dict:
    """The point, measured in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.growth", "--point", json.dumps([kind, *arguments])]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def make_phantom(folder: Path, shape, spacing_mm) -> None:
    from l2s.phantom.sample import make_case
    from l2s.study import Grid

    study = make_case(1, Grid(shape, spacing_mm, (0.0, 0.0, 0.0)), lesions=10).study
    np.save(folder / "pet.npy", study.pet_suv)
    np.save(folder / "ct.npy", study.ct_hu)


def volumes(args: argparse.Namespace, shape, spacing_mm) -> str:
    """The table over volumes; the first point is what the others are compared with."""
    total_body = QUICK_TOTAL_BODY_PLANES if args.quick else TOTAL_BODY_PLANES
    points = {f"x{n}": n * shape[0] for n in args.times} | {"total body": total_body}
    with tempfile.TemporaryDirectory() as folder:
        make_phantom(Path(folder), shape, spacing_mm)
        found = {name: fresh("volume", folder, planes, spacing_mm, args.spacing_mm) for name, planes in points.items()}
    first = next(iter(found.values()))
    stages = ("prepare", "localize", "segment", "resample", "fuse", "total")
    rows = []
    for name, point in found.items():
        seconds = [f"{point[stage]:.2f}" for stage in stages]
        sizes = [f"{point['voxels'] / 1e6:.3g}", f"{point['box'] / 1e6:.3g}"]
        growth = [f"{point['voxels'] / first['voxels']:.2f}", f"{point['total'] / first['total']:.2f}"]
        rows.append([name, *sizes, *seconds, f"{point['peak_mib']:.0f}", *growth])
    heads = ["volume", "million voxels", "in the working box", *(f"{stage}, s" for stage in stages)]
    return table([*heads, "peak MiB", "voxels, times", "seconds, times"], rows)


def lesions(args: argparse.Namespace, shape) -> str:
    """The table over numbers of lesions."""
    counts = [min(n, MAX_LESIONS_QUICK) if args.quick else n for n in args.lesions]
    found = {count: fresh("lesions", shape, count) for count in counts}
    names = [name for name in next(iter(found.values())) if name != "peak_mib"]
    rows = [[str(n), *(f"{point[k]:.3f}" for k in names), f"{point['peak_mib']:.0f}"] for n, point in found.items()]
    return table(["lesions", *(f"{name}, s" for name in names), "peak MiB"], rows)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--quick", action="store_true", help="small volumes: shows that it runs, not how fast")
    p.add_argument("--times", type=int, nargs="+", default=[1, 2, 4])
    p.add_argument("--lesions", type=int, nargs="+", default=[0, 10, 100, 1000])
    p.add_argument("--spacing-mm", type=float, nargs=3, metavar=("Z", "Y", "X"), help="working spacing (default: the weights')")
    p.add_argument("--skip-volumes", action="store_true")
    p.add_argument("--point", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.point:
        kind, *arguments = json.loads(args.point)
        point = {"volume": volume_point, "lesions": lesion_point}[kind](*arguments)
        print(json.dumps(point | {"peak_mib": peak_mib()}))
        return
    shape, spacing = (QUICK_SHAPE_ZYX, QUICK_SPACING_MM_ZYX) if args.quick else (AUTOPET_SHAPE_ZYX, AUTOPET_SPACING_MM_ZYX)
    print(f"{machine(1)}; {' x '.join(map(str, shape))} voxels (z, y, x)\n", flush=True)
    if not args.skip_volumes:
        print(volumes(args, shape, spacing), end="\n\n", flush=True)
    print(lesions(args, shape))


if __name__ == "__main__":
    main()
