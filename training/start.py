"""Where a network's weights start: at random, or at those of a weights folder (fine-tuning)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import nn

from l2s import weights
from l2s.errors import InputError


def start_from(folder: Path, stage: str, network: nn.Module) -> dict:
    """Loads the stage's tensors of a weights folder into the network, which must be of the very same configuration.

    Args:
        folder: of any weights that inference takes; of an ensemble the first fold.
        stage: 'localizer' or 'segmenter'.
        network: with its `config`.

    Returns:
        {"name", "sha256"} of those weights, for the run's notes.

    Raises:
        InputError: the folder is damaged, or its network has another configuration.
    """
    manifest, sha256 = weights.read_manifest(folder)
    part = getattr(manifest, stage)
    if part.network != network.config:
        theirs, ours = dataclasses.asdict(part.network), dataclasses.asdict(network.config)
        wrong = [f"{k} {theirs[k]} against {ours[k]}" for k in ours if theirs[k] != ours[k]]
        raise InputError(
            f"{folder}: its {stage} has {', '.join(wrong)}; start from weights of the recipe's network, or change the recipe"
        )
    weights.load_network(weights.checked_path(folder, part.files[0]), network).train()
    return {"name": manifest.name, "sha256": sha256}
