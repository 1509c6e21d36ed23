"""Fine-tuning: the tensors of a weights folder become the start, and a folder of another network is refused by name."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from l2s.errors import InputError
from l2s.segment.network import Segmenter
from l2s.weights import BUNDLED_FOLDER, read_manifest
from training.start import start_from

CONFIG = read_manifest(BUNDLED_FOLDER)[0].segmenter.network


def test_the_start_is_that_of_the_weights_folder():
    network = Segmenter(CONFIG)
    before = network.head.weight.clone()
    named = start_from(BUNDLED_FOLDER, "segmenter", network)
    manifest = json.loads((Path(BUNDLED_FOLDER) / "manifest.json").read_text())
    assert named["name"] == manifest["name"]
    assert not torch.equal(before, network.head.weight)
    assert network.training
    # batch norms are still there to be trained, not folded away as for inference
    assert any(isinstance(m, torch.nn.BatchNorm3d) for m in network.modules())


def test_another_network_is_refused_with_what_differs():
    network = Segmenter(dataclasses.replace(CONFIG, norm="layer"))
    with pytest.raises(InputError, match="norm batch against layer"):
        start_from(BUNDLED_FOLDER, "segmenter", network)
