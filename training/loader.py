"""Batches in order, made ahead by worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from training.sampling import Batch

AHEAD = 2  # batches that each worker keeps ready


class Steps(Dataset):
    """step -> the arrays of its batch."""

    def __init__(self, make_batch: Callable[[int], Batch], total: int):
        self.make_batch, self.total = make_batch, total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, step: int) -> tuple:
        batch = self.make_batch(step)
        # as numpy it crosses to the training process through a pipe: /dev/shm, which torch uses for tensors, is small in containers
        return tuple(None if t is None else t.numpy() for t in (batch.image, batch.truth, batch.cue))


def as_it_is(arrays: tuple) -> tuple:
    return arrays


def batches(make_batch: Callable[[int], Batch], start: int, total: int, workers: int) -> Iterator[Batch]:
    """The batches of steps start .. total - 1, in order, the same however many workers make them.

    Args:
        make_batch: step -> batch; it must depend on the step alone.
        workers: processes; 0: this one makes each batch when it is asked for.
    """
    loader = DataLoader(
        Steps(make_batch, total),
        batch_size=None,
        sampler=range(start, total),
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        collate_fn=as_it_is,
    )
    for arrays in loader:
        yield Batch(*(None if a is None else torch.from_numpy(a) for a in arrays))
