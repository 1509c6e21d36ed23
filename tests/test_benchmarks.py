"""The scripts of benchmarks/ run on small volumes and print their tables; no time is asserted. What they check by themselves holds."""

import importlib
import sys

import pytest

from benchmarks.budgets import with_folds
from benchmarks.made import lesion_mask
from benchmarks.timing import in_turn, ratio, table
from l2s import components, weights


@pytest.mark.parametrize(
    ("name", "flags", "texts"),
    [
        ("components", ["--lesions", "1", "8", "--loop-most", "4"], ["loop / ours", "| equal |", "| ~ |"]),
        ("around", ["--repeats", "1", "--components", "5"], ["fuse voxelwise", "read_study", "ITK level"]),
        ("windows", ["--repeats", "1", "--skip-uncropped"], ["| tiles |", "Dice to the truth"]),
        ("growth", ["--skip-volumes", "--lesions", "0", "3"], ["| lesions |", "| 3 |"]),
        ("whole_case", ["--flags", ""], ["share of the peak", "| localize |"]),
        ("whole_case", ["--planes", "50", "--flags", ""], ["phantom of 50 x 16 x 20 voxels"]),
        ("padding", ["--cases", "1", "--rows", "0", "8"], ["| cue, mean |", "| 8 rows of air |"]),
        ("budgets", ["--folds", "2", "--budgets", "1"], ["--time-budget, s", "| fp32 | 1 | 1 | 6 |"]),
    ],
)
def test_a_script_prints_its_table(monkeypatch, capsys, name, flags, texts):
    monkeypatch.setattr(sys, "argv", [name, "--quick", *flags])
    importlib.import_module(f"benchmarks.{name}").main()
    out = capsys.readouterr().out
    assert "n = " in out
    for text in texts:
        assert text in out, out


def test_ratios_are_of_one_round():
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == 2.0
    order = []
    seconds, answers = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b") or 7}, 3)
    assert order == ["a", "b"] * 3
    assert answers == {"a": None, "b": 7}
    assert [len(s) for s in seconds.values()] == [3, 3]
    assert table(["x"], [["1"]]) == "| x |\n| --- |\n| 1 |"


@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_made_masks_have_as_many_lesions_as_asked(count):
    mask = lesion_mask((60, 80, 70), count, seed=3)
    assert components.label(mask).count == count


def test_copied_folds_are_whole_weights(tmp_path, weights_folder):
    model = weights.load(with_folds(weights_folder, tmp_path, 3))
    assert len(model.localizers) == len(model.segmenters) == 3
    first, second = (next(iter(network.parameters())) for network in model.segmenters[:2])
    assert 0 < (first - second).abs().max() < 0.01
