"""Stage 2's network: a 3D U-Net over PET and CT (paper section 2.2). Knows tensors only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

NORMS = ("layer", "batch", "instance")


@dataclass(frozen=True)
class SegmenterConfig:
    """Every number of the segmenter.

    Attributes:
        channels: filters of the four levels (paper: 16 doubled at each level).
        norm: 'layer' (over the channels of each voxel: our reading of the paper), 'batch' (statistics frozen at inference: as local
            as 'layer', and folded into the convolutions) or 'instance' (hangs on all that lies in the window).
    """

    channels: tuple[int, ...] = (16, 32, 64, 128)
    norm: str = "layer"

    @property
    def stride(self) -> int:
        return 2 ** (len(self.channels) - 1)

    @property
    def is_local(self) -> bool:
        """Whether a voxel's answer depends on its receptive field only, so that tiles can be exact."""
        return self.norm in ("layer", "batch")


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalization over the channels of each voxel: (n, c, z, y, x), learned scale and shift a channel."""

    def forward(self, x: Tensor) -> Tensor:
        # (n c z y x) -> (n z y x c) is free in channels-last memory
        # under autocast a GPU normalizes in fp32: kept so, features would take twice the memory
        return super().forward(x.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3).to(x.dtype)


def norm_layer(kind: str, channels: int) -> nn.Module:
    if kind == "layer":
        return ChannelLayerNorm(channels)
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    if kind == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    raise ValueError(f"norm {kind!r}: one of {', '.join(NORMS)}")


def convolution(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inputs, outputs, 3, padding=1, bias=False), norm_layer(norm, outputs), nn.ReLU(inplace=True))


class Segmenter(nn.Module):
    """(n, 2, z, y, x) scaled PET and CT -> (n, 1, z, y, x) logits; z, y, x multiples of config.stride."""

    def __init__(self, config: SegmenterConfig):
        super().__init__()
        self.config = config
        c, norm = config.channels, config.norm
        self.stem = nn.Conv3d(2, c[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(convolution(c[max(level - 1, 0)], c[level], norm), convolution(c[level], c[level], norm))
            for level in range(len(c))
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(convolution(c[level + 1] + c[level], c[level], norm), convolution(c[level], c[level], norm))
            for level in reversed(range(len(c) - 1))
        )
        self.head = nn.Conv3d(c[0], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips = []
        for level, block in enumerate(self.encoder):
            if level:
                x = F.max_pool3d(x, 2)
            x = block(x)
            skips.append(x)
        skips.pop()  # the deepest feature goes straight up
        for block in self.decoder:
            x = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
            x = block(torch.cat([x, skips.pop()], dim=1))
        with torch.autocast(x.device.type, enabled=False):  # logits are fp32 whatever the precision of the rest
            return self.head(x.to(self.head.weight.dtype))


def fold_batch_norms(network: Segmenter) -> Segmenter:
    """The network in eval mode with each batch norm's frozen statistics moved into the convolution before it; other norms stay."""
    for block in [*network.encoder, *network.decoder]:
        for layer in block:
            if isinstance(layer[1], nn.BatchNorm3d):
                layer[0] = fuse_conv_bn_eval(layer[0], layer[1])
                layer[1] = nn.Identity()
    return network


def receptive_interval(first: int, last: int, levels: int) -> tuple[int, int]:
    """The input indices, along one axis, on which the outputs first..last depend.

    Walks the network above from its head to its stem: a 3-convolution widens by 1; x2 upsampling with align_corners=False reads
    floor((i-1)/2) .. floor((i+1)/2); pooling reads 2i .. 2i+1. Both the skip and the deep path are followed.
    """

    def block(a: int, b: int) -> tuple[int, int]:
        return a - 2, b + 2  # two 3-convolutions

    def through(level: int, a: int, b: int) -> tuple[int, int]:
        """Outputs a..b of the decoder (the encoder at the deepest level) at this level -> input indices of the stem."""
        if level == levels - 1:
            return encoder(level, a, b)
        a, b = block(a, b)
        skip = encoder(level, a, b)
        deep = through(level + 1, (a - 1) // 2, (b + 1) // 2)
        return min(skip[0], deep[0]), max(skip[1], deep[1])

    def encoder(level: int, a: int, b: int) -> tuple[int, int]:
        for _ in range(level):
            a, b = block(a, b)
            a, b = 2 * a, 2 * b + 1
        a, b = block(a, b)
        return a - 1, b + 1  # the stem

    return through(0, first, last)


def halo(config: SegmenterConfig) -> int:
    """Voxels of real context that an inner face of a tile needs so that its core equals one pass over the whole volume.

    The core starts and ends on multiples of the stride; the halo is rounded up to one, so that the tile does too.
    """
    stride = config.stride
    low, _ = receptive_interval(0, 0, len(config.channels))
    _, high = receptive_interval(stride - 1, stride - 1, len(config.channels))
    reach = max(-low, high - (stride - 1))
    return -(-reach // stride) * stride
