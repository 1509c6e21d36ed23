"""Exact tiling, proved in double precision with controls that must fail, and the Gaussian windows with predictors whose answer is known."""

import contextlib
import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from l2s import engine
from l2s.errors import InputError
from l2s.segment import windows
from l2s.segment.network import Segmenter, SegmenterConfig, fold_batch_norms, halo, receptive_interval
from l2s.segment.windows import Tile, WindowsConfig, axis_spans, gaussian_logits, plan_tiles, tiled_logits, window_starts

LENGTH = 192  # long enough that a halo of 56 leaves context out


@pytest.fixture(scope="module")
def plan():
    return dataclasses.replace(engine.choose("cpu"), tile_voxels=10**9)


def make_network(norm: str, dtype=torch.float64) -> Segmenter:
    torch.manual_seed(5)
    network = Segmenter(SegmenterConfig(channels=(4, 8, 16, 32), norm=norm))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                # statistics as after a training, far from the identity; logits stay within about +-10
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.1, 0.3)
    return network.to(dtype).eval()


def make_volume(shape=(LENGTH, 16, 16)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).uniform(-1, 1, (2, *shape)))


def cut_along_z(volume, halo_voxels, edge) -> list[Tile]:
    """Two tiles that meet at `edge`, each with the given halo at the inner face."""
    n = volume.shape[1]
    rest = tuple((0, s) for s in volume.shape[2:])
    reads = ((0, min(n, edge + halo_voxels)), (max(0, edge - halo_voxels), n))
    return [Tile((read, *rest), (keep, *rest)) for read, keep in zip(reads, ((0, edge), (edge, n)))]


def difference(network, volume, tiles, plan) -> float:
    with torch.inference_mode():
        whole = network(volume[None])[0, 0]
        return float((tiled_logits(volume, network, plan, tiles) - whole).abs().max())


