"""One plan a run: device, precision, and how much goes through a network at once, within the budgets. It is written into the record."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import torch

from l2s import cores
from l2s.errors import InputError, first_line

log = logging.getLogger(__name__)
Result = TypeVar("Result")

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}
AXES = {"z": 0, "y": 1, "x": 2}
# Peaks in fp32, channels last, measured with the segmenter of 16 to 128 channels on processors with AVX2 and with AVX-512, whose oneDNN
# takes a little more (tests/segment/test_slabs.py)
KEPT_BYTES_A_VOXEL = 125  # between the slabs: skips and features of a tile
SLAB_BYTES_A_VOXEL = (
    700  # in a slab of the finest level, with the rows that its convolutions reach; 640 where the machine is quiet
)
PLAIN_BYTES_A_VOXEL = 600  # a pass that is not cut: up to 545 (layer norm), int8 225; slabs in a kept heap take less
BYTES_A_PIXEL = 1600  # one pixel of the 2D network: 1300
SHARE = {"cpu": 0.4, "cuda": 0.8}  # of the free memory: on the CPU the images, their copies and other people need the remainder
SPARE_BYTES = 200 * 2**20  # of a limit: libraries' own buffers
LEAST_TILE_VOXELS, LEAST_SLAB_VOXELS, LEAST_BATCH_PIXELS = 200_000, 100_000, 50_000
# With these a 400 x 400 x 326 case stays below 4 GiB in all, at 4 mm and at 3 x 2.036 x 2.036 mm (docs/performance.md)
MOST_PLAIN_VOXELS, MOST_SLAB_VOXELS = 4_000_000, {"cpu": 1_200_000, "cuda": 4_800_000}
MOST_BATCH_PIXELS = {"cpu": 150_000, "cuda": 8 * 320 * 384}
# glibc's mallopt: parameters by their numbers in malloc.h, and what a process that has freed large blocks comes to by itself
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
USUAL_HEAP = ((M_MMAP_MAX, 65536), (M_MMAP_THRESHOLD, 32 * 2**20), (M_TRIM_THRESHOLD, 64 * 2**20))
KEPT_HEAP = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))
HEAP_VARIABLES = {"GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"}
MOST_VOXELS = 2**40  # none
# what CUDA, cuBLAS and cuDNN say where they find no room for themselves or for a workspace
WANT_OF_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED", "nable to find a valid cuDNN algorithm", "nable to find an engine")
# what they say for that and for other reasons: want of memory where the GPU is nearly full
MAYBE_WANT_OF_MEMORY, NEARLY_FULL = ("STATUS_NOT_INITIALIZED", "STATUS_INTERNAL_ERROR"), 0.1
HALVINGS = 4  # a GPU that cannot hold a sixteenth of the plan is left for the CPU


@dataclass(frozen=True)
class Budget:
    """What a run may use; None: what the machine has.

    Attributes:
        ram_bytes: peak resident memory of the process.
        vram_bytes: peak memory of the GPU.
        seconds: wall time of the run, from the reading of its flags; Python's own start (a third of a second) comes on top.
    """

    ram_bytes: int | None = None
    vram_bytes: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a run uses.

    Attributes:
        device: torch's name of the device.
        device_name: the hardware's name.
        precision: 'fp32', 'bf16', 'fp16' or 'int8' (networks of int8.py); logits are fp32 in any case.
        threads: CPU threads of one operation.
        tile_voxels: the most voxels of a tile of the 3D network, which is computed slab by slab.
        slab_voxels: the most voxels of a slab, with the rows that its convolutions reach.
        plain_voxels: the most voxels of a pass of a network that cannot be cut into slabs, or whose memory is kept between slabs.
        batch_pixels: the most pixels that the 2D network gets in one forward pass.
        budget: the limits that the sizes keep.
        memory_format: how feature maps lie in memory: 'channels_last', as weights.py and slabs.py lay out what they make.
    """

    device: str
    device_name: str
    precision: str
    threads: int
    tile_voxels: int
    slab_voxels: int
    plain_voxels: int
    batch_pixels: int
    budget: Budget = Budget()
    memory_format: str = "channels_last"

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    @property
    def kind(self) -> str:
        """'cpu' or 'cuda'."""
        return self.device.partition(":")[0]

    def layout(self, dimensions: int) -> torch.memory_format:
        """torch's word for memory_format, for a batch of 4 (planes) or 5 dimensions (volumes)."""
        return getattr(torch, self.memory_format if dimensions == 4 else f"{self.memory_format}_3d")


