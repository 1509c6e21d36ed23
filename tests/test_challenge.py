"""process.py as the platform runs it: editions, records, bad input, fail-soft; the real pipeline with small random weights."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from l2s import challenge, engine, pipeline, sockets
from l2s.errors import InputError
from l2s.io import images
from l2s.report import mip
from l2s.run import Record, make_progress

ROOT = Path(__file__).resolve().parents[1]
OLD = "images/automated-petct-lesion-segmentation"
NEW = "images/tumor-lesion-segmentation"
SHAPE = (20, 26, 30)


def image(array, origin=(-120.0, -100.0, 50.0), spacing=(8.0, 8.0, 8.0)) -> sitk.Image:
    out = sitk.GetImageFromArray(array)
    out.SetSpacing(spacing)
    out.SetOrigin(origin)
    out.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, -1))
    return out


def pet_array() -> np.ndarray:
    pet = np.random.default_rng(0).uniform(0.2, 1.5, SHAPE).astype(np.float32)
    pet[8:12, 10:14, 12:16] = 14
    return pet


def ct_array() -> np.ndarray:
    ct = np.full(SHAPE, -1000, np.int16)
    ct[:, 4:-4, 4:-4] = 40
    return ct


@pytest.fixture
def case(tmp_path) -> Path:
    """An /input folder whose PET and CT stems differ, as in edition I's test data."""
    folder = tmp_path / "input"
    for kind, name, array in (("pet", "pet-stem", pet_array()), ("ct", "ct-stem", ct_array())):
        (folder / "images" / kind).mkdir(parents=True)
        sitk.WriteImage(image(array), str(folder / "images" / kind / f"{name}.mha"), True)
    return folder


@pytest.fixture
def run(tmp_path, weights_folder, capfd):
    """run(flags ...) -> (exit code, stderr, record)."""

    def call(*flags, output=tmp_path / "output"):
        code = challenge.main(
            [
                "--input",
                str(tmp_path / "input"),
                "--output",
                str(output),
                "--weights",
                str(weights_folder),
                "--device",
                "cpu",
                *flags,
            ]
        )
        record = output / challenge.RECORD
        return code, capfd.readouterr().err, json.loads(record.read_text()) if record.is_file() else None

    return call


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_the_mask_has_the_pet_s_geometry_and_the_ct_s_name(case, run, tmp_path):
    code, _, record = run()
    assert code == 0
    assert files(tmp_path / "output") == [f"{OLD}/ct-stem.mha", "l2s-record.json"]
    mask = sitk.ReadImage(str(tmp_path / "output" / OLD / "ct-stem.mha"))
    pet = sitk.ReadImage(str(case / "images/pet/pet-stem.mha"))
    for part in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, part)() == getattr(pet, part)()
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert set(np.unique(sitk.GetArrayViewFromImage(mask))) <= {0, 1}
    assert record["result"]["volume_ml"] == pytest.approx(sitk.GetArrayViewFromImage(mask).sum() * 0.512)


def test_the_record_says_how_it_was_made(case, run):
    _, err, record = run("--fusion", "none", "--windows", "gaussian", "--spacing-mm", "9", "9", "9")
    assert {"read", "load", "prepare", "localize", "segment", "resample", "fuse", "write", "total"} <= set(record["seconds"])
    assert record["use"] == "research use only"
    assert len(record["weights"]["sha256"]) == 64
    assert record["weights"]["sha256"] in err
    assert record["plan"]["device"] == "cpu"
    assert record["peak_rss_mib"] > 50
    assert record["method"]["fusion"] == "none"
    assert record["method"]["windows"] == "gaussian"
    assert any("working spacing" in line for line in record["warnings"])
    assert "error" not in record


def test_budgets_are_in_the_record(case, run):
    code, _, record = run("--max-ram", "64G", "--time-budget", "1000", "--mirror", "xy")
    assert code == 0
    assert record["plan"]["budget"] == {"ram_bytes": 64 * 2**30, "vram_bytes": None, "seconds": 1000.0}
    assert record["left_out"] == []
    assert len(record["method"]["passes"]) == 8
    assert {"tiles", "tile_zyx", "batch_planes", "halo"} <= set(record["plan"])


