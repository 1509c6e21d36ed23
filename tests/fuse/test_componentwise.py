"""The fast rule against a twin that goes component by component and voxel by voxel, straight from method.md section 5."""

import collections
import itertools

import numpy as np
import pytest

from l2s.fuse import componentwise

NEIGHBOURS = [d for d in itertools.product((-1, 0, 1), repeat=3) if 1 <= sum(map(abs, d)) <= 2]
BRANCHES = {
    "1 both too small", "1 sure enough", "1 low enough",
    "2 too few sure", "2 no cue", "2 trimmed", "2 whole", "2 tie",
    "3 area 35", "3 area by rank", "3 area zero",
    "3 shares", "3 weak token", "3 too small", "3 nothing", "3 large token", "3 tie",
}  # fmt: skip


def flood(mask: np.ndarray) -> list[list[tuple[int, int, int]]]:
    """The 18-connected components of a mask as lists of voxels."""
    open_voxels = set(map(tuple, np.argwhere(mask).tolist()))
    components = []
    for seed in sorted(open_voxels):
        if seed not in open_voxels:
            continue
        open_voxels.remove(seed)
        component = [seed]
        for z, y, x in component:
            for dz, dy, dx in NEIGHBOURS:
                near = (z + dz, y + dy, x + dx)
                if near in open_voxels:
                    open_voxels.remove(near)
                    component.append(near)
        components.append(component)
    return components


def twin(probability: np.ndarray, cue: np.ndarray, seen: collections.Counter) -> np.ndarray:
    p = {at: probability[at] for at in np.ndindex(probability.shape)}
    is_high = {at for at in p if p[at] > np.float32(0.9)}
    is_cue = {at for at in p if cue[at] > np.float32(0.5)}
    high = flood(probability > np.float32(0.9))
    low = flood(probability > np.float32(0.5))
    cues = flood(cue > np.float32(0.5))
    result = set()

    def keep_maximum(component, branch):
        top = max(p[at] for at in component)
        ties = [at for at in component if p[at] == top]
        seen[branch] += len(ties) > 1
        result.update(ties)

    def picture() -> np.ndarray:
        out = np.zeros(probability.shape, bool)
        for at in result:
            out[at] = True
        return out

    largest_high, largest_low = max(map(len, high), default=0), max(map(len, low), default=0)
    if largest_high < 50 and largest_low < 150:
        seen["1 both too small"] += 1
        return picture()
    seen["1 sure enough" if largest_high >= 50 else "1 low enough"] += 1
    for component in low:
        sure = [at for at in component if at in is_high]
        if len(sure) < 20:
            seen["2 too few sure"] += 1
            keep_maximum(component, "2 tie")
        elif not any(at in is_cue for at in component):
            seen["2 no cue"] += 1
            keep_maximum(component, "2 tie")
        elif len(component) / len(sure) > 2.25:
            seen["2 trimmed"] += 1
            result.update(sure)
        else:
            seen["2 whole"] += 1
            result.update(component)
    area, branch = 35, "3 area 35"
    if len(cues) + 1 >= len(low) + 4:
        area = sorted([0] + [len(c) for c in cues], reverse=True)[len(low) + 4 - 1]
        branch = "3 area by rank" if area else "3 area zero"
    seen[branch] += 1
    for component in cues:
        top = max(p[at] for at in component)
        if any(at in result for at in component):
            seen["3 shares"] += 1
        elif top > np.float32(0.1):
            seen["3 weak token"] += 1
            keep_maximum(component, "3 tie")
        elif len(component) <= area:
            seen["3 too small"] += 1
        elif top < np.float32(1e-5):
            seen["3 nothing"] += 1
        else:
            seen["3 large token"] += 1
            keep_maximum(component, "3 tie")
    return picture()


