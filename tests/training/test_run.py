import dataclasses
import errno
import json
from pathlib import Path

import pytest

from l2s.errors import InputError
from training.log import append_log
from training.recipe import SAMPLES, load_recipe, plain_fields
from training.run import (
    PHANTOMS_LOOKED_AT,
    exit_with,
    held_out_rows,
    looked_at_rows,
    note_cases,
    note_recipe,
    noted_cases,
    training_parser,
)

RECIPE = load_recipe(Path(__file__).parents[2] / "training/recipes/smoke.toml")
FIRST, OTHER = ({"name": n, "sha256": n * 3, "manifest_sha256": n * 4, "seen": [n], "sources": [n]} for n in ("first", "other"))


def row(source, fold, name):
    return {"source": source, "fold": fold, "name": name}


ROWS = [row("sts", k % 3, f"sts_{k}") for k in range(6)] + [row("phantom", k % 3, f"phantom_{k}") for k in range(12)]
ROWS += [row("implant", k % 3, f"implant_{k}") for k in range(6)]


def test_a_fold_looks_at_its_patients_and_a_few_of_the_phantoms_that_it_holds_back():
    names = [r["name"] for r in looked_at_rows(ROWS, 1)]
    assert names == ["sts_1", "sts_4", "phantom_1", "phantom_4"]
    assert PHANTOMS_LOOKED_AT == 2
    training = [r["name"] for r in held_out_rows(ROWS, 1)[0]]
    assert not set(names) & set(training)


def test_without_a_fold_there_is_nothing_to_look_at():
    assert looked_at_rows(ROWS, None) == []


def test_a_training_that_left_no_checkpoint_has_not_begun(tmp_path):
    note_recipe(tmp_path, dataclasses.replace(RECIPE, seed=1), 40)
    assert note_recipe(tmp_path, RECIPE, 40, FIRST) == json.loads((tmp_path / "recipes.json").read_text())
    (note,) = note_recipe(tmp_path, RECIPE, 40, FIRST)
    assert (note["start"], note["recipe"]["seed"], note["from_step"]) == (FIRST, RECIPE.seed, 0)


def test_a_checkpoint_goes_on_from_its_own_start_alone(tmp_path):
    note_recipe(tmp_path, RECIPE, 80, FIRST)
    (tmp_path / "last.pt").touch()
    append_log(tmp_path, {"step": 40})
    with pytest.raises(InputError, match="began with first, not with other: leave --init out"):
        note_recipe(tmp_path, RECIPE, 80, OTHER)
    note_recipe(tmp_path, RECIPE, 80, FIRST)
    notes = note_recipe(tmp_path, dataclasses.replace(RECIPE, seed=1), 80)  # --init need not be given again
    assert [(note["start"]["name"], note["from_step"]) for note in notes] == [("first", 0), ("first", 40)]


@pytest.mark.parametrize(("step", "notes"), [(20, [(0, 1), (20, SAMPLES)]), (40, [(0, 1)])])
def test_a_training_that_goes_on_with_other_samples_is_noted(tmp_path, step, notes):
    note_recipe(tmp_path, RECIPE, 40)
    first = json.loads((tmp_path / "recipes.json").read_text())[0]
    del first["samples"]
    (tmp_path / "recipes.json").write_text(json.dumps([first]))
    (tmp_path / "last.pt").touch()
    append_log(tmp_path, {"step": step})
    for _ in range(2):
        assert [(note["from_step"], note.get("samples", 1)) for note in note_recipe(tmp_path, RECIPE, 40)] == notes


def test_a_note_of_before_is_continued_and_completed(tmp_path):
    (tmp_path / "last.pt").touch()
    append_log(tmp_path, {"step": 40})
    old = {"name": "first", "sha256": FIRST["manifest_sha256"], "seen": ["first"]}
    note = {"from_step": 0, "start": old, "recipe": plain_fields(RECIPE)}
    (tmp_path / "recipes.json").write_text(json.dumps([note]))
    with pytest.raises(InputError, match="began with first, not with other"):
        note_recipe(tmp_path, RECIPE, 40, OTHER)
    assert (
        note_recipe(tmp_path, RECIPE, 40, FIRST)
        == [note | {"start": FIRST}]
        == json.loads((tmp_path / "recipes.json").read_text())
    )


def test_a_random_start_is_no_start_from_weights(tmp_path):
    note_recipe(tmp_path, RECIPE, 40)
    (tmp_path / "last.pt").touch()
    with pytest.raises(InputError, match="began at random, not with first"):
        note_recipe(tmp_path, RECIPE, 40, FIRST)


def test_a_length_that_the_data_changes_is_noted(tmp_path):
    note_recipe(tmp_path, RECIPE, 40)
    (tmp_path / "last.pt").touch()
    append_log(tmp_path, {"step": 20})
    notes = note_recipe(tmp_path, RECIPE, 60)
    assert [(note["from_step"], note["steps"]) for note in notes] == [(0, 40), (20, 60)]


def test_whom_a_stage_without_a_checkpoint_has_noted_binds_nobody(tmp_path):
    case = {"patient": "P0", "source": "sts"}
    note_cases(tmp_path, [case | {"name": "a"}], [])
    note_cases(tmp_path, [case | {"name": "a"}, case | {"name": "b"}], [])
    assert noted_cases(tmp_path)["training"] == ["a", "b"]
    (tmp_path / "last.pt").touch()
    with pytest.raises(InputError, match="has trained on other cases .1 differ, such as b"):
        note_cases(tmp_path, [case | {"name": "a"}], [])


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (InputError("no"), "no", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/run/x"), "/run/x: Permission denied", 2),
        (OSError(errno.ENOSPC, "No space left on device", "/run/x"), "/run/x: No space left on device", 75),
        (OSError("odd"), "input or output: odd", 2),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, line, code, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        exit_with(main)
    assert (caught.value.code, capsys.readouterr().err) == (code, f"error: {line}\n")


@pytest.mark.parametrize("value", ["-1", "1.5", "many"])
def test_a_number_of_workers_below_zero_is_refused(value, capsys):
    with pytest.raises(SystemExit):
        training_parser("").parse_args(["--recipe", "r.toml", f"--workers={value}"])
    assert f"'{value}': a whole number, at least 0" in capsys.readouterr().err


def test_patients_are_noted_with_those_whose_tumours_were_implanted(tmp_path):
    rows = [r | {"patient": p} for r, p in ((ROWS[0], "P0"), (ROWS[6], "phantom_0"), (ROWS[-1], "P5"))]
    note_cases(tmp_path, rows, [])
    assert noted_cases(tmp_path)["patients"] == ["P0", "P5"]
