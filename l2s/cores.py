"""The processor cores that this process may use, as a container limits them."""

from __future__ import annotations

import math
import os
from pathlib import Path

CPU_GROUP = Path("/sys/fs/cgroup")


def allowed() -> int:
    """Whole cores, at least 1: those that it may run on, and no more than its control group has time for, rounded up.

    os.cpu_count and torch count the machine's: on 64 of them 32 threads would wait for a quota of 2 (docker run --cpus 2).
    """
    quota = quota_cores()
    own = len(os.sched_getaffinity(0))
    return own if quota is None else max(1, min(own, math.ceil(quota)))


def quota_cores() -> float | None:
    """Cores' worth of time that the control group may use; None without a limit."""
    both, quota, period = (CPU_GROUP / name for name in ("cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))
    if both.exists():
        words = both.read_text().split()
    elif quota.exists() and period.exists():
        words = [quota.read_text().strip(), period.read_text().strip()]
    else:
        return None
    return int(words[0]) / int(words[1]) if words[0].isdigit() else None  # 'max' or -1: no limit
