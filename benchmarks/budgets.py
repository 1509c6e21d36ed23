"""Whether process.py keeps --time-budget on a full-size case: seconds taken, what ran, what was left out.

    python -m benchmarks.budgets [--quick] [--case FOLDER] [--folds 5] [--budgets 60 120 300] [--flags "..."]

Further folds are made from the weights' own by seeded noise: they cost what trained ones cost and say nothing about Dice.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.timing import machine, table
from benchmarks.whole_case import AUTOPET, QUICK, make_phantom, run_once
from l2s import weights

NOISE = 1e-3  # of each parameter


def with_folds(source: Path, out: Path, folds: int) -> Path:
    """A weights folder with so many networks a stage: the first fold of source and seeded neighbours of it."""
    manifest, _ = weights.read_manifest(source)
    parts = {}
    for name, part in (("localizer", manifest.localizer), ("segmenter", manifest.segmenter)):
        state, files = load_file(source / part.files[0].file), []
        for fold in range(folds):
            torch.manual_seed(fold)
            path = out / f"{name}_{fold}.safetensors"
            save_file({k: v + NOISE * fold * v * torch.randn(v.shape).to(v.dtype) for k, v in state.items()}, path)
            files.append(weights.WeightsFile(path.name, weights.file_sha256(path)))
        parts[name] = replace(part, files=tuple(files))
    (out / weights.MANIFEST).write_text(json.dumps(asdict(replace(manifest, name=f"{manifest.name}, {folds} copies", **parts))))
    return out


def row_of(budget: float, record: dict) -> list[str]:
    taken = record["wall_s"]
    ran = record["method"]["passes"]
    by_stage = [sum(one["stage"] == stage for one in ran) for stage in ("localize", "segment")]
    return [
        f"{budget:g}",
        f"{taken:.1f}",
        f"{taken / budget - 1:+.1%}",
        record["plan"]["precision"],
        *map(str, by_stage),
        str(len(record["left_out"])),
        str(record["peak_rss_mib"]),
    ]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--quick", action="store_true", help="a small phantom: shows that it runs, not how fast")
    p.add_argument("--case", type=Path, help="folder to keep the phantom in; made there if absent")
    p.add_argument("--weights", help="default: the bundled ones")
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--budgets", type=float, nargs="+", default=[60, 120, 300])
    p.add_argument("--flags", default="", help="further flags of process.py")
    args = p.parse_args()
    shape, spacing = QUICK if args.quick else AUTOPET
    with tempfile.TemporaryDirectory() as temporary:
        case = make_phantom(args.case or Path(temporary), shape, spacing)
        source = weights.find(args.weights)
        folder = source if args.folds == 1 else with_folds(source, Path(temporary), args.folds)
        print(f"{machine(1)}; phantom of {' x '.join(shape)} voxels, {args.folds} folds, process.py {args.flags}\n", flush=True)
        rows = []
        for budget in args.budgets:
            flags = f"--weights {folder} --time-budget {budget:g} {args.flags}"
            rows.append(row_of(budget, run_once(case, flags)))
    heads = ["--time-budget, s", "taken, s", "over", "precision", "passes of stage 1", "of stage 2", "left out", "peak MiB"]
    print(table(heads, rows))


if __name__ == "__main__":
    main()