@pytest.mark.parametrize(("flag", "times"), [("--preview", "PREVIEW_DRAWING"), ("--report", "PAGE_DRAWING")])
def test_a_budget_keeps_time_for_the_preview_and_the_page(case, run, monkeypatch, flag, times):
    _, _, record = run(flag, "--time-budget", "1000")
    assert record["left_out"] == []
    monkeypatch.setattr(f"l2s.run.{times}", 1e6)
    _, _, record = run(flag, "--time-budget", "1000")
    assert record["left_out"] == ["localize fold 0 (x)", "segment fold 0 (x)"]


def test_a_budget_that_cannot_be_kept_is_said(case, run):
    code, err, record = run("--max-ram", "1M", "--time-budget", "0.01")
    assert code == 0
    assert record["left_out"] == ["localize fold 0 (x)", "segment fold 0 (x)"]
    for text in ("max-ram was", "time-budget was", "the base answer alone took"):
        assert any(text in line for line in record["warnings"]), text
        assert text in err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--max-ram", "4"), "4G or 512M"),
        (("--max-vram", "6G"), "--max-vram is for GPUs"),
        (("--time-budget", "0"), "--time-budget 0"),
        (("--time-budget", "nan"), "--time-budget nan"),
        (("--mirror", "w"), "mirror axis 'w'"),
        (("--mirror", "x,y"), "mirror axis ',': letters of xyz without anything between, such as xyz"),
        (("--mirror", "xx"), "each once"),
        (("--mirror", ""), "name axes"),
    ],
)
def test_budgets_that_mean_nothing_end_the_run_before_it(case, run, tmp_path, flags, line):
    code, err, record = run(*flags, "--on-error", "empty")
    assert code == 2
    assert line in err
    assert "result" not in record


@pytest.mark.parametrize(
    ("edition", "folder"),
    [("auto", OLD), ("autopet1", OLD), ("autopet2", OLD), ("autopet3", OLD), ("autopet4", NEW), ("autopet5", NEW)],
)
def test_every_edition_has_its_files(case, run, tmp_path, edition, folder):
    code, _, record = run("--edition", edition)
    assert code == 0
    expected = [f"{folder}/ct-stem.mha", "l2s-record.json"]
    if edition == "autopet3":
        expected.insert(0, "data-centric-model.json")
        assert json.loads((tmp_path / "output/data-centric-model.json").read_text()) is False
    assert files(tmp_path / "output") == sorted(expected)
    assert sorted([*record["files"], "l2s-record.json"]) == sorted(expected)


def clicks(points) -> str:
    return json.dumps({"version": {"major": 1, "minor": 0}, "type": "Multiple points", "points": points})


def test_a_clicks_file_makes_it_edition_four(case, run, tmp_path):
    (case / "lesion-clicks.json").write_text(
        clicks([{"point": [3, 4, 5.0], "name": "tumor"}, {"point": [1, 2, 3], "name": "background"}])
    )
    code, err, record = run()
    assert code == 0
    assert (tmp_path / "output" / NEW / "ct-stem.mha").is_file()
    assert record["case"]["clicks"] == 2
    assert "does not use them" in err
    assert sockets.read_clicks(case / "lesion-clicks.json") == (("tumor", (3, 4, 5)), ("background", (1, 2, 3)))


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        pytest.param(DEEP, id="deep"),
        clicks([{"point": [1, 2], "name": "tumor"}]),
        clicks([{"point": [1, 2, 3], "name": "spleen"}]),
        clicks(["x"]),
    ],
)
def test_broken_clicks_are_passed_over_with_a_warning(case, run, text):
    (case / "lesion-clicks.json").write_text(text)
    code, _, record = run()
    assert code == 0
    assert record["case"]["edition"] == "autopet4"
    assert any("lesion-clicks.json" in line for line in record["warnings"])


def test_an_empty_mask_goes_where_inputs_json_says(case, run, tmp_path):
    sockets_ = (("pet", "images/pet"), ("ct", "images/ct"), ("lesion-clicks", "lesion-clicks.json"))
    (case / "inputs.json").write_text(inputs_json(*sockets_))
    add(case, "ct")
    assert run("--on-error", "empty")[0] == 0
    assert (tmp_path / "output" / NEW / "pet-stem.mha").is_file()


