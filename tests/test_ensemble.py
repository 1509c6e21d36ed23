"""Which passes run: all of them, or as many as a deadline leaves time for, by a clock that the test turns."""

import numpy as np
import pytest

from l2s import engine, ensemble
from l2s.ensemble import Pass
from l2s.errors import InputError

NAN = InputError("it answered with NaN")
FLIPS = engine.flips_of("xy")


def test_mirrors_are_all_combinations():
    assert FLIPS == ((), (2,), (1,), (2, 1))
    assert engine.flips_of(()) == ((),)
    assert len(engine.flips_of("zyx")) == 8
    with pytest.raises(InputError, match="'w'"):
        engine.flips_of("xw")


def test_all_passes_take_each_fold_once():
    passes = ensemble.all_passes(2, 3, FLIPS)
    assert [(p.stage, p.fold) for p in passes] == [
        ("localize", 0),
        ("localize", 1),
        ("segment", 0),
        ("segment", 1),
        ("segment", 2),
    ]
    assert all(p.flips == FLIPS for p in passes)


def test_growing_passes_begin_with_the_base_and_add_folds_before_mirrors():
    passes = ensemble.growing_passes(2, 3, engine.flips_of("x"))
    assert passes[:5] == [Pass("localize", 0), Pass("segment", 0), Pass("localize", 1), Pass("segment", 1), Pass("segment", 2)]
    assert passes[5:7] == [Pass("localize", 0, ((2,),)), Pass("segment", 0, ((2,),))]
    assert len(passes) == len(set(passes)) == 10


def test_the_mean_counts_each_copy_once():
    values = {"localize": 1.0, "segment": 3.0}

    def run(one):
        return np.full((2, 2, 2), values[one.stage] + one.fold, np.float32), {"device": one.stage}

    (first, second), done = ensemble.run_all([Pass("localize", 0, FLIPS), Pass("localize", 1), Pass("segment", 0)], run)
    assert first == pytest.approx(np.full((2, 2, 2), (4 * 1.0 + 2.0) / 5))
    assert (second == 3.0).all()
    assert [d["mirrors"] for d in done] == [["none", "x", "y", "xy"], ["none"], ["none"]]
    assert [d["device"] for d in done] == ["localize", "localize", "segment"]


class Day:
    """A clock, and passes that take their time on it: stage 1 ten seconds, stage 2 four, an answer two."""

    def __init__(self, slower_from=None, fails=(), error=NAN, bad_answers=()):
        self.error, self.bad_answers = error, bad_answers
        self.now, self.ran, self.answers = 100.0, [], 0
        self.slower_from, self.fails = slower_from, fails

    def run(self, one):
        seconds = {"localize": 10.0, "segment": 4.0}[one.stage]
        if len(self.ran) in self.fails:
            self.ran.append(one)
            raise self.error
        if self.slower_from is not None and len(self.ran) >= self.slower_from:
            seconds *= 2
        self.ran.append(one)
        self.now += seconds
        return np.ones((1, 1, 1), np.float32), {}

    def answer(self, first, second):
        self.now += 2.0
        self.answers += 1
        if self.answers in self.bad_answers:
            raise MemoryError("no room")
        return float(first[0, 0, 0] + second[0, 0, 0])

    def go(self, seconds, passes):
        return ensemble.run_until(100.0 + seconds, passes, self.run, self.answer, lambda: self.now)


PASSES = ensemble.growing_passes(3, 3, engine.flips_of("x"))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (16, 2),  # the base and its answer
        (22, 2),  # 4 s more would fit but for the answer, which must be given again
        (24, 3),  # one stage 2: 16 + 4.6 + 2.3
        (35, 4),  # stage 1 and 2 of fold 1: 16 + 11.5 + 2.3, then 26 + 4.6 + 2.3
        (1000, 12),
    ],
)
def test_what_fits_is_added_and_the_deadline_kept(seconds, expected):
    day = Day()
    result, done, left_out, lines = day.go(seconds, PASSES)
    assert result == 2.0
    assert len(done) == len(day.ran) == expected
    assert len(left_out) == len(PASSES) - expected
    assert day.now <= 100 + seconds
    assert lines == []
    assert day.answers == (1 if expected == 2 else 2)


def test_the_base_is_never_cut_and_its_excess_is_said():
    day = Day()
    result, done, left_out, lines = day.go(5, PASSES)
    assert (result, len(done), len(left_out)) == (2.0, 2, 10)
    assert "11 s more than --time-budget" in lines[0]


def test_passes_that_become_slower_are_reckoned_with():
    """From the third pass on all take twice as long: the third may be late by its own excess, none after it."""
    day = Day(slower_from=2)
    _, done, _, _ = day.go(60, PASSES)
    # 16 s for the base; 20 + 8 s for fold 1; 44 + 23 + 2.3 s would be late for a further stage 1, 44 + 9.2 + 2.3 is not for stage 2
    assert [str(one) for one in day.ran[2:]] == ["localize fold 1 (none)", "segment fold 1 (none)", "segment fold 2 (none)"]
    assert day.now <= 160
    assert len(done) == 5


@pytest.mark.parametrize(
    "error", [InputError("it answered with NaN"), MemoryError("no room"), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
def test_a_failing_addition_does_not_lose_the_base(error):
    result, done, left_out, lines = Day(fails=(2, 3), error=error).go(1000, PASSES)
    assert result == 2.0
    assert len(done) == 10
    assert left_out == [str(PASSES[2]), str(PASSES[3])]
    assert str(error) in lines[0]
    alone, done, _, _ = Day(fails=range(2, 12), error=error).go(1000, PASSES)  # all additions fail: the base is given again
    assert (alone, len(done)) == (2.0, 2)
    with pytest.raises(InputError):  # but a base that fails is an error
        Day(fails=(0,)).go(1000, PASSES)


def test_an_answer_that_cannot_be_made_again_does_not_lose_the_base():
    result, done, left_out, lines = Day(bad_answers=(2,)).go(1000, PASSES)
    assert (result, len(done), len(left_out)) == (2.0, 2, 10)
    assert "the base answer stands: no room" in lines[0]
    with pytest.raises(MemoryError):
        Day(bad_answers=(1,)).go(1000, PASSES)
