"""Samples from cases: planes for stage 1, patches for stage 2. A batch depends on (seed, step) alone, so that a resumed run is exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2s.errors import InputError
from l2s.localize import planes
from l2s.localize.network import STRIDE
from l2s.segment import windows
from l2s.working import AIR_HU
from training.augment import draw_geometry, drawn_from, intensities
from training.cases import Case
from training.recipe import LocalizerRecipe, SegmenterRecipe, Source

NOWHERE = (None, None, None)


@dataclass(frozen=True)
class Batch:
    """image (n, c, ...) scaled input; truth (n, 1, ...) of 0 and 1; cue (n, 1, ...) or None."""

    image: Tensor
    truth: Tensor
    cue: Tensor | None


@dataclass(frozen=True)
class Picked:
    """A case and what its sample must show.

    Attributes:
        case: the case.
        voxel: (z, y, x) of a lesion or of hot normal tissue, None for anywhere.
        lesion: whether the voxel is a lesion's.
    """

    case: Case
    voxel: tuple[int, int, int] | None
    lesion: bool


class Picker:
    """Draws a source by its share, then what the sample must show, then a case that can show it.

    Among lesions a lesion is drawn first and a voxel of it second: by volume, a bulky tumour would hide ten small ones.
    """

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

    def __call__(self, rng: np.random.Generator) -> Picked:
        pool = self.pools[rng.choice(len(self.pools), p=self.shares)]
        fate = rng.random()
        if fate < self.lesion_share and (able := [case for case in pool if case.lesion_voxels]):
            case = able[rng.integers(len(able))]
            voxels = case.lesion_voxels[rng.integers(len(case.lesion_voxels))]
            return Picked(case, tuple(int(v) for v in voxels[rng.integers(len(voxels))]), True)
        hot = self.lesion_share <= fate < self.lesion_share + self.hot_share
        if hot and (able := [case for case in pool if len(case.hot_voxels)]):
            case = able[rng.integers(len(able))]
            return Picked(case, tuple(int(v) for v in case.hot_voxels[rng.integers(len(case.hot_voxels))]), False)
        return Picked(pool[rng.integers(len(pool))], None, False)


def draw_centre(rng: np.random.Generator, length: int, size: int, must_see: int | None, beyond: int = 0) -> int:
    """The centre of a window of `size` on an axis: anywhere inside, or so that it sees one index; short axes are placed at random.

    A window of a longer axis may lie up to `beyond` past a face.
    """
    low, high = sorted((size // 2, length - size + size // 2))
    if length > size:
        low, high = low - beyond, high + beyond
    if must_see is not None and length > size:
        # the window keeps a fringe of an eighth around what it must see, where the volume allows it
        reach = size // 2 - size // 8
        low, high = (min(max(must_see + way * reach, low), high) for way in (-1, 1))
    return int(rng.integers(low, high + 1))


def read_block(array: np.ndarray, centre, size, fill: float = 0.0) -> np.ndarray:
    """float32 block of `size` about `centre` of array; beyond its faces lies fill."""
    out = np.full(size, fill, dtype=np.float32)
    source, target = [], []
    for c, length, extent in zip(centre, size, array.shape):
        start = c - length // 2
        a, b = max(0, start), min(extent, start + length)
        if a >= b:
            return out
        source.append(slice(a, b))
        target.append(slice(a - start, b - start))
    out[tuple(target)] = array[tuple(source)]
    return out


def draw_beyond(rng: np.random.Generator, stride: int) -> int:
    """How far a sample may lie past the faces of its case on an axis: not at all, or by the most that inference pads with air.

    Where no sample does, air above a head is what only a patient's crop shows, and the padded brain is taken for a tumour
    (training/README.md, Choices).
    """
    return stride - 1 if rng.random() < 0.5 else 0


def sample_rng(seed: int, stage: int, step: int, sample: int) -> np.random.Generator:
    """The generator of one sample: whichever process makes it, and however many share a batch, it is the same sample."""
    return np.random.default_rng([seed, stage, step, sample])


def lesion_free(rng: np.random.Generator, index: int, length: int, lesion_planes: np.ndarray) -> int:
    """The plane itself where it shows no lesion, else the nearest that shows none; itself again where all do."""
    free = np.setdiff1d(np.arange(length), lesion_planes)
    if not len(free) or index in free:
        return index
    away = np.abs(free - index)
    return int(rng.choice(free[away == away.min()]))


class PlaneSampler:
    """Stage 1's batches: planes with their neighbours, cropped, turned, mirrored."""

    def __init__(self, cases: list[Case], recipe: LocalizerRecipe, sources: tuple[Source, ...], seed: int):
        self.recipe, self.seed = recipe, seed
        self.pick = Picker(cases, sources, recipe.lesion_share, recipe.hot_share)
        self.axis = planes.PLANE_AXIS[recipe.planes.plane]
        axes = "zyx"[: self.axis] + "zyx"[self.axis + 1 :]
        self.axes, self.intensities = axes, intensities(recipe.augment)
        self.crop = list(recipe.crop)
        self.crop.insert(self.axis, 1)

    def one(self, step: int, sample: int) -> tuple[Tensor, Tensor]:
        """(channels, rows, columns) scaled planes and (1, rows, columns) truth."""
        recipe, axis, n = self.recipe, self.axis, self.recipe.network.neighbours
        rng = sample_rng(self.seed, 1, step, sample)
        picked = self.pick(rng)
        case, shape = picked.case, picked.case.truth.shape
        beyond = [0 if k == axis else draw_beyond(rng, STRIDE) for k in range(3)]  # all planes are the case's own
        centre = [draw_centre(rng, *of_axis) for of_axis in zip(shape, self.crop, picked.voxel or NOWHERE, beyond)]
        if not picked.lesion:
            centre[axis] = lesion_free(rng, centre[axis], shape[axis], case.lesion_planes[axis])
        gain = rng.uniform(1 - recipe.augment.gain, 1 + recipe.augment.gain)
        turn = draw_geometry(rng, recipe.augment, recipe.crop, self.axes)
        read = [*turn.read[:axis], 2 * n + 1, *turn.read[axis:]]
        block = read_block(case.pet_suv, centre, read)
        # beyond the first and the last plane the edge plane is repeated, as at inference
        wanted = np.clip(np.arange(-n, n + 1) + centre[axis], 0, shape[axis] - 1) - (centre[axis] - n)
        block = np.moveaxis(block.take(wanted, axis), axis, 0)
        truth = read_block(case.truth, centre, [1 if k == axis else length for k, length in enumerate(read)])
        truth = np.moveaxis(truth, axis, 0)
        with drawn_from(rng):
            warped = turn.transform(
                image=torch.from_numpy(np.ascontiguousarray(block) * np.float32(gain)),
                segmentation=torch.from_numpy(np.ascontiguousarray(truth)),
            )
            image = torch.from_numpy(planes.scale(warped["image"].numpy(), recipe.planes))
            return self.intensities(image=image)["image"], warped["segmentation"]