def inputs_json(*sockets_):
    return json.dumps(
        [{"interface": {"slug": slug, "relative_path": path}, "image": None, "value": None} for slug, path in sockets_]
    )


def test_inputs_json_is_followed(case, run, tmp_path):
    both = (("pet-image", "images/pet"), ("ct-image", "images/ct"))
    (case / "inputs.json").write_text(inputs_json(*both))
    assert run()[2]["case"]["edition"] == "autopet2"
    (case / "inputs.json").write_text(inputs_json(*both, ("lesion-clicks", "lesion-clicks.json")))
    assert run(output=tmp_path / "second")[2]["case"]["edition"] == "autopet4"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "JSON"),
        pytest.param(DEEP, "JSON", id="deep"),
        ("{}", "list"),
        ("[{}]", "relative_path"),
        (inputs_json(("ct", "images/ct")), "images/pet"),
    ],
)
def test_a_broken_inputs_json_is_refused(case, run, text, line):
    (case / "inputs.json").write_text(text)
    code, err, _ = run()
    assert code == 2
    assert line in err


def replace(case, kind, array, **geometry):
    path = next((case / "images" / kind).iterdir())
    sitk.WriteImage(image(array, **geometry), str(path), True)


def add(case, kind):
    sitk.WriteImage(image(ct_array()), str(case / "images" / kind / "second.mha"))


def drop(case, kind):
    next((case / "images" / kind).iterdir()).unlink()


def cut(case, kind):
    path = next((case / "images" / kind).iterdir())
    path.write_bytes(path.read_bytes()[:-200])


def swap(case):
    pet, ct = (next((case / "images" / kind).iterdir()) for kind in ("pet", "ct"))
    pet_bytes = pet.read_bytes()
    pet.write_bytes(ct.read_bytes())
    ct.write_bytes(pet_bytes)


