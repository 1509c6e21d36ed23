"""export: what has not been trained to its end stays, and a folder holds what its manifest names."""

import dataclasses
import json
from pathlib import Path

import pytest

from l2s import weights
from l2s.errors import InputError
from training import export
from training.log import append_log
from training.recipe import load_recipe, plain_fields

RECIPE = load_recipe(Path(__file__).parents[2] / "training/recipes/smoke.toml")  # 2 epochs of 2 steps


def stage(folder: Path, step: int, epoch: int, recipe=RECIPE, **note) -> Path:
    """A stage that has come to that step; the note of its recipe."""
    folder = folder / "localizer"
    folder.mkdir()
    append_log(folder, {"epoch": epoch, "step": step})
    (folder / "recipes.json").write_text(json.dumps([{"from_step": 0, "start": None, "recipe": plain_fields(recipe), **note}]))
    return folder


def lengthened(steps_per_epoch: int):
    schedule = dataclasses.replace(RECIPE.localizer.schedule, steps_per_epoch=steps_per_epoch)
    return dataclasses.replace(RECIPE, localizer=dataclasses.replace(RECIPE.localizer, schedule=schedule))


@pytest.mark.parametrize(
    ("step", "epoch", "steps_per_epoch", "note", "reason"),
    [
        (4, 2, 2, {"steps": 4}, None),
        (4, 2, 2, {}, None),
        # the epochs of before were shorter
        (4, 2, 10, {"steps": 20}, "4 of 20 steps"),
        (4, 2, 10, {}, "4 of 20 steps"),
        (4, 2, 0, {"steps": 6}, "4 of 6 steps"),
        # or longer
        (4, 1, 2, {"steps": 4}, None),
        # an old note of a length that hangs on the data
        (4, 2, 0, {}, None),
        (4, 1, 0, {}, "1 of 2 epochs"),
    ],
)
def test_a_stage_ends_with_the_last_step_of_its_recipe(tmp_path, step, epoch, steps_per_epoch, note, reason):
    recipe = lengthened(steps_per_epoch)
    folder = stage(tmp_path, step, epoch, recipe, **note)
    if reason is None:
        assert export.stage_provenance(folder, recipe)["step"] == step
    else:
        with pytest.raises(InputError, match=f"has trained {reason}: let it end first"):
            export.stage_provenance(folder, recipe)


def renamed(folder: Path, name: str) -> weights.Manifest:
    """The folder's manifest with its localizer under another name, whose file is there too."""
    manifest, _ = weights.read_manifest(folder)
    (old,) = manifest.localizer.files
    (folder / name).write_bytes((folder / old.file).read_bytes())
    files = (dataclasses.replace(old, file=name),)
    return dataclasses.replace(manifest, training={"code": "x"}, localizer=dataclasses.replace(manifest.localizer, files=files))


def test_networks_of_an_earlier_export_go_and_files_of_others_stay(own_weights_folder):
    for name in ("mine.safetensors", "README.md"):
        (own_weights_folder / name).write_text("mine")
    export.written(own_weights_folder, renamed(own_weights_folder, "localizer_all.safetensors"))
    names = {path.name for path in own_weights_folder.iterdir()}
    assert names == {
        "localizer_all.safetensors", "segmenter.safetensors", "manifest.json", "mine.safetensors", "README.md"
    }  # fmt: skip
    assert weights.verify(own_weights_folder)


def test_a_manifest_that_is_none_of_ours_removes_nothing(own_weights_folder):
    manifest = renamed(own_weights_folder, "localizer_all.safetensors")
    theirs = json.loads((own_weights_folder / weights.MANIFEST).read_text()) | {"format": 99}
    (own_weights_folder / weights.MANIFEST).write_text(json.dumps(theirs))
    export.written(own_weights_folder, manifest)
    assert (own_weights_folder / "localizer.safetensors").is_file()
