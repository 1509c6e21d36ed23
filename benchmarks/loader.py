"""Does the loader starve the network? Batches a second, made by 0, 1, 2 ... worker processes, beside training steps a second.

    python -m benchmarks.loader --recipe training/recipes/small.toml --run-folder RUN [--workers 0 1 2] [--steps 20]

Cases must be prepared. A ratio above 1 says that the loader alone is faster than the network alone on this device.
"""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import nn

from l2s import engine
from l2s.localize.network import Localizer
from l2s.segment.network import Segmenter
from training.cases import open_case, read_index
from training.loader import batches
from training.loop import to_device
from training.losses import bce_dice
from training.run import cue_folder, exit_with, open_run, parser
from training.sampling import PatchSampler, PlaneSampler, make_batch


def batches_a_second(sampler: PlaneSampler | PatchSampler, workers: int, steps: int) -> float:
    """Without the first batch, which waits for the workers to start."""
    made = batches(partial(make_batch, sampler), 0, steps + 1, workers)
    next(made)
    started = time.perf_counter()
    count = sum(1 for _ in made)
    return count / (time.perf_counter() - started)


def steps_a_second(network: nn.Module, sampler: PlaneSampler | PatchSampler, plan: engine.Plan, steps: int) -> float:
    """Forward and backward passes of one batch that is already there."""
    network.to(plan.device)
    batch = to_device(make_batch(sampler, 0), plan.device)
    kind = torch.device(plan.device).type
    for step in range(steps + 1):
        with torch.autocast(kind, plan.dtype, enabled=plan.precision != "fp32"):
            logits = network(batch.image)
        bce_dice(logits, batch.truth, batch.cue).backward()
        if plan.device != "cpu":
            torch.cuda.synchronize()
        if step == 0:
            started = time.perf_counter()
    return steps / (time.perf_counter() - started)


def main() -> int:
    p = parser(__doc__)
    p.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--device", default="auto")
    p.add_argument("--precision", default="fp32")
    args = p.parse_args()
    recipe, run = open_run(args)
    plan = engine.choose(args.device, args.precision)
    cues = cue_folder(run, recipe, None) if recipe.segmenter.cue_weights else None
    rows = read_index(run / "cases")
    first = PlaneSampler([open_case(run / "cases", r) for r in rows], recipe.localizer, recipe.sources, recipe.seed)
    second = PatchSampler([open_case(run / "cases", r, cues) for r in rows], recipe.segmenter, recipe.sources, recipe.seed)
    print(f"{recipe.name}, {len(rows)} cases, {plan.device_name}, {plan.precision}")
    print("| stage | network, steps/s | workers | loader, batches/s | ratio |\n|---|---|---|---|---|")
    for name, sampler, network in (
        ("1", first, Localizer(recipe.localizer.network).to(memory_format=torch.channels_last)),
        ("2", second, Segmenter(recipe.segmenter.network).to(memory_format=torch.channels_last_3d)),
    ):
        speed = steps_a_second(network, sampler, plan, max(2, args.steps // 5))
        for workers in args.workers:
            made = batches_a_second(sampler, workers, args.steps)
            print(f"| {name} | {speed:.3g} | {workers} | {made:.3g} | {made / speed:.3g} |")
    return 0


if __name__ == "__main__":
    exit_with(main)