BAD = {
    "no PET": (lambda c: drop(c, "pet"), "holds 0 files"),
    "no CT": (lambda c: drop(c, "ct"), "holds 0 files"),
    "two PETs": (lambda c: add(c, "pet"), "holds 2 files"),
    "two CTs": (lambda c: add(c, "ct"), "second.mha"),
    "another format": (lambda c: next((c / "images/ct").iterdir()).rename(c / "images/ct/a.tif"), "a.tif"),
    "garbage": (lambda c: next((c / "images/ct").iterdir()).write_bytes(b"garbage" * 99), "cannot be read"),
    "truncated": (lambda c: cut(c, "pet"), "truncated"),
    "2D": (
        lambda c: sitk.WriteImage(sitk.GetImageFromArray(np.ones((9, 9), np.float32)), str(c / "images/pet/pet-stem.mha")),
        "2D",
    ),
    "NaN": (lambda c: replace(c, "pet", np.where(pet_array() > 10, np.nan, pet_array()).astype(np.float32)), "NaN"),
    "empty PET": (lambda c: replace(c, "pet", pet_array() * 0), "no voxel above 0"),
    "swapped": (swap, "swapped"),
    "no overlap": (lambda c: replace(c, "ct", ct_array(), origin=(5000.0, 0.0, 0.0)), "do not overlap"),
    "Bq/ml": (lambda c: replace(c, "pet", pet_array() * 4000), "Bq/ml"),
    "absurd spacing": (lambda c: replace(c, "pet", pet_array(), spacing=(8.0, 8.0, 800.0)), "800"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line_and_exit_2(case, run, tmp_path, kind):
    spoil, line = BAD[kind]
    spoil(case)
    code, err, record = run()
    assert code == 2
    errors = [text for text in err.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1
    assert line in errors[0]
    assert "Success" not in errors[0]
    assert "Traceback" not in err
    assert line in record["error"]
    assert files(tmp_path / "output") == ["l2s-record.json"]


@pytest.mark.parametrize("kind", ["truncated", "NaN", "no CT", "two CTs", "no overlap", "swapped", "Bq/ml", "absurd spacing"])
def test_on_error_empty_writes_an_empty_mask(case, run, tmp_path, kind):
    pet_file = case / "images/pet/pet-stem.mha"
    BAD[kind][0](case)
    header = sitk.ImageFileReader()
    header.SetFileName(str(pet_file))
    header.ReadImageInformation()
    code, err, record = run("--on-error", "empty", "--edition", "autopet3")
    assert code == 0
    (mask_file,) = (tmp_path / "output" / OLD).iterdir()
    assert mask_file.stem == ("ct-stem" if "CT" not in kind else "pet-stem")
    mask = sitk.ReadImage(str(mask_file))
    for part in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, part)() == getattr(header, part)()
    assert not sitk.GetArrayViewFromImage(mask).any()
    assert BAD[kind][1] in record["error"]
    assert "EMPTY mask" in err
    assert sorted([*record["files"], "l2s-record.json"]) == files(tmp_path / "output")
    assert (tmp_path / "output/data-centric-model.json").is_file()


@pytest.mark.parametrize("kind", ["no PET", "two PETs", "2D"])
def test_on_error_empty_still_fails_without_a_geometry(case, run, kind):
    BAD[kind][0](case)
    assert run("--on-error", "empty")[0] == 2


def test_on_error_empty_covers_bugs_and_keeps_their_traceback(case, run, monkeypatch, tmp_path):
    def broken(*args):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(pipeline, "segment", broken)
    code, err, record = run("--on-error", "empty")
    assert code == 0
    assert "Traceback" in err
    assert "ZeroDivisionError: a bug" in record["error"]
    with pytest.raises(ZeroDivisionError):
        run(output=tmp_path / "second")
    assert "a bug" in json.loads((tmp_path / "second" / challenge.RECORD).read_text())["error"]


def test_on_error_empty_keeps_the_edition_that_inputs_json_named(case, run, tmp_path):
    both = (("pet-image", "images/pet"), ("ct-image", "images/ct"), ("lesion-clicks", "lesion-clicks.json"))
    (case / "inputs.json").write_text(inputs_json(*both))
    BAD["NaN"][0](case)
    assert run("--on-error", "empty")[0] == 0
    assert files(tmp_path / "output") == [f"{NEW}/ct-stem.mha", "l2s-record.json"]


@pytest.fixture
def full_mask(monkeypatch):
    """The pipeline's answer with every voxel set, so that it can be told from an empty one."""
    real = pipeline.segment

    def segment(*args):
        result = real(*args)
        return dataclasses.replace(result, mask=np.ones_like(result.mask))

    monkeypatch.setattr(pipeline, "segment", segment)


def test_a_failing_flag_file_does_not_cost_the_mask(case, run, full_mask, monkeypatch, tmp_path):
    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(challenge, "write_text", full)
    code, err, record = run("--on-error", "empty", "--edition", "autopet3")
    assert code == 0
    assert "is kept" in err
    assert sitk.GetArrayViewFromImage(sitk.ReadImage(str(tmp_path / "output" / OLD / "ct-stem.mha"))).all()
    assert record["result"]["lesions"] == 1
    assert record["files"] == [f"{OLD}/ct-stem.mha"]


@pytest.mark.parametrize("ending", [".mha", ".nii.gz"])
def test_a_name_that_is_no_utf8(case, run, tmp_path, ending):
    given = next((case / "images/ct").iterdir())
    sitk.WriteImage(sitk.ReadImage(str(given)), str(case / f"ct{ending}"))
    given.unlink()
    (case / f"ct{ending}").rename(case / "images/ct" / os.fsdecode(b"M\xfcller" + ending.encode()))
    code, err, record = run()
    if ending == ".mha":
        assert (code, "not UTF-8; rename" in record["error"]) == (2, True)
        return
    assert code == 0
    assert (record["case"]["name"], record["case"]["ct"]) == (r"M\xfcller", r"M\xfcller.nii.gz")
    assert (tmp_path / "output" / OLD / r"M\xfcller.mha").is_file()


def test_a_failing_preview_does_not_cost_the_mask(case, run, full_mask, monkeypatch, tmp_path):
    def broken(*args):
        raise ZeroDivisionError("no picture")

    monkeypatch.setattr(mip, "preview", broken)
    code, err, record = run("--on-error", "empty", "--preview")
    assert code == 0
    assert "is kept" in err
    assert sitk.GetArrayViewFromImage(sitk.ReadImage(str(tmp_path / "output" / OLD / "ct-stem.mha"))).all()
    assert record["error"] == "ZeroDivisionError: no picture"
    assert record["result"] == {"lesions": 1, "volume_ml": pytest.approx(20 * 26 * 30 * 0.512)}


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--spacing-mm", "0", "0", "0"), "--spacing-mm 0 0 0"),
        (("--spacing-mm", "4", "-4", "4"), "--spacing-mm 4 -4 4"),
        (("--spacing-mm", "nan", "4", "4"), "--spacing-mm nan 4 4"),
        (("--spacing-mm", "4", "4", "200"), "--spacing-mm 4 4 200"),
        (("--preview", "absent/x.png"), "absent is no folder"),
        (("--preview", ".."), "--preview .. is a folder"),
        (("--preview", "l2s-record.json"), "is the record"),
        (("--report", "data-centric-model.json"), "is edition III's model flag"),
        (("--preview", "same", "--report", "./same"), "is the file of --preview"),
        (("--report", "../input/images/pet/pet-stem.mha"), "is the case's images/pet/pet-stem.mha"),
        (("--preview", "../input/images/ct/ct-stem.mha"), "is the case's images/ct/ct-stem.mha"),
        (("--preview", "../input/images/ct/x.png"), "where images alone may be"),
        (("--report", "../input/lesion-clicks.json"), "is the input's lesion-clicks.json"),
        (("--report", "../input/inputs.json"), "is the input's inputs.json"),
    ],
)
def test_mistyped_flags_are_no_case_for_an_empty_mask(case, run, tmp_path, flags, line):
    before = {name: (case / name).read_bytes() for name in files(case)}
    (tmp_path / "output").mkdir()
    code, err, record = run("--on-error", "empty", *flags)
    assert code == 2
    assert line in err
    assert line in record["error"]
    assert files(tmp_path / "output") == ["l2s-record.json"]
    assert {name: (case / name).read_bytes() for name in files(case)} == before


