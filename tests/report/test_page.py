"""The page as a file: complete, escaped, small enough, whole or not there. tests/report/test_browser.py opens it."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from l2s.errors import InputError
from l2s.report import page
from l2s.report.outlines import area, around
from l2s.report.page import write_report

HOSTILE = '<script>window.hacked=1</script><img src=x onerror="window.hacked=2">&amp;\''


class Seen(HTMLParser):
    """Tags with their attributes, the scripts' text, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.words, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif self.inside != "style":
            self.words.append(data)


def written(path, *args, **kwargs) -> tuple[str, Seen]:
    write_report(path, *args, **kwargs)
    text = path.read_text(encoding="utf-8")
    return text, Seen(text)


def test_a_page_is_complete(case, tmp_path):
    text, seen = written(tmp_path / "r.html", case, "l2s 9.9", made="2026-01-02")
    words = " ".join(seen.words)
    title = re.search(r"<title>(.*?)</title>", text).group(1)
    assert "Research use only" in title
    for expected in (
        "Research use only. Not a clinical device.",
        "tests, trained on boxes",
        "3 lesions of 38.1 ml",
        "some-weights",
    ):
        assert expected in words
    for expected in (
        "abababababab",
        "ab" * 32,
        "fp32 on a CPU",
        "no GPU found",
        "l2s 9.9",
        "2026-01-02",
        "5.00 × 5.00 × 6.00 mm",
    ):
        assert expected in words
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    rows = [attrs for tag, attrs in seen.tags if tag == "tr" and "data-lesion" in attrs]
    assert [row["data-lesion"] for row in rows] == ["1", "2", "3"]
    marks = [attrs["data-lesion"] for tag, attrs in seen.tags if tag == "g" and "data-lesion" in attrs]
    assert sorted(marks) == ["1", "1", "2", "2", "3", "3"]  # front and side


