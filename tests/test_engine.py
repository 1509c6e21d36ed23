"""The plan: devices that are not there, precisions that do not fit, sizes from the free memory."""

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from l2s import cores, engine
from l2s.errors import InputError

GIB = 2**30


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
        ("cuda:\u00b2", "fp32", "use auto"),
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


@pytest.fixture
def memory(monkeypatch):
    """memory(free GiB, used GiB): what the machine has left, and what this process holds."""

    def set_to(free, used=1.0):
        monkeypatch.setattr(engine, "free_memory_bytes", lambda: int(free * GIB))
        monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(rss=int(used * GIB)))

    return set_to


def test_little_memory_makes_small_tiles(memory):
    memory(2)
    small = engine.choose("cpu")
    memory(64)
    large = engine.choose("cpu")
    assert engine.tile_bytes(small, small.tile_voxels) <= 0.4 * 2 * GIB
    assert engine.tile_bytes(large, large.tile_voxels) <= 0.4 * 64 * GIB
    assert small.slab_voxels < large.slab_voxels == engine.MOST_SLAB_VOXELS["cpu"]
    assert small.batch_pixels <= large.batch_pixels == engine.MOST_BATCH_PIXELS["cpu"]
    assert small.plain_voxels * engine.PLAIN_BYTES_A_VOXEL <= 0.4 * 2 * GIB
    assert large.plain_voxels == engine.MOST_PLAIN_VOXELS


def test_a_limit_leaves_the_networks_what_the_rest_does_not_need(memory):
    memory(64, used=1)
    plan = engine.choose("cpu", budget=engine.Budget(ram_bytes=4 * GIB))
    fitted = engine.fit(plan, reserve_bytes=GIB)
    # 4 GiB less 1 in use, 1 kept free, and the libraries' own
    assert engine.tile_bytes(fitted, fitted.tile_voxels) == pytest.approx(2 * GIB - engine.SPARE_BYTES, rel=1e-3)
    assert engine.tile_bytes(plan, plan.tile_voxels) == pytest.approx(3 * GIB - engine.SPARE_BYTES, rel=1e-3)
    hopeless = engine.fit(plan, reserve_bytes=8 * GIB)
    assert hopeless.tile_voxels == engine.LEAST_TILE_VOXELS
    assert hopeless.batch_pixels == engine.LEAST_BATCH_PIXELS


def test_a_limit_beyond_the_machine_changes_nothing(memory):
    memory(4)
    assert engine.choose("cpu", budget=engine.Budget(ram_bytes=2**50)).tile_voxels == engine.choose("cpu").tile_voxels


def test_a_limit_for_a_gpu_is_refused_on_the_cpu():
    with pytest.raises(InputError, match="--max-vram is for GPUs"):
        engine.choose("cpu", budget=engine.Budget(vram_bytes=GIB))


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 4 * GIB), ("512M", 512 * 2**20), ("3.5GiB", int(3.5 * GIB)), (" 2 gb ", 2 * GIB), ("1T", 2**40)]
)
def test_sizes_are_read_as_docker_reads_them(text, size):
    assert engine.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["4", "", "G", "-4G", "4X", "0G", "4G5", "4e9", "1.G", "9" * 400 + "T"])
def test_other_sizes_are_refused(text):
    with pytest.raises(InputError, match="4G or 512M"):
        engine.parse_bytes(text)


def a_gpu(monkeypatch, name, capability, free=15 * GIB, reserved=0):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: name)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: reserved)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_a_t4_has_no_bf16(monkeypatch):
    a_gpu(monkeypatch, "Tesla T4", (7, 5))
    with pytest.raises(InputError, match="Tesla T4 has no bf16"):
        engine.choose("cuda", "bf16")
    assert engine.choose("auto", "fp16").device == "cuda:0"
    assert engine.choose("auto", "int8").device == "cpu"


