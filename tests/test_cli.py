"""The command line as a user meets it: exit codes, one-line errors, files and tables."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from l2s import __version__, cli

ROOT = Path(__file__).resolve().parents[1]


def write_labels(path: Path, runs, spacing_xyz=(2.0, 3.0, 5.0), origin_xyz=(0.0, 0.0, 0.0), kind=np.uint8, flip_x=False) -> Path:
    """An (8, 9, 10) label image; runs are (z, y, x start, x stop, value). flip_x stores the same image from left to right."""
    array = np.zeros((8, 9, 10), kind)
    for z, y, start, stop, value in runs:
        array[z, y, start:stop] = value
    image = sitk.GetImageFromArray(array[:, :, ::-1] if flip_x else array)
    image.SetSpacing(spacing_xyz)
    image.SetOrigin((origin_xyz[0] + 9 * spacing_xyz[0], *origin_xyz[1:]) if flip_x else origin_xyz)
    if flip_x:
        image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def failed(capsys, *argv) -> str:
    """The one line of a command that must exit with 2."""
    assert cli.main([str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    return err


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """Three cases: a partial hit and a false positive, an empty truth with a false positive, a missed lesion. 0.03 ml a voxel."""
    truth, prediction = tmp_path / "truth", tmp_path / "prediction"
    write_labels(truth / "a.nii.gz", [(1, 1, 2, 6, 3)])
    write_labels(prediction / "a.mha", [(1, 1, 4, 8, 1), (3, 4, 0, 1, 1)])
    write_labels(truth / "b.mha", [])
    write_labels(prediction / "b.mha", [(0, 0, 0, 2, 1)])
    write_labels(truth / "c.v2.mha", [(2, 2, 0, 5, 1)])
    write_labels(prediction / "c.v2.mha", [])
    return truth, prediction


def test_evaluate_folders(folders, tmp_path, capsys):
    truth, prediction = folders
    out, table = tmp_path / "new" / "scores.json", tmp_path / "scores.csv"
    assert cli.main(["evaluate", str(truth), str(prediction), "--json", str(out), "--csv", str(table)]) == 0
    value = json.loads(out.read_text())
    a, b, c = value["cases"]
    assert [x["case"] for x in value["cases"]] == ["a", "b", "c.v2"]
    assert a["dice"] == pytest.approx(2 * 2 / (4 + 5))
    assert a["fpv_ml"] == pytest.approx(0.03)
    assert a["fnv_ml"] == 0
    assert a["hausdorff_mm"] == pytest.approx(
        np.hypot(np.hypot(2 * 5, 3 * 3), 2 * 2)
    )  # the false positive to the nearest true voxel
    assert (b["dice"], b["fnv_ml"], b["hd95_mm"]) == (None, None, None)
    assert b["fpv_ml"] == pytest.approx(0.06)
    assert (c["dice"], c["fpv_ml"], c["hausdorff_mm"]) == (0, 0, None)
    assert c["fnv_ml"] == pytest.approx(0.15)
    assert value["summary"]["mdice"] == pytest.approx(2 / 9)
    assert value["summary"]["mean_fpv_ml"] == pytest.approx(0.03)
    assert value["summary"]["mean_fnv_ml"] == pytest.approx(0.075)
    assert value["summary"]["mean_hausdorff_mm"] == a["hausdorff_mm"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(r["case"], r["dice"] == "", float(r["fpv_ml"])) for r in rows] == [
        ("a", False, 0.03),
        ("b", True, 0.06),
        ("c.v2", False, 0),
    ]
    text = capsys.readouterr().out.splitlines()
    assert text[0].split()[:2] == ["case", "dice"]
    assert text[1].split()[:4] == ["a", "0.444", "0.03", "0.00"]
    assert text[2].split()[:4] == ["b", "-", "0.06", "-"]
    assert text[4].split()[:4] == ["mean", "0.222", "0.03", "0.07"]
    assert len({len(line) for line in text[:5]}) == 1, "columns are aligned"
    assert "mDice 0.222" in text[5]
    assert sorted(p.name for p in out.parent.iterdir()) == ["scores.json"], "no temporary file is left"


def test_evaluate_two_files_of_any_names(folders, tmp_path, capsys):
    truth, prediction = folders
    out = tmp_path / "s.json"
    assert cli.main(["evaluate", str(truth / "a.nii.gz"), str(prediction / "b.mha"), "--json", str(out), "--no-surface"]) == 0
    (case,) = json.loads(out.read_text())["cases"]
    assert case["case"] == "a"
    assert case["fnv_ml"] == pytest.approx(0.12)
    assert "hausdorff_mm" not in case
    assert "HD95" not in capsys.readouterr().out


def test_a_prediction_stored_the_other_way_round_is_the_same(tmp_path):
    runs = [(1, 1, 2, 6, 1), (3, 4, 0, 1, 1)]
    truth = write_labels(tmp_path / "t.mha", runs)
    prediction = write_labels(tmp_path / "p.mha", runs, flip_x=True)
    assert cli.main(["evaluate", str(truth), str(prediction), "--json", str(tmp_path / "s.json")]) == 0
    (case,) = json.loads((tmp_path / "s.json").read_text())["cases"]
    assert (case["dice"], case["hausdorff_mm"]) == (1, 0)


@pytest.mark.parametrize("change", [{"origin_xyz": (0.0, 1.0, 0.0)}, {"spacing_xyz": (2.0, 3.0, 5.1)}])
def test_a_misaligned_prediction_is_refused_by_name(folders, tmp_path, capsys, change):
    truth, prediction = folders
    write_labels(prediction / "b.mha", [], **change)
    out = tmp_path / "s.json"
    line = failed(capsys, "evaluate", truth, prediction, "--json", out)
    assert "prediction/b.mha: its grid" in line
    assert not out.exists()


def test_a_missing_prediction_is_refused_and_an_extra_one_warned_of(folders, capsys, caplog):
    truth, prediction = folders
    write_labels(prediction / "d.mha", [])
    (prediction / ".hidden.mha").write_text("")
    (prediction / "notes.txt").write_text("")
    assert cli.main(["evaluate", str(truth), str(prediction), "--no-surface"]) == 0
    assert "1 predictions without truth are left out, first d" in caplog.text
    capsys.readouterr()
    (prediction / "a.mha").unlink()
    assert "no prediction for 1 of 3 cases, first a" in failed(capsys, "evaluate", truth, prediction)


def test_what_is_no_label_image_is_refused(folders, tmp_path, capsys):
    good = folders[0] / "a.nii.gz"
    half = write_labels(tmp_path / "half.mha", [(0, 0, 0, 2, 0.5)], kind=np.float32)
    negative = write_labels(tmp_path / "negative.mha", [(0, 0, 0, 2, -1)], kind=np.int16)
    assert "half.mha is no label image: it holds 0.5" in failed(capsys, "evaluate", good, half)
    assert "negative.mha is no label image: it holds -1" in failed(capsys, "evaluate", negative, good)


def test_paths_that_do_not_pair(folders, tmp_path, capsys):
    truth, prediction = folders
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "nowhere does not exist" in failed(capsys, "evaluate", tmp_path / "nowhere", prediction)
    assert "one is a folder" in failed(capsys, "evaluate", truth, prediction / "a.mha")
    assert "no file ends in" in failed(capsys, "evaluate", empty, prediction)
    write_labels(prediction / "a.nii", [])
    assert "a.mha and a.nii are the same case" in failed(capsys, "evaluate", truth, prediction)


def test_a_place_that_cannot_be_written_is_one_line(folders, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "is a folder; name a file" in failed(capsys, "evaluate", *folders, "--csv", tmp_path)
    line = failed(capsys, "evaluate", *folders, "--json", tmp_path / "file" / "s.json")
    assert "file" in line


def test_figures_replace_no_mask_and_not_each_other(folders, tmp_path, capsys):
    truth, prediction = folders
    before = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    link = tmp_path / "link"
    link.symlink_to(truth / "a.nii.gz")
    for words, said in (
        (("--json", truth / "a.nii.gz"), "is the truth of a"),
        (("--json", link), "is the truth of a"),
        (("--csv", prediction / "b.mha"), "is the prediction of b"),
        (("--json", tmp_path / "same", "--csv", truth / ".." / "same"), "is the file of --json"),
    ):
        assert said in failed(capsys, "evaluate", truth, prediction, *words)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "0"], "--cases 0: at least 1"),
        (["--seed", "-1"], "--seed -1"),
        (["--shape", "7", "64", "64"], "--shape 7 64 64: 8 or more each"),
        (["--shape", "4096", "4096", "4096"], "--shape 4096 4096 4096"),
        (["--spacing-mm", "4", "4", "0.4"], "--spacing-mm 4 4 0.4: each 0.5 to 20 mm"),
        (["--spacing-mm", "4", "nan", "4"], "--spacing-mm 4 nan 4"),
        (["--organ-maps", "nowhere"], "--organ-maps nowhere"),
    ],
)
def test_phantom_refuses_numbers_that_cannot_be(tmp_path, capsys, arguments, message):
    assert message in failed(capsys, "phantom", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_phantom_writes_what_evaluate_reads(tmp_path, capsys):
    arguments = ["--cases", "2", "--seed", "7", "--shape", "60", "40", "48", "--spacing-mm", "16", "12", "10"]
    assert cli.main(["phantom", str(tmp_path), *arguments]) == 0
    cases = sorted(p.name for p in tmp_path.iterdir())
    assert len(cases) == 2
    out = capsys.readouterr().out
    for case in cases:
        assert case in out
        pet = sitk.ReadImage(str(tmp_path / case / "images" / "pet" / f"{case}.mha"))
        assert (pet.GetSize(), pet.GetSpacing()) == ((48, 40, 60), (10.0, 12.0, 16.0))
        assert (tmp_path / case / "images" / "ct" / f"{case}.mha").is_file()
    truth = str(tmp_path / cases[0] / "truth.mha")
    assert cli.main(["evaluate", truth, truth, "--no-surface"]) == 0


def test_weights_list_and_verify(weights_folder, capsys):
    assert cli.main(["weights", "verify", str(weights_folder)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{weights_folder}:\n")
    assert "localizer.safetensors" in text
    assert cli.main(["weights", "verify", str(weights_folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["good"] is True
    assert cli.main(["weights", "list", str(weights_folder)]) == 0
    text = capsys.readouterr().out
    assert "fusion" in text
    assert "voxelwise" in text
    assert cli.main(["weights", "list", str(weights_folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["spacing_mm_zyx"], len(facts["sha256"])) == ("random", [8.0, 8.0, 8.0], 64)


def test_weights_that_are_broken_or_absent(own_weights_folder, tmp_path, capsys):
    file = own_weights_folder / "segmenter.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00\x01")
    assert "segmenter.safetensors: SHA-256" in failed(capsys, "weights", "verify", own_weights_folder)
    assert "no manifest.json" in failed(capsys, "weights", "list", tmp_path / "nothing")


def test_version_and_help(capsys):
    for argv, expected in (
        (["--version"], f"l2s {__version__}"),
        (["--help"], "evaluate"),
        (["evaluate", "--help"], "--no-surface"),
    ):
        with pytest.raises(SystemExit) as exit_:
            cli.main(argv)
        assert exit_.value.code == 0
        assert expected in capsys.readouterr().out
    for argv in ([], ["dance"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(argv)
        assert exit_.value.code == 2


def test_as_a_module_and_into_a_closed_pipe(folders):
    command = [
        sys.executable,
        "-m",
        "l2s.cli",
        "evaluate",
        str(folders[0] / "a.nii.gz"),
        str(folders[1] / "a.mha"),
        "--no-surface",
    ]
    assert "0.444" in subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        process.stdout.close()  # as `| head` does once it has its lines
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 1


@pytest.mark.parametrize(
    "words", [["phantom", "out", "--case", "2"], ["evaluate", "a", "b", "--js", "x"], ["weights", "list", "--js"]]
)
def test_nothing_is_abbreviated(words):
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
