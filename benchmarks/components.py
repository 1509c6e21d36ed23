"""Component loops, one full-volume mask a component, against the tables of l2s: componentwise fusion, FPV and FNV.

    python -m benchmarks.components [--quick] [--lesions 1 10 100 1000] [--repeats 1] [--loop-most 100]

The loops are written here from the method's description, the way post-processing and challenge scripts usually go: label once, then
build each component's own mask of the whole volume and ask it. The answers must be equal, or the script fails. Above --loop-most
lesions each loop ends after its first components, and what it took beyond labelling is scaled up to all of them; such rows carry a ~ and
check nothing.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage
from scipy.special import expit

from benchmarks.made import AUTOPET_SHAPE_ZYX, answers, lesion_mask
from benchmarks.timing import in_turn, machine, ratio, table
from l2s.fuse import componentwise
from l2s.measure.metrics import fnv_ml, fpv_ml

VOXEL_ML = 3.0 * 2.036 * 2.036 / 1000
STRUCTURE = ndimage.generate_binary_structure(3, 2)  # faces and edges
ALL = 2**31


def masks_of(mask: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Each component's own mask of the whole volume, of the first `most` components."""
    labels, count = ndimage.label(mask, STRUCTURE)
    for k in range(1, min(count, most) + 1):
        yield labels == k


def volume_alone_loop(mask: np.ndarray, other: np.ndarray, most: int) -> float:
    """ml of the components of mask that share no voxel with other: FPV, and FNV with the masks exchanged."""
    return sum((int(one.sum()) for one in masks_of(mask, most) if not (one & other).any()), 0) * VOXEL_ML


def fuse_loop(probability: np.ndarray, cue: np.ndarray, most: int) -> np.ndarray:
    """The componentwise rule, one component after the other; the numbers are componentwise.Rule's."""
    rule = componentwise.Rule()
    high, low, seen = (p > np.float32(v) for p, v in ((probability, rule.high), (probability, rule.low), (cue, rule.cue)))
    result = np.zeros(probability.shape, dtype=bool)
    sizes = [max((int(one.sum()) for one in masks_of(mask, most)), default=0) for mask in (high, low)]
    if sizes[0] < rule.least_high_voxels and sizes[1] < rule.least_low_voxels:
        return result
    candidates = 0
    for one in masks_of(low, most):
        candidates += 1
        sure = int((one & high).sum())
        if sure < rule.sure_voxels or not (one & seen).any():
            result |= one & (probability == probability[one].max())
        elif one.sum() / sure > rule.spread:
            result |= one & high
        else:
            result |= one
    cue_sizes = np.array([int(one.sum()) for one in masks_of(seen, most)], dtype=int)
    limit = componentwise.size_limit(cue_sizes, candidates, rule)
    for one in masks_of(seen, most):
        peak = probability[one].max()
        is_large = one.sum() > limit and peak >= np.float32(rule.nothing)
        if not (one & result).any() and (peak > np.float32(rule.weak) or is_large):
            result |= one & (probability == peak)
    return result


def scaled_seconds(loop: Callable[[int], object], masks: tuple[np.ndarray, ...], most: int) -> float:
    """Seconds of a loop over all components, from the first `most` of each mask: a component costs the volume whatever its own size.

    masks: those that the loop labels; labelling costs the same however many components follow.
    """
    started = time.perf_counter()
    counts = [ndimage.label(mask, STRUCTURE)[1] for mask in masks]
    labelled = time.perf_counter()
    loop(most)
    labelling = labelled - started
    looping = max(0.0, time.perf_counter() - labelled - labelling)
    return labelling + looping * sum(counts) / sum(min(count, most) for count in counts)


def compare(shape, count: int, repeats: int, most: int) -> list[list[str]]:
    """Rows of one number of lesions."""
    truth = lesion_mask(shape, count, seed=1)
    probability, cue = (expit(logits) for logits in answers(truth, seed=1))
    # the prediction misses some lesions and has some of its own
    prediction = (truth & np.roll(probability > 0.7, 1, axis=0)) | lesion_mask(shape, count, seed=2)
    ours = {
        "FPV and FNV": lambda: (fpv_ml(truth, prediction, VOXEL_ML), fnv_ml(truth, prediction, VOXEL_ML)),
        "componentwise fusion": lambda: componentwise.fuse(probability, cue),
    }
    loops = {
        "FPV and FNV": lambda n: (volume_alone_loop(prediction, truth, n), volume_alone_loop(truth, prediction, n)),
        "componentwise fusion": lambda n: fuse_loop(probability, cue, n),
    }
    # fusion goes five times over components, FPV and FNV twice
    labelled = {"FPV and FNV": (prediction, truth), "componentwise fusion": (truth,) * 5}
    rows = []
    for what, call in ours.items():
        if count <= most:
            seconds, answer = in_turn({"loop": lambda loop=loops[what]: loop(ALL), "table": call}, repeats)
            same = np.array_equal(*answer.values()) if what.startswith("comp") else np.allclose(*answer.values(), rtol=1e-12)
            assert same, f"{what}, {count} lesions: the answers differ: {answer}"
            slow, times, mark = min(seconds["loop"]), ratio(seconds["loop"], seconds["table"]), "equal"
        else:
            seconds, _ = in_turn({"table": call}, repeats)
            slow = scaled_seconds(loops[what], labelled[what], most)
            times, mark = slow / min(seconds["table"]), "~"
        assert math.isfinite(times)
        rows.append([what, str(count), f"{slow:.3f}", f"{min(seconds['table']):.3f}", f"{times:.1f}", mark])
    return rows


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--quick", action="store_true", help="a small volume: shows that it runs, not how fast")
    p.add_argument("--lesions", type=int, nargs="+", default=[1, 10, 100, 1000])
    p.add_argument("--repeats", type=int, default=1)
    p.add_argument("--loop-most", type=int, default=100, help="beyond so many lesions the loop's time is scaled up from as many")
    args = p.parse_args()
    shape = (60, 80, 80) if args.quick else AUTOPET_SHAPE_ZYX
    print(f"{machine(args.repeats)}; {' x '.join(map(str, shape))} voxels (z, y, x)\n", flush=True)
    rows = [row for count in args.lesions for row in compare(shape, count, args.repeats, args.loop_most)]
    print(table(["what", "lesions", "loop, s", "ours, s", "loop / ours", "answers"], rows))


if __name__ == "__main__":
    main()
