"""The comparison picture: which cases are chosen, and that each panel shows its own method's mask."""

import math

import numpy as np
import pytest
from PIL import Image

from l2s.components import label
from l2s.measure.metrics import CaseScores
from l2s.report import draw as ink
from l2s.study import Grid, Study
from training import figure, scores
from training.scores import Row

GRID = Grid((40, 10, 24), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))


def row(case, dice, data="d", method=figure.RANKED_BY):
    lesions = 0 if math.isnan(dice) else 1
    return Row(data, "f", case, method, CaseScores(case, dice, 0, 0, 1, 1, lesions, 1, 1, 0, 0, 1.0), (), (), (0, 0, 0))


def chosen(rows):
    return [(rank, r.data, r.scores.case) for rank, r in figure.choose(rows)]


def test_best_median_and_worst_are_taken_by_dice_and_ties_by_name():
    rows = [row("e", 0.5), row("b", 0.9), row("a", 0.9), row("empty", math.nan), row("d", 0.1), row("c", 0.1)]
    # in order: a, b, e, c, d
    assert chosen(rows) == [("best", "d", "a"), ("median", "d", "e"), ("worst", "d", "d")]


def test_other_methods_do_not_choose_and_each_data_set_has_its_own_cases():
    rows = [row("a", 0.2), row("a", 0.9, method="L2SNet"), row("b", 0.4), row("z", 0.3, data="e")]
    assert chosen(rows) == [("best", "d", "b"), ("worst", "d", "a"), ("only case", "e", "z")]


def test_of_four_cases_the_better_middle_one_is_the_median():
    assert chosen([row(str(k), k / 10) for k in range(1, 5)])[1] == ("median", "d", "3")


def has(image, colour) -> bool:
    """Whether a colour stands somewhere in full; the outlines' edges are blended."""
    return bool((np.abs(np.asarray(image).astype(int) - colour).sum(axis=2) < 30).any())


@pytest.fixture
def picture(tmp_path):
    """(page, columns) of one case: truth in the upper half; the methods find it, miss it, and mark something else."""
    pet = np.full(GRID.shape_zyx, 0.8, np.float32)
    truth = np.zeros(GRID.shape_zyx, bool)
    truth[28:34, 3:7, 6:14] = True
    elsewhere = np.zeros_like(truth)
    elsewhere[4:8, 3:7, 14:20] = True
    masks = {"SUV > 2.5": truth | elsewhere, "L2SNet": np.zeros_like(truth), figure.RANKED_BY: elsewhere}
    scores.save_masks(tmp_path / "m.npz", Study(pet, pet, GRID), {scores.TRUTH: truth, **masks})
    rows = [
        Row("d", "f", "case", method, **scores.score(truth, label(truth), mask, GRID, "case")) for method, mask in masks.items()
    ]
    figure.draw(rows, {("d", "case"): tmp_path / "m.npz"}, tmp_path / "figure.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure.png", "m.npz"]
    return Image.open(tmp_path / "figure.png")


def test_each_column_shows_its_mask_in_orange_and_what_it_misses_in_blue(picture):
    width, height = figure.CELL_PX
    assert picture.width == figure.LABEL_PX + 4 * (width + figure.GAP_PX)
    panel_height = round(min(width / 96, height / 160) * 160)
    upper, lower = (0, panel_height // 2), (panel_height // 2, panel_height)
    marks = []
    for k in range(4):
        left = figure.LABEL_PX + k * (width + figure.GAP_PX)
        for a, b in (upper, lower):
            half = picture.crop((left, figure.HEAD_PX + a, left + width, figure.HEAD_PX + b))
            marks.append((has(half, ink.LESION_RGB), has(half, ink.CUT_RGB)))
    orange, blue, nothing = (True, False), (False, True), (False, False)
    assert marks == [orange, nothing, orange, orange, blue, nothing, blue, orange]


def test_the_label_column_carries_no_mask(picture):
    assert not has(picture.crop((0, figure.HEAD_PX, figure.LABEL_PX, picture.height)), ink.LESION_RGB)


def test_without_a_lesion_there_is_no_picture(tmp_path, caplog):
    figure.draw([row("a", math.nan)], {}, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
    assert "no figure" in caplog.text