def test_nothing_is_fetched_and_no_foreign_script_may_run(case, tmp_path):
    text, seen = written(tmp_path / "r.html", case, "l2s 9.9")
    for tag, attrs in seen.tags:
        for name in ("src", "href", "data", "action", "srcset", "poster"):
            assert attrs.get(name) is None or attrs[name].startswith("data:"), (tag, name)
        assert not [name for name in attrs if name.startswith("on")]
    policy = next(attrs["content"] for tag, attrs in seen.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    run = [script for attrs, script in seen.scripts if "type" not in attrs]
    assert len(run) == 1
    assert page.script_hash(run[0]) in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert policy.startswith("default-src 'none'")
    style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
    assert "url(" not in style
    assert "@import" not in style


def test_names_and_records_are_text(make, tmp_path):
    record = {
        "tool": HOSTILE,
        "warnings": [HOSTILE],
        "weights": {"name": HOSTILE, "sha256": HOSTILE, "intended_use": HOSTILE},
        "method": {"left_out": [HOSTILE], HOSTILE: HOSTILE},
        "plan": {"precision": HOSTILE, "device_name": HOSTILE},
        "case": {"name": HOSTILE},
    }
    case = make(HOSTILE, record=record)
    text, seen = written(tmp_path / "r.html", case, HOSTILE, baseline=case, made=HOSTILE, scores={HOSTILE: 1.0})
    assert HOSTILE not in text
    assert html.escape(HOSTILE, quote=False).split("&amp;amp;")[0] in text.replace("&#34;", '"')
    assert len([1 for attrs, _ in seen.scripts if "type" not in attrs]) == 1
    assert not any(tag == "img" for tag, _ in seen.tags)
    assert HOSTILE in " ".join(seen.words)


def test_no_lesion_is_an_answer(make, tmp_path):
    _, seen = written(tmp_path / "r.html", make(lesions=()), "l2s 9.9")
    words = " ".join(seen.words)
    assert "No lesion marked." in words
    assert "No lesion is marked in this study" in words
    assert not [1 for tag, attrs in seen.tags if "data-lesion" in attrs]


def test_truth_in_three_kinds(case, truth, tmp_path):
    _, seen = written(tmp_path / "r.html", case, "l2s 9.9", truth=truth, scores={"Dice": 0.5, "false positive ml": None})
    kinds = [(a["data-lesion"], a["class"]) for tag, a in seen.tags if tag == "tr" and "data-lesion" in a]
    assert kinds == [("4", "missed"), ("1", "hit"), ("2", "false"), ("3", "false")]  # what was missed must not lie below the edge
    words = re.sub(r"\s+", " ", " ".join(seen.words))
    assert "True positive 1 touch the truth (1 of 2 true lesions found)" in words
    assert "False positive 2 do not touch the truth" in words
    assert "False negative 1 true lesions missed" in words
    assert "outline of the truth" in words
    outlines = [a["d"] for tag, a in seen.tags if tag == "path" and a.get("class") == "truth"]
    assert len(outlines) == 2  # the one that was found, from front and side
    assert all(path.startswith("M") for path in outlines)
    assert "Dice 0.500" in words
    assert "false positive ml n/a" in words


def test_a_baseline_stands_beside_it(case, make, tmp_path):
    before = make("earlier", lesions=(((60, 66), (28, 34), (52, 58), 9.0),))
    _, seen = written(tmp_path / "r.html", case, "l2s 9.9", baseline=before)
    rows = [a["data-lesion"] for tag, a in seen.tags if tag == "tr" and "data-lesion" in a]
    assert rows == ["1", "2", "3", "b1"]
    assert len([1 for tag, _ in seen.tags if tag == "figure"]) == 4
    words = re.sub(r"\s+", " ", " ".join(seen.words))
    assert "TMTV ml 32.4 38.1 +5.7 +17.6 %" in words  # 5.7 / 32.4
    assert "Since earlier: TMTV +17.6 %, TLG " in words  # the heading
    assert "baseline 32.4 ml" in words


def test_a_comparison_says_what_keeps_the_two_apart(case, make, tmp_path):
    before = make("earlier", record={})
    before.table["provenance"]["min_volume_ml"] = 5.0
    _, seen = written(tmp_path / "r.html", case, "l2s 9.9", baseline=before)
    words = re.sub(r"\s+", " ", " ".join(seen.words))
    assert "the least volume of a lesion is 5 ml and 0 ml" in words
    assert "the weights of the baseline or of the follow-up are not known" in words


def test_warnings_of_reading_stand_beside_those_of_the_run(case, tmp_path):
    record = case.record | {"warnings": ["no GPU found: running on the CPU", "of the run"]}
    _, seen = written(tmp_path / "r.html", replace(case, record=record, warnings=("no CT", "of the run")), "l2s 9.9")
    items = [line for line in seen.words if line in ("no CT", "of the run")]
    assert items == ["of the run", "no CT"]
    case = replace(case, table=case.table | {"provenance": case.table["provenance"] | {"warnings": ["of the liver"]}})
    assert "of the liver" in written(tmp_path / "m.html", case, "l2s 9.9")[1].words
    assert "no GPU found: running on the CPU" not in seen.words  # no fault of the result: it stands with the device


def test_what_limits_the_scores_is_on_the_page(make, tmp_path):
    case = make()
    case.table["patient"]["percist"] |= {
        "baseline": "old",
        "response": "PMR",
        "notes": ["look at the liver"],
        "reason": ["no liver"],
    }
    case.table["patient"]["deauville"] = {"score": None, "reason": "no liver region was given"}
    _, seen = written(tmp_path / "r.html", case, "l2s 9.9", baseline=make("other"))
    words = re.sub(r"\s+", " ", " ".join(seen.words))
    for expected in (
        "PERCIST 1.0 response PMR, against old",
        "PERCIST 1.0 lacks no liver",
        "PERCIST 1.0, to check look at the liver",
        "Deauville n/a (no liver region was given)",
        "the PERCIST response in the table is against old, not against other",
    ):
        assert expected in words
    _, seen = written(tmp_path / "r.html", case, "l2s 9.9", baseline=make("old"))
    assert "the PERCIST response in the table" not in " ".join(seen.words)


def test_a_study_without_ct(case, tmp_path):
    study = replace(case.study, ct_hu=np.broadcast_to(np.float32(np.nan), case.study.pet_suv.shape))
    _, seen = written(tmp_path / "r.html", replace(case, study=study), "l2s 9.9")
    ids = {attrs.get("id") for _, attrs in seen.tags}
    assert "blob-pet" in ids
    assert "blob-ct" not in ids
    assert "ct-window" not in ids


def test_a_page_that_would_be_too_large_is_coarser(case, tmp_path, monkeypatch):
    fine = write_report(tmp_path / "fine.html", case, "l2s 9.9")
    monkeypatch.setattr(page, "MOST_BYTES", fine - 100_000)
    monkeypatch.setattr(page.volumes, "MOST_VOXELS", 300_000)
    assert write_report(tmp_path / "r.html", case, "l2s 9.9") <= fine - 100_000
    assert "means over PET voxels" in (tmp_path / "r.html").read_text()


def test_what_does_not_belong_together_is_refused_and_leaves_nothing(case, truth, tmp_path):
    with pytest.raises(InputError, match="do not belong together"):
        write_report(tmp_path / "r.html", replace(case, mask=truth), "l2s 9.9")
    with pytest.raises(InputError, match="the truth has shape"):
        write_report(tmp_path / "r.html", case, "l2s 9.9", truth=truth[1:])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_page_alone(case, tmp_path):
    target = tmp_path / "r.html"
    target.mkdir()
    with pytest.raises(OSError, match="r.html"):
        write_report(target, case, "l2s 9.9")
    assert list(tmp_path.iterdir()) == [target]


def test_no_two_numbers_lie_on_each_other_where_a_missed_lesion_is_near(make):
    case = make(lesions=(((40, 41), (20, 21), (30, 31), 9.0),))
    truth = np.zeros_like(case.mask)
    truth[40, 20, 32] = True  # beside the lesion, in front as from the side
    lesions = page.locate_lesions(case)
    judged = page.compare(lesions, case.mask, truth)
    box = page.picture_box(case.study, case.mask | truth, 10**7)
    for picture in page.make_pictures(case.study, lesions, judged, box, 1.0):
        (own,), (other,) = picture.marks, picture.missed
        assert area(around(own.number_at, 1), around(other.number_at, 2)) == 0
