"""Folds and mirrored copies: which passes there are, all of them, or as many as a deadline leaves time for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Flips = tuple[tuple[int, ...], ...]

Run = Callable[["Pass"], tuple[np.ndarray, dict]]

STAGES = ("localize", "segment")
SLOWER = 1.15  # a pass may take this much longer than the first of its kind: clocks fall when a processor is warm


@dataclass(frozen=True)
class Pass:
    """One network over one study.

    Attributes:
        stage: 'localize' or 'segment'.
        fold: which of the stage's networks.
        flips: the mirrored copies that go through it together, each as the axes (0: z, 1: y, 2: x) it is mirrored along.
    """

    stage: str
    fold: int
    flips: Flips = ((),)

    def facts(self, seconds: float) -> dict:
        """For the record."""
        return {
            "stage": self.stage,
            "fold": self.fold,
            "mirrors": [mirror_name(f) for f in self.flips],
            "seconds": round(seconds, 2),
        }

    def __str__(self) -> str:
        return f"{self.stage} fold {self.fold} ({', '.join(mirror_name(f) for f in self.flips)})"


def mirror_name(flip: tuple[int, ...]) -> str:
    """'none', 'x', 'xy' ..."""
    return "".join("zyx"[axis] for axis in flip) or "none"


def all_passes(localizers: int, segmenters: int, flips: Flips) -> list[Pass]:
    """Every fold once, its mirrored copies together."""
    folds = {"localize": localizers, "segment": segmenters}
    return [Pass(stage, fold, flips) for stage in STAGES for fold in range(folds[stage])]


def growing_passes(localizers: int, segmenters: int, flips: Flips) -> list[Pass]:
    """The base answer's two passes first, then the other folds, which gain more than mirrors, then one mirror after the other."""
    folds = {"localize": localizers, "segment": segmenters}
    return [
        Pass(stage, fold, (flip,))
        for flip in flips
        for fold in range(max(folds.values()))
        for stage in STAGES
        if fold < folds[stage]
    ]


class Mean:
    """The mean of logits: each copy of each fold counts once."""

    def __init__(self):
        self.total: np.ndarray | None = None
        self.count = 0

    def add(self, logits: np.ndarray, copies: int) -> None:
        self.total = logits * np.float32(copies) if self.total is None else self.total + logits * np.float32(copies)
        self.count += copies

    def value(self) -> np.ndarray:
        return self.total / np.float32(self.count)


def run_all(passes: Iterable[Pass], run: Run) -> tuple[tuple[np.ndarray, np.ndarray], list[dict]]:
    """((mean logits of stage 1, of stage 2), what ran)."""
    means, done = {stage: Mean() for stage in STAGES}, []
    for one in passes:
        started = time.perf_counter()
        logits, facts = run(one)
        means[one.stage].add(logits, len(one.flips))
        done.append(one.facts(time.perf_counter() - started) | facts)
    return (means["localize"].value(), means["segment"].value()), done


def run_until(
    deadline: float,
    passes: list[Pass],
    run: Run,
    answer: Callable[[np.ndarray, np.ndarray], Answer],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Answer, list[dict], list[str], list[str]]:
    """The base answer, never cut, and further passes while they fit before the deadline.

    Args:
        deadline: on the clock.
        passes: those of growing_passes.
        run: a pass's logits, and facts on it for the record.
        answer: (stage 1's mean, stage 2's mean) -> what is returned; its time is kept free at the end.
        clock: seconds.

    Returns:
        The answer, what ran, what was left out, warnings.
    """
    means, cost, done, left_out = {stage: Mean() for stage in STAGES}, {}, [], []

    def do(one: Pass) -> None:
        started = clock()
        logits, facts = run(one)
        means[one.stage].add(logits, len(one.flips))
        cost[one.stage] = max(cost.get(one.stage, 0.0), clock() - started)
        done.append(one.facts(clock() - started) | facts)

    base = len(STAGES)
    for one in passes[:base]:
        do(one)
    started = clock()
    result = answer(means["localize"].value(), means["segment"].value())
    finish = SLOWER * (clock() - started)
    if clock() > deadline:
        lines = [
            f"the base answer alone took {clock() - deadline:.0f} s more than --time-budget leaves it; nothing was added to it"
        ]
        return result, done, [str(one) for one in passes[base:]], lines
    lines: list[str] = []
    base_sums = [means[stage].value() for stage in STAGES]
    for one in passes[base:]:
        if clock() + SLOWER * cost[one.stage] + finish > deadline:
            left_out.append(str(one))
            continue
        result = None  # a total-body answer takes a gigabyte; the time to make it again is kept free
        try:
            do(one)
        except Exception as error:
            # an addition that fails, for want of memory or whatever reason, is no reason to lose the base answer
            log.debug("%s failed", one, exc_info=True)
            lines.append(f"{one} failed and was left out: {error}")
            left_out.append(str(one))
    if result is None and len(done) > base:
        try:
            result = answer(*(means[stage].value() for stage in STAGES))
        except Exception as error:
            means.clear()  # room for the base answer, which is made once more; it may be late by its own time
            log.debug("the grown answer failed", exc_info=True)
            lines.append(f"the answer of {len(done)} passes could not be made and the base answer stands: {error}")
            left_out, done = [str(one) for one in passes[base:]], done[:base]
    if result is None:
        result = answer(*base_sums)
    if left_out:
        log.info("left out to keep the time budget: %s", "; ".join(left_out))
    return result, done, left_out, lines
