"""Cases on disk at the working spacing: written by prepare in compressed blocks, of which samplers read what a sample touches.

cases/cases.json                              the index: a row a case
cases/NAME/{pet_suv,ct_hu,truth}.b2nd         the arrays
cases/NAME/{lesion,hot}_voxels.npy, row.json  what else opening a case needs
fold_K/cues/NAME.b2nd                         the cue, by make_cues
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import blosc2
import numpy as np
from scipy import ndimage

from l2s.errors import InputError, first_line
from l2s.measure.metrics import dice, fnv_ml, fpv_ml
from l2s.study import Study
from l2s.wholefile import whole_file
from l2s.working import resample, to_working

INDEX = "cases.json"
FORMAT = 3  # 1 was a plain .npy an array, 2 drew lesions by their volume
HOT_SUV = 2.5  # the usual threshold for 'more than background'
# A block is what is unpacked at once, a chunk what has one entry in the file. Blocks are flat along y, so that a coronal plane
# with its neighbours unpacks one or two layers of them, and small enough that a patch of 48^3 unpacks no more than its surroundings.
CHUNK_ZYX = (64, 64, 64)
BLOCK_ZYX = (32, 8, 32)
# PET as float16. Measured on a 238x228x216 phantom: 1.31 bytes a voxel, a relative error of 0.0005 and 21 ms for a 192x128x160 patch;
# float32 rounded to 9 bits of mantissa: 1.35 bytes, 0.001, 34 ms; to 10 bits: 1.47; whole float32: 2.7. SUV end at 1000, float16 at 65504.
PET_STORED = np.float16
CUE_STEPS = 255  # a cue weighs the loss: steps of 0.004 are finer than it is true


@dataclass(frozen=True)
class Stored:
    """An array on disk that reads what is sliced: stored[a:b, c:d, e:f] is a numpy array of `dtype`.

    Each read opens the file and closes it again, which costs 0.13 ms against 2 to 30 ms of unpacking. So a thousand cases hold
    no file handles (blosc2 keeps one an array, the usual limit is 1024), and threads and forks share no decompressor.

    Attributes:
        path: a .b2nd file.
        shape: (z, y, x).
        dtype: of what is read; the file may hold a narrower one.
        step: what one unit of the file is worth.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    step: float = 1.0

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        # one thread: samplers run in threads themselves
        part = blosc2.open(str(self.path), mode="r", dparams={"nthreads": 1})[key]
        part = part.astype(self.dtype, copy=False)
        return part * self.dtype.type(self.step) if self.step != 1.0 else part

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """The whole array, for np.asarray."""
        return np.asarray(self[...], dtype=dtype)