@pytest.mark.parametrize(("capability", "precision"), [((6, 1), "fp32"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_the_gpu_s_capability_chooses_the_precision(monkeypatch, capability, precision):
    a_gpu(monkeypatch, "GPU", capability)
    assert engine.choose("auto").precision == precision


def test_a_gpu_s_limit_counts_what_it_holds_already(monkeypatch):
    a_gpu(monkeypatch, "GPU", (7, 5), reserved=GIB)
    plan = engine.choose("cuda", "fp32", engine.Budget(vram_bytes=6 * GIB))
    assert engine.tile_bytes(plan, plan.tile_voxels) == pytest.approx(5 * GIB - engine.SPARE_BYTES, rel=1e-3)
    half = engine.choose("cuda", "fp16", engine.Budget(vram_bytes=6 * GIB))
    assert half.tile_voxels > 1.9 * plan.tile_voxels


def test_out_of_device_memory_halves_and_ends_on_the_cpu(monkeypatch, caplog):
    a_gpu(monkeypatch, "GPU", (8, 0))
    plan = engine.choose("auto")
    seen = []

    def run(with_plan):
        seen.append((with_plan.device, with_plan.precision, with_plan.tile_voxels))
        if with_plan.kind == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "answer"

    result, used, lines = engine.with_less(plan, run)
    assert result == "answer"
    assert (used.device, used.precision) == ("cpu", "fp32")
    assert [tile for device, _, tile in seen if device == "cuda:0"] == [
        plan.tile_voxels // 2**k for k in range(engine.HALVINGS + 1)
    ]
    assert seen[-1][:2] == ("cpu", "fp32")
    assert len(lines) == engine.HALVINGS + 1
    assert "going on on the CPU" in lines[-1]


def test_an_addition_does_not_move_to_the_cpu(monkeypatch):
    a_gpu(monkeypatch, "GPU", (8, 0))
    seen = []

    def run(with_plan):
        seen.append(with_plan.device)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        engine.with_less(engine.choose("auto"), run, to_cpu=False)
    assert seen == ["cuda:0"] * (engine.HALVINGS + 1)


def test_the_cpu_keeps_its_own_limit(monkeypatch, memory):
    a_gpu(monkeypatch, "GPU", (8, 0))
    memory(64, used=1)

    def run(with_plan):
        if with_plan.kind == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")

    _, used, _ = engine.with_less(engine.choose("auto", budget=engine.Budget(ram_bytes=4 * GIB)), run, GIB)
    assert engine.tile_bytes(used, used.tile_voxels) == pytest.approx(2 * GIB - engine.SPARE_BYTES, rel=1e-3)


def test_a_gpu_that_cannot_be_used_is_one_line(monkeypatch):
    a_gpu(monkeypatch, "GPU", (8, 0))

    def broken(index):
        raise RuntimeError("CUDA error: all devices are busy\nmore lines")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    with pytest.raises(InputError, match=r"cannot be used \(CUDA error: all devices are busy\); use --device cpu"):
        engine.choose("cuda")


def test_what_lies_on_the_gpu_beside_the_networks_is_kept_free(monkeypatch):
    a_gpu(monkeypatch, "GPU", (8, 0), free=10 * GIB)
    plan = engine.choose("auto")
    less = engine.fit(plan, device_bytes=2 * GIB)
    assert engine.tile_bytes(plan, plan.tile_voxels) - engine.tile_bytes(less, less.tile_voxels) == pytest.approx(
        2 * GIB, rel=1e-3
    )


def test_file_cache_of_a_container_counts_as_free(tmp_path):
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 700\nactive_file 9\n")
    assert engine._reclaimable(tmp_path) == 700
    assert engine._reclaimable(tmp_path / "none") == 0


def test_one_halving_that_suffices_is_kept(monkeypatch):
    a_gpu(monkeypatch, "GPU", (8, 0))
    plan = engine.choose("auto")

    def run(with_plan):
        if with_plan.batch_pixels == plan.batch_pixels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return with_plan.tile_voxels

    result, used, lines = engine.with_less(plan, run)
    assert result == used.tile_voxels == plan.tile_voxels // 2
    assert (used.device, len(lines)) == ("cuda:0", 1)


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: out of memory",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_libraries_that_find_no_room_say_so_in_words(monkeypatch, words):
    a_gpu(monkeypatch, "GPU", (8, 0))
    plan = engine.choose("auto")

    def run(with_plan):
        if with_plan.batch_pixels == plan.batch_pixels:
            raise RuntimeError(words)
        return with_plan.device

    assert engine.with_less(plan, run)[0] == "cuda:0"


@pytest.mark.parametrize(("free", "is_it"), [(1, True), (8, False)])
def test_words_of_two_meanings_are_judged_by_the_gpu_s_free_memory(monkeypatch, free, is_it):
    a_gpu(monkeypatch, "GPU", (8, 0), free=free * GIB)  # of 16
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
    assert engine.is_want_of_memory(error, "cuda:0") == is_it


def test_another_error_of_a_gpu_is_not_hidden(monkeypatch):
    a_gpu(monkeypatch, "GPU", (8, 0))

    def run(with_plan):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        engine.with_less(engine.choose("auto"), run)


class OnGpu(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    device = property(lambda self: torch.device("cuda:0"))


def test_an_answer_comes_back_pinned_where_the_system_allows_it(monkeypatch):
    tensor, kept = torch.arange(6.0).as_subclass(OnGpu), torch.empty
    asked = []
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: asked.append(kwargs.pop("pin_memory")) or kept(*args, **kwargs))
    assert engine.to_host(tensor).tolist() == list(range(6))
    assert asked == [True]

    def refused(*args, **kwargs):
        raise RuntimeError("no pinned memory")

    monkeypatch.setattr(torch, "empty", refused)
    assert engine.to_host(tensor).tolist() == list(range(6))


def test_sizes_end_where_the_study_does(monkeypatch, memory):
    """Half of a size that no pass reaches would be tried for nothing."""
    a_gpu(monkeypatch, "GPU", (8, 0), free=80 * GIB)
    plan = engine.fit(engine.choose("auto"), most_voxels=2_000_000, most_pixels=500_000)
    assert plan.tile_voxels == plan.slab_voxels == plan.plain_voxels == 2_000_000
    assert plan.batch_pixels == 500_000
    memory(2)
    less = engine.fit(engine.choose("cpu"))
    assert engine.fit(less, most_voxels=10**9, most_pixels=10**9) == less


def test_other_errors_and_the_cpu_s_own_are_not_hidden():
    plan = engine.choose("cpu")
    for error in (RuntimeError("CUDA error: an illegal memory access"), torch.OutOfMemoryError("CPU")):

        def run(with_plan, error=error):
            raise error

        with pytest.raises(type(error)):
            engine.with_less(plan, run)


FAULTS = """
import contextlib, ctypes, re, resource, sys
from pathlib import Path
from l2s import engine
glibc, size = engine._glibc(), 160 * 2**20
glibc.malloc.restype, glibc.malloc.argtypes, glibc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
glibc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def held():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
def use():
    block = glibc.malloc(size)
    glibc.memset(block, 1, size)
    glibc.free(block)
use()
start = held()
with engine.kept_heap() if sys.argv[1] == "kept" else contextlib.nullcontext():
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(held() - start)
"""


@pytest.mark.skipif(engine._glibc() is None, reason="the C library is not glibc")
def test_a_kept_heap_is_used_again_and_given_back():
    """Five times 160 MiB, in processes of their own: pages taken from the system, and MiB held afterwards."""
    seen = {}
    for kind in ("kept", "usual"):
        run = subprocess.run([sys.executable, "-c", FAULTS, kind], capture_output=True, text=True, check=True)
        seen[kind] = [int(value) for value in run.stdout.split()]
    assert seen["kept"][0] < 0.05 * seen["usual"][0]
    assert seen["kept"][1] < 40


class Recording:
    """A C library that notes what is asked of it."""

    def __init__(self):
        self.calls = []

    def mallopt(self, parameter, value):
        self.calls.append((parameter, value))

    def malloc_trim(self, pad):
        self.calls.append("trim")


def test_the_heap_is_given_back_after_an_error_too(monkeypatch):
    library = Recording()
    monkeypatch.setattr(engine, "_glibc", lambda: library)
    for name in engine.HEAP_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ZeroDivisionError), engine.kept_heap():
        assert library.calls == list(engine.KEPT_HEAP)
        1 / 0  # noqa: B018
    assert library.calls == [*engine.KEPT_HEAP, *engine.USUAL_HEAP, "trim"]


def test_a_heap_that_the_user_has_set_up_is_left_alone(monkeypatch):
    library = Recording()
    monkeypatch.setattr(engine, "_glibc", lambda: library)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")
    with engine.kept_heap():
        pass
    assert library.calls == []


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "200000 100000"}, 2.0),
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_container_s_share_of_the_processor(tmp_path, monkeypatch, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    monkeypatch.setattr(cores, "CPU_GROUP", tmp_path)
    assert cores.quota_cores() == quota


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.2, 2), (3.0, 3), (64.0, 4), (None, 4)])
def test_torch_keeps_within_it(monkeypatch, quota, threads):
    now = [8]
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(cores, "quota_cores", lambda: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: now.__setitem__(0, n))
    assert engine.choose("cpu").threads == threads


def test_fp32_on_a_gpu_is_no_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    plan = dataclasses.replace(engine.choose("cpu"), precision="bf16")
    assert engine.in_fp32(plan).precision == "fp32"
    assert torch.backends.cudnn.allow_tf32
    engine.in_fp32(dataclasses.replace(plan, device="cuda:0"))
    assert not torch.backends.cudnn.allow_tf32
