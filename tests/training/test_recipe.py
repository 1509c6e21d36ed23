"""Recipes: what would fail hours later is refused at once, in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from l2s.errors import InputError
from training.recipe import load_recipe, main, start_path

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "training/recipes"

WRONG = [
    ('name=""', "a folder's name"),
    ('name="a/b"', "a folder's name"),
    ('name=".."', "a folder's name"),
    ("spacing_mm_zyx=[4.0, 0.0, 4.0]", "above 0"),
    ("spacing_mm_zyx=[4.0, -4.0, 4.0]", "above 0"),
    ("folds=1", "at least 2"),
    ('fusion="voxlewise"', "one of voxelwise, componentwise, none"),
    ("phantoms=-1", "at least 0"),
    ("implants=-1", "at least 0"),
    ("sources=[]", "one of them above 0"),
    ('sources=[{ name = "sts", share = 0.0 }]', "one of them above 0"),
    ('sources=[{ name = "sts", share = 1.5 }, { name = "phantom", share = -0.5 }]', "one of them above 0"),
    ("localizer.network.decoder_channels=[320, 256, 128, 64]", "five numbers"),
    ("localizer.network.decoder_channels=[320, 256, 128, 64, 0]", "five numbers"),
    ("localizer.planes.suv_high=0.0", "above 0"),
    ('segmenter.windows.windows="gausian"', "one of tiles, gaussian"),
    ("segmenter.windows.overlap=1.0", "below 1"),
    ("segmenter.windows.overlap=-0.1", "at least 0"),
    ("localizer.schedule.steps_per_epoch=-1", "at least 0"),
    ("localizer.schedule.average=1.0", "below 1"),
    ("segmenter.schedule.average=-0.1", "at least 0"),
    ("segmenter.schedule.clip_norm=0.0", "above 0"),
    ("localizer.network.neighbours=-1", "at least 0"),
    ("localizer.schedule.learning_rate=-1.0", "above 0"),
    ("phantom_shape_zyx=[0, 40, 40]", "above 0"),
    ('sources=[{ name = "sts", share = 1.0 }, { name = "sts", share = 1.0 }]', "each once"),
    ("segmenter.augment.gain=1.5", "below 1"),
    ("segmenter.augment.rotation_deg=-5.0", "between 0 and 180"),
    ("segmenter.augment.noise_variance=-1.0", "at least 0"),
    ("localizer.augment.zoom=[0.0, 1.0]", "above 0"),
    ("localizer.augment.low_resolution=[0.0, 0.5]", "above 0"),
    ('localizer.augment.mirror=["X"]', "some of x, y, z"),
    ("localizer.augment.zoom_chance=1.5", "between 0 and 1"),
    ("segmenter.augment.gamma_inverted_chance=-0.1", "between 0 and 1"),
    ("segmenter.augment.gamma=[1.5, 0.7]", "from low to high"),
    ("segmenter.augment.blur_sigma=[-1.0, 1.0]", "from low to high"),
]


@pytest.mark.parametrize(("change", "limit"), WRONG, ids=[change for change, _ in WRONG])
def test_a_value_that_no_training_can_follow_is_refused(change, limit):
    field = change.partition("=")[0]
    with pytest.raises(InputError, match=f"{field}.* is .*; it must be .*{limit}") as caught:
        load_recipe(RECIPES / "smoke.toml", [change])
    assert "\n" not in str(caught.value)


def test_the_scripts_read_fields_and_the_starts_path(capsys):
    main([str(RECIPES / "small.toml"), "start"])
    main([str(RECIPES / "phantom.toml"), "start"])
    main([str(RECIPES / "smoke.toml"), "folds"])
    assert capsys.readouterr().out.split("\n") == [str(RECIPES / "phantom.toml"), "", "2", ""]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("cue_weights = false", "cue_weights = true", "segmenter.cue_weights is True"),
        ('start = ""', 'start = "smoke.toml"', "start is 'smoke.toml'"),
        ('name = "phantom", share', 'name = "sts", share', r"sources is \['sts'\]"),
    ],
)
def test_a_start_that_wants_more_than_phantoms_is_refused(tmp_path, old, new, reason):
    text = (RECIPES / "phantom.toml").read_text()
    assert text.count(old) == 1
    (tmp_path / "phantom.toml").write_text(text.replace(old, new))
    (tmp_path / "small.toml").write_text((RECIPES / "small.toml").read_text())
    with pytest.raises(InputError, match=f"small.toml starts from phantom.toml, whose {reason}: "):
        start_path(tmp_path / "small.toml")


def test_the_command_ends_in_one_line():
    line = [sys.executable, "-m", "training.recipe", "nosuch.toml", "name"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no recipe nosuch.toml; those that come along lie in training/recipes/\n"
