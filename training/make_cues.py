"""Stage 1's cues for the training cases of one fold -> RUN/fold_K/cues/CASE.npy (float16, 0..1, the case's body box).

    python -m training.make_cues --recipe training/recipes/small.toml --fold 0

'in-fold' (the simplest reading of the paper): the fold's own stage 1 also makes the cues of the cases that it trained on.
'out-of-fold': each patient's cue comes from the stage 1 of the fold that held the patient out; phantoms, which no fold holds
out, get theirs from the fold's own network.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from l2s import engine
from l2s.errors import InputError
from l2s.localize.network import Localizer
from l2s.localize.planes import cue_logits
from training.cases import INDEX, open_case, read_index
from training.loop import trained_state
from training.recipe import Recipe
from training.run import exit_with, held_out_rows, open_run, parser
from training.train_localizer import fold_name

log = logging.getLogger(__name__)


def load_localizer(run: Path, fold: int | None, recipe: Recipe, device: str) -> torch.nn.Module:
    """The trained stage 1 of a fold, in eval mode."""
    path = run / fold_name(fold) / "localizer" / "last.pt"
    if not path.is_file():
        raise InputError(f"no {path}: train stage 1 of {fold_name(fold)} first")
    network = Localizer(recipe.localizer.network).to(memory_format=torch.channels_last)
    network.load_state_dict(trained_state(path))
    return network.eval().to(device)


def main(argv: list[str] | None = None) -> int:
    p = parser(__doc__)
    p.add_argument("--fold", type=int, help="the fold whose stage 2 will train with these cues; without it all cases")
    p.add_argument("--device", default="auto")
    args = p.parse_args(argv)
    recipe, run = open_run(args)
    if recipe.cues not in ("in-fold", "out-of-fold"):
        raise InputError(f"cues {recipe.cues!r} in the recipe: one of in-fold, out-of-fold")
    plan = engine.choose(args.device)
    folder = run / fold_name(args.fold) / "cues"
    folder.mkdir(parents=True, exist_ok=True)
    rows, _ = held_out_rows(read_index(run / "cases"), args.fold)

    by_network: dict[int | None, list[dict]] = {}
    for row in rows:
        maker = row["fold"] if recipe.cues == "out-of-fold" and row["fold"] is not None else args.fold
        by_network.setdefault(maker, []).append(row)
    for maker, its_rows in by_network.items():
        network = load_localizer(run, maker, recipe, plan.device)
        # a cue that is older than its network or its case is made anew
        newest = max((run / fold_name(maker) / "localizer" / "last.pt").stat().st_mtime, (run / "cases" / INDEX).stat().st_mtime)
        for row in its_rows:
            target = folder / f"{row['name']}.npy"
            if target.is_file() and target.stat().st_mtime > newest:
                continue
            case = open_case(run / "cases", row)
            cue = expit(cue_logits(case.pet_suv, network, recipe.localizer.planes, plan)).astype(np.float16)
            partial = target.with_suffix(".partial.npy")
            np.save(partial, cue)
            partial.replace(target)
        log.info("%d cues by the stage 1 of %s", len(its_rows), fold_name(maker))
    return 0


if __name__ == "__main__":
    exit_with(main)
