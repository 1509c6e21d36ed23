"""Stage 1 of one fold: planes -> RUN/fold_K/localizer/last.pt.

python -m training.train_localizer --recipe training/recipes/small.toml --fold 0
"""

from __future__ import annotations

import torch

from l2s import engine
from l2s.localize.network import Localizer
from l2s.localize.planes import cue_logits
from training.cases import held_out_dice, open_case, read_index
from training.loop import train
from training.losses import bce_dice
from training.run import exit_with, held_out_rows, note_recipe, open_run, parser
from training.sampling import PlaneSampler


def main(argv: list[str] | None = None) -> int:
    p = parser(__doc__)
    p.add_argument("--fold", type=int, help="the fold to hold out; without it all cases train")
    p.add_argument("--device", default="auto")
    p.add_argument("--encoder-weights", help="a local ImageNet checkpoint of the encoder to start from, or hub")
    args = p.parse_args(argv)
    recipe, run = open_run(args)
    plan = engine.choose(args.device)
    torch.manual_seed(recipe.seed)
    training, held_out = (
        [open_case(run / "cases", r) for r in rows] for rows in held_out_rows(read_index(run / "cases"), args.fold)
    )
    folder = run / fold_name(args.fold) / "localizer"
    note_recipe(folder, recipe)
    sampler = PlaneSampler(training, recipe.localizer, recipe.sources, recipe.seed)
    train(
        Localizer(recipe.localizer.network, args.encoder_weights).to(memory_format=torch.channels_last),
        recipe.localizer.schedule,
        sampler.batch,
        lambda logits, batch: bce_dice(logits, batch.truth, dice_weight=recipe.localizer.dice_weight),
        folder,
        plan.device,
        lambda network: held_out_dice(held_out, lambda c: cue_logits(c.pet_suv, network, recipe.localizer.planes, plan)),
    )
    return 0


def fold_name(fold: int | None) -> str:
    return "all" if fold is None else f"fold_{fold}"


if __name__ == "__main__":
    exit_with(main)
