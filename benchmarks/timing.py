"""What every benchmark here shares: rows timed in turn, a Markdown table, and a line that says where and when.

Functions are timed A B C A B C ..., so that a machine that slows down slows all of them, and ratios of one run stay fair.
"""

from __future__ import annotations

import datetime
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def machine(repeats: int) -> str:
    """Processor, cores, torch and its threads, load, date and n: figures without them say nothing."""
    import torch

    from l2s.engine import cpu_name

    load = os.getloadavg()[0]
    date = datetime.date.today().isoformat()
    return (
        f"{cpu_name()}; torch {torch.__version__}, {torch.get_num_threads()} threads; "
        f"load {load:.1f} before the start; {date}; n = {repeats}"
    )


def in_turn(calls: dict[str, Callable[[], object]], repeats: int) -> tuple[dict[str, list[float]], dict[str, object]]:
    """Wall seconds of each call of each function, all of them once a round, and what each returned last."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    answers: dict[str, object] = {}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            answers[name] = call()
            seconds[name].append(time.perf_counter() - started)
    return seconds, answers


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over the rounds of slow / fast: the two of one round ran side by side."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *rows])


def peak_mib() -> float:
    """MiB of main memory that this process held at its peak.

    Not getrusage's ru_maxrss: a process inherits that from the one that started it, and would report its parent's size.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM: peak memory is read on Linux only")
