"""Augmentation: what is drawn goes alike to image, truth and cue, follows the given generator alone, and leaves no trace."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from training.augment import draw_geometry, drawn_from, intensities
from training.recipe import load_recipe

PAPER = load_recipe(Path(__file__).parents[2] / "training/recipes/paper.toml").segmenter.augment
OFF = {f.name: 0.0 for f in dataclasses.fields(PAPER) if f.name.endswith("chance")}
STILL = dataclasses.replace(PAPER, **OFF, gain=0.0, mirror=())
ALWAYS = dataclasses.replace(PAPER, **dict.fromkeys(OFF, 1.0))


def drawn(seed, transform, **data):
    with drawn_from(np.random.default_rng(seed)):
        return transform(**data)


def turned(seed, config, shape, axes, block_of, **names):
    """The sample of a drawn geometry from the block that it asks for."""
    rng = np.random.default_rng(seed)
    geometry = draw_geometry(rng, config, shape, axes)
    block = block_of(geometry.read)
    with drawn_from(rng):
        return block, geometry.transform(image=block, **{name: block[:1].clone() for name in names})


def test_doing_nothing_reads_and_shows_the_sample_alone():
    block, out = turned(0, STILL, (4, 6), "zx", lambda read: torch.randn(2, *read))
    assert block.shape == (2, 4, 6)
    assert torch.equal(out["image"], block)
    assert torch.equal(drawn(0, intensities(STILL), image=block.clone())["image"], block)


@pytest.mark.parametrize(("axes", "axis"), [("zyx", 3), ("zx", 2), ("zy", None)])
def test_left_and_right_are_mirrored_wherever_that_axis_lies(axes, axis):
    config, shape = dataclasses.replace(STILL, mirror=("x",)), (4, 6, 8)[: len(axes)]
    seen = set()
    for seed in range(20):
        block, out = turned(seed, config, shape, axes, lambda read: torch.randn(1, *read))
        kept = torch.equal(out["image"], block)
        assert kept or torch.equal(out["image"], block.flip(axis))
        seen.add(kept)
    assert seen == ({True} if axis is None else {True, False})


def test_image_truth_and_cue_go_through_one_geometry():
    def ball(read):
        grid = torch.meshgrid(*(torch.arange(n) - n / 2 for n in read), indexing="ij")
        return ((grid[0] + 1) ** 2 + (grid[1] - 1) ** 2 + grid[2] ** 2 < 12)[None].float().repeat(2, 1, 1, 1)

    for seed in range(5):
        _, out = turned(seed, ALWAYS, (12, 12, 12), "zyx", ball, segmentation=1, regression_target=1)
        assert torch.equal(out["image"][:1], out["regression_target"])
        assert torch.equal(out["segmentation"] > 0.5, out["image"][:1] > 0.5)
        assert 10 < out["segmentation"].sum() < 300


@pytest.mark.parametrize(("shape", "axes"), [((20, 16), "zx"), ((16, 10, 13), "zyx")])
def test_a_turned_sample_shows_nothing_from_beyond_its_block_and_reads_no_more_than_it_needs(shape, axes):
    config = dataclasses.replace(ALWAYS, rotation_deg=30.0, zoom=(0.7, 1.4))
    for seed in range(30):
        block, out = turned(seed, config, shape, axes, lambda read: torch.ones(1, *read))
        assert out["image"].min() > 0.999
        smaller = torch.nn.functional.pad(torch.ones(1, *(n - 4 for n in block.shape[1:])), (2, 2) * len(shape))
        _, out = turned(seed, config, shape, axes, lambda read, smaller=smaller: smaller)
        assert out["image"].min() < 0.999


def test_the_same_generator_draws_the_same_and_others_draw_otherwise():
    image = torch.randn(2, 8, 8, 8)
    transform = intensities(ALWAYS)
    first, again, other = (drawn(seed, transform, image=image.clone())["image"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_generators_are_left_as_they_were():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    drawn(1, intensities(ALWAYS), image=torch.ones(2, 8, 8, 8))
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


def test_each_change_of_the_image_changes_it():
    image = torch.rand(2, 8, 8, 8) * 2 - 1
    for name in (n for n in OFF if n not in ("rotation_chance", "zoom_chance")):
        transform = intensities(dataclasses.replace(STILL, **{name: 1.0}))
        assert any(not torch.equal(drawn(seed, transform, image=image.clone())["image"], image) for seed in range(6)), name