@dataclass(frozen=True)
class Case:
    """One case, all arrays (z, y, x) of one body box; from open_case they are Stored, from read_whole numpy arrays.

    Attributes:
        name, source, patient: who it is.
        pet_suv: float32.
        ct_hu: int16.
        truth: bool.
        cue: float32 in 0..1, None before make_cues.
        lesion_voxels: a (n, 3) array of indices for each lesion (18-connected), at most 512 evenly chosen voxels each.
        lesion_planes: for each axis the indices of the planes that show lesion.
        hot_voxels: (n, 3) indices of at most 4096 evenly chosen voxels above HOT_SUV that are no lesion: what a network must
            learn to leave alone.
    """

    name: str
    source: str
    patient: str
    pet_suv: Stored | np.ndarray
    ct_hu: Stored | np.ndarray
    truth: Stored | np.ndarray
    cue: Stored | np.ndarray | None
    lesion_voxels: tuple[np.ndarray, ...]
    lesion_planes: tuple[np.ndarray, ...]
    hot_voxels: np.ndarray


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes array (z, y, x) as a new .b2nd file; raises OSError where it cannot be written."""
    chunks = tuple(min(n, c) for n, c in zip(array.shape, CHUNK_ZYX))
    try:
        blosc2.asarray(
            np.ascontiguousarray(array),
            chunks=chunks,
            blocks=tuple(min(c, b) for c, b in zip(chunks, BLOCK_ZYX)),
            urlpath=str(path),
            mode="w",
            # three quarters of LZ4's size; LZ4 unpacks three times as fast, but either is fast beside a training step
            cparams={"codec": blosc2.Codec.ZSTD, "clevel": 3, "nthreads": 1},
        )
    except RuntimeError as error:  # blosc2 says no more than that a chunk could not be appended
        reason = f"writing failed ({first_line(error)}), as it does on a full disk; free some, what is finished is kept"
        raise OSError(errno.EIO, reason, str(path.parent)) from error


def save_cue(folder: Path, name: str, cue: np.ndarray) -> None:
    """Writes the cue (z, y, x), 0..1, of a case into a folder of cues."""
    with whole_file(cue_path(folder, name)) as partial:
        partial.unlink(missing_ok=True)  # blosc2 would refuse to write over what a killed run left
        save_array(partial, np.rint(np.clip(cue, 0.0, 1.0) * CUE_STEPS).astype(np.uint8))


def cue_path(folder: Path, name: str) -> Path:
    """Where save_cue puts the cue of a case."""
    return Path(folder) / f"{name}.b2nd"


def store_case(
    folder: Path,
    name: str,
    source: str,
    patient: str,
    made_from: dict,
    study: Study,
    truth: np.ndarray,
    spacing_mm_zyx,
    warnings: list[str] | None = None,
) -> dict:
    """The study and its truth, brought to the working grid by inference's own operators and written under folder/name.

    Args:
        made_from: JSON-able: all that decides the arrays; a stored case that was made from something else is made anew.
        warnings: what reading had to say, for the row.

    Returns:
        The case's row of the index; pet_sha256 is equal for the same PET in two files, however they are named or compressed.
    """
    working = to_working(study, spacing_mm_zyx)
    inside = tuple(slice(a, b) for a, b in zip(working.start_zyx, working.stop_zyx))
    small_truth = resample(truth.astype(np.float32), study.grid, working.full)[inside] > 0.5
    warnings = list(warnings or [])
    if truth.any() and not small_truth.any():
        warnings.append(
            f"the truth's {int(truth.sum())} voxels are all lost at the working spacing: the case trains as lesion-free"
        )
    pet = working.pet_suv.astype(PET_STORED)
    final, partial = folder / name, folder / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_array(partial / "pet_suv.b2nd", pet)
    save_array(partial / "ct_hu.b2nd", np.rint(np.clip(working.ct_hu, -1024, 3071)).astype(np.int16))
    save_array(partial / "truth.b2nd", small_truth)
    np.save(partial / "lesion_voxels.npy", lesion_table(small_truth))
    np.save(partial / "hot_voxels.npy", some_voxels((pet > HOT_SUV) & ~small_truth))
    row = {
        "name": name,
        "source": source,
        "patient": patient,
        "format": FORMAT,
        "made_from": made_from,
        "shape_zyx": list(working.grid.shape_zyx),
        "lesion_ml": round(float(truth.sum()) * study.grid.voxel_volume_ml, 2),
        "lesion_planes_zyx": [np.flatnonzero(small_truth.any(axis=others)).tolist() for others in ((1, 2), (0, 2), (0, 1))],
        "pet_sha256": hashlib.sha256(np.ascontiguousarray(study.pet_suv)).hexdigest()[:16],
        "bytes": _payload_bytes(partial),
        "warnings": warnings,
    }
    (partial / "row.json").write_text(json.dumps(row))
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)
    return row


def _payload_bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in place.iterdir() if path.name != "row.json")


def stored_row(folder: Path, name: str, made_from: dict) -> dict | None:
    """The row of a case that is already complete, in today's format and made from the same, else None."""
    path = folder / name / "row.json"
    row = json.loads(path.read_text()) if path.is_file() else {}
    same = row.get("format") == FORMAT and row.get("made_from") == made_from
    # a copy that was cut short has fewer bytes
    return row if same and row["bytes"] == _payload_bytes(path.parent) else None


