"""process.py on a full-size case, as a process of its own: seconds a stage, peak memory, and how far from the machine's limit.

    python -m benchmarks.whole_case [--quick] [--case FOLDER] [--flags "" "--spacing-mm 3 2.036 2.036" "--windows gaussian"]
    python -m benchmarks.whole_case --planes 1000               # a total-body scan

The case is a phantom on autoPET's grid, made once in --case (or in a temporary folder). Each entry of --flags is one run. The bundled
weights are trained at 4 mm: a run at another spacing shows time, and its mask means nothing. With --planes the phantom is repeated
along the body: no body looks so, time and memory are what it shows.
Operations are counted by torch; the peak is what this machine reaches in a large matrix product and in a large 3x3 convolution.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.timing import machine, table

AUTOPET = (["326", "400", "400"], ["3", "2.036", "2.036"])
QUICK = (["20", "16", "20"], ["12", "12", "12"])
STAGES = ("load", "read", "prepare", "localize", "segment", "resample", "fuse", "write")
QUICK_EDGE = 256


def make_phantom(folder: Path, shape: list[str], spacing_mm: list[str]) -> Path:
    """The input folder of one phantom case, made if it is not there."""
    case = folder / "phantom_0001"
    if not (case / "images").is_dir():
        words = ["phantom", str(folder), "--cases", "1", "--seed", "1", "--shape", *shape, "--spacing-mm", *spacing_mm]
        subprocess.run([sys.executable, "-m", "l2s.cli", *words], check=True, stdout=subprocess.DEVNULL)
    return case


def repeated(case: Path, planes: int) -> Path:
    """The case repeated along the body to so many planes, as a case beside it."""
    import SimpleITK as sitk

    name = f"{case.name}_x{planes}"
    longer = case.parent / name
    for kind in ("pet", "ct"):
        target = longer / "images" / kind / f"{name}.mha"
        if target.is_file():
            continue
        image = sitk.ReadImage(str(next((case / "images" / kind).iterdir())))
        array = sitk.GetArrayViewFromImage(image)
        out = np.concatenate([array[: min(len(array), planes - start)] for start in range(0, planes, len(array))])
        long = sitk.GetImageFromArray(out)
        long.SetSpacing(image.GetSpacing())
        long.SetOrigin(image.GetOrigin())
        long.SetDirection(image.GetDirection())
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name("partial.mha")
        sitk.WriteImage(long, str(partial), useCompression=True)
        partial.replace(target)
    return longer


def run_once(case: Path, flags: str) -> dict:
    """The record of one run, with the wall seconds of the whole process, Python's start and imports included."""
    with tempfile.TemporaryDirectory() as output:
        words = [sys.executable, "process.py", "--input", str(case), "--output", output, "--device", "cpu", *shlex.split(flags)]
        started = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"process.py {flags} ended with {done.returncode}: {done.stderr[-500:]}")
        return json.loads((Path(output) / "l2s-record.json").read_text()) | {"wall_s": wall}


def row_of(flags: str, records: list[dict]) -> list[str]:
    """Medians of the runs of one set of flags."""

    def median(values) -> str:
        return f"{statistics.median(values):.2f}"

    seconds = [median([r["seconds"].get(stage, 0.0) for r in records]) for stage in STAGES]
    peak = f"{max(r['peak_rss_mib'] for r in records):.0f}"
    return [f"`{flags}`" if flags else "(none)", *seconds, median([r["wall_s"] for r in records]), peak]


def best_seconds(call, times: int = 4) -> float:
    """The fastest of some calls after a first one."""
    call()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)


def peak_flops(edge: int) -> dict[str, float]:
    """FLOP/s that this machine reaches: a matrix product, and a 3x3 convolution of 64 channels in the networks' layout."""
    import torch

    a = torch.randn(edge, edge)
    image = torch.randn(1, 64, edge // 4, edge // 4).to(memory_format=torch.channels_last)
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        product = 2.0 * edge**3 / best_seconds(lambda: a @ a)
        convolved = 2.0 * 9 * 64 * 64 * (edge // 4) ** 2 / best_seconds(lambda: convolution(image))
    return {"matrix product": product, "3x3 convolution": convolved}


def counted_flop(record: dict) -> dict[str, float]:
    """FLOP of both stages on the record's body box: one pass, without the tiles' halos, by a small pass scaled to the box."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from l2s import weights

    model = weights.load(weights.find())
    box = [b - a for a, b in zip(*record["method"]["body_box_zyx"])]
    channels = 2 * model.manifest.localizer.network.neighbours + 1
    voxels = box[0] * box[1] * box[2]
    counts = {}
    for stage, network, shape, share in (
        ("localize", model.localizers[0], (1, channels, 64, 64), voxels / 64**2),
        ("segment", model.segmenters[0], (1, 2, 32, 32, 32), voxels / 32**3),
    ):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            network(torch.randn(shape))
        counts[stage] = float(counter.get_total_flops()) * share
    return counts


def limit_table(flags: str, records: list[dict], peaks: dict[str, float]) -> str:
    """Each network's speed as a share of the larger measured peak."""
    peak = max(peaks.values())
    rows = []
    for stage, flop in counted_flop(records[0]).items():
        taken = statistics.median([r["seconds"][stage] for r in records])
        speed = flop / taken
        rows.append(
            [stage, f"{flop / 1e12:.3f}", f"{taken:.2f}", f"{speed / 1e9:.0f}", f"{flop / peak:.2f}", f"{speed / peak:.0%}"]
        )
    heads = [f"network, flags {flags or '(none)'}", "TFLOP", "s", "GFLOP/s", "s at the peak", "share of the peak"]
    return table(heads, rows)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--quick", action="store_true", help="a small phantom: shows that it runs, not how fast")
    p.add_argument("--case", type=Path, help="folder to keep the phantom in; made there if absent")
    p.add_argument("--planes", type=int, help="repeat the phantom along the body to so many planes")
    p.add_argument("--flags", nargs="+", default=["", "--spacing-mm 3 2.036 2.036"], help="one entry a run of process.py")
    p.add_argument("--repeats", type=int, default=1)
    args = p.parse_args()
    shape, spacing = QUICK if args.quick else AUTOPET
    with tempfile.TemporaryDirectory() as temporary:
        case = make_phantom(args.case or Path(temporary), shape, spacing)
        if args.planes:
            case, shape = repeated(case, args.planes), [str(args.planes), *shape[1:]]
        # before torch is imported here: a process reports its parent's size as its own peak where that was larger
        records: dict[str, list[dict]] = {flags: [] for flags in args.flags}
        for _ in range(args.repeats):
            for flags in args.flags:
                records[flags].append(run_once(case, flags))
    print(f"{machine(args.repeats)}; phantom of {' x '.join(shape)} voxels (z, y, x), {' x '.join(spacing)} mm\n")
    heads = ["process.py", *(f"{stage}, s" for stage in STAGES), "whole, s", "peak MiB"]
    print(table(heads, [row_of(flags, done) for flags, done in records.items()]))
    peaks = peak_flops(QUICK_EDGE if args.quick else 4096)
    print("\nMeasured peak: " + ", ".join(f"{name} {speed / 1e9:.0f} GFLOP/s" for name, speed in peaks.items()))
    for flags, done in records.items():
        print("\n" + limit_table(flags, done, peaks))


if __name__ == "__main__":
    main()
