"""Weights: found in order, verified, strict; each way in which a folder can be wrong has its line."""

import json
import pickle

import pytest
import torch

from l2s import weights
from l2s.errors import InputError


def edit(folder, change):
    path = folder / weights.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_folder_loads_in_eval_mode(weights_folder):
    model = weights.load(weights_folder)
    assert model.name == "random"
    assert len(model.sha256) == 64
    assert model.manifest.spacing_mm_zyx == (8.0, 8.0, 8.0)
    assert not any(network.training for network in (*model.localizers, *model.segmenters))
    assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in model.segmenters[0].modules())


def test_verify_and_describe_name_every_file(weights_folder):
    assert len(weights.verify(weights_folder)) == 2
    described = json.loads(json.dumps(weights.describe(weights_folder)))
    assert described["name"] == "random"
    assert described["bytes"] == sum(p.stat().st_size for p in weights_folder.glob("*.safetensors"))


def test_the_order_of_search(tmp_path, monkeypatch, weights_folder):
    monkeypatch.delenv("L2S_WEIGHTS", raising=False)
    monkeypatch.setattr(weights, "PLATFORM_FOLDER", tmp_path / "model")
    assert weights.find() == weights.BUNDLED_FOLDER
    (tmp_path / "model").mkdir()
    assert weights.find() == weights.BUNDLED_FOLDER  # a folder without a manifest is none
    (tmp_path / "model" / weights.MANIFEST).write_text("{}")
    assert weights.find() == tmp_path / "model"
    monkeypatch.setenv("L2S_WEIGHTS", str(weights_folder))
    assert weights.find() == weights_folder
    assert weights.find("elsewhere").name == "elsewhere"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda m: m.update(format=99), "format 99"),
        (lambda m: m.pop("fusion"), "fusion"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m["segmenter"]["network"].update(norm=3), "norm"),
        (lambda m: m.update(spacing_mm_zyx=[4, 4]), "spacing_mm_zyx"),
        (lambda m: m["localizer"].update(files=[]), "one of each"),
        (lambda m: m.update(spacing_mm_zyx=[4, 0, 4]), "spacing_mm_zyx"),
        (lambda m: m.update(fusion="both"), "fusion is 'both'"),
        (lambda m: m["localizer"]["planes"].update(plane="oblique"), "oblique"),
        (lambda m: m["segmenter"]["network"].update(norm="group"), "group"),
        (lambda m: m["segmenter"]["windows"].update(windows="spiral"), "spiral"),
        (lambda m: m["segmenter"]["windows"].update(patch_zyx=[16, 16, 20]), "patch_zyx"),
        (lambda m: m["segmenter"]["windows"].update(overlap=1.0), "overlap"),
        (lambda m: m["localizer"]["files"][0].update(file="../localizer.safetensors"), "leaves the weights folder"),
        (lambda m: m["localizer"]["files"][0].update(file="gone.safetensors"), "missing"),
        (lambda m: m["localizer"]["files"][0].update(sha256="0" * 64), "SHA-256"),
        (lambda m: m["segmenter"]["network"].update(channels=[8, 8, 8, 8]), "do not fit"),
    ],
)
def test_a_wrong_manifest_is_refused_in_one_line(own_weights_folder, change, line):
    edit(own_weights_folder, change)
    with pytest.raises(InputError, match=line) as caught:
        weights.load(own_weights_folder)
    assert "\n" not in str(caught.value)


def test_an_altered_byte_is_found(own_weights_folder):
    path = own_weights_folder / "segmenter.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match="SHA-256"):
        weights.load(own_weights_folder)


def test_a_pickle_is_never_opened(own_weights_folder):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was opened",)

    path = own_weights_folder / "segmenter.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    edit(own_weights_folder, lambda m: m["segmenter"]["files"][0].update(sha256=weights.file_sha256(path)))
    with pytest.raises(InputError, match="no safetensors"):
        weights.load(own_weights_folder)


def test_no_folder_and_no_json(tmp_path):
    with pytest.raises(InputError, match="manifest.json"):
        weights.load(tmp_path)
    (tmp_path / weights.MANIFEST).write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        weights.load(tmp_path)


def test_the_bundled_weights_are_whole_and_small_enough():
    described = weights.describe(weights.BUNDLED_FOLDER)
    assert described["bytes"] < 90_000_000
    assert "research use only" in described["intended_use"]
    assert described["training"]["folds"]
    assert len(weights.verify(weights.BUNDLED_FOLDER)) == 2