def test_a_picture_in_the_place_of_a_linked_pet_or_of_the_mask_is_refused(case, run, tmp_path):
    pet = case / "images/pet/pet-stem.mha"
    pet.rename(tmp_path / "elsewhere.mha")
    pet = pet.with_name("ct-stem.mha")  # both may have one name
    pet.symlink_to(tmp_path / "elsewhere.mha")
    assert "is the case's images/pet/ct-stem.mha" in run("--preview", str(tmp_path / "elsewhere.mha"))[1]
    assert run()[0] == 0
    for name in ("ct-stem.mha", "beside.png"):
        code, err, _ = run("--preview", f"{OLD}/{name}")
        assert code == 2
        assert "where images alone may be" in err
    assert files(tmp_path / "output" / OLD) == ["ct-stem.mha"]


@pytest.mark.parametrize("place", ["images/pet", "images/ct/new"])
def test_an_output_among_the_input_is_refused_and_gets_no_record(case, run, place):
    before = files(case)
    code, err, record = run("--on-error", "empty", output=case / place)
    assert code == 2
    assert "error: " in err
    assert "name a" in err
    assert record is None
    assert files(case) == before


def test_a_case_may_hold_its_own_result(case, run):
    assert run(output=case / "result")[0] == 0
    for _ in range(2):
        assert run(output=case)[0] == 0


def test_images_that_link_to_themselves_are_one_line(case, run):
    shutil.rmtree(case / "images/pet")
    (case / "images/pet").symlink_to("pet")
    code, err, _ = run("--preview")
    assert code == 2
    assert "Traceback" not in err


def test_sigterm_leaves_nothing_half_written(case, run, monkeypatch, tmp_path):
    def killed(path, own, grid):
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(images, "_write_mha", killed)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert files(tmp_path / "output") == ["l2s-record.json"]
    assert "stopped" in json.loads((tmp_path / "output" / challenge.RECORD).read_text())["error"]


@pytest.mark.parametrize("flags", [(), ("--on-error", "empty")])
def test_a_folder_that_the_container_s_user_may_not_see(case, run, monkeypatch, flags):
    def refused(place):
        raise PermissionError(13, "Permission denied", str(place))

    monkeypatch.setattr(Path, "iterdir", refused)  # the tests may run as root, whom nothing is refused
    code, err, _ = run(*flags)
    assert code == 2
    assert f"error: {case / 'images/pet'} cannot be read (Permission denied)" in err


