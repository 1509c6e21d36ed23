"""A trained run -> a weights folder: 16-bit safetensors and the manifest that inference reads.

    python -m training.export --recipe training/recipes/small.toml --fold 0 --out weights --name l2s-small-4mm

Several --fold make an ensemble. The folder's README (the model card) is written by people, not here.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file

from l2s import weights
from l2s.errors import InputError
from l2s.wholefile import whole_file, write_text
from training.log import read_log
from training.loop import trained_state
from training.recipe import Recipe, plain_fields
from training.run import exit_with, fold_name, noted_cases, open_run, parser
from training.splits import SYNTHETIC
from training.start import LAYING, trained_on

log = logging.getLogger(__name__)

SMALL_USE = "research use only, no medical device; trained on phantoms and soft-tissue sarcoma crops, not on clinical cohorts"


def sixteen_bit(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Matrices and kernels as fp16; vectors (norms, statistics, biases) keep fp32: they are small and their range is wide."""
    out = {}
    for name, tensor in state.items():
        shrink = tensor.is_floating_point() and tensor.ndim > 1
        largest = float(tensor.abs().max()) if tensor.is_floating_point() else 0.0
        if not largest <= (torch.finfo(torch.float16).max if shrink else torch.finfo(torch.float32).max):
            raise InputError(f"{name} holds {largest:.3g}, beyond 16 bits: the training has diverged")
        out[name] = (tensor.half() if shrink else tensor).contiguous()
    return out


def export_network(run: Path, fold: int | None, stage: str, out: Path) -> weights.WeightsFile:
    """One network's checkpoint -> out/STAGE_FOLD.safetensors; stage is its folder in the run."""
    path = run / fold_name(fold) / stage / "last.pt"
    if not path.is_file():
        raise InputError(f"no {path}: train {stage} of {fold_name(fold)} first")
    target = out / f"{stage}_{fold_name(fold)}.safetensors"
    with whole_file(target) as partial:
        save_file(sixteen_bit(trained_state(path)), partial)
        partial.chmod(0o644)  # safetensors shuts all others out, and the container's user is another
    return weights.WeightsFile(target.name, weights.file_sha256(target))


def stage_provenance(folder: Path, recipe: Recipe) -> dict:
    """The last epoch of a stage's log, and every recipe that it was trained by.

    Args:
        folder: a stage's.
        recipe: of now; its network and what that is shown must be those of the training, as no tensor tells how SUV were scaled.

    Raises:
        InputError: the stage has not reached the last step of its recipe, or was trained on another input.
    """
    last = (read_log(folder) or [{"epoch": 0, "step": 0}])[-1]
    path = folder / "recipes.json"
    if not path.is_file():
        raise InputError(f"no {path}: it says how {folder.name} was trained; copy the run's folder as a whole")
    recipes, stage = json.loads(path.read_text()), folder.name.removesuffix("_plain")
    check_input(folder, stage, recipes[-1]["recipe"], plain_fields(recipe))
    schedule = recipes[-1]["recipe"][stage]["schedule"]
    # 0 where an old note leaves them to the data
    steps = recipes[-1].get("steps", schedule["epochs"] * schedule["steps_per_epoch"])
    if last["step"] < steps:
        raise InputError(f"{folder} has trained {last['step']} of {steps} steps: let it end first")
    if not steps and last["epoch"] < (epochs := schedule["epochs"]):
        raise InputError(f"{folder} has trained {last['epoch']} of {epochs} epochs: let it end first")
    return {**last, "recipes": recipes}


def check_input(folder: Path, stage: str, trained: dict, now: dict) -> None:
    """Raises InputError where the recipe of now gives the stage another network or input than the one that it was trained by."""
    pairs = {"spacing_mm_zyx": (trained["spacing_mm_zyx"], now["spacing_mm_zyx"])}
    for part in ("network", "planes" if stage == "localizer" else "windows"):
        for field, value in now[stage][part].items():
            if field not in LAYING:
                pairs[f"{stage}.{part}.{field}"] = (trained[stage][part].get(field), value)
    for field, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise InputError(
                f"{folder} was trained with {field} {theirs}, the recipe says {ours}: give the --recipe and --set of then"
            )


