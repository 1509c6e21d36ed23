"""Stage 2 of one fold: patches and cue weights -> RUN/fold_K/segmenter/last.pt.

python -m training.train_segmenter --recipe training/recipes/small.toml --fold 0 [--plain]

On several GPUs: torchrun --nproc-per-node 8 -m training.train_segmenter ...
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from l2s import engine
from l2s.segment.network import Segmenter
from l2s.segment.windows import logits as window_logits
from training.cases import held_out_figures, open_case, read_index
from training.loop import Machine, train
from training.losses import bce_dice
from training.processes import joined, summed
from training.recipe import whole_epochs
from training.run import (
    cue_folder,
    exit_with,
    fold_name,
    held_out_rows,
    looked_at_rows,
    note_cases,
    note_recipe,
    open_run,
    training_parser,
)
from training.sampling import PatchSampler, make_batch
from training.start import start_at_random, start_from


def main(argv: list[str] | None = None) -> int:
    p = training_parser(__doc__)
    p.add_argument("--plain", action="store_true", help="without cue weights, whatever the recipe says: the table's 3D U-Net")
    args = p.parse_args(argv)
    recipe, run = open_run(args)
    if args.plain:
        recipe = replace(recipe, segmenter=replace(recipe.segmenter, cue_weights=False))
    with joined(args.device) as (process, device):
        plan = engine.choose(device, args.precision)
        torch.manual_seed(recipe.seed)
        index = read_index(run / "cases")
        rows, held_out_of_fold = held_out_rows(index, args.fold)
        cues = cue_folder(run, recipe, args.fold) if recipe.segmenter.cue_weights else None
        training = [open_case(run / "cases", r, cues) for r in rows]
        to_look_at = looked_at_rows(index, args.fold)
        looked_at = [open_case(run / "cases", r) for r in to_look_at[process.rank :: process.world]]
        network = Segmenter(recipe.segmenter.network)
        start = None
        if args.init:
            start = start_from(args.init, "segmenter", network, recipe, held_out_of_fold)
        else:
            start_at_random(network, recipe.head_bias)
        folder = run / fold_name(args.fold) / ("segmenter_plain" if args.plain else "segmenter")
        schedule = whole_epochs(recipe.segmenter.schedule, len(training))
        if process.rank == 0:
            note_cases(folder, rows, held_out_of_fold)
            note_recipe(folder, recipe, schedule.epochs * schedule.steps_per_epoch, start)
        sampler = PatchSampler(training, recipe.segmenter, recipe.sources, recipe.seed)
        pool = partial(summed, process=process) if recipe.dice == "batch" else None
        windows = recipe.segmenter.windows

        def validate(network):
            return held_out_figures(
                looked_at, lambda c: window_logits(c.pet_suv, c.ct_hu, network, windows, plan), recipe.voxel_volume_ml
            )

        train(
            network.to(memory_format=torch.channels_last_3d),
            schedule,
            partial(make_batch, sampler, rank=process.rank, world=process.world),
            lambda logits, batch: bce_dice(logits, batch.truth, batch.cue, pool=pool),
            folder,
            Machine(plan, process, args.workers),
            validate if to_look_at else None,
        )
    return 0


if __name__ == "__main__":
    exit_with(main)
