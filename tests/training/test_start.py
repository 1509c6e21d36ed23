"""Fine-tuning: the tensors of a weights folder become the start, and a folder of another network is refused by name."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from l2s.errors import InputError
from l2s.localize.network import Localizer, LocalizerConfig
from l2s.segment.network import Segmenter, SegmenterConfig
from l2s.weights import BUNDLED_FOLDER, read_manifest
from training.recipe import load_recipe
from training.start import seen_by, shares_phantoms, start_at_random, start_from

RECIPE = load_recipe(Path(__file__).parents[2] / "training/recipes/small.toml")
CONFIG = read_manifest(BUNDLED_FOLDER)[0].segmenter.network


def test_the_start_is_that_of_the_weights_folder():
    network = Segmenter(CONFIG)
    before = network.head.weight.clone()
    named = start_from(BUNDLED_FOLDER, "segmenter", network, RECIPE, [])
    manifest = json.loads((Path(BUNDLED_FOLDER) / "manifest.json").read_text())
    assert named["name"] == manifest["name"]
    assert not torch.equal(before, network.head.weight)
    assert network.training
    # batch norms are still there to be trained, not folded away as for inference
    assert any(isinstance(m, torch.nn.BatchNorm3d) for m in network.modules())


def test_another_network_is_refused_with_what_differs():
    network = Segmenter(dataclasses.replace(CONFIG, norm="layer"))
    with pytest.raises(InputError, match="norm batch against layer"):
        start_from(BUNDLED_FOLDER, "segmenter", network, RECIPE, [])


def test_another_input_is_warned_of_and_the_same_is_not(caplog):
    fresh = dataclasses.replace(RECIPE, seed=1)  # no phantom of it was in any training
    # how windows are laid, and how large a crop was, is no other input
    windows = dataclasses.replace(RECIPE.segmenter.windows, windows="tiles", overlap=0.125, patch_zyx=(40, 40, 40))
    same = dataclasses.replace(fresh, segmenter=dataclasses.replace(fresh.segmenter, windows=windows))
    start_from(BUNDLED_FOLDER, "segmenter", Segmenter(CONFIG), same, [])
    assert not caplog.records
    windows = dataclasses.replace(RECIPE.segmenter.windows, pet_suv_high=20.0)
    other = dataclasses.replace(
        RECIPE, spacing_mm_zyx=(3.0, 3.0, 3.0), segmenter=dataclasses.replace(RECIPE.segmenter, windows=windows)
    )
    start_from(BUNDLED_FOLDER, "segmenter", Segmenter(CONFIG), other, [])
    assert "spacing_mm_zyx (4.0, 4.0, 4.0) against (3.0, 3.0, 3.0), pet_suv_high 15.0 against 20.0" in caplog.text


def test_phantoms_that_the_start_has_seen_are_warned_of(caplog):
    note = {"recipe": {"seed": RECIPE.seed, "phantoms": 60}}
    fold = {"localizer": {"recipes": []}, "segmenter": {"recipes": [note]}}
    manifest = dataclasses.replace(read_manifest(BUNDLED_FOLDER)[0], training={"folds": {"fold_0": fold}})
    assert shares_phantoms(manifest, RECIPE)
    assert not shares_phantoms(manifest, dataclasses.replace(RECIPE, seed=1))
    assert not shares_phantoms(dataclasses.replace(manifest, training={}), RECIPE)


def test_patients_that_the_start_has_seen_are_named():
    fold = {"trained_on": {"sts": 2, "phantom": 3}, "held_out_patients": ["P1"]}
    manifest = dataclasses.replace(read_manifest(BUNDLED_FOLDER)[0], training={"folds": {"fold_0": fold}})
    rows = [{"patient": p, "source": s} for p, s in (("P1", "sts"), ("P2", "sts"), ("P3", "ours"))]
    assert seen_by(manifest, rows) == ["P2"]
    assert seen_by(dataclasses.replace(manifest, training={}), rows) == []


@pytest.mark.parametrize(
    ("network", "shape"),
    [(Segmenter(SegmenterConfig((4, 8), "batch")), (1, 2, 16, 16, 16)), (Localizer(LocalizerConfig()), (1, 5, 64, 64))],
)
def test_an_untrained_network_says_hardly_ever(network, shape):
    start_at_random(network, RECIPE.head_bias)
    with torch.no_grad():
        p = network.eval()(torch.zeros(shape)).sigmoid()
    assert 0.0005 < p.mean() < 0.02
