"""What a training costs: operations and memory of a step, counted; time, by the speed that this machine reaches or a stated one.

    python -m benchmarks.training_cost --recipe training/recipes/paper.toml --studies 1014 --positives 501 --tflops 20

Operations are counted by torch, memory by adding up what autograd keeps for the backward pass, both on a small batch.
--tflops is the speed that a GPU is assumed to hold; without it, some steps of the recipe's own networks are timed here.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from l2s.localize.network import Localizer
from l2s.segment.network import Segmenter
from training.recipe import Recipe, Schedule, load_recipe, whole_epochs


def step_flop(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Operations of one forward and backward pass over a batch of that shape."""
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(shape)).sum().backward()
    return float(counter.get_total_flops())


def kept_bytes(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Bytes that autograd keeps between the passes, fp32, each storage once."""
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)  # a freed storage's address would be used again
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.randn(shape)).sum()
    return float(sum(kept.values()))


def seconds_a_step(network: nn.Module, shape: tuple[int, ...], steps: int = 3) -> float:
    """Wall seconds of a forward and backward pass on this machine's CPU, the mean of some after a first one."""
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    network, image = network.to(memory_format=layout), torch.randn(shape).to(memory_format=layout)
    network(image).sum().backward()
    started = time.perf_counter()
    for _ in range(steps):
        network(image).sum().backward()
    return (time.perf_counter() - started) / steps


def stages(recipe: Recipe, studies: int, positives: int, lesion_planes: int) -> list[tuple]:
    """(name, network maker, image shape of a batch, shape small enough for memory to be measured here, schedule) of both stages."""
    first, second = recipe.localizer, recipe.segmenter
    share = 1 - 1 / recipe.folds
    channels = 2 * first.network.neighbours + 1
    planes = share * positives * lesion_planes / max(first.lesion_share, 1e-3)
    return [
        (
            "stage 1",
            lambda: Localizer(first.network),
            (first.schedule.batch, channels, *first.crop),
            (2, channels, 64, 64),
            whole_epochs(first.schedule, planes),
        ),
        (
            "stage 2",
            lambda: Segmenter(second.network),
            (second.schedule.batch, 2, *second.windows.patch_zyx),
            (1, 2, 32, 32, 32),
            whole_epochs(second.schedule, share * studies),
        ),
    ]


def volume(shape: tuple[int, ...]) -> int:
    return shape[0] * torch.Size(shape[2:]).numel()


def hours(schedule: Schedule, flop: float, tflops: float) -> float:
    return schedule.epochs * schedule.steps_per_epoch * flop / (tflops * 1e12) / 3600


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--recipe", type=Path, default=Path("training/recipes/paper.toml"))
    p.add_argument("--studies", type=int, default=1014)
    p.add_argument("--positives", type=int, default=501)
    p.add_argument("--lesion-planes", type=int, default=60, help="coronal planes with lesion of a positive study: an assumption")
    p.add_argument("--tflops", type=float, help="TFLOP/s that a GPU holds: an assumption; without it this machine is timed")
    args = p.parse_args()
    recipe = load_recipe(args.recipe)
    print(f"{recipe.name}, {args.studies} studies, one fold of {recipe.folds}; torch {torch.__version__}")
    print("| network | steps | TFLOP a step | GB kept a step, fp32 | TFLOP/s | h on 1 | h on 8 |\n|---|---|---|---|---|---|---|")
    total = 0.0
    for name, make, shape, small, schedule in stages(recipe, args.studies, args.positives, args.lesion_planes):
        # convolutions cost the same at each voxel, so that a small batch tells of a large one
        larger = volume(shape) / volume(small)
        flop, kept = step_flop(make(), small) * larger, kept_bytes(make(), small) * larger
        speed = args.tflops or flop / larger / seconds_a_step(make(), small) / 1e12
        time_h = hours(schedule, flop, speed)
        total += time_h if name == "stage 1" else 2 * time_h
        steps = schedule.epochs * schedule.steps_per_epoch
        on_8 = time_h / min(8, schedule.batch)  # a process has a sample at least
        print(f"| {name} | {steps} | {flop / 1e12:.3g} | {kept / 1e9:.3g} | {speed:.3g} | {time_h:.3g} | {on_8:.3g} |")
    print(
        f"table 1, {recipe.folds} folds of stage 1 and of stage 2 with and without cue weights: {recipe.folds * total:.4g} GPU-hours, "
        f"{recipe.folds * total / 8:.4g} h where 8 GPUs are kept busy, stage 2's folds side by side"
    )


if __name__ == "__main__":
    main()
