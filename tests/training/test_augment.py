"""Augmentation: what is drawn goes alike to image, truth and cue, follows the given generator alone, and leaves no trace."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from training.augment import drawn_from, geometry, intensities, read_shape
from training.recipe import load_recipe

PAPER = load_recipe(Path(__file__).parents[2] / "training/recipes/paper.toml").segmenter.augment
OFF = {f.name: 0.0 for f in dataclasses.fields(PAPER) if f.name.endswith("chance")}
STILL = dataclasses.replace(PAPER, **OFF, gain=0.0, mirror=())
ALWAYS = dataclasses.replace(PAPER, **dict.fromkeys(OFF, 1.0))


def drawn(seed, transform, **data):
    with drawn_from(np.random.default_rng(seed)):
        return transform(**data)


def test_doing_nothing_cuts_the_centre():
    block = torch.arange(2 * 6 * 8, dtype=torch.float32).reshape(2, 6, 8)
    assert torch.equal(drawn(0, geometry(STILL, (4, 4), "zx"), image=block)["image"], block[:, 1:5, 2:6])
    assert torch.equal(drawn(0, intensities(STILL), image=block.clone())["image"], block)


@pytest.mark.parametrize(("axes", "axis"), [("zyx", 3), ("zx", 2), ("zy", None)])
def test_left_and_right_are_mirrored_wherever_that_axis_lies(axes, axis):
    mirror = geometry(dataclasses.replace(STILL, mirror=("x",)), (4, 6, 8)[: len(axes)], axes)
    block = torch.randn(1, *(4, 6, 8)[: len(axes)])
    seen = {bool(torch.equal(drawn(seed, mirror, image=block)["image"], block)) for seed in range(20)}
    assert seen == ({True} if axis is None else {True, False})
    flipped = [drawn(seed, mirror, image=block)["image"] for seed in range(20)]
    assert all(torch.equal(f, block) or torch.equal(f, block.flip(axis)) for f in flipped)


def test_image_truth_and_cue_go_through_one_geometry():
    shape = (12, 12, 12)
    blob = torch.zeros(1, *read_shape(ALWAYS, shape))
    blob[:, 14:19, 16:21, 15:22] = 1.0
    transform = geometry(ALWAYS, shape, "zyx")
    for seed in range(5):
        out = drawn(seed, transform, image=blob.repeat(2, 1, 1, 1), segmentation=blob, regression_target=blob)
        assert torch.equal(out["image"][0], out["regression_target"][0])
        assert torch.equal(out["segmentation"][0] > 0.5, out["image"][0] > 0.5)
        assert 20 < out["segmentation"].sum() < 1000


def test_a_turned_sample_shows_nothing_from_beyond_its_block():
    config = dataclasses.replace(ALWAYS, rotation_deg=30.0, zoom=(0.7, 1.4))
    shape = (20, 16)
    block = torch.ones(1, *read_shape(config, shape))
    transform = geometry(config, shape, "zx")
    assert all(drawn(seed, transform, image=block)["image"].min() > 0.999 for seed in range(30))


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
