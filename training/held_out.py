"""Which case is scored by which weights: every held-out patient by exactly the folder that held it out, and fresh phantoms."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2s import weights
from l2s.errors import InputError
from l2s.phantom.sample import make_case
from l2s.study import Grid, Study
from training.readers import Found, file_marks, find_studies, usable_study

log = logging.getLogger(__name__)

PHANTOM_SHAPE_ZYX, PHANTOM_SPACING_MM_ZYX = (332, 136, 176), (3.27, 3.3, 3.3)  # no working spacing, so that resampling takes part
PHANTOM_SEED = 77_000_000  # far from the recipes' training seeds


@dataclass(frozen=True)
class Fold:
    """One weights folder and the patients that it may be tested on.

    Attributes:
        label: the manifest's folds, 'fold_0'; 'all' where it names none.
        folder, plain: cue-weighted weights, and the weights of the row '3D U-Net' or None.
        manifest, sha256: of the first; plain_sha256: of the second, or None.
        held_out: patients that none of its networks has trained on.
    """

    label: str
    folder: Path
    plain: Path | None
    manifest: weights.Manifest
    sha256: str
    plain_sha256: str | None
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One case to score.

    Attributes:
        data: the data set's name in the tables.
        name: the case's, unique within its data set.
        patient: whose it is; a phantom is its own.
        fold: the weights that score it.
        source: a study's files, or a phantom's seed.
        organ_maps: what a phantom takes its organs from; none: they are drawn.
    """

    data: str
    name: str
    patient: str
    fold: Fold
    source: Found | int
    organ_maps: tuple[Path, ...] = ()

    @property
    def stem(self) -> str:
        """The name of its files."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{self.data}_{self.name}")

    @property
    def is_held_out(self) -> bool:
        """False where the weights may have trained on the patient."""
        return isinstance(self.source, int) or self.patient in self.fold.held_out

    def made_from(self, kinds: list[str]) -> dict:
        """What its scores hang on, JSON-able: weights, windows, and the files or all that draws the phantom.

        Raises:
            InputError: a file is gone.
        """
        made_from = {"weights": self.fold.sha256, "plain": self.fold.plain_sha256, "windows": kinds}
        if isinstance(self.source, Found):
            return made_from | {"files": file_marks(self.source)}
        maps = [f.name for f in self.organ_maps]
        grid = {"shape_zyx": PHANTOM_SHAPE_ZYX, "spacing_mm_zyx": PHANTOM_SPACING_MM_ZYX}
        return made_from | {"seed": self.source, "organ_maps": maps} | grid


def held_out_patients(manifest: weights.Manifest) -> list[str]:
    """The patients that no network of these weights has trained on."""
    folds = manifest.training.get("folds", {}).values()
    kept = [set(fold["held_out_patients"]) for fold in folds]
    return sorted(set.intersection(*kept)) if kept else []


def cue_weighted(manifest: weights.Manifest) -> set[bool]:
    """Whether stage 2 was trained with cue weights, by each recipe that the manifest carries."""
    stages = [fold.get("segmenter", {}) for fold in manifest.training.get("folds", {}).values()]
    return {note["recipe"]["segmenter"]["cue_weights"] for stage in stages for note in stage.get("recipes", [])}


def open_folds(folders: list[Path], plain: list[Path]) -> list[Fold]:
    """The folds to score with, checked against each other.

    Raises:
        InputError: a patient is held out by two, the plain weights do not pair with the others, or were trained otherwise.
    """
    if plain and len(plain) != len(folders):
        raise InputError(f"{len(plain)} --plain for {len(folders)} --weights: name one for each, in the same order")
    folds: list[Fold] = []
    owner: dict[str, Fold] = {}
    for folder, other in zip(folders, plain or [None] * len(folders)):
        manifest, sha256 = weights.read_manifest(folder)
        if False in cue_weighted(manifest):
            raise InputError(f"{folder} was trained without cue weights: name it with --plain, it is the row 3D U-Net")
        label = "+".join(manifest.training.get("folds", {})) or "all"
        if label in [fold.label for fold in folds]:
            label += f" ({len(folds)})"
        plain_sha256 = check_plain(other, folder, manifest) if other else None
        fold = Fold(label, folder, other, manifest, sha256, plain_sha256, tuple(held_out_patients(manifest)))
        for patient in fold.held_out:
            if patient in owner:
                raise InputError(
                    f"{patient} is held out by {owner[patient].folder} and {folder}: name one --weights for each fold"
                )
            owner[patient] = fold
        folds.append(fold)
    return folds


def check_plain(plain: Path, folder: Path, manifest: weights.Manifest) -> str:
    """The SHA-256 of plain weights that belong to the weights in folder; raises InputError where they do not."""
    other, sha256 = weights.read_manifest(plain)
    if True in cue_weighted(other):
        raise InputError(f"{plain} was trained with cue weights: --plain wants the training without (cue_weights = false)")
    if other.spacing_mm_zyx != manifest.spacing_mm_zyx:
        raise InputError(f"{plain} works at {other.spacing_mm_zyx} mm, {folder} at {manifest.spacing_mm_zyx}: they must agree")
    if held_out_patients(other) != held_out_patients(manifest):
        raise InputError(f"{plain} held out other patients than {folder}: name both in the same order")
    return sha256


def patient_jobs(data: str, folder: Path, folds: list[Fold], wanted: list[str] | None, tracer: str) -> list[Job]:
    """The studies of one data set, each with the fold that held its patient out.

    A patient of --patients that a single weights folder did not hold out is scored by it all the same, and the log says so.
    """
    owner = {patient: fold for fold in folds for patient in fold.held_out}
    found, refused = find_studies(data, folder, tracer)
    for name, reason in refused:
        log.warning("refused %s: %s", name, reason)
    jobs = []
    for study in found:
        fold = owner.get(study.patient)
        if wanted and study.patient not in wanted:
            continue
        if wanted and fold is None and len(folds) == 1:
            log.warning("%s is none that %s held out: it may have trained on it", study.patient, folds[0].folder)
            fold = folds[0]
        if fold:
            jobs.append(Job(data, study.name, study.patient, fold, study))
    log.info("%s: %d of %d studies; the others are not asked for or held out by none of the weights", data, len(jobs), len(found))
    return jobs


def phantom_jobs(count: int, organ_maps: list[Path], folds: list[Fold]) -> list[Job]:
    """Count fresh phantoms for each fold, every second one with the organs of a real patient kept for tests."""
    jobs = []
    for number in range(count * len(folds)):
        maps = tuple(organ_maps) if number % 2 else ()
        name, seed = f"phantom_{PHANTOM_SEED + number}", PHANTOM_SEED + number
        data = "phantoms, organ maps" if maps else "phantoms, drawn"
        jobs.append(Job(data, name, name, folds[number // count], seed, maps))
    return jobs


def read_or_refuse(job: Job, refused: list[str]) -> tuple[Study, np.ndarray] | None:
    """What read answers; None, and a line in refused, where a file cannot be used: the other cases go on."""
    try:
        return read(job)
    except InputError as error:
        refuse(job, error, refused)
        return None


def refuse(job: Job, error: InputError, refused: list[str]) -> None:
    """A line in refused and in the log."""
    refused.append(f"{job.name}: {error}")
    log.warning("refused %s", refused[-1])


def read(job: Job) -> tuple[Study, np.ndarray]:
    """The study and its truth, bool (z, y, x) on the PET's grid; raises InputError where a file cannot be used."""
    if isinstance(job.source, Found):
        study, truth, warnings = usable_study(job.source)
        for line in warnings:
            log.warning("%s: %s", job.name, line)
        return study, truth
    grid = Grid(PHANTOM_SHAPE_ZYX, PHANTOM_SPACING_MM_ZYX, (0.0, 0.0, 0.0))
    sample = make_case(job.source, grid, job.organ_maps or None)
    return sample.study, sample.truth
