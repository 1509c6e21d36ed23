"""Samples: a batch depends on (seed, step) only, sees what it should, and image, truth and cue stay aligned."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from l2s.errors import InputError
from l2s.localize.planes import scale, stack_planes, take_planes
from training.cases import Case, lesion_table, some_voxels
from training.recipe import Source, load_recipe
from training.sampling import PatchSampler, Picked, Picker, PlaneSampler, draw_centre, lesion_free, make_batch, read_block

RECIPE = load_recipe(Path(__file__).parents[2] / "training/recipes/small.toml")


def make_case(name, source, shape=(40, 36, 44), lesion=True) -> Case:
    rng = np.random.default_rng(len(name))
    pet = rng.uniform(0, 1, shape).astype(np.float32)
    truth = np.zeros(shape, bool)
    if lesion:
        truth[20:26, 10:14, 30:36] = True
        pet[truth] = 10
    pet[30:33, 20:23, 5:8] = 7  # a hot organ
    ct = np.full(shape, 40, np.int16)
    return Case(
        name,
        source,
        name,
        pet,
        ct,
        truth,
        truth.astype(np.float16),
        (some_voxels(truth),) if lesion else (),
        tuple(np.flatnonzero(np.moveaxis(truth, axis, 0).any((1, 2))) for axis in range(3)),
        some_voxels((pet > 2.5) & ~truth),
    )


CASES = [make_case("a", "sts"), make_case("bb", "phantom"), make_case("ccc", "phantom", lesion=False)]
SOURCES = (Source("sts", 0.5), Source("phantom", 0.5))


@pytest.mark.parametrize("kind", ["plane", "patch"])
def test_a_batch_depends_on_seed_and_step_only(kind):
    def sampler(seed):
        if kind == "plane":
            return PlaneSampler(CASES, RECIPE.localizer, SOURCES, seed)
        return PatchSampler(CASES, RECIPE.segmenter, SOURCES, seed)

    one = sampler(1)
    make_batch(one, 0)
    assert (make_batch(one, 5).image == make_batch(sampler(1), 5).image).all()
    assert (make_batch(one, 5).image != make_batch(one, 6).image).any()
    assert (make_batch(one, 5).image != make_batch(sampler(2), 5).image).any()


@pytest.mark.parametrize("kind", ["plane", "patch"])
def test_processes_share_a_batch_without_changing_it(kind):
    recipe = RECIPE.localizer if kind == "plane" else RECIPE.segmenter
    sampler = (PlaneSampler if kind == "plane" else PatchSampler)(CASES, recipe, SOURCES, 1)
    whole, even, odd = make_batch(sampler, 4), make_batch(sampler, 4, 0, 2), make_batch(sampler, 4, 1, 2)
    assert (whole.image[::2] == even.image).all()
    assert (whole.truth[1::2] == odd.truth).all()


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_edge_planes_are_repeated_as_at_inference(plane):
    chances = {f.name: 0.0 for f in dataclasses.fields(RECIPE.localizer.augment) if f.name.endswith("chance")}
    still = dataclasses.replace(RECIPE.localizer.augment, gain=0.0, mirror=(), **chances)
    config = dataclasses.replace(RECIPE.localizer.planes, plane=plane)
    recipe = dataclasses.replace(RECIPE.localizer, planes=config, crop=(36, 36), augment=still, lesion_share=0.0, hot_share=0.0)
    case = make_case("a", "sts", shape=(36, 36, 36), lesion=False)
    sampler = PlaneSampler([case], recipe, (Source("sts", 1.0),), 1)
    planes = stack_planes(scale(case.pet_suv, config), config)
    seen = set()
    for step in range(60):
        image = make_batch(sampler, step).image[0].numpy()
        # the plane shown is the one that equals the middle channel; all five channels must be inference's
        index = int(np.argmin([np.abs(image[2] - p).max() for p in planes]))
        np.testing.assert_array_equal(image, take_planes(torch.from_numpy(planes.copy()), [index], 2)[0])
        seen.add(index)
    assert min(seen) < 2
    assert max(seen) > 33


def test_planes_have_their_shapes_and_their_share_of_lesion():
    recipe = dataclasses.replace(RECIPE.localizer, lesion_share=1.0)
    batch = make_batch(PlaneSampler(CASES, recipe, SOURCES, 1), 3)
    assert batch.image.shape == (8, 5, 96, 96)
    assert batch.truth.shape == (8, 1, 96, 96)
    assert batch.truth.flatten(1).any(1).all()
    assert batch.cue is None


def test_patches_show_the_lesion_bright_under_truth_and_cue():
    sharp = dataclasses.replace(RECIPE.segmenter.augment, blur_chance=0.0, low_resolution_chance=0.0)
    recipe = dataclasses.replace(RECIPE.segmenter, lesion_share=1.0, augment=sharp)
    recipe = dataclasses.replace(recipe, windows=dataclasses.replace(recipe.windows, patch_zyx=(24, 24, 24)))
    sampler = PatchSampler(CASES, recipe, SOURCES, 1)
    for step in range(5):
        batch = make_batch(sampler, step)
        inside = batch.truth > 0.5
        assert inside.flatten(1).any(1).all()
        # the lesion is SUV 10 of 15, its surroundings below 1: nothing but one transform for all keeps this
        assert batch.image[:, :1][inside].mean() > 0.0 > batch.image[:, :1][~inside].mean() + 0.5
        assert batch.cue[inside].mean() > 0.8
        assert batch.cue[~inside].mean() < 0.1


def test_without_cue_weights_there_is_no_cue():
    recipe = dataclasses.replace(RECIPE.segmenter, cue_weights=False)
    assert make_batch(PatchSampler(CASES, recipe, SOURCES, 1), 0).cue is None


def test_shares_are_kept_and_an_empty_source_is_named():
    pick = Picker(CASES, (Source("sts", 0.25), Source("phantom", 0.75)), lesion_share=0.5, hot_share=0.3)
    rng = np.random.default_rng(0)
    drawn = [pick(rng) for _ in range(4000)]
    assert 0.22 < np.mean([p.case.source == "sts" for p in drawn]) < 0.28
    shown = ["anywhere" if p.voxel is None else "lesion" if p.case.truth[p.voxel] else "hot" for p in drawn]
    assert all((s == "lesion") == p.lesion for s, p in zip(shown, drawn))
    assert 0.47 < shown.count("lesion") / 4000 < 0.53
    assert 0.27 < shown.count("hot") / 4000 < 0.33
    assert all(p.case.pet_suv[p.voxel] > 2.5 for p in drawn if p.voxel)
    with pytest.raises(InputError, match="'autopet'"):
        Picker(CASES, (Source("autopet", 1.0),), 0.5, 0.3)


def test_a_small_lesion_is_drawn_as_often_as_a_bulky_one():
    truth = np.zeros((20, 20, 20), bool)
    truth[2:12, 2:12, 2:12] = True
    truth[16, 16, 16] = True
    table = lesion_table(truth)
    lesions = tuple(table[table[:, 3] == k, :3] for k in range(2))
    assert sorted(map(len, lesions)) == [1, 500]
    case = dataclasses.replace(CASES[0], truth=truth, lesion_voxels=lesions)
    pick = Picker([case], (Source("sts", 1.0),), lesion_share=1.0, hot_share=0.0)
    rng = np.random.default_rng(0)
    assert 0.4 < np.mean([pick(rng).voxel == (16, 16, 16) for _ in range(1000)]) < 0.6


def test_planes_that_need_show_no_lesion_show_none():
    recipe = dataclasses.replace(RECIPE.localizer, lesion_share=0.0, hot_share=0.0, crop=(40, 44))
    sampler = PlaneSampler(CASES[:1], recipe, (Source("sts", 1.0),), 1)
    assert not any(make_batch(sampler, step).truth.any() for step in range(10))
    rng = np.random.default_rng(0)
    assert lesion_free(rng, 5, 10, np.array([4, 5, 6, 7])) == 3
    assert lesion_free(rng, 5, 10, np.array([1])) == 5
    assert lesion_free(rng, 1, 3, np.arange(3)) == 1


def test_without_lesions_a_sample_is_cut_anywhere():
    pick = Picker([CASES[2]], (Source("phantom", 1.0),), lesion_share=1.0, hot_share=0.0)
    assert pick(np.random.default_rng(0)) == Picked(CASES[2], None, False)


def test_some_voxels_are_spread_over_the_mask():
    mask = np.ones((20, 20, 20), bool)
    some = some_voxels(mask, most=100)
    assert len(some) == 100
    assert some[0].tolist() == [0, 0, 0]
    assert some[-1][0] >= 19
    assert len(some_voxels(~mask)) == 0


@pytest.mark.parametrize(("length", "size"), [(100, 32), (32, 32), (20, 32), (33, 32)])
def test_centres_keep_windows_inside_and_see_what_they_must(length, size):
    rng = np.random.default_rng(0)
    for see in (None, 0, length // 2, length - 1):
        for _ in range(50):
            start = draw_centre(rng, length, size, see) - size // 2
            if length >= size:
                assert 0 <= start <= length - size
            else:
                assert length - size <= start <= 0
            if see is not None:
                assert start <= see < start + size


@pytest.mark.parametrize("see", [None, 0, 99])
def test_centres_may_lie_beyond_the_faces(see):
    rng = np.random.default_rng(0)
    starts = [draw_centre(rng, 100, 32, see, beyond=10) - 16 for _ in range(400)]
    assert (min(starts), max(starts)) == {None: (-10, 78), 0: (-10, 0 - 4), 99: (99 - 28, 78)}[see]
    assert {draw_centre(rng, 20, 32, see and 19, 10) - 16 for _ in range(400)} == set(range(-12, 1))  # it is seen whole


def as_it_is(recipe, **changes):
    """The recipe without a change of geometry or intensity."""
    chances = {f.name: 0.0 for f in dataclasses.fields(recipe.augment) if f.name.endswith("_chance")}
    augment = dataclasses.replace(recipe.augment, gain=0.0, mirror=(), **(chances | changes))
    return dataclasses.replace(recipe, augment=augment)


def full_case(shape) -> Case:
    """SUV 1 and water everywhere, a lesion of SUV 9 near the last row."""
    case = make_case("full", "sts", shape)
    truth = np.zeros(shape, bool)
    truth[-6:-2, 20:24, 20:24] = True
    planes_zyx = tuple(np.flatnonzero(np.moveaxis(truth, axis, 0).any((1, 2))) for axis in range(3))
    pet = np.where(truth, np.float32(9), np.float32(1))
    return dataclasses.replace(
        case,
        pet_suv=pet,
        ct_hu=np.zeros(shape, np.int16),
        truth=truth,
        cue=truth.astype(np.float16),
        lesion_voxels=(some_voxels(truth),),
        lesion_planes=planes_zyx,
        hot_voxels=some_voxels(~truth),
    )


def test_planes_show_as_much_air_past_a_head_as_inference_pads():
    """Else air above a brain is what crops of tumours alone show."""
    recipe = dataclasses.replace(as_it_is(RECIPE.localizer), crop=(64, 64), lesion_share=1.0, hot_share=0.0)
    sampler = PlaneSampler([full_case((130, 40, 100))], recipe, (Source("sts", 1.0),), 3)
    air = [int((sampler.one(0, k)[0][2] == -1).all(1).sum()) for k in range(200)]
    assert air.count(0) > 60
    assert max(air) == 31
    assert sum(n > 0 for n in air) > 60
    assert all(bool(sampler.one(0, k)[1].any()) for k in range(200))


@pytest.mark.parametrize(("kind", "most"), [("tiles", 7), ("gaussian", 0)])
def test_patches_show_as_much_air_as_is_padded(kind, most):
    recipe = dataclasses.replace(as_it_is(RECIPE.segmenter), lesion_share=1.0, hot_share=0.0)
    recipe = dataclasses.replace(recipe, windows=dataclasses.replace(recipe.windows, windows=kind, patch_zyx=(24, 24, 24)))
    sampler = PatchSampler([full_case((60, 40, 40))], recipe, (Source("sts", 1.0),), 3)
    air = [int((sampler.one(0, k)[0] == -1).all(0).flatten(1).all(1).sum()) for k in range(100)]
    assert air.count(0) > 30
    assert max(air) == most


def test_blocks_beyond_the_faces_are_filled():
    array = np.arange(27).reshape(3, 3, 3)
    block = read_block(array, (0, 1, 2), (3, 3, 3), fill=-5)
    assert block.shape == (3, 3, 3)
    assert (block[0] == -5).all()
    assert (block[:, :, 2] == -5).all()
    assert block[1, 1, 1] == array[0, 1, 2]
    assert (read_block(array, (90, 0, 0), (3, 3, 3), fill=-5) == -5).all()
