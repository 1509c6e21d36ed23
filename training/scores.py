"""What an evaluation keeps of a case: every method's scores and lesions as JSON, every method's mask as packed bits.

Both are written once a case, so that a stopped evaluation goes on where it was and the figure needs no second run.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from l2s.components import Components, label
from l2s.measure.metrics import CaseScores, Overlap, evaluate_masks, found_pairs
from l2s.measure.table import defined
from l2s.report.mip import mip
from l2s.study import Grid, Study
from l2s.wholefile import whole_file, write_text

CENTRE_RADIUS_MM = 10.0  # evalutils counts a hit within it: about the radius of a 4 ml lesion
TRUTH = "truth"
FORMAT = 1  # of a case's JSON; files of another one are made anew


@dataclass(frozen=True)
class Lesion:
    """One component, of the truth or of a prediction, as the other mask sees it.

    Attributes:
        volume_ml: its volume.
        found: some component of the other mask overlaps it with an IoU of 0.1 or more (autoPET V).
        touched: it shares a voxel with the other mask at all (the rule of FPV and FNV).
    """

    volume_ml: float
    found: bool
    touched: bool


@dataclass(frozen=True)
class Row:
    """One method on one case.

    Attributes:
        data: name of the data set.
        fold: label of the weights that scored the case.
        patient: whose case it is; resampling draws patients.
        method: row of the table.
        scores: autoPET's metrics; scores.case is the case's name.
        lesions: the truth's components.
        predicted: the prediction's components; those not found are scores.false_lesions.
        centre_hits: evalutils' (true positives, false negatives, false positives), see centre_hits().
    """

    data: str
    fold: str
    patient: str
    method: str
    scores: CaseScores
    lesions: tuple[Lesion, ...]
    predicted: tuple[Lesion, ...]
    centre_hits: tuple[int, int, int]


@dataclass(frozen=True)
class Masks:
    """The masks of one case and the picture that they lie on.

    Attributes:
        masks: bool (z, y, x) by name: 'truth', then the methods.
        front_suv: float32 (rows, x), the PET's maximum along y, head up.
        spacing_mm_zyx: of the PET grid.
    """

    masks: dict[str, np.ndarray]
    front_suv: np.ndarray
    spacing_mm_zyx: tuple[float, float, float]


def score(truth: np.ndarray, known: Components, mask: np.ndarray, grid: Grid, case: str) -> dict:
    """One method's fields of a Row.

    Args:
        truth, mask: bool (z, y, x) on one grid.
        known: the truth's components, labelled once a case.
        grid: theirs.
        case: its name.

    Returns:
        {'scores': CaseScores, 'lesions': ..., 'predicted': ..., 'centre_hits': ...}.
    """
    voxel_ml, spacing = grid.voxel_volume_ml, grid.spacing_mm_zyx
    seen = label(mask)
    shared = shared_voxels(known, seen)
    hits = found_pairs(shared)
    return {
        "scores": evaluate_masks(truth, mask, voxel_ml, case),
        "lesions": as_lesions(known, hits[:, 0], shared.pairs[:, 0], voxel_ml),
        "predicted": as_lesions(seen, hits[:, 1], shared.pairs[:, 1], voxel_ml),
        "centre_hits": centre_hits(centres_mm(known, mask.shape, spacing), centres_mm(seen, mask.shape, spacing)),
    }


def shared_voxels(truth: Components, prediction: Components) -> Overlap:
    """metrics.overlap from labels that are already there."""
    _, at_true, at_seen = np.intersect1d(truth.voxels, prediction.voxels, assume_unique=True, return_indices=True)
    codes = truth.owner[at_true] * max(prediction.count, 1) + prediction.owner[at_seen]
    codes, voxels = np.unique(codes, return_counts=True)
    pairs = np.stack([codes // max(prediction.count, 1), codes % max(prediction.count, 1), voxels], axis=1)
    return Overlap(truth.sizes, prediction.sizes, pairs)


def as_lesions(components: Components, found: np.ndarray, touched: np.ndarray, voxel_ml: float) -> tuple[Lesion, ...]:
    """The components as Lesions; found and touched hold component numbers, repeats allowed."""
    found, touched = set(found.tolist()), set(touched.tolist())
    return tuple(Lesion(float(n * voxel_ml), k in found, k in touched) for k, n in enumerate(components.sizes))


def centres_mm(components: Components, shape_zyx: tuple[int, ...], spacing_mm_zyx: tuple[float, ...]) -> np.ndarray:
    """float (count, 3): centre of mass of each component in mm from the array's first voxel, (z, y, x)."""
    where = np.unravel_index(components.voxels, shape_zyx)
    sums = [np.bincount(components.owner, weights=index, minlength=components.count) for index in where]
    return np.stack(sums, axis=1) / np.maximum(components.sizes, 1)[:, None] * spacing_mm_zyx


