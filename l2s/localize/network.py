"""Stage 1's network: a 2D U-Net with a Res2Net-50 encoder (paper section 2.1). Knows tensors only."""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDE = 32  # planes must be multiples of the encoder's total stride


@dataclass(frozen=True)
class LocalizerConfig:
    """Every number of the localizer.

    Attributes:
        neighbours: planes on each side read as further channels; 0 (the paper: one plane) or 2 (the authors' released code).
        encoder: timm's name of the encoder (paper: Res2Net-50; the released code: this variant).
        decoder_channels: output channels of the five decoder stages, coarse to fine (paper section 2.1).
    """

    neighbours: int = 2
    encoder: str = "res2net50_26w_4s"
    decoder_channels: tuple[int, ...] = (320, 256, 128, 64, 32)

    @property
    def in_channels(self) -> int:
        return 2 * self.neighbours + 1


class DecoderStage(nn.Module):
    """Bilinear x2, concatenation with the encoder's feature of that size, two 3x3 convolutions with batch norm and ReLU."""

    def __init__(self, deep: int, skip: int, out: int):
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(deep + skip, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.block(x if skip is None else torch.cat([x, skip], dim=1))


class Localizer(nn.Module):
    """(n, 2*neighbours+1, h, w) scaled PET planes -> (n, 1, h, w) logits of the location cue; h and w multiples of 32.

    Args:
        config: the network's numbers.
        encoder_weights: for training's start: a local ImageNet checkpoint of the encoder, 'hub' to let timm fetch one, or None
            for a random start. Inference never gives it, so it never touches a network.
    """

    def __init__(self, config: LocalizerConfig, encoder_weights: str | None = None):
        super().__init__()
        self.config = config
        self.encoder = timm.create_model(
            config.encoder,
            features_only=True,
            in_chans=config.in_channels,
            pretrained=encoder_weights is not None,
            pretrained_cfg_overlay={"file": encoder_weights} if encoder_weights not in (None, "hub") else None,
        )
        features = self.encoder.feature_info.channels()  # /2 /4 /8 /16 /32: 64 256 512 1024 2048
        skips = [*features[-2::-1], 0]
        deeps = [features[-1], *config.decoder_channels[:-1]]
        self.decoder = nn.ModuleList(DecoderStage(d, s, o) for d, s, o in zip(deeps, skips, config.decoder_channels))
        self.head = nn.Conv2d(config.decoder_channels[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        skips = [*features[-2::-1], None]
        x = features[-1]
        for stage, skip in zip(self.decoder, skips):
            x = stage(x, skip)
        with torch.autocast(x.device.type, enabled=False):  # logits are fp32 whatever the precision of the rest
            return self.head(x.to(self.head.weight.dtype))


def fold_batch_norms(network: Localizer) -> Localizer:
    """The network in eval mode with each batch norm moved into the convolution before it: the same answer, a fifth faster on a CPU.

    The encoder is timm's, so that who follows whom is seen in a pass over a small plane instead of read from names.
    """
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the outputs are kept, so that no other tensor gets their ids
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_convolution(module, inputs, output):
        made[id(output)] = module, output

    def before_norm(module, inputs):
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    hooks = [m.register_forward_hook(after_convolution) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before_norm) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.inference_mode():
        network(torch.zeros(1, network.config.in_channels, STRIDE, STRIDE))
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in network.named_modules()}
    for convolution, norm in pairs:
        network.set_submodule(names[convolution], fuse_conv_bn_eval(convolution, norm))
        network.set_submodule(names[norm], nn.Identity())
    return network
