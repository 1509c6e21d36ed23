"""Where a network's weights start: at random but for their head, or at those of a weights folder (fine-tuning)."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from torch import nn

from l2s import weights
from l2s.errors import InputError
from training.recipe import Recipe

log = logging.getLogger(__name__)

LAYING = ("windows", "overlap", "patch_zyx")  # how windows are laid, not what they show


def start_at_random(network: nn.Module, head_bias: float) -> None:
    """Sets what a network of random weights answers everywhere at first, as a logit; there is no start to note.

    A patch of 64^3 voxels holds a few hundred of lesion. From a probability of 0.5 each, the background's sum drowns the lesion's in the
    Dice loss until the bias has crept down: after 900 steps it stood at 0.035 a voxel, and Dice had learned nothing.
    """
    nn.init.constant_(network.head.bias, head_bias)


def start_from(folder: Path, stage: str, network: nn.Module, recipe: Recipe, held_out: list[dict]) -> dict:
    """Loads the stage's tensors of a weights folder into the network, which must be of the very same configuration.

    Another spacing or scaling of the input is no error, a scanner may ask for it, but it is warned of.

    Args:
        folder: of any weights that inference takes; of an ensemble the first fold.
        stage: 'localizer' or 'segmenter'.
        network: with its `config`.
        recipe: how its input will be made.
        held_out: rows of the patients that this run is to be tested on; a start that has seen them is warned of.

    Returns:
        Of those weights, for the run's notes: name; sha256 of the network's file, manifest_sha256; what trained_on says of them and of
        their own starts; seen: patients of held_out that they may have trained on.

    Raises:
        InputError: the folder is damaged, or its network has another configuration.
    """
    manifest, manifest_sha256 = weights.read_manifest(folder)
    part = getattr(manifest, stage)
    if part.network != network.config:
        wrong = differences(part.network, network.config)
        raise InputError(
            f"{folder}: its {stage} has {', '.join(wrong)}; start from weights of the recipe's network, or change the recipe"
        )
    theirs, ours = (part.planes, recipe.localizer.planes) if stage == "localizer" else (part.windows, recipe.segmenter.windows)
    changed = differences(theirs, ours, but=LAYING)
    if manifest.spacing_mm_zyx != recipe.spacing_mm_zyx:
        changed.insert(0, f"spacing_mm_zyx {manifest.spacing_mm_zyx} against {recipe.spacing_mm_zyx}")
    if changed:
        log.warning("%s: its %s was trained on another input: %s", folder, stage, ", ".join(changed))
    history = trained_on(manifest.training.get("folds", {}))
    if recipe.phantoms and recipe.seed in history["phantom_seeds"]:
        log.warning(
            "%s has trained on this recipe's phantoms: figures of its held-out phantoms will flatter; change the seed", folder
        )
    seen = seen_by(manifest, held_out)
    if seen:
        log.warning(
            "%s has trained on %d patients that this fold holds out, such as %s: its figures will flatter",
            folder,
            len(seen),
            seen[0],
        )
    weights.load_network(weights.checked_path(folder, part.files[0]), network).train()
    sums = {"sha256": part.files[0].sha256, "manifest_sha256": manifest_sha256}
    return {"name": manifest.name, **sums, "seen": seen, **history}


def differences(theirs: object, ours: object, but: tuple[str, ...] = ()) -> list[str]:
    """'field value against value' of each field in which two dataclasses of a kind differ."""
    pairs = {f.name: (getattr(theirs, f.name), getattr(ours, f.name)) for f in dataclasses.fields(ours) if f.name not in but}
    return [f"{name} {one} against {other}" for name, (one, other) in pairs.items() if one != other]


def trained_on(folds: dict[str, dict]) -> dict[str, list]:
    """Sources, patients and seeds of phantoms that a manifest's folds have trained on, and their starts before them.

    unnamed_sources are those of which no patients are named, as in manifests of before 2026-12.
    """
    out = {"sources": set(), "unnamed_sources": set(), "patients": set(), "phantom_seeds": set()}
    for fold in folds.values():
        out["sources"] |= set(fold.get("trained_on", ()))
        if "trained_patients" not in fold:
            out["unnamed_sources"] |= set(fold.get("trained_on", ()))
        out["patients"] |= set(fold.get("trained_patients", ()))
        for note in notes_of(fold):
            for key, values in out.items():
                values |= set((note.get("start") or {}).get(key, ()))
            if note["recipe"]["phantoms"]:
                out["phantom_seeds"].add(note["recipe"]["seed"])
    return {key: sorted(values) for key, values in out.items()}


def notes_of(fold: dict) -> list[dict]:
    """Every recipe, and its start, by which the stages of a manifest's fold were trained."""
    return [note for stage in ("localizer", "segmenter") for note in fold.get(stage, {}).get("recipes", ())]


def seen_by(manifest: weights.Manifest, rows: list[dict]) -> list[str]:
    """Patients of the rows that the weights, or a start of theirs, may have trained on.

    Where a manifest names no patients, that is all of a data set but those whom every fold held out.
    """
    folds = manifest.training.get("folds", {})
    history = trained_on(folds)
    kept = set.intersection(*(set(fold["held_out_patients"]) for fold in folds.values())) if folds else set()
    unnamed = {r["patient"] for r in rows if r["source"] in history["unnamed_sources"]} - kept
    return sorted({r["patient"] for r in rows if r["patient"] in history["patients"]} | unnamed)
