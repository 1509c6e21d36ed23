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
from training.cases import held_out_figures, open_case, read_index
from training.loop import Machine, train
from training.losses import bce_dice
from training.processes import joined, summed
from training.recipe import whole_epochs
from training.run import exit_with, fold_name, held_out_rows, looked_at_rows, note_cases, note_recipe, open_run, training_parser
from training.sampling import PlaneSampler, make_batch
from training.start import start_at_random, start_from


def main(argv: list[str] | None = None) -> int:
    args = training_parser(__doc__).parse_args(argv)
    recipe, run = open_run(args)
    with joined(args.device) as (process, device):
        plan = engine.choose(device, args.precision)
        torch.manual_seed(recipe.seed)
        index = read_index(run / "cases")
        rows, held_out_of_fold = held_out_rows(index, args.fold)
        training = [open_case(run / "cases", r) for r in rows]
        to_look_at = looked_at_rows(index, args.fold)
        looked_at = [open_case(run / "cases", r) for r in to_look_at[process.rank :: process.world]]
        # a start from a weights folder overwrites the encoder: nothing is fetched for it
        network = Localizer(recipe.localizer.network, None if args.init else recipe.localizer.encoder_weights or None)
        start = None
        if args.init:
            start = start_from(args.init, "localizer", network, recipe, held_out_of_fold)
        else:
            start_at_random(network, recipe.head_bias)
        folder = run / fold_name(args.fold) / "localizer"
        planes_shown = lesion_planes(rows, recipe.localizer.planes.plane) / max(recipe.localizer.lesion_share, 1e-3)
        schedule = whole_epochs(recipe.localizer.schedule, planes_shown)
        if process.rank == 0:
            note_cases(folder, rows, held_out_of_fold)
            note_recipe(folder, recipe, schedule.epochs * schedule.steps_per_epoch, start)
        sampler = PlaneSampler(training, recipe.localizer, recipe.sources, recipe.seed)
        pool = partial(summed, process=process) if recipe.dice == "batch" else None

        def validate(network):
            return held_out_figures(
                looked_at, lambda c: cue_logits(c.pet_suv, network, recipe.localizer.planes, plan), recipe.voxel_volume_ml
            )

        train(
            network.to(memory_format=torch.channels_last),
            schedule,
            partial(make_batch, sampler, rank=process.rank, world=process.world),
            lambda logits, batch: bce_dice(logits, batch.truth, None, recipe.localizer.dice_weight, pool),
            folder,
            Machine(plan, process, args.workers),
            validate if to_look_at else None,
        )
    return 0


def lesion_planes(rows: list[dict], plane: str) -> int:
    """How many planes of the cases show lesion."""
    return sum(len(row["lesion_planes_zyx"][PLANE_AXIS[plane]]) for row in rows)


if __name__ == "__main__":
    exit_with(main)
