from dataclasses import replace

import pytest

from l2s.report import changes, figures, records
from l2s.study import Grid


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"),
        (float("nan"), "n/a"),
        (0.0, "0.00"),
        (0.004, "0.00"),
        (0.994, "0.99"),
        (0.996, "1.0"),
        (5.25, "5.2"),
        (-7.0, "−7.0"),
    ]
    + [(99.94, "99.9"), (99.96, "100"), (1234.5, "1234"), (-0.0, "−0.00")],
)
def test_amounts(value, text):
    assert figures.amount(value) == text.replace("−0.00", figures.amount(-0.0))


def table(tmtv, tlg, suv_max, lesions=2, suv_peak=None):
    patient = {"lesions": lesions, "tmtv_ml": tmtv, "tlg_suv_ml": tlg, "suv_max": suv_max, "suv_peak": suv_peak}
    return {"patient": patient, "lesions": []}


def test_changes():
    lines = {line.name: line for line in changes.changes(table(100.0, 500.0, 8.0, 4), table(50.0, 500.0, 10.0, 2))}
    assert (lines["TMTV"].before, lines["TMTV"].after) == ("100", "50.0")
    assert (lines["TMTV"].difference, lines["TMTV"].percent) == ("−50.0", "−50.0 %")
    assert (lines["TLG"].difference, lines["TLG"].percent) == ("±0", "+0.0 %")
    assert (lines["SUVmax"].difference, lines["SUVmax"].percent) == ("+2.0", "+25.0 %")
    assert (lines["Lesions"].difference, lines["Lesions"].percent) == ("−2", "−50.0 %")
    assert (lines["SUVpeak"].before, lines["SUVpeak"].difference, lines["SUVpeak"].percent) == ("n/a",) * 3


def test_a_baseline_of_nothing_has_no_percent():
    lines = {line.name: line for line in changes.changes(table(0.0, 0.0, None, 0), table(12.0, 60.0, 7.0, 1))}
    assert (lines["TMTV"].difference, lines["TMTV"].percent) == ("+12.0", "n/a")
    assert (lines["SUVmax"].difference, lines["SUVmax"].percent) == ("n/a", "n/a")
    assert (lines["Lesions"].difference, lines["Lesions"].percent) == ("+1", "n/a")


def test_the_headline_of_a_comparison():
    lines = changes.changes(table(100.0, 500.0, 8.0), table(43.4, 535.0, 10.0))
    assert changes.headline(lines, "earlier") == "Since earlier: TMTV −56.6 %, TLG +7.0 %."
    lines = changes.changes(table(0.0, 0.0, None, 0), table(12.0, 60.0, 7.0, 1))
    assert changes.headline(lines, "earlier") == "Since earlier: TMTV +12.0 ml, TLG +60.0 SUV ml."


def test_the_facts_of_a_comparison_hold_the_baseline(case, make):
    before = make(lesions=(((40, 43), (20, 24), (30, 33), 14.0),)).table
    facts = {fact.head: fact for fact in changes.with_baseline(figures.facts(case.table), before)}
    assert facts["Lesions"].note == "largest holds 85%; baseline 1"
    assert facts["Volume (TMTV)"].note == "largest 32.4 ml; baseline 5.4 ml"
    assert facts["Spread (Dmax)"].note == "between lesion centroids; baseline n/a"


