"""Planes by direction, neighbours with repeated edges, and the cue of a whole volume with networks whose answer is known."""

import dataclasses

import numpy as np
import pytest
import timm
import torch

from l2s import engine
from l2s.localize import planes
from l2s.localize.network import Localizer, LocalizerConfig
from l2s.localize.planes import PlanesConfig


@pytest.fixture(scope="module")
def plan():
    return dataclasses.replace(engine.choose("cpu"), batch_pixels=64 * 64 * 3)


class MiddlePlane(torch.nn.Module):
    """Answers with the input's own plane."""

    def __init__(self, neighbours):
        super().__init__()
        self.config = LocalizerConfig(neighbours=neighbours)
        self.shapes = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        return x[:, self.config.neighbours : self.config.neighbours + 1]


@pytest.mark.parametrize("plane", ["coronal", "sagittal", "axial"])
@pytest.mark.parametrize("neighbours", [0, 2])
def test_every_voxel_gets_its_own_answer(plane, neighbours, plan):
    pet = np.random.default_rng(2).uniform(0, 40, (33, 21, 50)).astype(np.float32)
    network = MiddlePlane(neighbours)
    done = []
    cue = planes.cue_logits(pet, network, PlanesConfig(plane=plane), plan, lambda *step: done.append(step))
    np.testing.assert_allclose(cue, pet * 2 / 35 - 1, atol=1e-6)
    assert all(h % 32 == 0 and w % 32 == 0 for _, _, h, w in network.shapes)
    assert len(network.shapes) > 1
    count = pet.shape[planes.PLANE_AXIS[plane]]
    assert sum(shape[0] for shape in network.shapes) == count
    assert done[-1] == (count, count)


class FirstPlane(MiddlePlane):
    """Answers with the neighbour in front, so that a copy mirrored across the planes shows."""

    def forward(self, x):
        return x[:, :1]


@pytest.mark.parametrize("plane", ["coronal", "sagittal", "axial"])
@pytest.mark.parametrize("network", [MiddlePlane(1), FirstPlane(1)])
def test_mirrored_copies_are_the_mirrored_volume_s_answer_mirrored_back(plane, network, plan):
    pet = np.random.default_rng(2).uniform(0, 40, (33, 21, 50)).astype(np.float32)
    config, flips = PlanesConfig(plane=plane), engine.flips_of("xyz")
    twin = np.zeros_like(pet)
    for flip in flips:
        mirrored = np.ascontiguousarray(np.flip(pet, flip))
        twin += np.flip(planes.cue_logits(mirrored, network, config, plan), flip) / len(flips)
    together = planes.cue_logits(pet, network, config, plan, flips=flips)
    np.testing.assert_allclose(together, twin, atol=1e-5)


def test_coronal_planes_fix_y():
    volume = np.zeros((4, 5, 6))
    volume[:, 3, :] = 1
    stack = planes.stack_planes(volume, PlanesConfig())
    assert stack.shape == (5, 4, 6)
    assert stack[3].all()
    assert stack.sum() == 24


def test_edge_planes_repeat():
    stack = torch.arange(4.0)[:, None, None]
    assert planes.take_planes(stack, [0, 3], 2)[:, :, 0, 0].tolist() == [[0, 0, 0, 1, 2], [1, 2, 3, 3, 3]]
    assert planes.take_planes(stack, [1], 0)[:, :, 0, 0].tolist() == [[1]]


def test_scaling_clips_only_when_asked():
    suv = np.array([0.0, 17.5, 35.0, 70.0], np.float32)
    np.testing.assert_allclose(planes.scale(suv, PlanesConfig()), [-1, 0, 1, 3])
    np.testing.assert_allclose(planes.scale(suv, PlanesConfig(clip=True)), [-1, 0, 1, 1])


def test_logits_are_fp32_under_bf16(plan):
    torch.manual_seed(0)
    network = Localizer(LocalizerConfig(encoder="test_resnet", decoder_channels=(16, 16, 8, 8, 8))).eval()
    pet = np.random.default_rng(0).uniform(0, 20, (32, 4, 32)).astype(np.float32)
    cue = planes.cue_logits(pet, network, PlanesConfig(), dataclasses.replace(plan, precision="bf16"))
    assert (torch.from_numpy(cue).bfloat16().float().numpy() != cue).mean() > 0.9


def test_a_local_checkpoint_starts_the_encoder(tmp_path):
    config = LocalizerConfig(neighbours=0, encoder="test_resnet", decoder_channels=(16, 16, 8, 8, 8))
    whole = timm.create_model("test_resnet")
    torch.save(whole.state_dict(), tmp_path / "imagenet.pth")
    network = Localizer(config, str(tmp_path / "imagenet.pth"))
    # timm sums the three colour filters where there is one plane
    first, colours = next(network.encoder.parameters()), next(whole.parameters())
    assert torch.allclose(first, colours.sum(dim=1, keepdim=True), atol=1e-5)


def test_the_network_is_the_paper_s():
    network = Localizer(LocalizerConfig()).eval()
    assert network.encoder.feature_info.channels() == [64, 256, 512, 1024, 2048]
    assert [stage.block[3].out_channels for stage in network.decoder] == [320, 256, 128, 64, 32]
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 36.8
    with torch.inference_mode():
        assert network(torch.zeros(1, 5, 64, 32)).shape == (1, 1, 64, 32)
