"""One plan a run: device, precision, and how much goes through a network at once. It is written into the run's record."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from l2s.errors import InputError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BYTES_A_VOXEL = (
    640  # peak of one forward pass of the 3D network, fp32, channels last: measured 470 (batch norm folded) to 630 (layer norm)
)
BYTES_A_PIXEL = 1600  # the same for one pixel of the 2D network: measured 1300
SHARE = 0.4  # of the free memory: the images, their copies and the rest of the machine need the remainder
MAX_TILE_VOXELS = 4_500_000  # 2.9 GB at the peak: a whole body at 4 mm in one pass, and a process below 4 GiB


@dataclass(frozen=True)
class Plan:
    """What a run uses.

    Attributes:
        device: torch's name of the device.
        device_name: the hardware's name.
        precision: 'fp32', 'bf16' or 'fp16'; logits are fp32 in any case.
        threads: CPU threads of one operation.
        tile_voxels: the most voxels that the 3D network gets in one forward pass.
        batch_pixels: the most pixels that the 2D network gets in one forward pass.
    """

    device: str
    device_name: str
    precision: str
    threads: int
    tile_voxels: int
    batch_pixels: int

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]


def choose(device: str = "auto", precision: str = "fp32") -> Plan:
    """The plan for this machine.

    Args:
        device: 'auto' (a GPU when there is one), 'cpu', 'cuda' or 'cuda:N'.
        precision: 'fp32', 'bf16' or 'fp16'.

    Raises:
        InputError: the device is absent or the precision unknown to it.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}: one of {', '.join(PRECISIONS)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise InputError(f"device {device!r}: use auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(number or 0)
        if index >= count:
            raise InputError(
                f"device {device!r}: torch sees {count} CUDA devices here; use --device cpu, or start docker with --gpus all"
            )
        if precision == "bf16" and torch.cuda.get_device_capability(index)[0] < 8:
            raise InputError(f"precision bf16: {torch.cuda.get_device_name(index)} has no bf16 units; use fp16 or fp32")
        free, _ = torch.cuda.mem_get_info(index)
        device, name = f"cuda:{index}", torch.cuda.get_device_name(index)
    else:
        if precision == "fp16":
            raise InputError("precision fp16 is for GPUs; on the CPU use fp32 (or bf16 where the processor has it)")
        free, name = free_memory_bytes(), cpu_name()
    budget = free * SHARE
    plan = Plan(
        device=device,
        device_name=name,
        precision=precision,
        threads=torch.get_num_threads(),
        tile_voxels=int(max(200_000, min(budget / BYTES_A_VOXEL, MAX_TILE_VOXELS))),
        batch_pixels=int(max(50_000, min(budget / BYTES_A_PIXEL, 8 * 320 * 384 if kind == "cuda" else 150_000))),
    )
    logging.getLogger(__name__).info("plan: %s", plan)
    return plan


def free_memory_bytes() -> int:
    """Free main memory: what the machine has, or what the container's limit leaves, whichever is less."""
    free = psutil.virtual_memory().available
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        limit = Path(limit_file)
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            free = min(free, int(text) - int(Path(used_file).read_text()))
    return max(free, 0)


def cpu_name() -> str:
    """The processor's name and the cores that this process may use."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0] if names else 'CPU'}, {len(os.sched_getaffinity(0))} cores"