def test_halo_is_computed_from_the_architecture():
    assert halo(SegmenterConfig()) == 56
    # one level: seven 3-convolutions would be wrong, the stem and one block are three
    assert receptive_interval(0, 0, 1) == (-3, 3)
    # two levels by hand: block, up, block, pool, block, stem on the lower side of output 0
    assert receptive_interval(0, 0, 2)[0] == ((0 - 2 - 1) // 2 - 2) * 2 - 2 - 1


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_receptive_field_is_what_gradients_see(norm):
    network = make_network(norm)
    volume = make_volume((160, 8, 8))[None].requires_grad_()
    for voxel in (80, 84, 87):
        (gradient,) = torch.autograd.grad(network(volume)[0, 0, voxel, 4, 4], volume)
        seen = torch.nonzero(gradient.abs().sum(dim=(0, 1, 3, 4)))[:, 0]
        assert (int(seen[0]), int(seen[-1])) == receptive_interval(voxel, voxel, 4)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_tiles_with_the_halo_equal_one_pass(norm, plan):
    network, volume = make_network(norm), make_volume()
    assert difference(network, volume, cut_along_z(volume, 56, 96), plan) < 1e-12


def test_a_halo_of_48_is_a_control_that_differs(plan):
    network, volume = make_network("batch"), make_volume()
    assert difference(network, volume, cut_along_z(volume, 48, 96), plan) > 1e-9


@pytest.mark.parametrize(("start", "differs"), [(32, False), (36, True)], ids=["on the pooling grid", "off by 4"])
def test_a_start_off_the_pooling_grid_is_a_control_that_differs(start, differs, plan):
    network, volume = make_network("batch"), make_volume()
    read, keep = slice(start, start + 152), slice(start + 56, start + 96)  # 56 voxels of context on both sides
    with torch.inference_mode():
        tile = network(volume[None, :, read])[0, 0, 56:96]
        off = float((tile - network(volume[None])[0, 0, keep]).abs().max())
    assert off > 1e-3 if differs else off < 1e-12


def test_an_instance_norm_is_not_local(plan):
    network, volume = make_network("instance"), make_volume()
    assert difference(network, volume, cut_along_z(volume, 56, 96), plan) > 1e-3
    with pytest.raises(InputError, match="local norm"):
        windows.logits(np.zeros((8, 8, 8), np.float32), np.zeros((8, 8, 8), np.float32), network, WindowsConfig(), plan)


def test_planned_tiles_equal_one_pass_in_fp32_in_all_axes(plan):
    network = make_network("batch", torch.float32)
    rng = np.random.default_rng(8)
    shape = (131, 126, 13)  # cut along two axes, padded on all three
    pet, ct = rng.uniform(0, 20, shape).astype(np.float32), rng.uniform(-900, 900, shape).astype(np.float32)
    config = WindowsConfig()
    whole = windows.logits(pet, ct, network, config, plan)
    small = dataclasses.replace(plan, tile_voxels=128 * 120 * 16)
    assert len(plan_tiles((136, 128, 16), 56, 8, small.tile_voxels)) == 4
    assert np.abs(windows.logits(pet, ct, network, config, small) - whole).max() < 1e-4


@pytest.mark.parametrize("shape", [(8, 8, 8), (64, 8, 200), (400, 136, 96), (1000, 200, 200)])
@pytest.mark.parametrize("limit", [10_000, 2_000_000, 10**9])
def test_tiles_keep_every_voxel_once(shape, limit):
    tiles = plan_tiles(shape, 56, 8, limit)
    kept = np.zeros(shape, np.uint8)
    for tile in tiles:
        kept[tuple(slice(a, b) for a, b in tile.keep)] += 1
        for (read_a, read_b), (keep_a, keep_b), n in zip(tile.read, tile.keep, shape):
            assert read_a == max(0, keep_a - 56)
            assert read_b == min(n, keep_b + 56)
            assert all(edge % 8 == 0 for edge in (read_a, read_b, keep_a, keep_b))
    assert (kept == 1).all()
    if limit == 10**9:
        assert len(tiles) == 1


def test_tiles_keep_the_limit_where_a_halo_allows_it():
    tiles = plan_tiles((1000, 200, 200), 56, 8, 8_000_000)
    assert max(np.prod([b - a for a, b in tile.read]) for tile in tiles) <= 8_000_000


def every_cut(shape_zyx, halo_voxels: int, stride: int) -> list[tuple[int, int]]:
    """(voxels of the largest tile, voxels of all) of each way to cut a volume."""
    axes = []
    for length in shape_zyx:
        most = max(1, min(length // stride, 16))
        reads = [[b - a for (a, b), _ in axis_spans(length, parts, halo_voxels, stride)] for parts in range(1, most + 1)]
        axes.append([(max(read), sum(read)) for read in reads])
    return [tuple(math.prod(one) for one in zip(*cut)) for cut in itertools.product(*axes)]


# the halo alone is 112: with a limit of a million no cut keeps it, and the finest would compute 178 times the volume
@pytest.mark.parametrize(
    ("shape", "limit"),
    [((432, 160, 176), 1_000_000), ((328, 176, 240), 4_000_000), ((328, 160, 248), 4_900_000), ((328, 160, 248), 6_000_000)],
)
def test_the_cut_is_the_cheapest_or_else_the_smallest_within_four_times_the_work(shape, limit):
    read = [math.prod(b - a for a, b in tile.read) for tile in plan_tiles(shape, 56, 8, limit)]
    within = [cut for cut in every_cut(shape, 56, 8) if cut[1] <= 4 * math.prod(shape)]
    kept = [work for peak, work in within if peak <= limit]
    assert sum(read) <= 4 * math.prod(shape)
    if kept:
        assert max(read) <= limit
        assert sum(read) == min(kept)
    else:
        assert (max(read), sum(read)) == min(within)


def test_axis_spans_end_at_the_volume():
    assert axis_spans(160, 2, 56, 8) == [((0, 136), (0, 80)), ((24, 160), (80, 160))]


@pytest.mark.parametrize(
    ("length", "window", "overlap"), [(5, 8, 0.5), (8, 8, 0.5), (9, 8, 0.5), (100, 16, 0.5), (101, 16, 0.25)]
)
def test_window_starts_cover_the_axis_evenly(length, window, overlap):
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - window)
    gaps = np.diff(starts)
    if len(gaps):
        assert gaps.max() <= np.ceil(window * (1 - overlap))
        assert gaps.max() - gaps.min() <= 1


class Affine(torch.nn.Module):
    """2 * PET + 1: a predictor whose answer is known at every voxel, whatever the windows are."""

    config = SegmenterConfig()

    def forward(self, x):
        return 2 * x[:, :1] + 1


@pytest.mark.parametrize("shape", [(7, 9, 5), (16, 16, 16), (33, 17, 40)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_gaussian_windows_average_nothing_wrong(shape, overlap, plan):
    volume = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (2, *shape)).astype(np.float32))
    config = WindowsConfig(windows="gaussian", patch_zyx=(16, 16, 16), overlap=overlap)
    answer = gaussian_logits(volume, Affine(), plan, config)
    np.testing.assert_allclose(answer, 2 * volume[0] + 1, atol=1e-5)


def test_gaussian_windows_equal_a_literal_sum(plan):
    network = make_network("batch", torch.float32)
    volume = make_volume((40, 24, 24)).float()
    config = WindowsConfig(windows="gaussian", patch_zyx=(24, 24, 24), overlap=0.5)
    total, weight = np.zeros((40, 24, 24)), np.zeros((40, 24, 24))
    for start in (0, 8, 16):
        with torch.inference_mode():
            block = network(volume[None, :, start : start + 24])[0, 0].numpy()
        for z in range(24):
            for y in range(24):
                for x in range(24):
                    w = max(
                        np.exp(-0.5 * sum(((v - 11.5) / 3) ** 2 for v in (z, y, x))) / np.exp(-0.5 * 3 * (0.5 / 3) ** 2), 1e-4
                    )
                    total[start + z, y, x] += w * block[z, y, x]
                    weight[start + z, y, x] += w
    with torch.inference_mode():
        answer = gaussian_logits(volume, network, plan, config)
    np.testing.assert_allclose(answer, total / weight, atol=1e-4)


def test_folded_batch_norms_change_nothing():
    network = make_network("batch")
    volume = make_volume((16, 16, 16))[None]
    with torch.inference_mode():
        before = network(volume)
        folded = fold_batch_norms(network)
        assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in folded.modules())
        assert (folded(volume) - before).abs().max() < 1e-12


def test_scaling_windows_and_clips():
    pet = np.array([[[0.0, 7.5, 15.0, 60.0]]], np.float32)
    ct = np.array([[[-1024.0, -100.0, 75.0, 900.0]]], np.float32)
    scaled = windows.scale(pet, ct, WindowsConfig())
    np.testing.assert_allclose(scaled[:, 0, 0], [[-1, 0, 1, 1], [-1, -1, 0, 1]])


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_logits_are_fp32_under_bf16(norm, plan):
    network = make_network(norm, torch.float32)
    rng = np.random.default_rng(0)
    pet, ct = rng.uniform(0, 20, (16, 16, 16)).astype(np.float32), rng.uniform(-900, 900, (16, 16, 16)).astype(np.float32)
    answer = windows.logits(pet, ct, network, WindowsConfig(), dataclasses.replace(plan, precision="bf16"))
    assert answer.dtype == np.float32
    assert (torch.from_numpy(answer).bfloat16().float().numpy() != answer).mean() > 0.9
    assert np.abs(answer - windows.logits(pet, ct, network, WindowsConfig(), plan)).max() < 1.0


def test_unknown_windows_are_named(plan):
    with pytest.raises(InputError, match="'spiral'"):
        windows.logits(
            np.zeros((8, 8, 8), np.float32), np.zeros((8, 8, 8), np.float32), Affine(), WindowsConfig(windows="spiral"), plan
        )


ALL_FLIPS = engine.flips_of("xyz")


def test_mirrored_copies_equal_whole_volumes_mirrored_one_by_one(plan):
    network = make_network("batch", torch.float32)
    rng = np.random.default_rng(4)
    pet, ct = rng.uniform(0, 20, (130, 21, 16)).astype(np.float32), rng.uniform(-900, 900, (130, 21, 16)).astype(np.float32)
    padded = windows.pad_air(torch.from_numpy(windows.scale(pet, ct, WindowsConfig())), (136, 24, 16))
    expected = torch.zeros(136, 24, 16)
    with torch.inference_mode():
        for flip in ALL_FLIPS:
            dims = [axis + 1 for axis in flip]
            expected += torch.flip(network(torch.flip(padded, dims)[None])[0], dims)[0]
    for limit in (10**9, 128 * 24 * 16 * 3, 1):  # all copies at once in one tile; three at once; one by one in two tiles
        few = dataclasses.replace(plan, tile_voxels=limit)
        answer = windows.logits(pet, ct, network, WindowsConfig(), few, flips=ALL_FLIPS)
        np.testing.assert_allclose(answer, (expected / 8)[:130, :21].numpy(), atol=1e-4)


def test_copies_that_a_slab_cannot_hold_go_one_by_one(plan, monkeypatch):
    network, block = make_network("batch"), torch.zeros(2, 16, 24, 16)
    seen = []
    monkeypatch.setattr(windows.slabs, "forward", lambda network, batch, size: seen.append(len(batch)) or batch[:, :1])
    for slab in (10**9, 16 * 24 * 16 * 3, 1):  # four copies of 12 rows have as many voxels as three of 16
        windows.forward(network, block, dataclasses.replace(plan, slab_voxels=slab), ALL_FLIPS, 10**9)
    assert seen == [8, 4, 4] + [1] * 8


def test_a_cut_says_what_it_costs(plan):
    network = make_network("batch")
    padded, tiles = windows.cut((331, 160, 172), network, dataclasses.replace(plan, tile_voxels=10**8))
    facts, lines = windows.describe_tiles(tiles, padded, network, plan)
    assert facts == {"tiles": 1, "tile_zyx": [336, 160, 176], "halo": 0, "work": 1.0}
    assert lines == []
    little = dataclasses.replace(plan, tile_voxels=300_000)
    padded, tiles = windows.cut((331, 160, 172), network, little)
    facts, lines = windows.describe_tiles(tiles, padded, network, little)
    assert facts["halo"] == 56
    assert facts["work"] == round(sum(math.prod(b - a for a, b in t.read) for t in tiles) / math.prod(padded), 2)
    assert "tiles of 300000 voxels were planned" in lines[0]
    assert "give more memory" in lines[0]
    plain = SimpleNamespace(config=network.config)  # such as a compiled network: its limit is no want of memory
    for voxels, is_memory in ((engine.MOST_PLAIN_VOXELS, False), (3_000_000, True)):
        most = dataclasses.replace(plan, plain_voxels=voxels)
        padded, tiles = windows.cut((328, 176, 240), plain, most)
        _, lines = windows.describe_tiles(tiles, padded, plain, most)
        assert [("give more memory" in line) for line in lines] == [True] * is_memory


class Counting(torch.nn.Module):
    """Counts the voxels that it is shown."""

    config = SegmenterConfig(channels=(4, 4, 8, 8), norm="batch")
    voxels = 0

    def forward(self, x):
        self.voxels += x[:, 0].numel()
        return x[:, :1]


@pytest.mark.parametrize("kind", ["tiles", "gaussian"])
@pytest.mark.parametrize("most", [10**9, 40_000])
def test_pieces_add_up_to_the_work(kind, most):
    """What a time budget reckons with: piece times count is what logits() computes, halos and overlaps included."""
    shape, network = (70, 41, 50), Counting()
    config = WindowsConfig(windows=kind, patch_zyx=(32, 32, 32))
    plan = dataclasses.replace(engine.choose("cpu"), plain_voxels=most)
    windows.logits(np.zeros(shape, np.float32), np.zeros(shape, np.float32), network, config, plan)
    block, count = windows.pieces(shape, config, network, plan)
    assert math.prod(block) * count == pytest.approx(network.voxels)
    assert windows.expected_seconds(shape, config, network, plan) > 0


@pytest.mark.parametrize(("slab", "plain", "kept"), [(32**3, 10**9, 0), (32**3 - 1, 32**3, 1), (1000, 32**3 - 1, 0)])
def test_memory_is_kept_where_a_pass_is_cut_and_can_afford_it(monkeypatch, slab, plain, kept):
    entered = []

    @contextlib.contextmanager
    def spy():
        entered.append(True)
        yield

    monkeypatch.setattr(windows, "kept_heap", spy)
    network = Segmenter(SegmenterConfig(channels=(4, 4, 8, 8), norm="batch")).eval()
    plan = dataclasses.replace(engine.choose("cpu"), slab_voxels=slab, plain_voxels=plain)
    with torch.inference_mode():
        windows.forward(network, torch.zeros(2, 32, 32, 32), plan)
    assert len(entered) == kept
