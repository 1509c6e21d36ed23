"""Stage 2: PET and CT of the body box -> logits, by exact tiles or by overlapping Gaussian windows. Here numpy ends and torch begins.

Exact tiles: a tile whose inner faces have a halo of the network's reach gives the same logits as one pass over the whole volume,
if (a) the volume is padded once to multiples of the stride and tiles start and end on such multiples, (b) no tile reaches beyond the
volume's own faces, (c) upsampling is by factor 2 without aligned corners, (d) the norm is local. Then nothing is averaged and
nothing is computed twice but the halos.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from l2s.engine import MOST_PLAIN_VOXELS, Plan, kept_heap, tile_bytes, to_device, to_host
from l2s.errors import InputError
from l2s.segment import slabs
from l2s.segment.network import Segmenter, SegmenterConfig, halo

WINDOWS = ("tiles", "gaussian")
PROBE_ROWS = 48  # of a tile, for expected_seconds
MUCH_WORK = 4.0  # times the volume: beyond it the halos cost more than the memory they save


@dataclass(frozen=True)
class WindowsConfig:
    """How PET and CT become input, and how a volume is cut.

    Attributes:
        pet_suv_high: 0..pet_suv_high SUV are scaled to -1..1 and clipped (paper section 3.2: 0 to 15).
        ct_hu_low, ct_hu_high: scaled to -1..1 and clipped (the paper prints 100 to 250; the autoPET baseline's window is -100..250).
        windows: 'tiles' (exact) or 'gaussian' (overlapping windows of the training patch).
        patch_zyx: the training patch, which is the Gaussian window.
        overlap: share of the Gaussian window that neighbours have in common.
    """

    pet_suv_high: float = 15.0
    ct_hu_low: float = -100.0
    ct_hu_high: float = 250.0
    windows: str = "tiles"
    patch_zyx: tuple[int, int, int] = (192, 128, 160)
    overlap: float = 0.5


def check(config: WindowsConfig, network: SegmenterConfig) -> None:
    """Raises InputError where the windows are unknown or do not fit the network: before anything runs, not after stage 1."""
    if config.windows not in WINDOWS:
        raise InputError(f"windows {config.windows!r}: one of {', '.join(WINDOWS)}")
    if config.windows == "tiles" and not network.is_local:
        raise InputError(f"windows 'tiles' need a local norm; this network has {network.norm!r}: use gaussian")


def scale(pet_suv: np.ndarray, ct_hu: np.ndarray, config: WindowsConfig) -> np.ndarray:
    """(2, z, y, x) float32 in -1..1: PET, CT."""
    pet = np.clip(pet_suv / np.float32(config.pet_suv_high), 0.0, 1.0)
    ct = np.clip((ct_hu - config.ct_hu_low) / np.float32(config.ct_hu_high - config.ct_hu_low), 0.0, 1.0)
    return np.stack([pet, ct]).astype(np.float32) * 2 - 1


def pad_air(volume: torch.Tensor, shape_zyx) -> torch.Tensor:
    """(2, z, y, x) -> the given shape or larger, filled with air (-1 in both channels) at the far end."""
    missing = [max(0, n - m) for n, m in zip(shape_zyx, volume.shape[1:])]
    return F.pad(volume, [side for n in reversed(missing) for side in (0, n)], value=-1.0) if any(missing) else volume


@dataclass(frozen=True)
class Tile:
    """One forward pass: what is read and what of it is kept, as (start, stop) an axis of the padded volume."""

    read: tuple[tuple[int, int], ...]
    keep: tuple[tuple[int, int], ...]


def axis_spans(length: int, parts: int, halo_voxels: int, stride: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """An axis cut into parts: (read, keep) spans on multiples of stride; the halo ends where the volume ends."""
    units = length // stride
    edges = [stride * (units * k // parts) for k in range(parts + 1)]
    return [((max(0, a - halo_voxels), min(length, b + halo_voxels)), (a, b)) for a, b in itertools.pairwise(edges) if a < b]


def plan_tiles(shape_zyx, halo_voxels: int, stride: int, tile_voxels: int) -> list[Tile]:
    """The cut of a padded volume that computes the fewest voxels with no tile above tile_voxels.

    None computes more than MUCH_WORK times the volume. Where no cut keeps both limits it is the one with the smallest tiles that keeps
    the second, and the caller is warned: the smallest tiles of all would cost hundreds of times the volume.
    """
    options = []
    for length in shape_zyx:
        # beyond 2*halo a finer cut saves hardly any memory and costs ever more
        most = max(1, min(length // stride, 16))
        options.append([axis_spans(length, parts, halo_voxels, stride) for parts in range(1, most + 1)])

    def largest(spans) -> int:
        return max(b - a for (a, b), _ in spans)

    def total(spans) -> int:
        return sum(b - a for (a, b), _ in spans)

    def cost(cut) -> tuple[bool, bool, int, int]:
        peak = math.prod(largest(s) for s in cut)
        work = math.prod(total(s) for s in cut)
        is_large = peak > tile_voxels
        return work > MUCH_WORK * math.prod(shape_zyx), is_large, *((peak, work) if is_large else (work, peak))

    best = min(itertools.product(*options), key=cost)
    return [Tile(tuple(r for r, _ in spans), tuple(k for _, k in spans)) for spans in itertools.product(*best)]


def limit_voxels(network: nn.Module, plan: Plan) -> int:
    """The most voxels of a tile: many where the network can be computed slab by slab."""
    return plan.tile_voxels if in_slabs(network) else plan.plain_voxels


def in_slabs(network: nn.Module) -> bool:
    """Whether slabs.forward gives the network's own answer: it walks our U-Net, and a slab must not change a norm."""
    return isinstance(network, Segmenter) and network.config.is_local


def most_voxels(shape_zyx, config: WindowsConfig, network: SegmenterConfig) -> int:
    """Voxels of the largest pass that a body box can need, without mirrored copies."""
    return math.prod(config.patch_zyx if config.windows == "gaussian" else padded_shape(shape_zyx, network))


def padded_shape(shape_zyx, network: SegmenterConfig) -> tuple[int, ...]:
    return tuple(-(-n // network.stride) * network.stride for n in shape_zyx)


def cut(shape_zyx, network: nn.Module, plan: Plan) -> tuple[tuple[int, ...], list[Tile]]:
    """(padded shape, its tiles) of a body box."""
    padded = padded_shape(shape_zyx, network.config)
    return padded, plan_tiles(padded, halo(network.config), network.config.stride, limit_voxels(network, plan))


def needed_bytes(shape_zyx, network: nn.Module, plan: Plan) -> int:
    """About the peak memory of one pass over a tile or window."""
    if not in_slabs(network):
        return tile_bytes(plan, math.prod(shape_zyx), in_slabs=False)
    held = slabs.held_voxels(shape_zyx[0], math.prod(shape_zyx[1:]), plan.slab_voxels)
    return tile_bytes(replace(plan, slab_voxels=held), math.prod(shape_zyx))


def describe_tiles(tiles: list[Tile], padded_zyx, network: nn.Module, plan: Plan) -> tuple[dict, list[str]]:
    """(facts for the record, warnings) of a cut: a warning where it takes more memory than there was for it."""
    shapes = [tuple(b - a for a, b in tile.read) for tile in tiles]
    largest = max(shapes, key=math.prod)
    work = sum(math.prod(shape) for shape in shapes) / math.prod(padded_zyx)
    facts = {
        "tiles": len(tiles),
        "tile_zyx": list(largest),
        "halo": halo(network.config) if len(tiles) > 1 else 0,
        "work": round(work, 2),
    }
    warnings = []
    limit = limit_voxels(network, plan)
    # a pass that is not cut has a limit of its own, which is no want of memory
    is_capped = limit == MOST_PLAIN_VOXELS and not in_slabs(network)
    if math.prod(largest) > limit and not is_capped:
        needed = needed_bytes(largest, network, plan) / 1e9
        line = f"tiles of {limit} voxels were planned, but the smallest within {MUCH_WORK:g} times the work have {math.prod(largest)}"
        warnings.append(f"{line}: about {needed:.1f} GB; give more memory if you can")
    return facts, warnings


def describe_windows(shape_zyx, config: WindowsConfig, network: nn.Module, plan: Plan) -> tuple[dict, list[str]]:
    """The same of Gaussian windows: a window is as large as in training, whatever the memory."""
    voxels = math.prod(config.patch_zyx)
    facts = {"window_zyx": list(config.patch_zyx), "windows": math.prod(map(len, all_starts(shape_zyx, config)))}
    limit, needed = limit_voxels(network, plan), needed_bytes(config.patch_zyx, network, plan) / 1e9
    if voxels <= limit:
        return facts, []
    return facts, [
        f"memory for windows of {limit} voxels, but the training's have {voxels}: about {needed:.1f} GB; --windows tiles needs less"
    ]


def pieces(shape_zyx, config: WindowsConfig, network: nn.Module, plan: Plan) -> tuple[tuple[int, ...], float]:
    """(a block that takes as long a voxel as the whole, how many times its work the whole is)."""
    if config.windows == "gaussian":
        return config.patch_zyx, math.prod(map(len, all_starts(shape_zyx, config)))
    _, tiles = cut(shape_zyx, network, plan)
    shapes = [tuple(b - a for a, b in tile.read) for tile in tiles]
    rows, *others = max(shapes, key=math.prod)
    block = (min(rows, PROBE_ROWS), *others)
    return block, sum(map(math.prod, shapes)) / math.prod(block)


def expected_seconds(shape_zyx, config: WindowsConfig, network: nn.Module, plan: Plan) -> float:
    """About what logits() will take for a body box: one piece, timed at its second run, times the pieces."""
    block, count = pieces(shape_zyx, config, network, plan)
    with torch.inference_mode(), torch.autocast(plan.kind, plan.dtype, enabled=plan.dtype != torch.float32):
        volume = torch.full((2, *block), -1.0, device=plan.device)
        for _ in range(2):
            started = time.perf_counter()
            # in a heap that is not kept: the tile that it stands for may be too large for one
            forward(network, volume, replace(plan, plain_voxels=0)).sum().item()  # waits for a GPU
            taken = time.perf_counter() - started
    return taken * count


def forward(
    network: nn.Module, block: torch.Tensor, plan: Plan, flips: tuple[tuple[int, ...], ...] = ((),), limit: int | None = None
) -> torch.Tensor:
    """(2, z, y, x) -> logits (z, y, x), float32 (or the network's own double precision): the mean over the mirrored copies.

    limit: voxels of one pass, all copies together; as many copies as keep it, and the slab's limit, go at once.
    """
    rows, voxels_a_row = block.shape[1], block[0, 0].numel()
    group = max(1, (limit or block[0].numel()) // block[0].numel())
    while group > 1 and in_slabs(network) and slabs.held_voxels(rows, group * voxels_a_row, plan.slab_voxels) > plan.slab_voxels:
        group -= 1
    total = None
    for first in range(0, len(flips), group):
        chosen = flips[first : first + group]
        # axis k of a volume is dimension k + 1 of a (2, z, y, x) block
        batch = torch.stack([torch.flip(block, [k + 1 for k in flip]) for flip in chosen])
        batch = batch.contiguous(memory_format=plan.layout(batch.ndim))
        if in_slabs(network):
            voxels = batch[:, 0].numel()
            # not of more: kept memory gets holes, of which a pass within plain_voxels can afford any number
            keep = plan.kind == "cpu" and plan.slab_voxels < voxels <= plan.plain_voxels
            with kept_heap() if keep else contextlib.nullcontext():
                out = slabs.forward(network, batch, plan.slab_voxels)
        else:
            out = network(batch)
        for flip, logits in zip(chosen, out[:, 0]):
            logits = torch.flip(logits, flip)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            total = logits if total is None else total + logits
    return total / len(flips) if len(flips) > 1 else total


def tiled_logits(
    volume: torch.Tensor,
    network: nn.Module,
    plan: Plan,
    tiles: list[Tile],
    progress: Callable[[int, int], None] | None = None,
    flips: tuple[tuple[int, ...], ...] = ((),),
) -> torch.Tensor:
    """Logits (z, y, x) of a padded (2, z, y, x) volume by the given tiles, all on the plan's device."""
    out = torch.empty(volume.shape[1:], dtype=volume.dtype, device=volume.device)
    for done, tile in enumerate(tiles, 1):
        read = tuple(slice(a, b) for a, b in tile.read)
        inner = tuple(slice(k[0] - r[0], k[1] - r[0]) for k, r in zip(tile.keep, tile.read))
        logits = forward(network, volume[(slice(None), *read)], plan, flips, limit_voxels(network, plan))
        out[tuple(slice(a, b) for a, b in tile.keep)] = logits[inner]
        if progress:
            progress(done, len(tiles))
    return out


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """First indices of windows that cover an axis, spread evenly to its end, at most window*(1-overlap) apart."""
    if length <= window:
        return [0]
    gaps = int(np.ceil((length - window) / max(1.0, window * (1 - overlap))))
    return [int(round(k * (length - window) / gaps)) for k in range(gaps + 1)]


def all_starts(shape_zyx, config: WindowsConfig) -> list[list[int]]:
    """window_starts of each axis of a volume, padded where it is smaller than a window."""
    return [window_starts(max(n, w), w, config.overlap) for n, w in zip(shape_zyx, config.patch_zyx)]


def gaussian_importance(window_zyx) -> np.ndarray:
    """float32 weights of a window: a Gaussian about its centre with a sigma of an eighth of each edge, never zero."""
    maps = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in window_zyx]
    weights = maps[0][:, None, None] * maps[1][:, None] * maps[2]
    return np.maximum(weights / weights.max(), 1e-4).astype(np.float32)


def gaussian_logits(
    volume: torch.Tensor,
    network: nn.Module,
    plan: Plan,
    config: WindowsConfig,
    progress: Callable[[int, int], None] | None = None,
    flips: tuple[tuple[int, ...], ...] = ((),),
) -> torch.Tensor:
    """Logits (z, y, x) of a (2, z, y, x) volume: the Gaussian-weighted mean of the logits of overlapping training-sized windows."""
    inside = tuple(slice(0, n) for n in volume.shape[1:])
    starts = list(itertools.product(*all_starts(volume.shape[1:], config)))
    volume = pad_air(volume, config.patch_zyx)
    shape = volume.shape[1:]
    importance = torch.from_numpy(gaussian_importance(config.patch_zyx)).to(volume.device)
    total = torch.zeros(shape, dtype=torch.float32, device=volume.device)
    weight = torch.zeros_like(total)
    for done, start in enumerate(starts, 1):
        at = tuple(slice(s, s + w) for s, w in zip(start, config.patch_zyx))
        logits = forward(network, volume[(slice(None), *at)], plan, flips, limit_voxels(network, plan))
        total[at] += logits * importance
        weight[at] += importance
        if progress:
            progress(done, len(starts))
    return (total / weight)[inside]


def logits(
    pet_suv: np.ndarray,
    ct_hu: np.ndarray,
    network: nn.Module,
    config: WindowsConfig,
    plan: Plan,
    progress: Callable[[int, int], None] | None = None,
    flips: tuple[tuple[int, ...], ...] = ((),),
) -> np.ndarray:
    """Stage 2's logits in the body box: the mean over the mirrored copies.

    Args:
        pet_suv, ct_hu: (z, y, x) at the working spacing.
        network: a Segmenter in eval mode on the plan's device.
        config: scaling and windows.
        plan: device, precision and the most voxels of one tile.
        progress: called with (windows done, windows in all).
        flips: axes along which each copy is mirrored; () is the volume as it is.

    Returns:
        float32 (z, y, x).

    Raises:
        InputError: tiles are asked of a network whose norm is not local.
    """
    check(config, network.config)
    with torch.inference_mode(), torch.autocast(plan.kind, plan.dtype, enabled=plan.dtype != torch.float32):
        volume = to_device(scale(pet_suv, ct_hu, config), plan)
        if config.windows == "gaussian":
            return to_host(gaussian_logits(volume, network, plan, config, progress, flips))
        padded, tiles = cut(pet_suv.shape, network, plan)
        answer = tiled_logits(pad_air(volume, padded), network, plan, tiles, progress, flips)
        return to_host(answer[tuple(slice(0, n) for n in pet_suv.shape)])
