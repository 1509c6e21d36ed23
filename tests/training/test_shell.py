"""reproduce.sh and decisions.sh: what is mistyped is refused before anything trains, and the order of the steps."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# answers as training.recipe does, without the seconds of its imports; notes the arguments of all else and is done with it
FAKE = r"""#!/usr/bin/env bash
if [ "$2" = training.recipe ]; then
  [ -f "$3" ] || { echo "error: no recipe $3" >&2; exit 2; }
  value=$(sed -nE "s/^$4 = \"?([^\" ]*).*/\1/p" "$3")
  [ "$4" != start ] || [ -z "$value" ] || value=$(dirname "$3")/$value
  echo "$value"
else
  echo "${@:2}" >> "$NOTES"
fi
"""


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    line = [ROOT / "training" / script, *arguments]
    return subprocess.run(line, cwd="/", env=kept | environment, capture_output=True, text=True)


@pytest.fixture
def fake(tmp_path):
    """(environment of a script, its notes) under a python that does nothing."""
    python = tmp_path / "python"
    python.write_text(FAKE)
    python.chmod(0o755)
    notes = tmp_path / "notes"
    environment = {"PYTHON": str(python), "NOTES": str(notes), "L2S_RUNS": str(tmp_path / "runs"), "ORGAN_MAPS": ""}
    return environment, notes


@pytest.mark.parametrize(
    ("script", "arguments", "line"),
    [
        ("decisions.sh", ["dice", "dise"], "'dise' is none of dice, neighbours"),
        ("decisions.sh", ["training/recipes/smoke.toml"], "no choice named"),
        ("decisions.sh", [], "no choice named"),
        ("reproduce.sh", ["nosuch.toml"], "no recipe nosuch.toml"),
        ("reproduce.sh", ["--smoke", "training/recipes/small.toml"], "--smoke training/recipes/small.toml: "),
        ("reproduce.sh", ["--smoke", "training/recipes/small.toml", "out"], "--smoke training/recipes/small.toml out: "),
        ("reproduce.sh", ["--smoke", "out", "more"], "--smoke out more: "),
    ],
)
def test_what_is_mistyped_is_refused_in_one_line_before_anything_runs(script, arguments, line, fake):
    environment, notes = fake
    done = run(script, *arguments, **environment)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1
    assert not notes.exists()


def test_the_runs_own_data_is_prepared_before_its_start_is_trained(fake):
    environment, notes = fake
    done = run("reproduce.sh", "training/recipes/small.toml", DATA="sts=/nosuch", **environment)
    assert done.returncode == 0, done.stderr
    steps = [line.split() for line in notes.read_text().splitlines()]
    assert [(step[0], step[2]) for step in steps[:3]] == [
        ("training.prepare", "training/recipes/small.toml"),
        ("training.prepare", "training/recipes/phantom.toml"),
        ("training.train_localizer", "training/recipes/phantom.toml"),
    ]
    assert steps[0][3:5] == ["--data", "sts=/nosuch"]
    begun = f"--init {environment['L2S_RUNS']}/l2s-phantom-4mm/weights"
    assert all(begun in " ".join(step) for step in steps[5:] if step[0].startswith("training.train"))


def test_lanes_share_the_workers_and_the_flags_own_number_overrules(fake):
    environment, notes = fake
    run("reproduce.sh", "training/recipes/smoke.toml", LANES="99", FLAGS="--workers 3", DATA="sts=/nosuch", **environment)
    trainings = [line for line in notes.read_text().splitlines() if line.startswith("training.train")]
    assert trainings
    assert all(line.endswith("--workers 1 --workers 3") for line in trainings)
