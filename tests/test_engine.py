"""The plan: devices that are not there, precisions that do not fit, sizes from the free memory."""

import dataclasses
import json

import pytest
import torch

from l2s import engine
from l2s.errors import InputError


def test_a_cpu_plan_can_be_recorded():
    plan = engine.choose("cpu")
    assert plan.device == "cpu"
    assert plan.dtype == torch.float32
    assert json.loads(json.dumps(dataclasses.asdict(plan)))["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("device", "precision", "line"),
    [
        ("tpu", "fp32", "tpu"),
        ("cpu:1", "fp32", "cpu:1"),
        ("cuda:x", "fp32", "cuda:x"),
        ("cpu", "fp16", "fp16"),
        ("cpu", "int7", "int7"),
        ("cuda:0", "int8", "int8 is for the CPU"),
    ],
)
def test_what_cannot_be_is_refused(device, precision, line):
    with pytest.raises(InputError, match=line):
        engine.choose(device, precision)


def test_an_absent_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="0 CUDA devices"):
        engine.choose("cuda")
    assert engine.choose("auto").device == "cpu"


def test_little_memory_makes_small_tiles(monkeypatch):
    monkeypatch.setattr(engine, "free_memory_bytes", lambda: 2**30)
    small = engine.choose("cpu")
    monkeypatch.setattr(engine, "free_memory_bytes", lambda: 2**36)
    large = engine.choose("cpu")
    assert small.tile_voxels * engine.BYTES_A_VOXEL < 2**30
    assert small.tile_voxels < large.tile_voxels <= engine.MAX_TILE_VOXELS


def test_a_t4_has_no_bf16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (15 * 2**30, 16 * 2**30))
    with pytest.raises(InputError, match="Tesla T4 has no bf16"):
        engine.choose("cuda", "bf16")
    assert engine.choose("auto", "fp16").device == "cuda:0"
    assert engine.choose("auto", "int8").device == "cpu"