def centre_hits(truth_mm: np.ndarray, prediction_mm: np.ndarray) -> tuple[int, int, int]:
    """evalutils.scorers.score_detection on lesion centres: (true positives, false negatives, false positives).

    It counts points, not voxels: a true lesion is a hit when a predicted component's centre of mass lies within CENTRE_RADIUS_MM of
    its own, whatever their sizes and overlap; each prediction serves one lesion, the nearest free one, in the truth's order. So it
    is stricter than overlap for a large lesion found in pieces or merged with a neighbour, and milder for a small one that is
    marked beside its place. A second prediction near a lesion that is already hit counts as false, as evalutils codes it.
    """
    from evalutils.scorers import score_detection

    answer = score_detection(ground_truth=truth_mm.tolist(), predictions=prediction_mm.tolist(), radius=CENTRE_RADIUS_MM)
    return int(answer.true_positives), int(answer.false_negatives), int(answer.false_positives)


def save_rows(path: Path, made_from: dict, maker: str, rows: list[Row]) -> None:
    """Writes the rows of one case with what they were made from and by (code, device); NaN is null."""
    methods = {}
    for row in rows:
        lesions, predicted = ([[v.volume_ml, v.found, v.touched] for v in part] for part in (row.lesions, row.predicted))
        methods[row.method] = {
            "scores": defined(asdict(row.scores), None),
            "lesions": lesions,
            "predicted": predicted,
            "centre_hits": row.centre_hits,
        }
    first = rows[0]
    head = {
        "format": FORMAT,
        "made_from": made_from,
        "maker": maker,
        "data": first.data,
        "fold": first.fold,
        "patient": first.patient,
    }
    write_text(path, json.dumps({**head, "methods": methods}, allow_nan=False) + "\n")


def load_rows(path: Path, made_from: dict) -> tuple[str, list[Row]] | None:
    """(maker, rows) of a case that was scored before; None where there is no such file or it was made from something else."""
    if not path.is_file():
        return None
    kept = json.loads(path.read_text())
    # through JSON: a tuple of now is a list of then
    if kept.get("format") != FORMAT or kept["made_from"] != json.loads(json.dumps(made_from)):
        return None
    rows = [
        Row(
            kept["data"],
            kept["fold"],
            kept["patient"],
            method,
            CaseScores(**{f.name: math.nan if (v := part["scores"][f.name]) is None else v for f in fields(CaseScores)}),
            tuple(Lesion(*lesion) for lesion in part["lesions"]),
            tuple(Lesion(*lesion) for lesion in part["predicted"]),
            tuple(part["centre_hits"]),
        )
        for method, part in kept["methods"].items()
    ]
    return kept["maker"], rows


def save_masks(path: Path, study: Study, masks: dict[str, np.ndarray]) -> None:
    """Writes bool masks (z, y, x), 8 voxels a byte and deflated, and the PET's projection; complete or not at all."""
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            names=np.array(list(masks)),
            bits=np.stack([np.packbits(mask) for mask in masks.values()]),
            shape_zyx=np.array(study.grid.shape_zyx),
            spacing_mm_zyx=np.array(study.grid.spacing_mm_zyx),
            front_suv=mip(study.pet_suv, 1).astype(np.float32),
        )


def load_masks(path: Path) -> Masks:
    """What save_masks wrote."""
    with np.load(path) as kept:
        shape = tuple(int(n) for n in kept["shape_zyx"])
        count = int(np.prod(shape))
        masks = {
            str(name): np.unpackbits(bits, count=count).astype(bool).reshape(shape)
            for name, bits in zip(kept["names"], kept["bits"])
        }
        return Masks(masks, kept["front_suv"], tuple(float(s) for s in kept["spacing_mm_zyx"]))
