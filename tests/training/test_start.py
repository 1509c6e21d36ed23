"""Fine-tuning: the tensors of a weights folder become the start, and a folder of another network is refused by name."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from l2s.errors import InputError
from l2s.segment.network import Segmenter
from l2s.weights import BUNDLED_FOLDER, read_manifest
from training.start import seen_by, start_from

CONFIG = read_manifest(BUNDLED_FOLDER)[0].segmenter.network


def test_the_start_is_that_of_the_weights_folder():
    network = Segmenter(CONFIG)
    before = network.head.weight.clone()
    named = start_from(BUNDLED_FOLDER, "segmenter", network, [])
    manifest = json.loads((Path(BUNDLED_FOLDER) / "manifest.json").read_text())
    assert named["name"] == manifest["name"]
    assert not torch.equal(before, network.head.weight)
    assert network.training
    # batch norms are still there to be trained, not folded away as for inference
    assert any(isinstance(m, torch.nn.BatchNorm3d) for m in network.modules())


def test_another_network_is_refused_with_what_differs():
    network = Segmenter(dataclasses.replace(CONFIG, norm="layer"))
    with pytest.raises(InputError, match="norm batch against layer"):
        start_from(BUNDLED_FOLDER, "segmenter", network, [])


def test_patients_that_the_start_has_seen_are_named():
    fold = {"trained_on": {"sts": 2, "phantom": 3}, "held_out_patients": ["P1"]}
    manifest = dataclasses.replace(read_manifest(BUNDLED_FOLDER)[0], training={"folds": {"fold_0": fold}})
    rows = [{"patient": p, "source": s} for p, s in (("P1", "sts"), ("P2", "sts"), ("P3", "ours"))]
    assert seen_by(manifest, rows) == ["P2"]
    assert seen_by(dataclasses.replace(manifest, training={}), rows) == []
