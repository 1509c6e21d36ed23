"""The store of training.cases against plain .npy memory maps: bytes, and the time of an open, a patch and a coronal plane.

    python benchmarks/store.py --cases RUN/cases --most 4
    python benchmarks/store.py --phantoms 1 --shape 326 400 400 --spacing-mm 3.0 2.036 2.036

Both are written to one temporary folder and read right after, so both come from the page cache. At 1014 studies the .npy files no longer
fit into it (7 bytes a voxel), and the store's do on a training machine: there the ratio of times turns in the store's favour.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from l2s.phantom.sample import make_case
from l2s.study import Grid, Study
from training.cases import open_case, read_index, read_whole, store_case

FIELDS = ("pet_suv", "ct_hu", "truth")
PAPER_VOXELS, PAPER_STUDIES = 243 * 289 * 238, 1014  # autoPET at 3 x 2.036 x 2.036 mm inside the body box


def studies(args: argparse.Namespace) -> Iterator[tuple[Study, np.ndarray]]:
    """Studies on the working grid with their truth, from cases (also of the old .npy layout) or made."""
    grid = Grid(tuple(args.shape), tuple(args.spacing_mm), (0.0, 0.0, 0.0))
    for k in range(args.phantoms):
        sample = make_case(args.seed + k, grid)
        yield sample.study, sample.truth
    for row in read_index(args.cases)[: args.most] if args.cases else []:
        place, spacing = args.cases / row["name"], row["made_from"]["spacing_mm_zyx"]
        old = (place / "pet_suv.npy").is_file()
        case = None if old else read_whole(open_case(args.cases, row))
        pet, ct, truth = (np.load(place / f"{f}.npy") if old else getattr(case, f) for f in FIELDS)
        yield Study(pet, ct.astype(np.float32), Grid(pet.shape, tuple(spacing), (0.0, 0.0, 0.0))), truth


def milliseconds(read: Callable[[], object], times: int) -> float:
    """Median of so many calls."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        read()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken)) * 1e3


def regions(rng: np.random.Generator, shape) -> dict[str, Callable[[], tuple[slice, ...]]]:
    """What samplers read: kind -> a function that draws one."""

    def drawn(size):
        size = [min(n, s) for n, s in zip(shape, size)]
        start = [int(rng.integers(0, n - s + 1)) for n, s in zip(shape, size)]
        return tuple(slice(a, a + s) for a, s in zip(start, size))

    return {
        "patch 48^3": lambda: drawn((48, 48, 48)),
        "patch 192x128x160": lambda: drawn((192, 128, 160)),
        "5 coronal planes": lambda: drawn((shape[0], 5, shape[2])),
    }


def read_all(arrays: dict, draw: Callable[[], tuple[slice, ...]]) -> list[np.ndarray]:
    """The drawn region of every array, copied: a memory map alone would read nothing."""
    region = draw()
    return [np.array(array[region]) for array in arrays.values()]


def compare(folder: Path, study: Study, truth: np.ndarray, reads: int) -> dict[str, tuple[float, float]]:
    """{measure: (npy, store)} of one study."""
    start = time.perf_counter()
    row = store_case(folder, "case", "x", "x", {}, study, truth, study.grid.spacing_mm_zyx)
    print(f"  box {row['shape_zyx']}, stored in {time.perf_counter() - start:.1f} s")
    store = open_case(folder, row)
    whole = read_whole(store)
    for field in FIELDS:
        np.save(folder / f"{field}.npy", getattr(whole, field))

    def open_npy():
        return {field: np.load(folder / f"{field}.npy", mmap_mode="r") for field in FIELDS}

    npy, voxels = open_npy(), whole.truth.size
    out = {}
    for field in FIELDS:
        files = (folder / f"{field}.npy", getattr(store, field).path)
        out[f"{field}, bytes a voxel"] = tuple(file.stat().st_size / voxels for file in files)
    out["open, ms"] = milliseconds(open_npy, reads), milliseconds(lambda: open_case(folder, row), reads)
    rng = np.random.default_rng(0)
    stored = {field: getattr(store, field) for field in FIELDS}
    for kind, draw in regions(rng, whole.truth.shape).items():
        out[f"{kind}, ms"] = tuple(milliseconds(partial(read_all, arrays, draw), reads) for arrays in (npy, stored))
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--cases", type=Path, help="a folder that prepare wrote")
    p.add_argument("--most", type=int, default=4, help="cases of it to read")
    p.add_argument("--phantoms", type=int, default=0, help="phantoms to make instead")
    p.add_argument("--shape", type=int, nargs=3, default=[272, 112, 144], metavar=("Z", "Y", "X"))
    p.add_argument("--spacing-mm", type=float, nargs=3, default=[4.0, 4.0, 4.0], metavar=("Z", "Y", "X"))
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--reads", type=int, default=10, help="reads of each kind")
    args = p.parse_args()
    results = []
    for study, truth in studies(args):
        with tempfile.TemporaryDirectory() as folder:
            results.append(compare(Path(folder), study, truth, args.reads))
    if not results:
        p.error("name --cases or --phantoms")
    print(f"{len(results)} cases, medians of {args.reads} reads, mean over cases\n{'':28}{'.npy':>9}{'store':>9}{'ratio':>8}")
    mean = {key: np.mean([r[key] for r in results], axis=0) for key in results[0]}
    for key, (npy, store) in mean.items():
        print(f"{key:28}{npy:9.3f}{store:9.3f}{store / npy:8.2f}")
    npy, store = (sum(mean[f"{f}, bytes a voxel"][k] for f in FIELDS) * PAPER_VOXELS * PAPER_STUDIES / 1e9 for k in (0, 1))
    print(f"{PAPER_STUDIES} studies of {PAPER_VOXELS} voxels: {npy:.0f} GB as .npy, {store:.0f} GB in the store")


if __name__ == "__main__":
    main()
