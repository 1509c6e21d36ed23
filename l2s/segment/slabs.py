"""One exact pass of the segmenter in little memory: each level of the U-Net is computed in slabs along z.

A plain pass holds, at its peak, the upsampled feature, the skip, their concatenation and the convolution's output of the finest
level: about 470 bytes a voxel. Here a level's blocks run on a few rows at a time, with as many further rows as their convolutions
reach; what is kept between levels is the skips and the pooled features alone, about a third of that. The answer is that of the
plain pass: a voxel of a local network depends on its receptive field only, and the volume's own faces stay faces.

Nothing is concatenated: a convolution of two features is the sum of a convolution of each, with its share of the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2s.segment.network import Segmenter

BLOCK_REACH = 2  # rows on each side that two 3-convolutions read
STEM_REACH = 1


def forward(network: Segmenter, x: Tensor, slab_voxels: int) -> Tensor:
    """network(x) for a network with a local norm in eval mode.

    Args:
        network: the segmenter.
        x: (n, 2, z, y, x), each axis a multiple of the stride.
        slab_voxels: the most voxels of a level that its convolutions work on at once, with the rows that they reach; where a few rows
            alone have more, see held_voxels.

    Returns:
        (n, 1, z, y, x) logits, float32 (or the network's own double precision).
    """
    skips = []
    for level, block in enumerate(network.encoder):
        last = level == len(network.encoder) - 1
        stages, reach = ((network.stem, block), STEM_REACH + BLOCK_REACH) if level == 0 else ((block,), BLOCK_REACH)
        x, pooled = _encode(x, stages, reach, slab_voxels, pool=not last)
        if not last:
            skips.append(x)
            x = pooled
    for number, block in enumerate(network.decoder, 1):
        head = network.head if number == len(network.decoder) else None
        x = _decode(x, skips.pop(), block, head, slab_voxels)
    return x


def held_voxels(rows: int, voxels_a_row: int, slab_voxels: int) -> int:
    """Voxels of the finest level that forward really holds in a slab: more than slab_voxels where a few rows alone have them.

    A slab gives no fewer rows than it reaches for: with fewer, most of the work would be done twice.
    """
    reach = STEM_REACH + BLOCK_REACH
    return max(min(rows, b + reach) - max(0, a - reach) for a, b in _spans(rows, voxels_a_row, slab_voxels, reach)) * voxels_a_row


def _spans(rows: int, voxels_a_row: int, slab_voxels: int, reach: int) -> list[tuple[int, int]]:
    """(start, stop) of the slabs: even numbers of rows, so that pooling never straddles two."""
    if rows * voxels_a_row <= slab_voxels:
        return [(0, rows)]
    pairs = -(-rows // 2)
    most = max(reach, slab_voxels // voxels_a_row // 2 - reach)  # pairs of rows that a slab gives
    parts = -(-pairs // most)
    edges = [min(rows, 2 * (pairs * k // parts)) for k in range(parts + 1)]
    return list(zip(edges[:-1], edges[1:]))


def _place(whole: Tensor | None, part: Tensor, first: int, rows: int) -> Tensor:
    """Part's rows at `first` of a whole of `rows` rows, which is made when the first part shows its channels and type."""
    if part.shape[2] == rows:
        return part
    if whole is None:
        shape = (*part.shape[:2], rows, *part.shape[3:])
        whole = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last_3d)
    whole[:, :, first : first + part.shape[2]] = part
    return whole


def _encode(x: Tensor, stages: tuple[nn.Module, ...], reach: int, slab_voxels: int, pool: bool) -> tuple[Tensor, Tensor | None]:
    """(feature, feature pooled by 2 or None) of one level."""
    rows = x.shape[2]
    feature, pooled = None, None
    for a, b in _spans(rows, x.shape[0] * math.prod(x.shape[3:]), slab_voxels, reach):
        low, high = max(0, a - reach), min(rows, b + reach)
        part = x[:, :, low:high]
        for stage in stages:
            part = _run(stage, part)
        part = part[:, :, a - low : b - low]
        feature = _place(feature, part, a, rows)
        if pool:
            pooled = _place(pooled, F.max_pool3d(part, 2), a // 2, rows // 2)
    return feature, pooled


def _decode(deep: Tensor, skip: Tensor, block: nn.Module, head: nn.Module | None, slab_voxels: int) -> Tensor:
    """One level of the decoder: deep is at half of skip's size. With a head, the logits instead of the feature."""
    rows, half = skip.shape[2], deep.shape[2]
    out = None
    for a, b in _spans(rows, skip.shape[0] * math.prod(skip.shape[3:]), slab_voxels, BLOCK_REACH):
        low, high = max(0, a - BLOCK_REACH), min(rows, b + BLOCK_REACH)
        # one more half row on each side, as interpolation reads its neighbour; at the volume's faces it reads the face, as it should
        deep_low, deep_high = max(0, low // 2 - 1), min(half, -(-high // 2) + 1)
        part = F.interpolate(deep[:, :, deep_low:deep_high], scale_factor=2, mode="trilinear", align_corners=False)
        part = part[:, :, low - 2 * deep_low : high - 2 * deep_low]
        part = _joined(block, part, skip[:, :, low:high])[:, :, a - low : b - low]
        if head is not None:
            part = _logits(head, part)
        out = _place(out, part, a, rows)
    return out


def _run(stage: nn.Module, x: Tensor) -> Tensor:
    """stage(x), its convolutions by _convolve."""
    if isinstance(stage, nn.Sequential):
        for layer in stage:
            x = _run(layer, x)
        return x
    return _convolve(x, stage.weight, stage.bias) if isinstance(stage, nn.Conv3d) else stage(x)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3 x 3 x 3 convolution with padding 1, by oneDNN: torch keeps blocks of few rows from it, which takes ten times as long."""
    is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not (is_plain and torch.backends.mkldnn.is_available()):
        return F.conv3d(x, weight, bias, padding=1)
    return torch.mkldnn_convolution(x, weight, bias, padding=(1, 1, 1), stride=(1, 1, 1), dilation=(1, 1, 1), groups=1)


def _joined(block: nn.Sequential, deep: Tensor, skip: Tensor) -> Tensor:
    """block(torch.cat([deep, skip], dim=1)) of a block that begins with a convolution of 3 x 3 x 3."""
    (convolution, *after), *others = block
    at = deep.shape[1]
    x = _convolve(deep, convolution.weight[:, :at], convolution.bias)
    x = x.add_(_convolve(skip, convolution.weight[:, at:], None))
    return _run(nn.Sequential(*after, *others), x)


def _logits(head: nn.Module, feature: Tensor) -> Tensor:
    """Logits are fp32 whatever the precision of the rest."""
    with torch.autocast(feature.device.type, enabled=False):
        return head(feature.to(head.weight.dtype))
