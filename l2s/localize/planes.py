"""Stage 1: a study's PET -> planes -> the location cue (paper section 2.1). Here numpy ends and torch begins."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from l2s.engine import Plan, to_device, to_host
from l2s.localize.network import STRIDE

PLANE_AXIS = {"axial": 0, "coronal": 1, "sagittal": 2}  # of an LPS volume (z, y, x): known by direction, not by the file's order


@dataclass(frozen=True)
class PlanesConfig:
    """How PET becomes planes.

    Attributes:
        plane: 'coronal' (paper section 2.1), 'sagittal' or 'axial'.
        suv_high: the SUV that is scaled to 1; 0 is scaled to -1 (the authors' released code: 2*SUV/35 - 1).
        clip: whether hotter voxels are cut at 1 (the released code lets them pass).
    """

    plane: str = "coronal"
    suv_high: float = 35.0
    clip: bool = False


def scale(pet_suv: np.ndarray, config: PlanesConfig) -> np.ndarray:
    """SUV -> the network's input range, float32."""
    scaled = pet_suv * np.float32(2.0 / config.suv_high) - np.float32(1.0)
    return np.clip(scaled, -1.0, 1.0) if config.clip else scaled


def stack_planes(volume: np.ndarray, config: PlanesConfig) -> np.ndarray:
    """(z, y, x) -> (plane, row, column), a view; rows run along z except in axial planes, where they run along y."""
    return np.moveaxis(volume, PLANE_AXIS[config.plane], 0)


def take_planes(planes: torch.Tensor, indices: list[int], neighbours: int) -> torch.Tensor:
    """(p, h, w) and n plane indices -> (n, 2*neighbours+1, h, w); beyond the first and last plane the edge plane is repeated."""
    wanted = torch.tensor(indices)[:, None] + torch.arange(-neighbours, neighbours + 1)
    return planes[wanted.clamp(0, len(planes) - 1).to(planes.device, non_blocking=True)]


def flip_block(block: torch.Tensor, flip: tuple[int, ...], plane_axis: int) -> torch.Tensor:
    """(n, c, h, w) planes as they would be read from the volume mirrored along the axes flip (0: z, 1: y, 2: x).

    Along the planes' own axis the same planes come in the other order: neighbours change sides. Its own inverse for c = 1.
    """
    rows, columns = [axis for axis in range(3) if axis != plane_axis]
    dims = [dim for axis, dim in ((plane_axis, 1), (rows, 2), (columns, 3)) if axis in flip]
    return torch.flip(block, dims) if dims else block


def padded_plane(height: int, width: int) -> tuple[int, int]:
    return height + -height % STRIDE, width + -width % STRIDE


def batch_planes(plan: Plan, height: int, width: int) -> int:
    """Planes of one forward pass; height and width before they are padded."""
    return max(1, plan.batch_pixels // math.prod(padded_plane(height, width)))


def plane_shapes(shape_zyx, config: PlanesConfig) -> tuple[int, int, int]:
    """(planes, rows, columns) of a body box."""
    axis = PLANE_AXIS[config.plane]
    return (shape_zyx[axis], *shape_zyx[:axis], *shape_zyx[axis + 1 :])


def most_pixels(shape_zyx, config: PlanesConfig) -> int:
    """Pixels of all planes of a body box, without mirrored copies."""
    count, height, width = plane_shapes(shape_zyx, config)
    return count * math.prod(padded_plane(height, width))


def expected_seconds(shape_zyx, network: nn.Module, config: PlanesConfig, plan: Plan) -> float:
    """About what cue_logits() will take for a body box: one batch, timed at its second run, times the batches."""
    count, height, width = plane_shapes(shape_zyx, config)
    batch = min(count, batch_planes(plan, height, width))
    padded = padded_plane(height, width)
    with torch.inference_mode(), torch.autocast(plan.kind, plan.dtype, enabled=plan.dtype != torch.float32):
        block = torch.full((batch, 2 * network.config.neighbours + 1, *padded), -1.0, device=plan.device)
        block = block.contiguous(memory_format=plan.layout(block.ndim))
        for _ in range(2):
            started = time.perf_counter()
            network(block).sum().item()  # waits for a GPU
            taken = time.perf_counter() - started
    return taken * count / batch


def cue_logits(
    pet_suv: np.ndarray,
    network: nn.Module,
    config: PlanesConfig,
    plan: Plan,
    progress: Callable[[int, int], None] | None = None,
    flips: tuple[tuple[int, ...], ...] = ((),),
) -> np.ndarray:
    """The location cue's logits, one a voxel of the body box: the mean over the mirrored copies.

    Args:
        pet_suv: (z, y, x) SUV at the working spacing.
        network: a Localizer in eval mode on the plan's device.
        config: how PET becomes planes.
        plan: device, precision and the most pixels of one batch.
        progress: called with (planes done, planes in all).
        flips: axes along which each copy is mirrored; () is the volume as it is.

    Returns:
        float32 (z, y, x).
    """
    axis = PLANE_AXIS[config.plane]
    # once on the device: each plane is read by its neighbours too
    planes = to_device(stack_planes(scale(pet_suv, config), config), plan)
    count, height, width = planes.shape
    # padded with air, which training's crops also show beyond the body and beyond the array
    pad = (0, -width % STRIDE, 0, -height % STRIDE)
    samples = [(index, flip) for index in range(count) for flip in flips]
    batch = batch_planes(plan, height, width)
    total = torch.zeros_like(planes)
    with torch.inference_mode(), torch.autocast(plan.kind, plan.dtype, enabled=plan.dtype != torch.float32):
        for first in range(0, len(samples), batch):
            chosen = samples[first : first + batch]
            block = take_planes(planes, [index for index, _ in chosen], network.config.neighbours)
            block = torch.cat([flip_block(block[k : k + 1], flip, axis) for k, (_, flip) in enumerate(chosen)])
            block = F.pad(block, pad, value=-1.0).contiguous(memory_format=plan.layout(block.ndim))
            out = network(block)[:, :, :height, :width].float()
            for k, (index, flip) in enumerate(chosen):
                total[index] += flip_block(out[k : k + 1], flip, axis)[0, 0]
            if progress:
                progress(chosen[-1][0] + 1, count)
    logits = to_host(total / len(flips))
    return np.ascontiguousarray(np.moveaxis(logits, 0, axis))
