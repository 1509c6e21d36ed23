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
        {"name", "sha256", "seen"} of those weights, for the run's notes; seen: patients of held_out that they may have trained on.

    Raises:
        InputError: the folder is damaged, or its network has another configuration.
    """
    manifest, sha256 = weights.read_manifest(folder)
    part = getattr(manifest, stage)
    if part.network != network.config:
        wrong = differences(part.network, network.config)
        raise InputError(
            f"{folder}: its {stage} has {', '.join(wrong)}; start from weights of the recipe's network, or change the recipe"
        )
    theirs, ours = (part.planes, recipe.localizer.planes) if stage == "localizer" else (part.windows, recipe.segmenter.windows)
    changed = differences(theirs, ours, but=("windows", "overlap", "patch_zyx"))  # how they are laid
    if manifest.spacing_mm_zyx != recipe.spacing_mm_zyx:
        changed.insert(0, f"spacing_mm_zyx {manifest.spacing_mm_zyx} against {recipe.spacing_mm_zyx}")
    if changed:
        log.warning("%s: its %s was trained on another input: %s", folder, stage, ", ".join(changed))
    if shares_phantoms(manifest, recipe):
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
    return {"name": manifest.name, "sha256": sha256, "seen": seen}


def differences(theirs: object, ours: object, but: tuple[str, ...] = ()) -> list[str]:
    """'field value against value' of each field in which two dataclasses of a kind differ."""
    pairs = {f.name: (getattr(theirs, f.name), getattr(ours, f.name)) for f in dataclasses.fields(ours) if f.name not in but}
    return [f"{name} {one} against {other}" for name, (one, other) in pairs.items() if one != other]


def shares_phantoms(manifest: weights.Manifest, recipe: Recipe) -> bool:
    """Whether phantoms of the recipe's seed were in the training of the weights."""
    folds = manifest.training.get("folds", {}).values()
    notes = [note for fold in folds for stage in ("localizer", "segmenter") for note in fold.get(stage, {}).get("recipes", ())]
    return recipe.phantoms > 0 and any(n["recipe"]["seed"] == recipe.seed and n["recipe"]["phantoms"] for n in notes)


def seen_by(manifest: weights.Manifest, rows: list[dict]) -> list[str]:
    """Patients of the rows that the weights may have trained on: their data set was in the training, and no fold held them out."""
    folds = manifest.training.get("folds", {}).values()
    sources = {source for fold in folds for source in fold["trained_on"]}
    kept = set.intersection(*(set(fold["held_out_patients"]) for fold in folds)) if folds else set()
    return sorted({row["patient"] for row in rows if row["source"] in sources and row["patient"] not in kept})
