"""Stage 1: a study's PET -> planes -> the location cue (paper section 2.1). Here numpy ends and torch begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from l2s.engine import Plan
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


def take_planes(planes: np.ndarray, indices, neighbours: int) -> np.ndarray:
    """(p, h, w) and n plane indices -> (n, 2*neighbours+1, h, w); beyond the first and last plane the edge plane is repeated."""
    offsets = np.arange(-neighbours, neighbours + 1)
    chosen = np.clip(np.asarray(indices)[:, None] + offsets, 0, len(planes) - 1)
    return planes[chosen]


def cue_logits(
    pet_suv: np.ndarray, network: nn.Module, config: PlanesConfig, plan: Plan, progress: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """The location cue's logits, one a voxel of the body box.

    Args:
        pet_suv: (z, y, x) SUV at the working spacing.
        network: a Localizer in eval mode on the plan's device.
        config: how PET becomes planes.
        plan: device, precision and the most pixels of one batch.
        progress: called with (planes done, planes in all).

    Returns:
        float32 (z, y, x).
    """
    planes = stack_planes(scale(pet_suv, config), config)
    count, height, width = planes.shape
    pad_h, pad_w = -height % STRIDE, -width % STRIDE
    batch = max(1, plan.batch_pixels // ((height + pad_h) * (width + pad_w)))
    logits = np.empty(planes.shape, dtype=np.float32)
    device_type = torch.device(plan.device).type
    with torch.inference_mode(), torch.autocast(device_type, plan.dtype, enabled=plan.precision != "fp32"):
        for first in range(0, count, batch):
            indices = np.arange(first, min(first + batch, count))
            block = take_planes(planes, indices, network.config.neighbours)
            # padded with air, which training's crops also show beyond the body and beyond the array
            block = np.pad(block, ((0, 0), (0, 0), (0, pad_h), (0, pad_w)), constant_values=-1.0)
            tensor = torch.from_numpy(block).to(plan.device, memory_format=torch.channels_last)
            logits[indices] = network(tensor)[:, 0, :height, :width].float().cpu().numpy()
            if progress:
                progress(int(indices[-1]) + 1, count)
    return np.ascontiguousarray(np.moveaxis(logits, 0, PLANE_AXIS[config.plane]))
