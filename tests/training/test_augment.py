"""Warping: parameters, then one transform for all channels; known turns and flips."""

import dataclasses

import numpy as np
import torch

from training.augment import add_noise, draw, read_margin, warp
from training.recipe import Augmentation

STILL = Augmentation(rotation_deg=0.0, zoom=0.0, flip=0.0, intensity=0.0, noise=0.0)


def identity(dimensions):
    return draw(np.random.default_rng(0), STILL, dimensions)


def test_doing_nothing_cuts_the_centre():
    block = torch.arange(2 * 6 * 8, dtype=torch.float32).reshape(2, 6, 8)
    assert torch.allclose(warp(block, identity(2), (4, 4)), block[:, 1:5, 2:6])
    volume = torch.randn(1, 6, 8, 10)
    assert torch.allclose(warp(volume, identity(3), (4, 6, 4)), volume[:, 1:5, 1:7, 3:7], atol=1e-5)


def test_a_flip_mirrors_left_and_right_only():
    drawn = draw(np.random.default_rng(0), dataclasses.replace(STILL, flip=1.0), 3)
    volume = torch.randn(2, 4, 6, 8)
    assert torch.allclose(warp(volume, drawn, (4, 6, 8)), volume.flip(-1), atol=1e-5)


def test_a_quarter_turn_in_plane():
    drawn = dataclasses.replace(identity(2), matrix=np.array([[0.0, -1.0], [1.0, 0.0]]))
    block = torch.randn(1, 5, 5)
    turned = warp(block, drawn, (5, 5))
    # output offset (1, 0) reads input offset (0, 1): the column right of the centre
    assert torch.allclose(turned[0, 3, 2], block[0, 2, 3], atol=1e-5)
    assert torch.allclose(turned[0, 2, 3], block[0, 1, 2], atol=1e-5)


def test_zooming_in_reads_less():
    drawn = dataclasses.replace(identity(2), matrix=np.eye(2) / 2)
    block = torch.zeros(1, 9, 9)
    block[0, 3:6, 3:6] = 1
    assert warp(block, drawn, (5, 5)).min() > 0.9


def test_outside_the_block_lies_zero():
    drawn = dataclasses.replace(identity(2), matrix=np.eye(2) * 4)
    assert warp(torch.ones(1, 4, 4), drawn, (4, 4))[0, 0, 0] == 0


def test_draws_stay_within_the_recipe_and_repeat_with_the_seed():
    config = Augmentation(rotation_deg=15.0, zoom=0.15, flip=0.5, intensity=0.2, noise=0.1)
    drawn = [draw(np.random.default_rng(k), config, 3) for k in range(200)]
    scales = np.array([abs(np.linalg.det(d.matrix)) ** (1 / 3) for d in drawn])
    assert 1 / 1.15 - 1e-9 <= scales.min() < 0.93 < 1.1 < scales.max() <= 1 / 0.85 + 1e-9
    assert 0.3 < np.mean([np.linalg.det(d.matrix) < 0 for d in drawn]) < 0.7
    assert all(0.8 <= d.gain <= 1.2 and 0 <= d.noise <= 0.1 for d in drawn)
    again = draw(np.random.default_rng(7), config, 3)
    assert (again.matrix == drawn[7].matrix).all()
    assert again.noise_seed == drawn[7].noise_seed


def test_the_margin_covers_a_turned_and_shrunk_sample():
    config = Augmentation(rotation_deg=15.0, zoom=0.15, flip=0.5, intensity=0.0, noise=0.0)
    for dimensions in (2, 3):
        size = 40
        read = int(np.ceil(size * read_margin(config, dimensions)))
        for k in range(100):
            drawn = draw(np.random.default_rng(k), config, dimensions)
            out = warp(torch.ones(1, *[read] * dimensions), drawn, (size,) * dimensions)
            inner = out[(0, *[slice(1, -1)] * dimensions)]
            assert (inner > 0.99).float().mean() > 0.995


def test_noise_has_its_seed_and_strength():
    drawn = dataclasses.replace(identity(2), noise=0.5, noise_seed=3)
    zero = torch.zeros(1, 100, 100)
    assert torch.equal(add_noise(zero, drawn), add_noise(zero, drawn))
    assert abs(add_noise(zero, drawn).std().item() - 0.5) < 0.02
    assert add_noise(zero, identity(2)) is zero