def choose(device: str = "auto", precision: str = "auto", budget: Budget = Budget()) -> Plan:
    """The plan for this machine, before the study is known.

    Args:
        device: 'auto' (a GPU when there is one), 'cpu', 'cuda' or 'cuda:N'.
        precision: 'fp32', 'bf16', 'fp16', 'int8' (CPU only), or 'auto': fp32 on the CPU; on a GPU bf16, or fp16 where it has no bf16.
        budget: limits.

    Raises:
        InputError: the device is absent, the precision unknown to it, or a limit is for another device.
    """
    if precision != "auto" and precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}: one of auto, {', '.join(PRECISIONS)}")
    if device == "auto":
        device = "cuda" if precision != "int8" and torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", device):
        raise InputError(f"device {device!r}: use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and precision == "int8":
        raise InputError(f"precision int8 is for the CPU, not {device!r}: use --device cpu, or fp16 on the GPU")
    if kind == "cuda":
        device, name, precision = _cuda(device, int(number or 0), precision)
    else:
        if precision == "fp16":
            raise InputError("precision fp16 is for GPUs; on the CPU use fp32 (or bf16 where the processor has it)")
        if budget.vram_bytes is not None:
            raise InputError("--max-vram is for GPUs and this run is on the CPU; use --max-ram")
        name, precision = cpu_name(), "fp32" if precision == "auto" else precision
    plan = Plan(device, name, precision, use_allowed_threads(), 0, 0, 0, 0, budget)
    plan = fit(in_fp32(plan) if precision == "fp32" else plan)
    log.info("device %s (%s), precision %s", plan.device, plan.device_name, plan.precision)
    return plan


def in_fp32(plan: Plan) -> Plan:
    """The plan in fp32. For a GPU it turns TF32 off in the whole process: convolutions would round to 10 bits on Ampere and later."""
    if plan.kind == "cuda":
        torch.backends.cudnn.allow_tf32 = False
    return replace(plan, precision="fp32")


def _cuda(device: str, index: int, precision: str) -> tuple[str, str, str]:
    """(device, hardware's name, precision) of a GPU; raises InputError where it is absent or cannot do the precision."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        raise InputError(
            f"device {device!r}: torch sees {count} CUDA devices here; use --device cpu, or start docker with --gpus all"
        )
    try:
        name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        torch.cuda.mem_get_info(index)
    except RuntimeError as error:  # a driver too old, a device in exclusive use
        raise InputError(f"device {device!r} cannot be used ({first_line(error)}); use --device cpu") from None
    has_bf16 = capability[0] >= 8
    if precision == "bf16" and not has_bf16:
        raise InputError(f"precision bf16: {name} has no bf16 units; use fp16 or fp32")
    if precision == "auto":
        # 16-bit units came with capability 7 (Volta, Turing: T4), bf16 with 8
        precision = "bf16" if has_bf16 else "fp16" if capability[0] >= 7 else "fp32"
    return f"cuda:{index}", name, precision


def fit(
    plan: Plan,
    reserve_bytes: int = 0,
    device_bytes: int = 0,
    most_voxels: int = MOST_VOXELS,
    most_pixels: int = MOST_VOXELS,
) -> Plan:
    """The plan with sizes for the memory that is free now.

    Args:
        plan: device, precision and budget.
        reserve_bytes: main memory that the rest of the run still needs beside the networks.
        device_bytes: the same of the GPU's memory.
        most_voxels: what one pass of the 3D network can be asked for at most: with sizes beyond it, half of them would change nothing.
        most_pixels: the same of the 2D network.
    """
    if plan.kind == "cuda":
        free = torch.cuda.mem_get_info(plan.device)[0] * SHARE["cuda"]
        if plan.budget.vram_bytes is not None:
            free = min(free, plan.budget.vram_bytes - torch.cuda.memory_reserved(plan.device) - SPARE_BYTES)
        free -= device_bytes
    else:
        free = free_memory_bytes() * SHARE["cpu"]
        if plan.budget.ram_bytes is not None:
            free = min(free, plan.budget.ram_bytes - psutil.Process().memory_info().rss - reserve_bytes - SPARE_BYTES)
    share = 1.0 if plan.precision == "fp32" else 0.5  # of the bytes: features are 16-bit
    slab = max(LEAST_SLAB_VOXELS, min(0.4 * free / (SLAB_BYTES_A_VOXEL * share), MOST_SLAB_VOXELS[plan.kind]))
    tile = (free - slab * SLAB_BYTES_A_VOXEL * share) / (KEPT_BYTES_A_VOXEL * share)
    return replace(
        plan,
        tile_voxels=min(most_voxels, int(max(LEAST_TILE_VOXELS, tile))),
        slab_voxels=min(most_voxels, int(slab)),
        plain_voxels=min(most_voxels, int(max(LEAST_TILE_VOXELS, min(free / (PLAIN_BYTES_A_VOXEL * share), MOST_PLAIN_VOXELS)))),
        batch_pixels=min(
            most_pixels, int(max(LEAST_BATCH_PIXELS, min(free / (BYTES_A_PIXEL * share), MOST_BATCH_PIXELS[plan.kind])))
        ),
    )


def tile_bytes(plan: Plan, tile_voxels: int, in_slabs: bool = True) -> int:
    """About the peak memory of one tile of the 3D network."""
    share = 1.0 if plan.precision == "fp32" else 0.5
    if not in_slabs:
        return int(share * PLAIN_BYTES_A_VOXEL * tile_voxels)
    return int(share * (KEPT_BYTES_A_VOXEL * tile_voxels + SLAB_BYTES_A_VOXEL * min(tile_voxels, plan.slab_voxels)))


def with_less(
    plan: Plan, run: Callable[[Plan], Result], reserve_bytes: int = 0, to_cpu: bool = True
) -> tuple[Result, Plan, list[str]]:
    """run(plan), and where a GPU's memory does not suffice again with half the sizes, in the end on the CPU.

    Args:
        plan: the first to try.
        run: what needs the memory.
        reserve_bytes: of fit, for a plan on the CPU.
        to_cpu: whether the CPU is an answer: not to an addition that has to keep a time budget.

    Returns:
        The result, the plan that it came by, a warning for each attempt that failed.

    Raises:
        RuntimeError: no plan served (a GPU raises its subclass torch.OutOfMemoryError), or it was no want of memory. A CPU without
            memory raises RuntimeError or MemoryError at once.
    """
    lines: list[str] = []
    for attempt in itertools.count(1):
        try:
            return run(plan), plan, lines
        except RuntimeError as error:
            if plan.kind == "cpu" or not is_want_of_memory(error, plan.device) or (attempt > HALVINGS and not to_cpu):
                raise
            reason = first_line(error)
        torch.cuda.empty_cache()
        if attempt <= HALVINGS:
            sizes = {name: getattr(plan, name) // 2 for name in ("tile_voxels", "slab_voxels", "plain_voxels", "batch_pixels")}
            lines.append(
                f"{plan.device} ran out of memory ({reason}): going on with {sizes['tile_voxels']} voxels or "
                f"{sizes['batch_pixels']} pixels of planes at once"
            )
            plan = replace(plan, **sizes)
        else:
            lines.append(f"{plan.device} ran out of memory {attempt} times ({reason}): going on on the CPU in fp32")
            plan = fit(replace(plan, device="cpu", device_name=cpu_name(), precision="fp32"), reserve_bytes)
        log.warning(lines[-1])
    raise AssertionError("unreachable")


def is_want_of_memory(error: RuntimeError, device: str) -> bool:
    """Whether a GPU ran out of memory: torch's own allocator says so by its type, the libraries below it by a message alone."""
    if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in WANT_OF_MEMORY):
        return True
    if not any(words in str(error) for words in MAYBE_WANT_OF_MEMORY):
        return False
    free, total = torch.cuda.mem_get_info(device)
    return free < NEARLY_FULL * total


