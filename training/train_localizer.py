"""Stage 1 of one fold: planes -> RUN/fold_K/localizer/last.pt.

python -m training.train_localizer --recipe training/recipes/small.toml --fold 0

On several GPUs: torchrun --nproc-per-node 8 -m training.train_localizer ...
"""

from __future__ import annotations

from functools import partial

import torch

from l2s import engine
from l2s.localize.network import Localizer
from l2s.localize.planes import PLANE_AXIS, cue_logits
from training.cases import held_out_dice, open_case, read_index
from training.loop import Machine, train
from training.losses import bce_dice
from training.processes import joined
from training.recipe import whole_epochs
from training.run import exit_with, fold_name, held_out_rows, note_cases, note_recipe, open_run, training_parser
from training.sampling import PlaneSampler, make_batch
from training.start import start_from


def main(argv: list[str] | None = None) -> int:
    args = training_parser(__doc__).parse_args(argv)
    recipe, run = open_run(args)
    with joined(args.device) as (process, device):
        plan = engine.choose(device, args.precision)
        torch.manual_seed(recipe.seed)
        rows, held_out_of_fold = held_out_rows(read_index(run / "cases"), args.fold)
        training = [open_case(run / "cases", r) for r in rows]
        held_out = [open_case(run / "cases", r) for r in held_out_of_fold[process.rank :: process.world]]
        # a start from a weights folder overwrites the encoder: nothing is fetched for it
        network = Localizer(recipe.localizer.network, None if args.init else recipe.localizer.encoder_weights or None)
        start = start_from(args.init, "localizer", network, held_out_of_fold) if args.init else None
        folder = run / fold_name(args.fold) / "localizer"
        if process.rank == 0:
            note_cases(folder, rows, held_out_of_fold)
            note_recipe(folder, recipe, start)
        sampler = PlaneSampler(training, recipe.localizer, recipe.sources, recipe.seed)
        planes_shown = lesion_planes(rows, recipe.localizer.planes.plane) / max(recipe.localizer.lesion_share, 1e-3)
        train(
            network.to(memory_format=torch.channels_last),
            whole_epochs(recipe.localizer.schedule, planes_shown),
            partial(make_batch, sampler, rank=process.rank, world=process.world),
            lambda logits, batch: bce_dice(logits, batch.truth, dice_weight=recipe.localizer.dice_weight),
            folder,
            Machine(plan, process, args.workers),
            lambda network: held_out_dice(held_out, lambda c: cue_logits(c.pet_suv, network, recipe.localizer.planes, plan)),
        )
    return 0


def lesion_planes(rows: list[dict], plane: str) -> int:
    """How many planes of the cases show lesion."""
    return sum(len(row["lesion_planes_zyx"][PLANE_AXIS[plane]]) for row in rows)


if __name__ == "__main__":
    exit_with(main)
