"""Samples from cases: planes for stage 1, patches for stage 2. A batch depends on (seed, step) alone, so that a resumed run is exact."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from l2s.errors import InputError
from l2s.localize import planes
from l2s.segment import windows
from l2s.working import AIR_HU
from training.augment import add_noise, draw, read_margin, warp
from training.cases import Case
from training.recipe import LocalizerRecipe, SegmenterRecipe, Source


@dataclass(frozen=True)
class Batch:
    """image (n, c, ...) scaled input; truth (n, 1, ...) of 0 and 1; cue (n, 1, ...) or None."""

    image: Tensor
    truth: Tensor
    cue: Tensor | None


class Picker:
    """Draws a source by its share, then one of its cases, then what the sample must show."""

    def __init__(self, cases: list[Case], sources: tuple[Source, ...], lesion_share: float, hot_share: float):
        self.pools = [[case for case in cases if case.source == source.name] for source in sources]
        for source, pool in zip(sources, self.pools):
            if not pool and source.share > 0:
                raise InputError(
                    f"source {source.name!r} has a share of {source.share} but no case; prepare it or set its share to 0"
                )
        shares = np.array([source.share for source in sources])
        self.shares = shares / shares.sum()
        self.lesion_share, self.hot_share = lesion_share, hot_share

    def __call__(self, rng: np.random.Generator) -> tuple[Case, tuple[int, int, int] | None]:
        """A case and the (z, y, x) voxel to show: of a lesion, of hot normal tissue, or None for anywhere."""
        pool = self.pools[rng.choice(len(self.pools), p=self.shares)]
        fate = rng.random()
        field = (
            "lesion_voxels" if fate < self.lesion_share else "hot_voxels" if fate < self.lesion_share + self.hot_share else None
        )
        able = [case for case in pool if field and len(getattr(case, field))]
        if not able:
            return pool[rng.integers(len(pool))], None
        case = able[rng.integers(len(able))]
        voxels = getattr(case, field)
        return case, tuple(int(v) for v in voxels[rng.integers(len(voxels))])


def draw_centre(rng: np.random.Generator, length: int, size: int, must_see: int | None) -> int:
    """The centre of a window of `size` on an axis: anywhere inside, or so that it sees one index; short axes are placed at random."""
    low, high = sorted((size // 2, length - size + size // 2))
    if must_see is not None and length > size:
        # the window keeps a fringe of an eighth around what it must see, where the volume allows it
        reach = size // 2 - size // 8
        low, high = (min(max(must_see + way * reach, low), high) for way in (-1, 1))
    return int(rng.integers(low, high + 1))


def read_block(array: np.ndarray, centre, size, fill: float = 0.0) -> np.ndarray:
    """float32 block of `size` about `centre` from the last axes of array; beyond its faces lies fill."""
    lead = array.ndim - len(size)
    starts = [c - s // 2 for c, s in zip(centre, size)]
    out = np.full((*array.shape[:lead], *size), fill, dtype=np.float32)
    source, target = [slice(None)] * lead, [slice(None)] * lead
    for start, length, extent in zip(starts, size, array.shape[lead:]):
        a, b = max(0, start), min(extent, start + length)
        if a >= b:
            return out
        source.append(slice(a, b))
        target.append(slice(a - start, b - start))
    out[tuple(target)] = array[tuple(source)]
    return out


class PlaneSampler:
    """Stage 1's batches: planes with their neighbours, cropped, turned, flipped."""

    def __init__(self, cases: list[Case], recipe: LocalizerRecipe, sources: tuple[Source, ...], seed: int):
        self.recipe, self.seed = recipe, seed
        # left and right lie along the last axis of a coronal or axial plane; a sagittal one has neither
        self.augment = replace(recipe.augment, flip=0.0) if recipe.planes.plane == "sagittal" else recipe.augment
        self.pick = Picker(cases, sources, recipe.lesion_share, recipe.hot_share)
        margin = read_margin(recipe.augment, 2)
        self.read = tuple(int(np.ceil(n * margin)) for n in recipe.crop)

    def one(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        case, voxel = self.pick(rng)
        pet, truth = (planes.stack_planes(a, recipe.planes) for a in (case.pet_suv, case.truth))
        see = [None, None]
        index = int(rng.integers(len(pet)))
        if voxel:
            see = list(voxel)
            index = see.pop(planes.PLANE_AXIS[recipe.planes.plane])
        centre = [draw_centre(rng, n, c, s) for n, c, s in zip(pet.shape[1:], recipe.crop, see)]
        drawn = draw(rng, self.augment, 2)
        block = read_block(planes.take_planes(pet, [index], recipe.network.neighbours)[0], centre, self.read)
        label = read_block(truth[index], centre, self.read)[None]
        image = warp(torch.from_numpy(block) * drawn.gain, drawn, recipe.crop)
        image = torch.from_numpy(planes.scale(image.numpy(), recipe.planes))
        return add_noise(image, drawn), (warp(torch.from_numpy(label), drawn, recipe.crop) > 0.5).float()

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, 1, step])
        samples = [self.one(rng) for _ in range(self.recipe.schedule.batch)]
        return Batch(torch.stack([s[0] for s in samples]), torch.stack([s[1] for s in samples]), None)


class PatchSampler:
    """Stage 2's batches: PET+CT patches, a share of them centred on a lesion voxel, with the cue where it weighs the loss."""

    def __init__(self, cases: list[Case], recipe: SegmenterRecipe, sources: tuple[Source, ...], seed: int):
        self.recipe, self.seed = recipe, seed
        self.pick = Picker(cases, sources, recipe.lesion_share, recipe.hot_share)
        margin = read_margin(recipe.augment, 3)
        self.read = tuple(int(np.ceil(n * margin)) for n in recipe.windows.patch_zyx)

    def one(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        recipe = self.recipe
        patch = recipe.windows.patch_zyx
        case, voxel = self.pick(rng)
        centre = [draw_centre(rng, n, p, s) for n, p, s in zip(case.truth.shape, patch, voxel or (None, None, None))]
        drawn = draw(rng, recipe.augment, 3)
        # PET, CT above air, truth and cue go through one warp, so that outside all of them lies 0: air
        block = np.zeros((4, *self.read), dtype=np.float32)
        block[0] = read_block(case.pet_suv, centre, self.read) * drawn.gain
        block[1] = read_block(case.ct_hu, centre, self.read, AIR_HU) - AIR_HU
        block[2] = read_block(case.truth, centre, self.read)
        if case.cue is not None:
            block[3] = read_block(case.cue, centre, self.read)
        warped = warp(torch.from_numpy(block), drawn, patch)
        image = torch.from_numpy(windows.scale(warped[0].numpy(), warped[1].numpy() + AIR_HU, recipe.windows))
        return add_noise(image, drawn), (warped[2:3] > 0.5).float(), warped[3:4]

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, 2, step])
        samples = [self.one(rng) for _ in range(self.recipe.schedule.batch)]
        image, truth, cue = (torch.stack([s[k] for s in samples]) for k in range(3))
        return Batch(image, truth, cue if self.recipe.cue_weights else None)
