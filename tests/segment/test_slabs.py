"""Slabs against their slow twin, the network's own pass, in double precision; the memory that they save."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from l2s import engine
from l2s.segment import slabs
from l2s.segment.network import Segmenter, SegmenterConfig, fold_batch_norms


def make_network(norm: str) -> Segmenter:
    torch.manual_seed(6)
    network = Segmenter(SegmenterConfig(channels=(4, 6, 8, 10), norm=norm))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.1, 0.3)
    return network.double().eval()


def make_input(*shape) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(9).uniform(-1, 1, shape)).contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("rows", [1, 2, 6, 11, 30, 1000])
def test_slabs_equal_one_pass(norm, rows):
    network, x = make_network(norm), make_input(1, 2, 72, 16, 24)
    with torch.inference_mode():
        assert (slabs.forward(network, x, rows * 16 * 24) - network(x)).abs().max() < 1e-12


def test_several_volumes_go_together():
    network, x = make_network("batch"), make_input(3, 2, 40, 8, 16)
    with torch.inference_mode():
        assert (slabs.forward(network, x, 3000) - network(x)).abs().max() < 1e-12


def test_folded_norms_too():
    network, x = make_network("batch"), make_input(1, 2, 48, 8, 8)
    with torch.inference_mode():
        expected = network(x)
        assert (slabs.forward(fold_batch_norms(network), x, 500) - expected).abs().max() < 1e-12


def test_a_reach_too_short_is_a_control_that_differs(monkeypatch):
    network, x = make_network("batch"), make_input(1, 2, 72, 16, 24)
    monkeypatch.setattr(slabs, "BLOCK_REACH", 1)
    with torch.inference_mode():
        assert (slabs.forward(network, x, 6 * 16 * 24) - network(x)).abs().max() > 1e-4


def test_spans_are_even_and_cover_all_rows():
    for rows, size, reach in itertools.product((1, 2, 7, 40, 41), (1, 10, 25, 130, 1000), (2, 3)):
        spans = slabs._spans(rows, 10, size, reach)
        assert [a for a, _ in spans] == [0, *[b for _, b in spans][:-1]]
        assert spans[-1][1] == rows
        assert all(a % 2 == 0 and a < b for a, b in spans)


def test_a_slab_holds_what_it_may_with_the_rows_that_it_reaches_for():
    assert slabs.held_voxels(200, 1000, 200_000) == 200_000  # all at once
    assert 60_000 < slabs.held_voxels(200, 1000, 80_000) <= 80_000
    assert slabs.held_voxels(200, 1000, 5000) == 12 * 1000  # no fewer rows than the three on each side
    assert slabs.held_voxels(4, 1000, 1000) == 4 * 1000


def test_the_first_level_is_shown_what_is_held():
    network, x = make_network("batch"), make_input(1, 2, 72, 16, 24)
    seen = []
    network.encoder[0][0][1].register_forward_pre_hook(lambda module, args: seen.append(args[0][:, 0].numel()))
    for size in (9000, 1):
        seen.clear()
        with torch.inference_mode():
            slabs.forward(network, x, size)
        assert max(seen) == slabs.held_voxels(72, 16 * 24, size)


def test_logits_are_fp32_under_bf16():
    network, x = make_network("batch").float(), make_input(1, 2, 32, 8, 8).float()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        answer = slabs.forward(network, x, 600)
        assert answer.dtype == torch.float32
        assert (answer - network(x)).abs().max() < 0.2


PEAK = """
import contextlib, re, sys, torch
from pathlib import Path
from l2s import engine
from l2s.segment import slabs
from l2s.segment.network import Segmenter, SegmenterConfig, fold_batch_norms
def peak():  # not ru_maxrss, which a child takes over from its parent
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
network = Segmenter(SegmenterConfig(norm=sys.argv[2])).eval()
network = (fold_batch_norms(network) if sys.argv[2] == "batch" else network).to(memory_format=torch.channels_last_3d)
x = torch.zeros(1, 2, 200, 120, 128).contiguous(memory_format=torch.channels_last_3d)
with engine.kept_heap() if sys.argv[1] == "kept" else contextlib.nullcontext(), torch.inference_mode():
    network(x[:, :, :16, :16, :16])
    before = peak()
    network(x) if sys.argv[1] == "plain" else slabs.forward(network, x, 400_000)
grown = peak() - before
print(grown / (engine.KEPT_BYTES_A_VOXEL * x[0, 0].numel() + engine.SLAB_BYTES_A_VOXEL * 400_000), grown / x[0, 0].numel())
"""


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_memory_is_what_the_engine_reckons_with(norm):
    """In processes of their own: a peak is never given back."""
    peaks = {}
    for kind in ("plain", "slabs", "kept"):
        run = subprocess.run([sys.executable, "-c", PEAK, kind, norm], capture_output=True, text=True, check=True)
        peaks[kind] = [float(value) for value in run.stdout.split()]
    reckoned, a_voxel = peaks["slabs"]
    assert reckoned < 1.0
    assert a_voxel < 0.6 * peaks["plain"][1]
    assert max(peaks["plain"][1], peaks["kept"][1]) < engine.PLAIN_BYTES_A_VOXEL