class PatchSampler:
    """Stage 2's batches: PET+CT patches with their truth, and the cue where it weighs the loss."""

    def __init__(self, cases: list[Case], recipe: SegmenterRecipe, sources: tuple[Source, ...], seed: int):
        self.recipe, self.seed = recipe, seed
        self.pick = Picker(cases, sources, recipe.lesion_share, recipe.hot_share)
        self.intensities = intensities(recipe.augment)

    def one(self, step: int, sample: int) -> tuple[Tensor, ...]:
        """(2, z, y, x) scaled PET and CT, (1, z, y, x) truth, and the same of the cue where the loss is weighed."""
        recipe = self.recipe
        rng = sample_rng(self.seed, 2, step, sample)
        picked = self.pick(rng)
        case, patch = picked.case, tuple(recipe.windows.patch_zyx)
        # windows are laid inside a volume, tiles cover it padded to the stride
        stride = recipe.network.stride if recipe.windows.windows == "tiles" else 1
        beyond = [draw_beyond(rng, stride) for _ in range(3)]
        centre = [draw_centre(rng, *of_axis) for of_axis in zip(case.truth.shape, patch, picked.voxel or NOWHERE, beyond)]
        gain = rng.uniform(1 - recipe.augment.gain, 1 + recipe.augment.gain)
        turn = draw_geometry(rng, recipe.augment, patch, "zyx")
        # CT counts from air here, so that beyond the block's faces 0 is air in both images
        images = np.stack(
            [
                read_block(case.pet_suv, centre, turn.read) * np.float32(gain),
                read_block(case.ct_hu, centre, turn.read, AIR_HU) - AIR_HU,
            ]
        ).astype(np.float32)
        cue = read_block(case.cue, centre, turn.read)[None] if recipe.cue_weights else None
        with drawn_from(rng):
            warped = turn.transform(
                image=torch.from_numpy(images),
                segmentation=torch.from_numpy(read_block(case.truth, centre, turn.read)[None]),
                regression_target=None if cue is None else torch.from_numpy(cue),
            )
            pet, ct = warped["image"].numpy()
            image = self.intensities(image=torch.from_numpy(windows.scale(pet, ct + AIR_HU, recipe.windows)))["image"]
        return (image, warped["segmentation"]) + (() if cue is None else (warped["regression_target"],))


def make_batch(sampler: PlaneSampler | PatchSampler, step: int, rank: int = 0, world: int = 1) -> Batch:
    """This process's part of the step's batch: every world-th sample from rank on, so that all processes together make the same batch."""
    samples = [sampler.one(step, k) for k in range(rank, sampler.recipe.schedule.batch, world)]
    columns = [torch.stack(column) for column in zip(*samples)]
    return Batch(columns[0], columns[1], columns[2] if len(columns) > 2 else None)
