"""`l2s report` as a user meets it."""

import json

import numpy as np
import pytest

from l2s import cli
from l2s.io.images import write_mask
from l2s.outdir import read


@pytest.fixture(scope="module")
def result(tmp_path_factory, write):
    return write(tmp_path_factory.mktemp("result"), "first")


def failed(capsys, *argv) -> str:
    assert cli.main(["report", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


def test_a_page_of_a_result(result, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    assert cli.main(["report", str(result), "-o", str(page)]) == 0
    assert "3 lesions" in capsys.readouterr().out
    assert [p.name for p in page.parent.iterdir()] == ["page.html"]
    assert "first" in page.read_text()
    assert cli.main(["report", str(result)]) == 0
    assert (result / "report.html").is_file()


def test_with_baseline_and_truth(result, write, tmp_path, capsys):
    before = write(tmp_path / "before", "earlier", ())
    study = read(result)[0].study
    truth = np.zeros(study.grid.shape_zyx, bool)
    truth[60:66, 28:34, 52:58] = True  # lesion 1, exactly: 216 of 254 voxels are right
    write_mask(tmp_path / "truth.mha", truth, study.stored)
    page = tmp_path / "p.html"
    argv = ["report", result, "-o", page, "--baseline", before, "--truth", tmp_path / "truth.mha"]
    assert cli.main([str(a) for a in argv]) == 0
    text = page.read_text()
    assert "compared with earlier" in text
    assert f"Dice <b>{2 * 216 / (216 + 254):.3f}</b>" in text
    assert "(1 of 1 true lesions found)" in text


def test_a_result_without_a_table_is_measured(write, tmp_path, capsys):
    folder = write(tmp_path / "r")
    (folder / "lesions.json").unlink()
    assert cli.main(["report", str(folder)]) == 0
    assert "3 lesions" in capsys.readouterr().out
    assert not (folder / "lesions.json").exists()


def test_what_cannot_be_used_is_one_line(result, tmp_path, capsys):
    assert "no such folder" in failed(capsys, tmp_path / "nowhere")
    assert "give a name that ends in .html" in failed(capsys, result, "-o", tmp_path / "page.pdf")
    (tmp_path / "folder.html").mkdir()
    assert "is a folder" in failed(capsys, result, "-o", tmp_path / "folder.html")
    assert "is the study itself" in failed(capsys, result, "--baseline", result)
    assert "no such file" in failed(capsys, result, "--truth", tmp_path / "t.mha")
    assert "go together" in failed(capsys, "--pet", result / "SUV.nii.gz", "-o", tmp_path / "x.html")
    files = ("--pet", result / "SUV.nii.gz", "--mask", result / "mask.nii.gz")
    assert "-o FILE.html" in failed(capsys, *files)
    assert "both name the study" in failed(capsys, result, *files)
    assert "--mask" in failed(capsys, *files[:3], tmp_path / "m.mha", "-o", tmp_path / "x.html")
    assert "its own CT" in failed(capsys, result, "--ct", result / "CTres.nii.gz")
    assert "one result is needed" in failed(capsys)
    assert "is a file" in failed(capsys, result, "-o", result / "mask.nii.gz" / "x.html")
    assert "cannot be written" in failed(capsys, result, "-o", result / "mask.nii.gz" / "sub" / "x.html")
    write_mask(tmp_path / "small.mha", np.ones((9, 9, 9), bool), read(result)[0].study.grid.crop((0, 0, 0), (9, 9, 9)))
    assert "not on the PET's grid" in failed(capsys, result, "--truth", tmp_path / "small.mha", "-o", tmp_path / "x.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.html", "small.mha"]


def test_a_page_that_cannot_be_written_is_refused_before_the_work(result, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("l2s.outdir.os.access", lambda path, mode: False)
    monkeypatch.setattr("l2s.commands.report.read_case", None)
    assert f"cannot be written ({tmp_path} does not let you)" in failed(capsys, result, "-o", tmp_path / "new" / "x.html")


def without(table, key, field):
    """The table, one field of one part gone."""
    del table[key][field]
    return table


def test_a_table_of_an_earlier_version_may_lack_what_scores_gained(write, tmp_path):
    folder = write(tmp_path / "r")
    file = folder / "lesions.json"
    table = json.loads(file.read_text())
    del table["patient"]["percist"]["notes"]
    file.write_text(json.dumps(table))
    assert cli.main(["report", str(folder)]) == 0


def test_a_pet_and_a_mask_without_a_result(result, write, tmp_path, capsys):
    page = tmp_path / "page.html"
    files = ["--pet", str(result / "SUV.nii.gz"), "--mask", str(result / "mask.nii.gz")]
    assert cli.main(["report", *files, "-o", str(page)]) == 0
    assert "3 lesions" in capsys.readouterr().out
    text = page.read_text()
    assert "Mask from <b>mask.nii.gz</b>" in text
    assert "another tool made the mask" in text
    assert "no --ct: no HU" in text
    assert 'id="ct-window"' not in text
    assert cli.main(["report", *files, "--ct", str(result / "CTres.nii.gz"), "-o", str(page)]) == 0
    assert 'id="ct-window"' in page.read_text()


def test_warnings_reach_the_page(write, tmp_path):
    folder = write(tmp_path / "r")
    (folder / "CTres.nii.gz").unlink()
    assert cli.main(["report", str(folder)]) == 0
    text = (folder / "report.html").read_text()
    assert "holds no CTres.nii.gz" in text
    assert "holds no cue.nii.gz" not in text  # the table says what is known of it
    (folder / "lesions.json").unlink()
    assert cli.main(["report", str(folder)]) == 0
    assert "holds no cue.nii.gz" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: "{", "is no table of l2s"),
        (lambda table: json.dumps([]), "is no table of l2s"),
        (lambda table: json.dumps(table | {"schema_version": 99}), "has schema version 99"),
        (lambda table: json.dumps(table | {"lesions": [{}]}), "is no table of l2s"),
        (lambda table: json.dumps(table | {"provenance": {"connectivity": 7, "min_voxels": 1}}), "connectivity 7"),
        (lambda table: json.dumps(table | {"lesions": table["lesions"][:1]}), "3 lesions in patient, 1 rows"),
        (lambda table: json.dumps(without(table, "patient", "tmtv_ml")), "KeyError: 'patient.tmtv_ml'"),
        (lambda table: json.dumps(without(table, "patient", "suv_max")), "KeyError: 'patient.suv_max'"),
        (lambda table: json.dumps(without(table["lesions"], 0, "suv_max") and table), "KeyError: 'lesions[0].suv_max'"),
        (lambda table: json.dumps(table["lesions"][0].update(suv_max=None) or table), "lesions[0].suv_max is None"),
        (
            lambda table: json.dumps(table["lesions"][1].update(maximum_mm_xyz=[1, 2]) or table),
            "lesions[1].maximum_mm_xyz is [1, 2]",
        ),
        (lambda table: json.dumps(table["lesions"][1].update(number=7) or table), "lesions[1] has number 7"),
        (lambda table: json.dumps(table["patient"].update(tlg_suv_ml=float("nan")) or table), "NaN is no figure"),
        (
            lambda table: json.dumps(table["patient"].update(liver={"suv_mean": "2"}) or table),
            "patient.liver is {'suv_mean': '2'}",
        ),
        (lambda table: json.dumps(table["lesions"][0].update(voxels=5) or table), "do not belong together"),
    ],
)
def test_a_broken_table(write, tmp_path, capsys, change, message):
    folder = write(tmp_path / "r")
    file = folder / "lesions.json"
    file.write_text(change(json.loads(file.read_text())))
    assert message in failed(capsys, folder, "-o", tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()
