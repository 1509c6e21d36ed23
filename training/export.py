"""A trained run -> a weights folder: 16-bit safetensors and the manifest that inference reads.

    python -m training.export --recipe training/recipes/small.toml --fold 0 --out weights --name l2s-small-4mm

Several --fold make an ensemble. The folder's README (the model card) is written by people, not here.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

from l2s import weights
from l2s.errors import InputError
from training.cases import read_index
from training.loop import trained_state
from training.run import exit_with, fold_name, held_out_rows, open_run, parser

log = logging.getLogger(__name__)

INTENDED_USE = "research use only, no medical device; trained on phantoms and soft-tissue sarcoma crops, not on clinical cohorts"


def sixteen_bit(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices and kernels as fp16; vectors (norms, statistics, biases) keep fp32: they are small and their range is wide."""
    out = {}
    for name, tensor in state.items():
        shrink = tensor.is_floating_point() and tensor.ndim > 1
        if shrink and tensor.abs().max() > torch.finfo(torch.float16).max:
            raise InputError(f"{name} holds {tensor.abs().max():.3g}, beyond 16 bits: the training has diverged")
        out[name] = (tensor.half() if shrink else tensor).contiguous()
    return out


def export_network(run: Path, fold: int | None, stage: str, out: Path) -> weights.WeightsFile:
    """One network's checkpoint -> out/STAGE_FOLD.safetensors; stage is its folder in the run."""
    path = run / fold_name(fold) / stage / "last.pt"
    if not path.is_file():
        raise InputError(f"no {path}: train {stage} of {fold_name(fold)} first")
    target = out / f"{stage}_{fold_name(fold)}.safetensors"
    partial = target.with_suffix(".partial")
    save_file(sixteen_bit(trained_state(path)), partial)
    partial.replace(target)
    return weights.WeightsFile(target.name, weights.file_sha256(target))


def stage_provenance(folder: Path) -> dict:
    """The last epoch of a stage's log, and every recipe that it was trained by.

    Raises:
        InputError: the stage has not reached the last epoch of its recipe.
    """
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    recipes = json.loads((folder / "recipes.json").read_text())
    epochs = recipes[-1]["recipe"][folder.name.removesuffix("_plain")]["schedule"]["epochs"]
    if last["epoch"] < epochs:
        raise InputError(f"{folder} has trained {last['epoch']} of {epochs} epochs: let it end, then export")
    return {**last, "recipes": recipes}


def code_version() -> str:
    """git's description of this checkout; 'unknown' without git."""
    if not shutil.which("git"):
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip() or "unknown"


def provenance(run: Path, folds: list[int | None], segmenter: str) -> dict:
    """Where the weights come from, for people: data, recipe, code, figures of the last epoch."""
    rows = read_index(run / "cases")
    return {
        "method": "L2SNet, Cai et al. 2023, arXiv:2309.05446, re-implemented",
        "code": code_version(),
        "torch": torch.__version__,
        "folds": {
            fold_name(fold): {
                "trained_on": dict(Counter(r["source"] for r in held_out_rows(rows, fold)[0])),
                "held_out_patients": [r["patient"] for r in held_out_rows(rows, fold)[1]],
                "localizer": stage_provenance(run / fold_name(fold) / "localizer"),
                "segmenter": stage_provenance(run / fold_name(fold) / segmenter),
            }
            for fold in folds
        },
    }


def main(argv: list[str] | None = None) -> int:
    p = parser(__doc__)
    p.add_argument(
        "--fold", type=int, action="append", help="a fold to export; repeat it for an ensemble; without it the run on all cases"
    )
    p.add_argument("--out", type=Path, required=True, help="the weights folder")
    p.add_argument("--plain", action="store_true", help="stage 2 as trained without cue weights: the table's 3D U-Net")
    p.add_argument("--name", help="the weights' name (default: the recipe's)")
    args = p.parse_args(argv)
    recipe, run = open_run(args)
    folds = [None] if args.fold is None else args.fold
    args.out.mkdir(parents=True, exist_ok=True)
    segmenter = "segmenter_plain" if args.plain else "segmenter"
    training = provenance(run, folds, segmenter)
    manifest = weights.Manifest(
        format=weights.FORMAT,
        name=args.name or recipe.name,
        intended_use=INTENDED_USE,
        spacing_mm_zyx=recipe.spacing_mm_zyx,
        fusion=recipe.fusion,
        localizer=weights.LocalizerPart(
            recipe.localizer.network, recipe.localizer.planes, tuple(export_network(run, f, "localizer", args.out) for f in folds)
        ),
        segmenter=weights.SegmenterPart(
            recipe.segmenter.network,
            recipe.segmenter.windows,
            tuple(export_network(run, f, segmenter, args.out) for f in folds),
        ),
        training=training,
    )
    partial = args.out / f".{weights.MANIFEST}.partial"
    partial.write_text(json.dumps(dataclasses.asdict(manifest), indent=2) + "\n")
    partial.replace(args.out / weights.MANIFEST)
    for line in weights.verify(args.out):
        log.info(line)
    return 0


if __name__ == "__main__":
    exit_with(main)
