"""Stage 2 of one fold: patches and cue weights -> RUN/fold_K/segmenter/last.pt.

python -m training.train_segmenter --recipe training/recipes/small.toml --fold 0
"""

from __future__ import annotations

import torch

from l2s import engine
from l2s.segment.network import Segmenter
from l2s.segment.windows import logits as window_logits
from training.cases import held_out_dice, open_case, read_index
from training.loop import train
from training.losses import bce_dice
from training.run import exit_with, held_out_rows, note_recipe, open_run, parser
from training.sampling import PatchSampler
from training.train_localizer import fold_name


def main(argv: list[str] | None = None) -> int:
    p = parser(__doc__)
    p.add_argument("--fold", type=int, help="the fold to hold out; without it all cases train")
    p.add_argument("--device", default="auto")
    args = p.parse_args(argv)
    recipe, run = open_run(args)
    plan = engine.choose(args.device)
    torch.manual_seed(recipe.seed)
    rows, held_out_of_fold = held_out_rows(read_index(run / "cases"), args.fold)
    cues = run / fold_name(args.fold) / "cues" if recipe.segmenter.cue_weights else None
    training = [open_case(run / "cases", r, cues) for r in rows]
    held_out = [open_case(run / "cases", r) for r in held_out_of_fold]
    folder = run / fold_name(args.fold) / "segmenter"
    note_recipe(folder, recipe)
    sampler = PatchSampler(training, recipe.segmenter, recipe.sources, recipe.seed)
    train(
        Segmenter(recipe.segmenter.network).to(memory_format=torch.channels_last_3d),
        recipe.segmenter.schedule,
        sampler.batch,
        lambda logits, batch: bce_dice(logits, batch.truth, batch.cue),
        folder,
        plan.device,
        lambda network: held_out_dice(
            held_out, lambda c: window_logits(c.pet_suv, c.ct_hu, network, recipe.segmenter.windows, plan)
        ),
    )
    return 0


if __name__ == "__main__":
    exit_with(main)