def test_one_bar_a_stage_on_a_terminal(monkeypatch):
    class Bar:
        made = []

        def __init__(self, total, desc, file, leave):
            self.total, self.desc, self.n, self.closed = total, desc, 0, False
            self.made.append(self)

        def update(self, steps):
            self.n += steps

        def close(self):
            self.closed = True

    monkeypatch.setattr("tqdm.tqdm", Bar)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = make_progress()
    for done, total in ((1, 3), (2, 3), (3, 3), (2, 4), (4, 4)):  # two folds of one stage
        progress("segment", done, total)
    assert [(b.desc, b.n, b.total, b.closed) for b in Bar.made] == [("segment", 3, 3, True), ("segment", 4, 4, True)]


def test_another_image_in_the_output_folder_is_refused_before_the_work(case, run, tmp_path):
    place = tmp_path / "output" / OLD
    place.mkdir(parents=True)
    (place / "other.mha").write_bytes(b"kept")
    code, err, record = run()
    assert code == 2
    assert "other.mha" in err
    assert "read" not in record["seconds"]
    assert (place / "other.mha").read_bytes() == b"kept"


def test_the_same_mask_is_replaced(case, run, tmp_path):
    assert run()[0] == 0
    assert run()[0] == 0
    assert files(tmp_path / "output") == [f"{OLD}/ct-stem.mha", "l2s-record.json"]


def test_hidden_files_are_passed_over(case, run):
    (case / "images/pet/.DS_Store").write_bytes(b"x")
    assert run()[0] == 0


def test_an_output_that_cannot_be_made(case, run, tmp_path):
    (tmp_path / "file").write_text("")
    code, err, _ = run(output=tmp_path / "file" / "below")
    assert code == 2
    assert "cannot be written" in err


def test_nifti_input(case, run, tmp_path):
    for kind in ("pet", "ct"):
        (path,) = (case / "images" / kind).iterdir()
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_suffix(".nii.gz")))
        path.unlink()
    assert run()[0] == 0
    assert (tmp_path / "output" / OLD / "ct-stem.mha").is_file()


def test_a_preview_is_a_picture(case, run, tmp_path):
    code, _, record = run("--preview", "--report")
    assert code == 0
    assert (tmp_path / "output" / challenge.PREVIEW).read_bytes().startswith(b"\x89PNG")
    assert sorted([*record["files"], "l2s-record.json"]) == files(tmp_path / "output")
    code, _, record = run("--preview", str(tmp_path / "mine.png"))
    assert code == 0
    assert (tmp_path / "mine.png").is_file()
    assert str(tmp_path / "mine.png") in record["files"]


def test_weights_that_do_not_exist(case, run, tmp_path):
    # an operator's mistake, which an empty mask would hide
    code, err, _ = run("--weights", str(tmp_path), "--on-error", "empty")
    assert code == 2
    assert "manifest.json" in err


def test_process_py_is_the_same_program(case, weights_folder, tmp_path):
    command = [
        sys.executable,
        "process.py",
        "--input",
        str(case),
        "--output",
        str(tmp_path / "output"),
        "--weights",
        str(weights_folder),
    ]
    done = subprocess.run([*command, "--device", "cpu"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "\r" not in done.stderr  # no bars where nobody looks
    assert files(tmp_path / "output") == [f"{OLD}/ct-stem.mha", "l2s-record.json"]
    wrong = subprocess.run([*command, "--device", "tpu"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert wrong.returncode == 2
    assert "tpu" in wrong.stderr


def test_nothing_is_abbreviated(capfd):
    with pytest.raises(SystemExit) as stopped:
        challenge.main(["--out", "x"])
    assert stopped.value.code == 2


@pytest.mark.parametrize(("device", "times"), [("cpu", 0), ("cuda:0", 1)])
def test_a_gpu_warms_up_while_the_case_is_read(monkeypatch, device, times):
    calls = []
    monkeypatch.setattr(pipeline, "warm_up", lambda model, plan: calls.append(plan.device))

    def read(args, record):
        raise InputError("the case is bad")

    monkeypatch.setattr(challenge, "read_case", read)
    plan = dataclasses.replace(engine.choose("cpu"), device=device)
    with pytest.raises(InputError, match="the case is bad"):
        challenge.run_case(None, Record(), plan, None)
    assert calls == [device] * times
