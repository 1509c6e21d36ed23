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
from training.start import seen_by, start_at_random, start_from, trained_on

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


def manifest_of(**folds):
    return dataclasses.replace(read_manifest(BUNDLED_FOLDER)[0], training={"folds": folds} if folds else {})


def fold_of(source, patients, held_out=(), seed=7, start=None):
    """A manifest's fold whose stage 2 was trained on phantoms of that seed and on these patients."""
    note = {"recipe": {"seed": seed, "phantoms": 60}, "start": start}
    stages = {"localizer": {"recipes": []}, "segmenter": {"recipes": [note]}}
    return {"trained_on": {source: 2, "phantom": 3}, "trained_patients": patients, "held_out_patients": list(held_out), **stages}


@pytest.mark.parametrize(("seed", "start"), [(RECIPE.seed, None), (1, {"phantom_seeds": [RECIPE.seed]})])
def test_phantoms_that_the_start_has_seen_are_warned_of(caplog, monkeypatch, seed, start):
    manifest, sha256 = read_manifest(BUNDLED_FOLDER)
    manifest = dataclasses.replace(manifest, training={"folds": {"fold_0": fold_of("sts", [], seed=seed, start=start)}})
    monkeypatch.setattr("training.start.weights.read_manifest", lambda folder: (manifest, sha256))
    start_from(BUNDLED_FOLDER, "segmenter", Segmenter(CONFIG), dataclasses.replace(RECIPE, seed=2), [])
    assert not caplog.text
    start_from(BUNDLED_FOLDER, "segmenter", Segmenter(CONFIG), RECIPE, [])
    assert "has trained on this recipe's phantoms" in caplog.text


def test_patients_that_the_start_has_seen_are_named_under_any_name_of_their_data():
    manifest = manifest_of(fold_0=fold_of("sts", ["P2", "P4"], ["P1"]))
    rows = [{"patient": p, "source": s} for p, s in (("P1", "sts"), ("P2", "sts"), ("P3", "ours"), ("P4", "sarcoma"))]
    assert seen_by(manifest, rows) == ["P2", "P4"]
    assert seen_by(manifest_of(), rows) == []
    two = manifest_of(fold_0=fold_of("sts", ["P1"], ["P2"]), fold_1=fold_of("sts", ["P2"], ["P1"]))
    assert seen_by(two, rows) == ["P1", "P2"]


def test_of_weights_that_name_no_patients_all_of_a_data_set_may_be_seen():
    fold = {"trained_on": {"sts": 2, "phantom": 3}, "held_out_patients": ["P1"]}
    rows = [{"patient": p, "source": s} for p, s in (("P1", "sts"), ("P2", "sts"), ("P3", "ours"))]
    assert seen_by(manifest_of(fold_0=fold), rows) == ["P2"]


def test_what_a_start_s_start_has_seen_is_handed_on():
    start = {"sources": ["sts"], "patients": ["P1"], "phantom_seeds": [5]}
    # export puts the patients of the starts among the fold's own
    folds = {"fold_0": fold_of("hospital", ["H1", "P1"], start=start)}
    assert trained_on(folds) == {
        "sources": ["hospital", "phantom", "sts"],
        "unnamed_sources": [],
        "patients": ["H1", "P1"],
        "phantom_seeds": [5, 7],
    }


def test_a_start_that_names_no_patients_is_not_forgotten():
    old = {"trained_on": {"sts": 40}, "held_out_patients": []}
    start = trained_on({"all": old})
    assert start["unnamed_sources"] == ["sts"]
    clinic = manifest_of(fold_0=fold_of("clinic", ["C1"], ["C2"], start=start))
    rows = [{"patient": p, "source": s} for p, s in (("STS_001", "sts"), ("C1", "clinic"), ("C2", "clinic"))]
    assert seen_by(clinic, rows) == ["C1", "STS_001"]


@pytest.mark.parametrize(
    ("network", "shape"),
    [(Segmenter(SegmenterConfig((4, 8), "batch")), (1, 2, 16, 16, 16)), (Localizer(LocalizerConfig()), (1, 5, 64, 64))],
)
def test_an_untrained_network_says_hardly_ever(network, shape):
    start_at_random(network, RECIPE.head_bias)
    with torch.no_grad():
        p = network.eval()(torch.zeros(shape)).sigmoid()
    assert 0.0005 < p.mean() < 0.02
