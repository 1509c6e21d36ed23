"""The page from process.py, from `l2s segment` and from the API: the same table whichever way, small random weights."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import l2s
from l2s import challenge, cli
from l2s.engine import Budget
from l2s.report import page
from l2s.run import Record, warn_over_budget

SHAPE = (20, 26, 30)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("case")
    pet = np.random.default_rng(0).uniform(0.2, 1.5, SHAPE).astype(np.float32)
    pet[8:12, 10:14, 12:16] = 14
    ct = np.full(SHAPE, -1000, np.float32)
    ct[:, 4:-4, 4:-4] = 40
    for kind, array in (("pet", pet), ("ct", ct)):
        (folder / "images" / kind).mkdir(parents=True)
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((8.0, 8.0, 8.0))
        sitk.WriteImage(image, str(folder / "images" / kind / "anna.mha"))
    return folder


def table_of(path: Path) -> list[str]:
    """The headline and the numbers of all rows of a page."""
    text = path.read_text(encoding="utf-8")
    cells = re.findall(r'<td class="rank[^"]*col-(?:number|volume_ml|suv_max)[^"]*" data-sort="([^"]*)"', text)
    return [re.search(r'id="headline">([^<]*)<', text).group(1), *cells]


def run(case, out, weights, *flags) -> int:
    return challenge.main(["--input", str(case), "--output", str(out), "--weights", str(weights), "--device", "cpu", *flags])


def test_three_ways_to_one_page(case, weights_folder, tmp_path, capsys):
    assert run(case, tmp_path / "out", weights_folder, "--report") == 0
    argv = ["segment", str(case), str(tmp_path / "result"), "--weights", str(weights_folder), "--device", "cpu", "--report"]
    assert cli.main(argv) == 0
    assert "report.html" in capsys.readouterr().out
    l2s.segment(case, weights=weights_folder, device="cpu").report(tmp_path / "api.html")
    first = table_of(tmp_path / "out" / "l2s-report.html")
    assert first == table_of(tmp_path / "result" / "report.html") == table_of(tmp_path / "api.html")
    record = json.loads((tmp_path / "out" / "l2s-record.json").read_text())
    assert first[0].startswith(str(record["result"]["lesions"] or "No"))
    assert "report" in record["seconds"]
    assert "anna" in (tmp_path / "out" / "l2s-report.html").read_text()


def listed(folder: Path) -> list[str]:
    return sorted(json.loads((folder / "record.json").read_text())["files"])


def test_the_record_lists_the_page(case, weights_folder, tmp_path):
    out = tmp_path / "result"
    argv = ["segment", str(case), str(out), "--weights", str(weights_folder), "--device", "cpu"]

    def there() -> list[str]:
        return sorted(p.name for p in out.iterdir() if p.name != "record.json")

    assert cli.main(argv) == 0
    assert "report.html" not in listed(out) == there()
    for _ in range(2):  # made again it is listed once
        assert cli.main(["report", str(out)]) == 0
        assert "report.html" in listed(out) == there()
    assert cli.main([*argv, "--report"]) == 0
    assert "report.html" in listed(out) == there()
    assert "report" in json.loads((out / "record.json").read_text())["seconds"]
    result = l2s.segment(case, weights=weights_folder, device="cpu")
    result.save(out)
    assert "report.html" not in listed(out) == there()
    result.report(out / "report.html")
    assert "report.html" in listed(out) == there()


def test_a_page_beside_another_programs_record_leaves_it_alone(case, weights_folder, tmp_path):
    out, foreign = tmp_path / "result", tmp_path / "foreign" / "record.json"
    assert cli.main(["segment", str(case), str(out), "--weights", str(weights_folder), "--device", "cpu"]) == 0
    before = listed(out)
    foreign.parent.mkdir()
    for text in ('{"tool": "other 1", "files": ["a"]}', '{"tool": "l2s 0", "files": 3}', "no JSON"):
        foreign.write_text(text)
        assert cli.main(["report", str(out), "-o", str(foreign.parent / "report.html")]) == 0
        assert foreign.read_text() == text
    assert listed(out) == before


def test_a_page_that_makes_the_run_late_is_said(case, weights_folder, tmp_path, monkeypatch):
    write_report, late = page.write_report, []

    def slow(*args, **kwargs):
        late.append(True)
        return write_report(*args, **kwargs)

    monkeypatch.setattr(page, "write_report", slow)
    monkeypatch.setattr("l2s.run.warn_over_budget", lambda budget, record: record.warn(["too late"] if late else []))
    assert run(case, tmp_path / "out", weights_folder, "--report") == 0
    assert "too late" in json.loads((tmp_path / "out" / "l2s-record.json").read_text())["warnings"]
    late.clear()
    argv = ["segment", str(case), str(tmp_path / "result"), "--weights", str(weights_folder), "--device", "cpu", "--report"]
    assert cli.main(argv) == 0
    assert "too late" in json.loads((tmp_path / "result" / "record.json").read_text())["warnings"]


def test_a_limit_is_named_once_with_its_last_figure(monkeypatch):
    record, now = Record(), []
    monkeypatch.setattr("l2s.run.time.perf_counter", lambda: record.started + now[-1])
    for seconds in (59.0, 61.0, 121.0):
        now.append(seconds)
        warn_over_budget(Budget(seconds=60.0), record)
    assert record.content["warnings"] == ["the run took 121.0 s, time-budget was 60 s"]


def test_no_flag_no_page_and_a_wrong_place_ends_before_the_work(case, weights_folder, tmp_path, capsys):
    assert run(case, tmp_path / "out", weights_folder, "--report", "absent/x.html") == 2
    assert "--report absent/x.html" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.mha"))
    assert run(case, tmp_path / "out", weights_folder) == 0
    assert not list((tmp_path / "out").rglob("*.html"))


def test_a_failing_page_does_not_cost_the_mask(case, weights_folder, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no ink")

    monkeypatch.setattr(page, "write_report", broken)
    assert run(case, tmp_path / "out", weights_folder, "--report", "--on-error", "empty") == 0
    record = json.loads((tmp_path / "out" / "l2s-record.json").read_text())
    assert record["error"] == "RuntimeError: no ink"
    assert record["files"] == [record["case"]["mask"]]
    assert "empty_because_of_error" not in record["result"]
    assert len(list((tmp_path / "out").rglob("*.mha"))) == 1