def test_what_keeps_two_studies_apart():
    counted = {"connectivity": 18, "min_volume_ml": 0.0}
    assert changes.counting(counted, counted) == []
    assert "18-connected in the baseline, 26-connected" in changes.counting(counted, counted | {"connectivity": 26})[0]
    assert "0 ml and 2.5 ml" in changes.counting(counted, counted | {"min_volume_ml": 2.5})[0]
    one = {"weights": {"name": "a", "sha256": "1" * 64}, "method": {"fusion": "voxelwise"}}
    assert changes.made_by(one, one) == []
    assert "a (111111111111…) and b (222222222222…)" in changes.made_by(one, {"weights": {"name": "b", "sha256": "2" * 64}})[0]
    assert "(fusion)" in changes.made_by(one, one | {"method": {"fusion": "none"}})[0]
    assert "not known" in changes.made_by({}, one)[0]
    grid = Grid((100, 10, 10), (5.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    assert changes.geometry(grid, replace(grid, shape_zyx=(104, 10, 10))) == []
    assert "500 and 530 mm long" in changes.geometry(grid, replace(grid, shape_zyx=(106, 10, 10)))[0]
    assert (
        "4.00 × 4.00 × 5.00 and 2.00 × 4.00 × 5.00 mm" in changes.geometry(grid, replace(grid, spacing_mm_zyx=(5.0, 4.0, 2.0)))[0]
    )


def test_headlines(case, make):
    assert figures.headline(make(lesions=()).table, []) == "No lesion marked."
    one = make(lesions=(((40, 43), (20, 24), (30, 33), 14.0),)).table
    assert figures.headline(one, ["right, 90 mm"]) == "1 lesion of 5.4 ml, on the right, 90 mm below the top of the scan."
    assert figures.headline(one, ["90 mm"]) == "1 lesion of 5.4 ml, 90 mm below the top of the scan."
    text = figures.headline(case.table, ["midline, 90 mm", "", ""])
    # 216, 36 and 2 voxels of 0.15 ml
    assert text == "3 lesions of 38.1 ml in all; the largest, 32.4 ml, lies near the midline, 90 mm below the top of the scan."


def test_facts_answer_how_many_how_much_and_how_sure(case, make):
    facts = {fact.head: fact for fact in figures.facts(case.table)}
    assert (facts["Lesions"].value, facts["Volume (TMTV)"].value, facts["SUVmax"].value) == ("3", "38.1", "15.0")
    assert facts["SUVmax"].note == "in lesion 2"
    assert facts["How sure (probability)"].value == "0.80"
    nothing = {fact.head: fact for fact in figures.facts(make(lesions=()).table)}
    assert [nothing[k].value for k in ("Lesions", "Volume (TMTV)", "SUVmax", "How sure (probability)")] == [
        "0",
        "0",
        "n/a",
        "n/a",
    ]
    assert facts["How sure (probability)"].note == "network output, not calibrated; 0 of 3 below 0.5; lowest 0.80, lesion 1"
    doubtful = [dict(row, probability_mean=p) for row, p in zip(case.table["lesions"], (0.9, 0.4, 0.3))]
    assert figures.sureness(doubtful).note == "network output, not calibrated; 2 of 3 below 0.5; lowest 0.30, lesion 3"
    unknown = [dict(row, probability_mean=None) for row in case.table["lesions"]]
    assert figures.sureness(unknown).value == "n/a"


def test_warnings_hold_all_that_went_wrong_or_was_left_out():
    record = {
        "warnings": ["w"],
        "error": "e",
        "result": {"empty_because_of_error": True},
        "method": {"left_out": ["fold 1", {"fold": 2}]},
    }
    lines = records.warnings(record)
    assert lines[0] == "the run ended with an error: e"
    assert "EMPTY because of that error" in lines[1]
    assert lines[2:] == ["w", "left out: fold 1", "left out: fold 2"]
    assert records.warnings({}) == []


def test_provenance_says_when_and_on_what():
    record = {
        "tool": "l2s 1",
        "made": "2026-01-02T03:04:05+01:00",
        "plan": {"precision": "fp32", "device": "cpu"},
        "warnings": ["no GPU found: running on the CPU"],
    }
    lines = dict(records.provenance(record, "l2s 1", ""))
    assert lines["on"] == "2026-01-02 03:04:05+01:00"
    assert lines["run"] == "fp32 on cpu (no GPU found)"
    assert records.warnings(record) == []


def test_a_record_that_lacks_things():
    assert records.intended_use({}) == records.NOT_STATED
    assert records.provenance({}, "l2s 1", "today") == [
        ("Segmented by", "unknown: the record is missing"),
        ("page by", "l2s 1, today"),
    ]
    assert [head for head, _ in records.sections({}, (1.0, 2.0, 3.0), (1.0, 2.0, 3.0))] == ["This page"]