def code_version() -> str:
    """git's description of this checkout; 'unknown' without git."""
    if not shutil.which("git"):
        return "unknown"
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip() or "unknown"


def stage_names(plain: bool) -> tuple[str, str]:
    """The folders of both stages in a fold of a run."""
    return "localizer", "segmenter_plain" if plain else "segmenter"


def fold_provenance(folder: Path, plain: bool, recipe: Recipe) -> dict:
    """Whom both stages of a fold have trained on, whom neither has, and how."""
    stages = stage_names(plain)
    cases = [noted_cases(folder / stage) for stage in stages]
    hows = [stage_provenance(folder / stage, recipe) for stage in stages]
    # a start that has seen a patient has seen it for the whole run
    starts = [note.get("start") or {} for how in hows for note in how["recipes"]]
    seen = {patient for start in starts for patient in start.get("seen", ())}
    of_starts = {patient for start in starts for patient in start.get("patients", ())}
    return {
        "trained_on": cases[1]["trained_on"],
        "trained_patients": sorted(of_starts.union(*(its["patients"] for its in cases))),
        "held_out_patients": sorted(set(cases[0]["held_out"]) & set(cases[1]["held_out"]) - seen),
        "localizer": hows[0],
        "segmenter": hows[1],
    }


def intended_use(sources: list[str]) -> str:
    """The manifest's sentence, of what the weights and their starts have seen."""
    if set(sources) <= {"phantom"}:
        return "research use only, no medical device; trained on phantoms alone, on no patient"
    if set(sources) <= {"sts", *SYNTHETIC}:
        return SMALL_USE
    return f"research use only, no medical device; trained on {', '.join(sources)}"


def written(out: Path, manifest: weights.Manifest) -> None:
    """Writes the manifest, unless the one that is there says the same but for the code that wrote it: scores hang on its sum.

    Networks that the one there names and the new one does not are removed.
    """
    path = out / weights.MANIFEST
    new = json.loads(json.dumps(asdict(manifest)))
    if path.is_file():
        old = json.loads(path.read_text())
        old.get("training", {})["code"] = new["training"]["code"]
        if old == new:
            return
    left = files_of(out) - {entry.file for part in (manifest.localizer, manifest.segmenter) for entry in part.files}
    write_text(path, json.dumps(new, indent=2) + "\n")
    for name in left:
        (out / name).unlink(missing_ok=True)


def files_of(out: Path) -> set[str]:
    """The networks' files in a weights folder by its own manifest; none without one that this version reads."""
    try:
        manifest, _ = weights.read_manifest(out)
    except InputError:
        return set()
    names = {entry.file for part in (manifest.localizer, manifest.segmenter) for entry in part.files}
    return {name for name in names if name.endswith(".safetensors") and Path(name).name == name}


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
    localizer, segmenter = stage_names(args.plain)
    histories = {fold_name(fold): fold_provenance(run / fold_name(fold), args.plain, recipe) for fold in folds}
    args.out.mkdir(parents=True, exist_ok=True)
    manifest = weights.Manifest(
        format=weights.FORMAT,
        name=args.name or recipe.name,
        intended_use=intended_use(trained_on(histories)["sources"]),
        spacing_mm_zyx=recipe.spacing_mm_zyx,
        fusion=recipe.fusion,
        localizer=weights.LocalizerPart(
            recipe.localizer.network, recipe.localizer.planes, tuple(export_network(run, f, localizer, args.out) for f in folds)
        ),
        segmenter=weights.SegmenterPart(
            recipe.segmenter.network,
            recipe.segmenter.windows,
            tuple(export_network(run, f, segmenter, args.out) for f in folds),
        ),
        training={
            "method": "L2SNet, Cai et al. 2023, arXiv:2309.05446, re-implemented",
            "code": code_version(),
            "torch": torch.__version__,
            "folds": histories,
        },
    )
    written(args.out, manifest)
    for line in weights.verify(args.out):
        log.info(line)
    return 0


if __name__ == "__main__":
    exit_with(main)