@contextlib.contextmanager
def kept_heap() -> Iterator[None]:
    """Memory that is freed inside is used again and not given back to the system before the end.

    By itself glibc takes each feature map of a large tile from the system and gives it back, and the system fills every page with
    zeros once more: a sixth of stage 2's time. What is freed does not always fit what is asked for next, so that the heap may grow to
    all that was ever asked for inside: keep it short. It is a setting of the whole process; afterwards it stands at what glibc's own
    rule comes to at most. Without glibc, outside the main thread, or where the user has set up the heap, nothing is done.
    """
    glibc = _glibc()
    if glibc is None or threading.current_thread() is not threading.main_thread() or HEAP_VARIABLES & os.environ.keys():
        yield
        return
    try:
        for parameter, value in KEPT_HEAP:
            glibc.mallopt(parameter, value)
        yield
    finally:
        for parameter, value in USUAL_HEAP:
            glibc.mallopt(parameter, value)
        glibc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library where it is glibc: others have no malloc_trim, or another mallopt."""
    library = ctypes.CDLL(None) if os.name == "posix" else None
    return library if library is not None and hasattr(library, "gnu_get_libc_version") else None


def to_device(array: np.ndarray, plan: Plan) -> torch.Tensor:
    """The array on the plan's device; to a GPU from pinned memory, without waiting for it."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if plan.kind == "cpu":
        return tensor
    try:
        return tensor.pin_memory().to(plan.device, non_blocking=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # a container may lock little memory
        log.debug("no pinned memory: %s", error)
        return tensor.to(plan.device)


def to_host(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array; from a GPU through pinned memory."""
    if tensor.device.type == "cpu":
        return tensor.numpy()
    try:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    except RuntimeError as error:
        log.debug("no pinned memory: %s", error)
        return tensor.cpu().numpy()
    return host.copy_(tensor).numpy()


def flips_of(axes: str | tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """The mirrored copies of a volume (z, y, x) along some of 'x', 'y', 'z': all combinations, the volume as it is first.

    Raises:
        InputError: an axis is unknown.
    """
    if unknown := [axis for axis in axes if axis not in AXES]:
        raise InputError(f"mirror axis {unknown[0]!r}: letters of {''.join(sorted(AXES))} without anything between, such as xyz")
    if len(set(axes)) < len(axes):
        raise InputError(f"mirror axes {''.join(axes)!r}: each once")
    chosen = sorted({AXES[axis] for axis in axes}, reverse=True)
    return tuple(flip for n in range(len(chosen) + 1) for flip in itertools.combinations(chosen, n))


def parse_bytes(text: str) -> int:
    """'4G', '512M' or '3.5GiB' as bytes (binary units, as docker has them).

    Raises:
        InputError: it is no such size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match or float(match[1]) == 0 or len(match[1]) > 12:
        raise InputError(f"size {text!r}: a number with a unit is expected, as 4G or 512M")
    return int(float(match[1]) * 1024 ** ("KMGT".index(match[2].upper()) + 1))


def free_memory_bytes() -> int:
    """Free main memory: what the machine has, or what the container's limit leaves, whichever is less."""
    free = psutil.virtual_memory().available
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        limit = Path(limit_file)
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            free = min(free, int(text) - int(Path(used_file).read_text()) + _reclaimable(limit.parent))
    return max(free, 0)


def _reclaimable(group: Path) -> int:
    """Bytes of a control group that are file cache and given back when needed, such as the images just read."""
    stat = group / "memory.stat"
    lines = stat.read_text().splitlines() if stat.exists() else []
    names = ("inactive_file ", "total_inactive_file ")
    return next((int(line.split()[1]) for line in reversed(lines) if line.startswith(names)), 0)


def use_allowed_threads() -> int:
    """Gives torch no more threads than there are cores for; returns how many it has."""
    if cores.allowed() < torch.get_num_threads():
        torch.set_num_threads(cores.allowed())
    return torch.get_num_threads()


def cpu_name() -> str:
    """The processor's name and the cores that this process may use."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0] if names else 'CPU'}, {cores.allowed()} cores"
