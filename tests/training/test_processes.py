"""Whole commands as processes: a kill -9 in the middle of an epoch, and two processes against one."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from training import make_cues, prepare, train_localizer
from training.losses import bce_dice
from training.processes import Process, shared, summed

ROOT = Path(__file__).parents[2]
PHANTOMS = '[{ name = "phantom", share = 1.0 }]'
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def command(module: str, recipe: Path, run: Path, processes: int = 1) -> list[str]:
    """The command line that trains on the CPU, under torchrun where there are several processes."""
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    return [
        sys.executable,
        *many,
        "-m",
        f"training.{module}",
        "--recipe",
        str(recipe),
        "--run-folder",
        str(run),
        "--device",
        "cpu",
        "--workers",
        "0",
    ]


def finish(line: list[str]) -> None:
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def weights_of(run: Path, stage: str) -> dict:
    return torch.load(run / f"all/{stage}/last.pt", weights_only=True)["averaged"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, tiny_recipe):
    """A function: text of a recipe -> (recipe file, a run with cases and cues of its own)."""
    root = tmp_path_factory.mktemp("processes")
    (root / "first.toml").write_text(tiny_recipe(sources=PHANTOMS))
    common = ["--recipe", str(root / "first.toml"), "--run-folder", str(root / "run")]
    prepare.main([*common, "--workers", "1"])
    train_localizer.main([*common, "--device", "cpu", "--workers", "0"])
    make_cues.main([*common, "--device", "cpu"])

    def make(text: str, name: str) -> tuple[Path, Path]:
        recipe, run = root / f"{name}.toml", root / name
        recipe.write_text(text)
        (run / "all").mkdir(parents=True)
        (run / "cases").symlink_to(root / "run/cases")
        (run / "all/cues").symlink_to(root / "run/all/cues")
        return recipe, run

    return make


def test_a_killed_training_ends_with_the_weights_of_an_unbroken_one(prepared, tiny_recipe):
    text = tiny_recipe(sources=PHANTOMS, epochs=4, steps=25)
    recipe, whole = prepared(text, "whole")
    finish(command("train_segmenter", recipe, whole))
    recipe, cut = prepared(text, "cut")
    log = cut / "all/segmenter/log.jsonl"
    training = subprocess.Popen(command("train_segmenter", recipe, cut), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 120
    while not log.is_file() and training.poll() is None and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(0.05)  # into the second epoch
    training.send_signal(signal.SIGKILL)
    assert training.wait() == -signal.SIGKILL
    assert json.loads(log.read_text().splitlines()[-1])["step"] < 100
    finish(command("train_segmenter", recipe, cut))
    first, second = weights_of(whole, "segmenter"), weights_of(cut, "segmenter")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stage, dice", [("segmenter", "sample"), ("segmenter", "batch"), ("localizer", "sample")])
def test_two_processes_equal_one_with_the_whole_batch(prepared, tiny_recipe, stage, dice):
    # layer norm sees a voxel, frozen batch norms see nothing: what is left is one gradient cut in two
    text = tiny_recipe(sources=PHANTOMS, norm="layer", epochs=2, steps=3, freeze=True, dice=dice)
    # AdamW would divide a gradient of rounding noise by itself
    text = text.replace('optimizer = "adamw"', 'optimizer = "sgd"').replace("learning_rate = 1e-3", "learning_rate = 5e-2")
    recipe, one = prepared(text, f"one_{stage}_{dice}")
    finish(command(f"train_{stage}", recipe, one))
    recipe, two = prepared(text, f"two_{stage}_{dice}")
    finish(command(f"train_{stage}", recipe, two, processes=2))
    first, second = weights_of(one, stage), weights_of(two, stage)
    moved = max(float((first[name] - start).abs().max()) for name, start in initial(stage, recipe).items())
    assert moved > 1e-3
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)


def test_the_recipes_dice_reaches_both_stages(prepared, tiny_recipe):
    for stage in ("localizer", "segmenter"):
        ends = []
        for dice in ("sample", "batch"):
            recipe, run = prepared(tiny_recipe(sources=PHANTOMS, epochs=1, dice=dice), f"dice_{stage}_{dice}")
            finish(command(f"train_{stage}", recipe, run))
            ends.append(weights_of(run, stage))
        assert max(float((ends[0][name].float() - ends[1][name].float()).abs().max()) for name in ends[0]) > 1e-5


def small_network() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 1))


def pooled_step(images: torch.Tensor, truth: torch.Tensor, process: Process) -> tuple[float, list[torch.Tensor]]:
    """(loss, gradients) of one backward pass with the Dice of the whole batch."""
    bare = small_network()
    network = shared(bare, process, "cpu")
    loss = bce_dice(network(images), truth, pool=partial(summed, process=process))
    loss.backward()
    return loss.item(), [p.grad for p in bare.parameters()]


def one_of_two(rank: int, folder: str) -> None:
    """A process of the test below: rank 0 sees the lesion, rank 1 none."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    images, truth = torch.load(f"{folder}/batch.pt")
    torch.save(pooled_step(images[rank : rank + 1], truth[rank : rank + 1], Process(rank, 2)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_dice_of_a_batch_cut_in_two_is_that_of_the_whole(tmp_path):
    images = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    truth = torch.zeros(2, 1, 12, 12)
    truth[0, 0, 3:8, 3:8] = 1.0
    torch.save((images, truth), tmp_path / "batch.pt")
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    loss, gradients = pooled_step(images, truth, Process())
    (first, ours), (second, theirs) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert (first + second) / 2 == pytest.approx(loss, abs=1e-6)
    for whole, one, other in zip(gradients, ours, theirs):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(one, whole, rtol=1e-5, atol=1e-6)
    apart = bce_dice(small_network()(images), truth)
    assert abs(apart.item() - loss) > 0.01  # so that a Dice of each sample would not pass


def initial(stage: str, recipe: Path) -> dict:
    """The network's weights before the first step, under the names of the average."""
    from l2s.localize.network import Localizer
    from l2s.segment.network import Segmenter
    from training.recipe import load_recipe
    from training.start import start_at_random

    loaded = load_recipe(recipe)
    torch.manual_seed(loaded.seed)
    network = Localizer(loaded.localizer.network) if stage == "localizer" else Segmenter(loaded.segmenter.network)
    start_at_random(network, loaded.head_bias)
    return {f"module.{name}": tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}


SETTLED = """
import sys, torch
from training.loop import settle_norms
from training.processes import joined
with joined("cpu") as (process, _):
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    images = [torch.arange(48.0).reshape(1, 3, 4, 4) * (1 + process.rank + k) for k in range(4)]
    settle_norms(network, images, process)
    torch.save(network.state_dict(), f"{sys.argv[1]}/{process.rank}.pt")
"""


def test_settled_norms_are_the_same_for_all_processes(tmp_path):
    (tmp_path / "settled.py").write_text(SETTLED)
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finish([sys.executable, *many, str(tmp_path / "settled.py"), str(tmp_path)])
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    # rank 0 sees 1 to 4 times the picture and rank 1 2 to 5 times: 3 times on the mean
    torch.testing.assert_close(first["0.running_mean"], 3 * torch.arange(48.0).reshape(3, 16).mean(1))
    assert all(torch.equal(first[name], second[name]) for name in first)