def random_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of few levels (so that maxima tie), some of them at the thresholds themselves, on a floor of almost nothing."""
    shape = tuple(int(n) for n in rng.integers(9, 15, 3))
    probability = np.full(shape, 1e-6, np.float32)
    cue = np.zeros(shape, np.float32)
    levels = [1e-7, 1e-5, 2e-5, 0.05, 0.1, 0.3, 0.5, 0.6, 0.8, 0.9, 0.95, 1.0]

    def paint(array, values, largest):
        size = rng.integers(1, largest + 1, 3)
        start = [int(rng.integers(0, n)) for n in shape]
        array[tuple(slice(a, a + int(s)) for a, s in zip(start, size))] = rng.choice(values)

    for _ in range(rng.integers(0, 10)):
        paint(probability, levels, 7)
    if rng.random() < 0.6:  # a lesion with a sure core, so that most volumes pass step 1
        paint(probability, [0.6, 0.8], 9)
        at = tuple(slice(int(a), int(a) + 4) for a in rng.integers(0, 7, 3))
        probability[at] = rng.choice([0.95, 0.99])
        cue[tuple(slice(s.start, s.start + 2) for s in at)] = rng.choice([0.4, 0.9])
    for _ in range(rng.integers(0, 9)):
        paint(cue, [0.3, 0.5, 0.8, 0.9], 5)
    if rng.random() < 0.5:
        probability += (rng.random(shape) * 1e-3).astype(np.float32)
    return np.minimum(probability, np.float32(1)), cue


def test_equals_the_literal_twin_on_random_volumes_that_reach_every_branch():
    rng = np.random.default_rng(20230905)
    seen = collections.Counter()
    for number in range(400):
        probability, cue = random_case(rng)
        assert np.array_equal(componentwise.fuse(probability, cue), twin(probability, cue, seen)), f"volume {number}"
    assert set(+seen) == BRANCHES, f"not reached: {BRANCHES - set(+seen)}"
    assert min(seen[b] for b in BRANCHES) >= 3, seen


def volume(*parts: tuple[tuple[slice, ...], float], shape=(12, 12, 60)) -> np.ndarray:
    out = np.zeros(shape, np.float32)
    for at, value in parts:
        out[at] = value
    return out


def bar(start: int, voxels: int) -> tuple[slice, ...]:
    """voxels of one z plane, 10 a column, from column start on."""
    columns, rest = divmod(voxels, 10)
    assert rest == 0
    return (slice(0, 1), slice(0, 10), slice(start, start + columns))


@pytest.mark.parametrize(
    ("high", "low", "empty"), [(40, 140, True), (50, 60, False), (40, 150, False), (0, 140, True), (0, 150, False)]
)
def test_step_1_needs_50_sure_or_150_candidate_voxels(high, low, empty):
    probability = volume((bar(0, low), 0.6), (bar(0, high), 0.95))
    assert componentwise.fuse(probability, np.ones_like(probability)).any() != empty


@pytest.mark.parametrize(("sure", "expected"), [(80, 180), (70, 70)])
def test_step_2_trims_above_two_and_a_quarter(sure, expected):
    # 180 / 80 is 2.25 exactly and stays whole; 180 / 70 is trimmed to its sure voxels
    probability = volume((bar(0, 180), 0.6), (bar(0, sure), 0.95))
    assert componentwise.fuse(probability, np.ones_like(probability)).sum() == expected


@pytest.mark.parametrize(("sure", "expected"), [(20, 60 + 40), (10, 60 + 10)])
def test_step_2_needs_20_sure_voxels(sure, expected):
    # a lesion of 60 passes step 1; beside it a candidate of 40 under a cue: whole, or its 10 voxels of the maximum
    probability = volume((bar(0, 60), 0.95), (bar(20, 40), 0.6), (bar(20, sure), 0.95))
    assert componentwise.fuse(probability, np.ones_like(probability)).sum() == expected


def test_step_2_one_sure_voxel_too_few_makes_a_token():
    probability = volume((bar(0, 60), 0.95), (bar(20, 40), 0.6), (bar(20, 20), 0.95))
    probability[0, 0, 20] = 0.9  # 19 sure voxels are left, all of them the maximum
    assert componentwise.fuse(probability, np.ones_like(probability)).sum() == 60 + 19


def test_step_2_token_keeps_every_tie_and_no_near_miss():
    top = np.float32(0.95)
    probability = volume((bar(0, 60), 0.95))
    probability[0, 0, 0] = np.nextafter(top, np.float32(0))
    mask = componentwise.fuse(probability, np.zeros_like(probability))
    assert mask.sum() == 59
    assert not mask[0, 0, 0]


def lesion_and_cue(cue_voxels: int, peak: float, cues: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A whole lesion of 60 voxels under one cue, and `cues` further cue bars with one voxel of probability `peak` each."""
    probability, cue = volume((bar(0, 60), 0.95)), volume((bar(0, 60), 0.9))
    for k in range(cues):
        start = 10 + 8 * k
        cue[bar(start, cue_voxels)] = 0.9
        probability[0, 5, start] = peak
    return probability, cue


@pytest.mark.parametrize(
    ("cue_voxels", "peak", "added"),
    [
        (10, 0.11, 1),  # a small cue with a maximum above 0.1
        (10, 0.1, 0),  # the comparison is strict, and 10 voxels are too small
        (30, 0.05, 0),
        (40, 0.05, 1),  # above 35 voxels a maximum of 1e-5 is enough
        (40, 1e-5, 1),
        (40, 9e-6, 0),
    ],
)
def test_step_3_unmatched_cue(cue_voxels, peak, added):
    assert componentwise.fuse(*lesion_and_cue(cue_voxels, peak)).sum() == 60 + added


def test_step_3_size_limit_follows_the_cues_where_they_outnumber_the_candidates():
    # 1 candidate: rank 5. Cues of 60 and 4 x 30 with the extra 0 are 6 entries, the fifth largest is 30: 30 <= 30 stays out.
    assert componentwise.fuse(*lesion_and_cue(30, 0.05, cues=4)).sum() == 60
    # Cues of 60 and 3 x 30 with the extra 0 are 5 entries, the fifth largest is 0: all three get their token.
    assert componentwise.fuse(*lesion_and_cue(30, 0.05, cues=3)).sum() == 63
    # two further cues: 4 entries, no rank 5, the limit is 35
    assert componentwise.fuse(*lesion_and_cue(30, 0.05, cues=2)).sum() == 60


def test_voxel_size_warning():
    assert componentwise.voxel_size_warning(2.036425 * 2.036425 * 3 / 1000) is None
    assert componentwise.voxel_size_warning(0.0124) is None
    assert "0.0640 ml" in componentwise.voxel_size_warning(0.064)
    assert componentwise.voxel_size_warning(0.011) is not None
