"""One process or many: what torchrun's environment says, and the process group that follows from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(hours=2)  # the others wait while one process validates or writes


@dataclass(frozen=True)
class Process:
    """This process among all.

    Attributes:
        rank: 0 .. world - 1; rank 0 writes.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1


@contextmanager
def joined(device: str) -> Iterator[tuple[Process, str]]:
    """(this process, its device) within a process group if torchrun started several processes, alone otherwise.

    Args:
        device: 'auto', 'cpu', 'cuda' or 'cuda:N'; where torchrun starts one process a GPU, each takes the GPU of its local rank.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Process(), device
        return
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Process(distributed.get_rank(), world), device
        distributed.barrier()
    finally:
        distributed.destroy_process_group()


def shared(network: nn.Module, process: Process, device: str) -> nn.Module:
    """The network with gradients averaged over all processes; on GPUs its batch norms see all of their samples."""
    if process.world == 1:
        return network
    if device.startswith("cuda"):
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return DistributedDataParallel(network, device_ids=[torch.device(device)] if device.startswith("cuda") else None)


def summed(values: Tensor, process: Process) -> Tensor:
    """The sums of a tensor's values over all processes; the mean of the processes' gradients is then the gradient of the whole."""
    if process.world == 1:
        return values
    total = values.detach().clone()
    distributed.all_reduce(total)
    # DistributedDataParallel divides by the number of processes what is to be a sum here
    return total + process.world * (values - values.detach())


def gathered(values: list, process: Process) -> list:
    """The values of all processes, in the order of ranks."""
    if process.world == 1:
        return values
    parts = [None] * process.world
    distributed.all_gather_object(parts, values)
    return [value for part in parts for value in part]
