"""Stage 1's cues for training cases -> CASE.b2nd (0..1 in 255 steps, the case's body box).

    python -m training.make_cues --recipe training/recipes/small.toml

'out-of-fold': each case's cue comes from the stage 1 of the fold that held it out, into RUN/cues, for every stage 2 of the run.
'in-fold' (the simplest reading of the paper): a fold's own stage 1 also makes the cues of the cases that it trained on, into
RUN/fold_K/cues.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from scipy.special import expit

from l2s import engine
from l2s.errors import InputError
from l2s.localize.network import Localizer
from l2s.localize.planes import cue_logits
from l2s.pipeline import finite
from training.cases import cue_path, open_case, read_index, save_cue
from training.export import stage_provenance
from training.loop import trained_state
from training.recipe import Recipe
from training.run import cue_folder, exit_with, fold_name, held_out_rows, noted_cases, open_run, parser

log = logging.getLogger(__name__)


def load_localizer(run: Path, fold: int | None, recipe: Recipe, device: str) -> tuple[torch.nn.Module, set[str]]:
    """The trained stage 1 of a fold, in eval mode, and the patients that its start has trained on."""
    path = run / fold_name(fold) / "localizer" / "last.pt"
    if not path.is_file():
        raise InputError(f"no {path}: train stage 1 of {fold_name(fold)} first")
    notes = stage_provenance(path.parent, recipe)["recipes"]  # refuses one that is still in training, or was shown another input
    network = Localizer(recipe.localizer.network).to(memory_format=torch.channels_last)
    network.load_state_dict(trained_state(path))
    return network.eval().to(device), {patient for note in notes for patient in (note.get("start") or {}).get("patients", ())}


def main(argv: list[str] | None = None) -> int:
    p = parser(__doc__)
    p.add_argument(
        "--fold", type=int, help="in-fold: the fold whose stage 2 will train with these cues; without it the run on all cases"
    )
    p.add_argument("--device", default="auto")
    p.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="auto: fp32 on a CPU")
    args = p.parse_args(argv)
    recipe, run = open_run(args)
    plan = engine.choose(args.device, args.precision)
    folder = cue_folder(run, recipe, args.fold)
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_index(run / "cases")

    by_network: dict[int | None, list[dict]] = {}
    if recipe.cues == "in-fold":
        by_network[args.fold] = held_out_rows(rows, args.fold)[0]
    else:
        for row in rows:
            # what no fold holds out, because a splits file says so, cannot have a cue out of fold
            by_network.setdefault(row["fold"] or 0, []).append(row)
    for maker, its_rows in by_network.items():
        network, seen_before = load_localizer(run, maker, recipe, plan.device)
        if recipe.cues == "out-of-fold":
            seen = set(noted_cases(run / fold_name(maker) / "localizer")["training"])
            if leaks := [row["name"] for row in its_rows if row["fold"] is not None and row["name"] in seen]:
                raise InputError(
                    f"stage 1 of {fold_name(maker)} has trained on {leaks[0]}, whose cue must be out of fold: train it anew"
                )
            if leaks := [row["name"] for row in its_rows if row["patient"] in seen_before]:
                log.warning(
                    "the weights that stage 1 of %s began with have trained on %s: that cue is not out of fold",
                    fold_name(maker),
                    leaks[0],
                )
        trained = (run / fold_name(maker) / "localizer" / "last.pt").stat().st_mtime
        for row in its_rows:
            target = cue_path(folder, row["name"])
            # a cue that is older than its network or its case is made anew
            newest = max(trained, (run / "cases" / row["name"] / "row.json").stat().st_mtime)
            if target.is_file() and target.stat().st_mtime > newest:
                continue
            case = open_case(run / "cases", row)
            logits = finite(cue_logits(case.pet_suv[...], network, recipe.localizer.planes, plan), "localize")
            save_cue(folder, row["name"], expit(logits))
        log.info("%d cues by the stage 1 of %s", len(its_rows), fold_name(maker))
    return 0


if __name__ == "__main__":
    exit_with(main)