def read_index(folder: Path) -> list[dict]:
    """The rows that prepare wrote.

    Raises:
        InputError: there are none.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise InputError(f"no {INDEX} in {folder}: run python -m training.prepare first")
    return json.loads(path.read_text())["cases"]


def open_case(folder: Path, row: dict, cues: Path | None = None) -> Case:
    """The case of an index row; cues names the folder that make_cues wrote. No volume is read.

    Raises:
        InputError: the case or its cue is not there, or an older prepare wrote it.
    """
    place, shape = Path(folder) / row["name"], tuple(row["shape_zyx"])
    if row.get("format") != FORMAT:
        raise InputError(
            f"case {row['name']} is in format {row.get('format', 1)}, not {FORMAT}: run python -m training.prepare again"
        )
    if cues and not cue_path(cues, row["name"]).is_file():
        raise InputError(f"no cue of {row['name']} in {cues}: run python -m training.make_cues first")
    try:
        table, hot = (np.load(place / f"{kind}_voxels.npy") for kind in ("lesion", "hot"))
    except FileNotFoundError as error:
        raise InputError(f"case {row['name']} is incomplete ({error.filename}): run python -m training.prepare again") from None
    return Case(
        name=row["name"],
        source=row["source"],
        patient=row["patient"],
        pet_suv=Stored(place / "pet_suv.b2nd", shape, np.dtype(np.float32)),
        ct_hu=Stored(place / "ct_hu.b2nd", shape, np.dtype(np.int16)),
        truth=Stored(place / "truth.b2nd", shape, np.dtype(bool)),
        cue=Stored(cue_path(cues, row["name"]), shape, np.dtype(np.float32), 1.0 / CUE_STEPS) if cues else None,
        lesion_voxels=tuple(table[table[:, 3] == k, :3] for k in range(int(table[-1, 3]) + 1 if len(table) else 0)),
        lesion_planes=tuple(np.array(planes, dtype=int) for planes in row["lesion_planes_zyx"]),
        hot_voxels=hot,
    )


def read_whole(case: Case) -> Case:
    """The case with all its arrays in memory."""
    arrays = {field: np.asarray(getattr(case, field)) for field in ("pet_suv", "ct_hu", "truth")}
    return replace(case, **arrays, cue=None if case.cue is None else np.asarray(case.cue))


def held_out_figures(
    cases: list[Case], logits_of: Callable[[Case], np.ndarray], voxel_volume_ml: float
) -> list[tuple[str, float]]:
    """(name, value) of each whole case's Dice, FPV and FNV for logits above 0, at the working spacing; NaN where undefined.

    A name ends in the case's source, as 'held_out_fpv_ml_phantom': a mean over crops and whole bodies would hide both.
    logits_of is given each case with its arrays in memory, one at a time.
    """
    figures = []
    for whole in map(read_whole, cases):
        prediction = logits_of(whole) > 0
        figures += [
            (f"held_out_dice_{whole.source}", dice(whole.truth, prediction)),
            (f"held_out_fpv_ml_{whole.source}", fpv_ml(whole.truth, prediction, voxel_volume_ml)),
            (f"held_out_fnv_ml_{whole.source}", fnv_ml(whole.truth, prediction, voxel_volume_ml)),
        ]
    return figures


def lesion_table(truth: np.ndarray) -> np.ndarray:
    """(n, 4) int32: z, y, x and the lesion's number from 0, of at most 512 evenly chosen voxels of each lesion of a bool mask."""
    labels, count = ndimage.label(truth, ndimage.generate_binary_structure(3, 2))
    tables = [np.empty((0, 4), dtype=np.int32)]
    for k, box in enumerate(ndimage.find_objects(labels, count)):
        voxels = some_voxels(labels[box] == k + 1, 512) + np.array([side.start for side in box], dtype=np.int32)
        tables.append(np.column_stack([voxels, np.full(len(voxels), k, dtype=np.int32)]))
    return np.concatenate(tables)


def some_voxels(mask: np.ndarray, most: int = 4096) -> np.ndarray:
    """(n, 3) int32 indices of at most `most` voxels of the mask, evenly chosen."""
    voxels = np.argwhere(mask)
    return voxels[:: max(1, -(-len(voxels) // most))].astype(np.int32)
