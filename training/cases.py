"""Cases on disk at the working spacing: written by prepare, mapped into memory by the samplers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2s.errors import InputError
from l2s.measure.metrics import dice
from l2s.study import Study
from l2s.working import resample, to_working

INDEX = "cases.json"
HOT_SUV = 2.5  # the usual threshold for 'more than background'


@dataclass(frozen=True)
class Case:
    """One case, its arrays mapped from disk, all (z, y, x) of one body box.

    Attributes:
        name, source, patient: who it is.
        pet_suv: float32.
        ct_hu: int16.
        truth: bool.
        cue: float16 in 0..1, None before make_cues.
        lesion_voxels: (n, 3) indices of (at most 4096 evenly chosen) lesion voxels.
        hot_voxels: the same of voxels above HOT_SUV that are no lesion: what a network must learn to leave alone.
    """

    name: str
    source: str
    patient: str
    pet_suv: np.ndarray
    ct_hu: np.ndarray
    truth: np.ndarray
    cue: np.ndarray | None
    lesion_voxels: np.ndarray
    hot_voxels: np.ndarray


def store_case(folder: Path, name: str, source: str, made_from: dict, study: Study, truth: np.ndarray, spacing_mm_zyx) -> dict:
    """The study and its truth, brought to the working grid by inference's own operators and written under folder/name.

    Args:
        made_from: JSON-able: all that decides the arrays; a stored case that was made from something else is made anew.

    Returns:
        The case's row of the index.
    """
    working = to_working(study, spacing_mm_zyx)
    inside = tuple(slice(a, b) for a, b in zip(working.start_zyx, working.stop_zyx))
    small_truth = resample(truth.astype(np.float32), study.grid, working.full)[inside] > 0.5
    final, partial = folder / name, folder / f".{name}.partial"
    partial.mkdir(parents=True, exist_ok=True)
    np.save(partial / "pet_suv.npy", working.pet_suv)
    np.save(partial / "ct_hu.npy", np.rint(np.clip(working.ct_hu, -1024, 3071)).astype(np.int16))
    np.save(partial / "truth.npy", small_truth)
    row = {
        "name": name,
        "source": source,
        "patient": name,
        "made_from": made_from,
        "shape_zyx": list(working.grid.shape_zyx),
        "lesion_ml": round(float(truth.sum()) * study.grid.voxel_volume_ml, 2),
    }
    (partial / "row.json").write_text(json.dumps(row))
    shutil.rmtree(final, ignore_errors=True)
    partial.replace(final)
    return row


def stored_row(folder: Path, name: str, made_from: dict) -> dict | None:
    """The row of a case that is already complete and made from the same, else None."""
    path = folder / name / "row.json"
    row = json.loads(path.read_text()) if path.is_file() else {}
    return row if row.get("made_from") == made_from else None


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
    """The case of an index row; cues names the folder that make_cues wrote."""
    place = Path(folder) / row["name"]
    truth = np.load(place / "truth.npy", mmap_mode="r")
    pet_suv = np.load(place / "pet_suv.npy", mmap_mode="r")
    return Case(
        name=row["name"],
        source=row["source"],
        patient=row["patient"],
        pet_suv=pet_suv,
        ct_hu=np.load(place / "ct_hu.npy", mmap_mode="r"),
        truth=truth,
        cue=np.load(cues / f"{row['name']}.npy", mmap_mode="r") if cues else None,
        lesion_voxels=some_voxels(truth),
        hot_voxels=some_voxels((pet_suv > HOT_SUV) & ~truth),
    )


def held_out_dice(cases: list[Case], logits_of: Callable[[Case], np.ndarray]) -> dict[str, float]:
    """Mean Dice of logits above 0 over whole cases at the working spacing, as a row for the log; empty without cases."""
    scores = [dice(np.asarray(case.truth), logits_of(case) > 0) for case in cases]
    return {"held_out_dice": round(float(np.nanmean(scores)), 4)} if scores else {}


def some_voxels(mask: np.ndarray, most: int = 4096) -> np.ndarray:
    """(n, 3) indices of at most `most` voxels of the mask, evenly chosen."""
    voxels = np.argwhere(mask)
    return voxels[:: max(1, -(-len(voxels) // most))]
