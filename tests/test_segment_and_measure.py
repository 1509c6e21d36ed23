"""l2s segment, l2s measure and l2s.segment(...): one folder, one table, the same figures whichever way; small random weights."""

import copy
import csv
import dataclasses
import inspect
import json
import os
import pickle
import pydoc
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import l2s
from l2s import api, cli, outdir, run
from l2s.errors import InputError
from l2s.io.images import read_grid, read_image, write_image, write_mask
from l2s.io.inputs import read_input
from l2s.measure.reference import Region
from l2s.study import Body, Grid, Study

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (20, 26, 30)
CONTRACT = {"mask.nii.gz", "SUV.nii.gz", "CTres.nii.gz", "record.json", "lesions.csv", "lesions.json"}


def arrays() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pet = rng.uniform(0.2, 1.5, SHAPE).astype(np.float32)
    pet[8:12, 10:14, 12:16] = 14
    ct = np.full(SHAPE, -1000, np.float32)
    ct[:, 4:-4, 4:-4] = rng.normal(40, 10, ct[:, 4:-4, 4:-4].shape)
    return pet, ct


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Path:
    """A grand-challenge folder whose files run from front to back and from the feet up: no LPS order."""
    folder = tmp_path_factory.mktemp("case")
    for kind, array in zip(("pet", "ct"), arrays()):
        image = sitk.GetImageFromArray(array[::-1, ::-1])
        image.SetSpacing((8.0, 8.0, 8.0))
        image.SetOrigin((-120.0, -100.0 + 25 * 8, 50.0 + 19 * 8))
        image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, -1))
        (folder / "images" / kind).mkdir(parents=True)
        sitk.WriteImage(image, str(folder / "images" / kind / "anna.mha"), True)
    return folder


@pytest.fixture(scope="module")
def weights_folder(case, tmp_path_factory, make_marking_weights) -> Path:
    """Random weights that mark a thirtieth of this case."""
    return make_marking_weights(tmp_path_factory.mktemp("weights"), case)


@pytest.fixture
def segmented(case, weights_folder, tmp_path, capsys) -> Path:
    """A result; --fusion none, as random networks agree on nothing."""
    assert segment(case, tmp_path / "out", weights_folder, "--save-probability", "--save-cue") == 0
    capsys.readouterr()
    return tmp_path / "out"


def segment(case, out, weights, *flags) -> int:
    words = ["segment", case, out, "--weights", weights, "--device", "cpu", "--fusion", "none", *flags]
    return cli.main([str(w) for w in words])


def failed(capsys, *words) -> str:
    """The one line of a command that must exit with 2."""
    assert cli.main([str(w) for w in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    return err


def table_of(folder: Path) -> dict:
    return json.loads((folder / "lesions.json").read_text())


def test_the_folder_of_a_result(case, segmented):
    assert {p.name for p in segmented.iterdir()} == CONTRACT | {"probability.nii.gz", "cue.nii.gz"}
    pet_file = case / "images" / "pet" / "anna.mha"
    pet, _, _, _ = read_image(pet_file)
    for name in ("SUV", "mask", "CTres", "probability", "cue"):
        assert read_grid(segmented / f"{name}.nii.gz").matches(read_grid(pet_file), 1e-3)
    assert np.array_equal(read_image(segmented / "SUV.nii.gz")[0], pet)
    mask, probability = (read_image(segmented / f"{n}.nii.gz")[0] for n in ("mask", "probability"))
    assert 0 < mask.sum() < mask.size
    assert np.array_equal(mask > 0, probability > 0.5)
    record = json.loads((segmented / "record.json").read_text())
    assert record["case"] == {"name": "anna", "kind": "grand-challenge", "pet": "anna.mha", "ct": "anna.mha"}
    assert set(record["files"]) | {"record.json"} == {p.name for p in segmented.iterdir()}
    assert {"load", "read", "localize", "segment", "measure", "write", "total"} <= set(record["seconds"])
    assert record["weights"]["name"] == "random"
    assert datetime.fromisoformat(record["made"]).tzinfo
    table = table_of(segmented)
    assert table["provenance"]["weights"] == {key: record["weights"][key] for key in ("name", "sha256")}
    assert table["provenance"]["peak_sphere_voxels"] == 1
    assert any("SUVpeak's sphere of 1 ml holds 1 voxel" in line for line in record["warnings"])
    assert record["result"]["lesions"] == table["patient"]["lesions"] == len(table["lesions"]) > 0
    assert table["patient"]["tmtv_ml"] == pytest.approx(mask.sum() * 0.512, rel=1e-6)
    assert table["provenance"]["mask"] == "mask.nii.gz"
    one = table["lesions"][0]
    i, j, k = one["maximum_voxel_xyz"]  # of the file: nibabel's and ITK's order
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(segmented / "SUV.nii.gz")))
    assert stored[k, j, i] == pytest.approx(one["suv_max"], rel=1e-6)
    assert one["probability_mean"] > 0.5
    assert len(list(csv.DictReader((segmented / "lesions.csv").open()))) == len(table["lesions"])


def test_a_result_can_be_segmented_and_measured_again_to_the_same(segmented, weights_folder, tmp_path):
    before = (segmented / "lesions.csv").read_text(), table_of(segmented)
    assert cli.main(["measure", str(segmented)]) == 0
    assert ((segmented / "lesions.csv").read_text(), table_of(segmented)) == before
    assert segment(segmented, tmp_path / "again", weights_folder) == 0
    assert np.array_equal(read_image(tmp_path / "again" / "mask.nii.gz")[0], read_image(segmented / "mask.nii.gz")[0])


def test_another_run_leaves_nothing_of_the_first(case, segmented, weights_folder):
    (segmented / "report.html").write_text("of the first mask")
    assert segment(case, segmented, weights_folder, "--format", "mha") == 0
    assert {p.name for p in segmented.iterdir()} == (CONTRACT - {"mask.nii.gz"}) | {"mask.mha"}
    assert table_of(segmented)["provenance"]["mask"] == "mask.mha"
    assert cli.main(["measure", str(segmented)]) == 0


def test_a_budget_that_was_not_kept_is_in_the_record(case, weights_folder, tmp_path):
    assert segment(case, tmp_path / "out", weights_folder, "--time-budget", "0.001", "--mirror", "x") == 0
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert any("time-budget was 0.001 s" in line for line in record["warnings"])
    assert record["left_out"]


@pytest.mark.parametrize(
    ("flag", "where", "times"),
    [("--report", run, "PAGE_DRAWING"), ("--save-cue", api, "MAP_WRITING"), ("--save-probability", api, "MAP_WRITING")],
)
def test_a_budget_keeps_time_for_what_comes_after(case, weights_folder, tmp_path, monkeypatch, flag, where, times):
    monkeypatch.setattr(where, times, 1e6)
    for flags, left_out in (((), []), ((flag,), ["localize fold 0 (x)", "segment fold 0 (x)"])):
        assert segment(case, tmp_path / "out", weights_folder, "--time-budget", "1000", *flags) == 0
        assert json.loads((tmp_path / "out" / "record.json").read_text())["left_out"] == left_out


def test_counting_flags(segmented, capsys):
    everything = table_of(segmented)
    smallest = min(one["volume_ml"] for one in everything["lesions"])
    assert cli.main(["measure", str(segmented), "--connectivity", "6", "--min-volume-ml", str(smallest + 0.1)]) == 0
    table = table_of(segmented)
    assert table["provenance"]["connectivity"] == 6
    assert table["patient"]["left_out_lesions"] > 0
    assert all(one["volume_ml"] > smallest for one in table["lesions"])
    assert "left out: " in capsys.readouterr().out


def test_references_from_flags(segmented, tmp_path, capsys):
    grid = read_grid(segmented / "SUV.nii.gz")
    labels = np.zeros(grid.shape_zyx, np.uint8)
    mask = read_image(segmented / "mask.nii.gz")[0] > 0
    free = np.argwhere(~mask & (np.random.default_rng(0).random(mask.shape) < 0.2))
    labels[tuple(free[:200].T)], labels[tuple(free[200:260].T)] = 7, 9
    pet, lps, stored, _ = read_image(segmented / "SUV.nii.gz")
    write_image(tmp_path / "organs.nii.gz", labels, stored)
    flags = ["--organs", tmp_path / "organs.nii.gz", "--liver-label", "7", "--blood-label", "9"]
    body = ["--weight-kg", "80", "--height-cm", "180", "--sex", "M"]
    assert cli.main([str(w) for w in ["measure", segmented, *flags, *body]]) == 0
    patient = table_of(segmented)["patient"]
    assert patient["liver"]["suv_mean"] == pytest.approx(pet[labels == 7].mean(), rel=1e-5)
    assert patient["blood"]["suv_max"] == pytest.approx(pet[labels == 9].max(), rel=1e-5)
    assert patient["percist"]["lean_mass_kg"] == pytest.approx(61.73141)
    assert patient["deauville"]["score"] in (1, 2, 3, 4, 5)
    text = capsys.readouterr().out
    assert "liver: SUVmean" in text
    # a sphere instead, and this study as the baseline of a copy
    centre = lps.index_to_mm_xyz((10, 8, 8))
    sphere = ["--liver-sphere", *centre, "30", "--baseline", segmented]
    again = tmp_path / "copy"
    again.mkdir()
    for path in segmented.iterdir():
        (again / path.name).write_bytes(path.read_bytes())
    assert cli.main([str(w) for w in ["measure", again, *sphere, *body, "--lbm", "james"]]) == 0
    percist = table_of(again)["patient"]["percist"]
    assert (percist["baseline"], percist["response"]) == ("anna", None)
    assert any("by janmahasatian, these by james" in line for line in percist["reason"])


def test_a_baseline_that_cannot_be_used_is_said(segmented, caplog):
    words = ["measure", "--pet", segmented / "SUV.nii.gz", "--mask", segmented / "mask.nii.gz", "--baseline", segmented]
    assert cli.main([str(w) for w in words]) == 0
    line = "is not used: weight, height, sex not known: no lean body mass; give --weight-kg, --height-cm and --sex"
    assert f"--baseline {segmented} {line}" in caplog.text
    caplog.clear()
    assert cli.main([str(w) for w in [*words, "--weight-kg", "80", "--height-cm", "180", "--sex", "M"]]) == 0
    assert "is not used" not in caplog.text


def test_a_mask_of_another_tool(segmented, tmp_path, capsys):
    pet, mask = segmented / "SUV.nii.gz", segmented / "mask.nii.gz"
    assert cli.main(["measure", "--pet", str(pet), "--mask", str(mask)]) == 0
    assert f"{segmented.name}: " in capsys.readouterr().out
    words = ["measure", tmp_path / "table", "--pet", pet, "--mask", mask, "--ct", segmented / "CTres.nii.gz"]
    assert cli.main([str(w) for w in words]) == 0
    assert {p.name for p in (tmp_path / "table").iterdir()} == CONTRACT
    ours, theirs = table_of(segmented)["lesions"], table_of(tmp_path / "table")["lesions"]
    without = {"probability_mean": None, "probability_max": None, "cue_share": None}
    assert theirs == [one | without for one in ours]
    # the folder is a result like another: measured, reported, made again; the record says where it came from
    record = json.loads((tmp_path / "table" / "record.json").read_text())
    assert record["case"]["kind"] == "mask"
    assert [record["case"][k] for k in ("pet", "ct", "mask")] == ["SUV.nii.gz", "CTres.nii.gz", "mask.nii.gz"]
    assert cli.main(["report", str(tmp_path / "table")]) == 0
    assert cli.main(["measure", str(tmp_path / "table"), "--connectivity", "6"]) == 0
    assert table_of(tmp_path / "table")["provenance"]["connectivity"] == 6
    # without a CT none is left behind from before, and none is made up
    assert cli.main([str(w) for w in words[:-2]]) == 0
    assert {p.name for p in (tmp_path / "table").iterdir()} == CONTRACT - {"CTres.nii.gz"}
    assert table_of(tmp_path / "table")["lesions"][0]["mean_hu"] is None
    assert cli.main(["report", str(tmp_path / "table")]) == 0


def test_measuring_anew_removes_what_the_old_table_made(segmented, caplog):
    for name in outdir.DERIVED:
        (segmented / name).write_text("of the old table")
    record = json.loads((segmented / "record.json").read_text())
    (segmented / "record.json").write_text(json.dumps(record | {"files": [*record["files"], "report.html"]}))
    assert cli.main(["measure", str(segmented), "--connectivity", "6"]) == 0
    assert {p.name for p in segmented.iterdir()} == CONTRACT | {"probability.nii.gz", "cue.nii.gz"}
    assert "removed report.html, seg.dcm, sr.dcm, rtstruct.dcm" in caplog.text
    assert json.loads((segmented / "record.json").read_text()) == record
    caplog.clear()
    assert cli.main(["measure", str(segmented)]) == 0
    assert "removed" not in caplog.text


def test_a_count_filter_is_no_complete_response(segmented, tmp_path):
    body = ["--weight-kg", "70", "--height-cm", "170", "--sex", "F"]
    mask, grid, _, _ = read_image(segmented / "mask.nii.gz")
    free = next(  # a sphere of 12 mm, of one voxel and its neighbours by faces
        grid.index_to_mm_xyz(i)
        for i in np.argwhere(mask == 0)
        if (i > 1).all() and (i < np.array(mask.shape) - 2).all() and not mask[tuple(slice(k - 1, k + 2) for k in i)].any()
    )
    words = [*body, "--liver-sphere", *free, "17"]
    again = tmp_path / "copy"
    again.mkdir()
    for path in segmented.iterdir():
        (again / path.name).write_bytes(path.read_bytes())
    assert cli.main([str(w) for w in ["measure", segmented, *words, "--min-volume-ml", "100000"]]) == 0
    assert cli.main([str(w) for w in ["measure", again, *words, "--min-volume-ml", "100000", "--baseline", segmented]]) == 0
    patient = table_of(again)["patient"]
    assert (patient["lesions"], patient["percist"]["response"], patient["deauville"]["score"]) == (0, None, None)
    assert "not scored" in patient["deauville"]["reason"]
    assert cli.main([str(w) for w in ["measure", again, *words, "--baseline", segmented]]) == 0
    assert any("counted by 18 neighbours from 100000 ml" in line for line in table_of(again)["patient"]["percist"]["reason"])


def test_an_empty_mask_is_measured(segmented, capsys):
    mask, _, stored, _ = read_image(segmented / "mask.nii.gz")
    write_mask(segmented / "mask.nii.gz", np.zeros(mask.shape, bool), stored)
    assert cli.main(["measure", str(segmented)]) == 0
    assert "anna: no lesion in mask.nii.gz" in capsys.readouterr().out
    assert (table_of(segmented)["lesions"], table_of(segmented)["patient"]["suv_max"]) == ([], None)
    assert len((segmented / "lesions.csv").read_text().splitlines()) == 1


def test_what_segment_refuses_before_any_work(case, weights_folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "SUV.nii.gz").write_text("a patient's")
    own = tmp_path / "own"
    own.mkdir()
    for kind, name in (("pet", "SUV.mha"), ("ct", "CT.mha")):
        (own / name).write_bytes((case / "images" / kind / "anna.mha").read_bytes())
    common = ("--weights", weights_folder, "--device", "cpu")
    for words, message in (
        ((case, tmp_path / "file"), "file is a file"),
        ((case, foreign), "holds SUV.nii.gz but no record.json"),
        ((own, own), "holds the input SUV.mha"),
        ((case, case), "is the case's own folder"),
        ((case, case / "images" / "pet" / "new"), "lies in the input folder"),
        ((case, case / "images" / "ct" / "new"), "lies in the input folder"),
        ((case, tmp_path / "o", "--min-volume-ml", "-1"), "minimum volume -1 ml"),
        ((case, tmp_path / "o", "--spacing-mm", "4", "4", "0.1"), "--spacing-mm 4 4 0.1"),
        ((case, tmp_path / "o", "--time-budget", "0"), "--time-budget 0"),
        ((tmp_path / "nowhere", tmp_path / "o"), "nowhere does not exist"),
        ((case / "images" / "pet" / "anna.mha", tmp_path / "o"), "without its CT"),
    ):
        assert message in failed(capsys, "segment", *words, *common)
    assert not (tmp_path / "o").exists()
    assert (foreign / "SUV.nii.gz").read_text() == "a patient's"


def test_what_measure_refuses(segmented, tmp_path, capsys):
    pet, mask = segmented / "SUV.nii.gz", segmented / "mask.nii.gz"
    before = (segmented / "lesions.json").read_text()
    for words, message in (
        ((), "nothing to measure"),
        ((tmp_path / "nowhere",), "no such folder"),
        ((tmp_path,), "record.json: no such file"),
        (("--pet", pet), "--pet and --mask go together"),
        ((segmented, "--ct", pet), "goes with --pet and --mask"),
        ((segmented, "--pet", pet, "--mask", mask), "holds a result with a mask of its own"),
        ((pet / "sub", "--pet", pet, "--mask", mask), "cannot be written"),
        ((pet, "--pet", pet, "--mask", mask), "is a file"),
        ((segmented, "--liver-label", "3"), "needs the label map"),
        ((segmented, "--organs", mask), "which label is the liver"),
        ((segmented, "--organs", mask, "--liver-label", "0"), "--liver-label 0"),
        ((segmented, "--organs", mask, "--liver-label", "5"), "no voxel has label 5; the image holds 0, 1"),
        ((segmented, "--organs", mask, "--liver-label", "1"), "lesions cover all"),
        ((segmented, "--liver-sphere", 0, 0, 0, 9, "--organs", mask, "--liver-label", "1"), "one of them"),
        ((segmented, "--liver-sphere", 0, 0, 9999, 30), "reaches out of the image"),
        ((segmented, "--weight-kg", "0"), "weight 0 kg"),
        ((segmented, "--height-cm", "1.8"), "give centimetres"),
        ((segmented, "--baseline", segmented), "is the study itself"),
        ((segmented, "--baseline", tmp_path), "lesions.json: no such file"),
        ((segmented, "--min-volume-ml", "nan"), "minimum volume nan"),
    ):
        assert message in failed(capsys, "measure", *words), message
    assert (segmented / "lesions.json").read_text() == before


def test_a_folder_that_takes_no_table_is_said_before_the_work(segmented, capsys, monkeypatch):
    monkeypatch.setattr("l2s.outdir.os.access", lambda path, mode: False)  # root may write everywhere
    monkeypatch.setattr("l2s.measure.lesions.measure", None)
    assert "cannot be written" in failed(capsys, "measure", segmented)


def test_a_broken_result_is_one_line(segmented, capsys):
    (segmented / "mask.mha").write_text("")
    assert "holds mask.nii.gz and mask.mha" in failed(capsys, "measure", segmented)
    (segmented / "mask.mha").unlink()
    mask, _, stored, _ = read_image(segmented / "mask.nii.gz")
    write_mask(segmented / "mask.nii.gz", mask > 0, dataclasses.replace(stored, origin_mm_xyz=(0.0, 0.0, 0.0)))
    assert "is not on the PET's grid" in failed(capsys, "measure", segmented)
    (segmented / "mask.nii.gz").unlink()
    assert "holds no mask" in failed(capsys, "measure", segmented)
    (segmented / "record.json").write_text('{"case": 3}')
    assert "is no record of l2s" in failed(capsys, "measure", segmented)
    for part in (
        {"case": {"name": 3}},
        {"body": {"weight_kg": "x"}},
        {"body": {"height_cm": True}},
        {"body": {"sex": 1}},
        {"weights": []},
        {"weights": {"sha256": 5}},
        {"plan": "cpu"},
        {"method": [1]},
        {"result": {"lesions": "two"}},
        {"warnings": "abc"},
        {"warnings": [1]},
        {"made": 20240101},
        [],
    ):
        (segmented / "record.json").write_text(json.dumps(part))
        assert "is no record of l2s (" in failed(capsys, "measure", segmented), part
    (segmented / "record.json").write_text("{")
    assert "is no JSON" in failed(capsys, "measure", segmented)


def test_a_result_without_ct_has_no_hu(segmented, caplog):
    (segmented / "CTres.nii.gz").unlink()
    assert cli.main(["measure", str(segmented)]) == 0
    assert table_of(segmented)["lesions"][0]["mean_hu"] is None
    assert "no HU" in caplog.text


def test_confidence_without_its_maps_is_empty_and_said(segmented, caplog):
    (segmented / "cue.nii.gz").unlink()
    assert cli.main(["measure", str(segmented)]) == 0
    assert "holds no cue.nii.gz" in caplog.text
    assert "probability.nii.gz" not in caplog.text
    one = table_of(segmented)["lesions"][0]
    assert (one["cue_share"], one["probability_mean"] > 0.5) == (None, True)


def test_body_facts_travel_with_the_folder(weights_folder, tmp_path):
    pet, ct = arrays()
    study = Study(pet, ct, Grid(SHAPE, (8.0,) * 3, (0.0,) * 3), name="boris", body=Body(80.0, 180.0, "M"))
    result = l2s.segment(study, weights=weights_folder, device="cpu", fusion="none")
    result.save(tmp_path / "out")
    assert cli.main(["measure", str(tmp_path / "out")]) == 0
    assert table_of(tmp_path / "out")["patient"]["percist"]["lean_mass_kg"] == pytest.approx(61.73141)


def test_python_and_command_line_agree(case, segmented, weights_folder):
    result = l2s.segment(case, weights=str(weights_folder), device="cpu", fusion="none")
    assert np.array_equal(result.mask, read_image(segmented / "mask.nii.gz")[0] > 0)
    assert np.array_equal(result.probability, read_image(segmented / "probability.nii.gz")[0])
    assert np.array_equal(result.cue, read_image(segmented / "cue.nii.gz")[0])
    rows = list(csv.DictReader((segmented / "lesions.csv").open()))
    assert [list(one) for one in result.lesions] == [list(row) for row in rows]
    assert result.lesions[0]["volume_ml"] == pytest.approx(float(rows[0]["volume_ml"]), rel=1e-6)
    assert result.patient["lesions"] == len(rows)
    assert result.record["weights"]["name"] == "random"


def test_arrays_are_a_source(case, weights_folder):
    pet, ct = arrays()
    result = l2s.segment(
        (pet, ct, (8, 8, 8), (-120, -100, 50)), weights=weights_folder, device="cpu", fusion="none", min_volume_ml=1
    )
    from_files = l2s.segment(case, weights=weights_folder, device="cpu", fusion="none", min_volume_ml=1)
    assert np.array_equal(result.mask, from_files.mask)
    assert result.measures.lesions[0].centroid_mm_xyz == pytest.approx(from_files.measures.lesions[0].centroid_mm_xyz)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (42, "int is no source"),
        ((np.zeros((9, 9, 9)), np.zeros((9, 9, 8)), (4, 4, 4)), "resample it to the PET grid first"),
        ((np.zeros((9, 9)), np.zeros((9, 9)), (4, 4)), "pet_suv of shape .9, 9.: three axes"),
        ((np.zeros((9, 9, 9)), np.zeros((9, 9)), (4, 4, 4)), "ct_hu of shape"),
        (("pet", "ct", (4, 4, 4)), "pet_suv is no array of numbers"),
        ((np.zeros((9, 9, 9)), np.zeros((9, 9, 9)), 4), "spacing_mm_zyx 4: three numbers"),
        ((np.zeros((9, 9, 9)), np.zeros((9, 9, 9)), ("a", 4, 4)), "spacing_mm_zyx .'a', 4, 4.: three numbers"),
        ((np.zeros((9, 9, 9)), np.zeros((9, 9, 9)), "444"), "spacing_mm_zyx '444'"),
        ((np.zeros((9, 9, 9)), np.zeros((9, 9, 9)), (4, 4, 4), (0, 0)), "origin_mm_xyz .0, 0.: three numbers"),
        ((np.ones((9, 9, 9)), np.full((9, 9, 9), np.nan), (4, 4, 4)), "CT holds NaN"),
        ((np.ones((9, 9, 9)) * 5000, np.full((9, 9, 9), -900), (4, 4, 4)), "Bq/ml, not SUV"),
        ((np.ones((9, 9, 9)), np.ones((9, 9, 9)), (4, 4, 4)), "give the CT in HU"),
        ((np.ones((9, 9, 9)), np.full((9, 9, 9), -900), (4, 4, 40)), "spacing of 40 x 4 x 4 mm"),
    ],
)
def test_sources_that_cannot_be(source, message):
    with pytest.raises(InputError, match=message):
        api.as_case(source)


def test_a_study_in_double_precision_is_measured_in_single(case):
    study = read_input(case).study
    double = dataclasses.replace(study, pet_suv=study.pet_suv.astype(np.float64), ct_hu=study.ct_hu.astype(np.float64))
    found = api.as_case(double).study
    assert (found.pet_suv.dtype, found.ct_hu.dtype) == (np.float32, np.float32)
    assert np.array_equal(found.pet_suv, study.pet_suv)


@pytest.mark.parametrize("voxels", [[10**9], [-1], [], [0.5], [[0, 1]]])
def test_a_region_that_does_not_lie_on_the_grid_is_refused(case, voxels):
    grid = read_input(case).study.grid
    with pytest.raises(InputError, match="liver: a Region's voxels are flat indices"):
        api.as_region(Region(np.array(voxels), "mine"), grid, "liver")
    assert api.as_region(Region(np.array([5, 3, 5]), "mine"), grid, "liver").voxels.tolist() == [3, 5]


def test_numbers_of_numpy_are_numbers(case, weights_folder, tmp_path):
    settings = {"connectivity": np.int64(6), "min_volume_ml": np.float32(0.5), "time_budget": np.float32(1e4)}
    body = Body(np.float64(70), np.int64(170), "F")
    l2s.segment(case, weights=weights_folder, device="cpu", body=body, **settings).save(tmp_path)
    table, record = (json.loads((tmp_path / name).read_text()) for name in ("lesions.json", "record.json"))
    assert table["patient"]["weight_kg"] == 70.0
    assert record["plan"]["budget"]["seconds"] == 1e4


def test_a_result_that_is_saved_later_took_no_longer(case, weights_folder, tmp_path, monkeypatch):
    result = l2s.segment(case, weights=weights_folder, device="cpu", time_budget=3000.0)
    hours = [0.0]
    real = time.perf_counter
    monkeypatch.setattr("l2s.run.time.perf_counter", lambda: real() + 3600 * hours[0])
    for hours[0] in (1.0, 2.0):
        result.save(tmp_path)
        record = json.loads((tmp_path / "record.json").read_text())
        assert record["seconds"]["total"] < 600
        assert not any("budget" in line for line in record["warnings"])


def test_python_is_told_of_no_flags(case, weights_folder, tmp_path):
    result = l2s.segment(case, weights=weights_folder, device="cpu", time_budget=0.001)
    result.save(tmp_path)
    lines = json.loads((tmp_path / "record.json").read_text())["warnings"]
    assert any("time-budget was 0.001 s" in line for line in lines)
    assert not any("--" in line for line in lines)
    assert len(lines) == len(set(lines))


def test_names_in_another_encoding_reach_table_and_page(case, weights_folder, tmp_path):
    pet, ct = (tmp_path / os.fsdecode(f"{kind} M\xfcller.nii.gz".encode("latin-1")) for kind in ("PET", "CT"))
    study = read_input(case).study
    write_image(pet, study.pet_suv, study.grid)
    write_image(ct, study.ct_hu, study.grid)
    out = tmp_path / "out"
    assert segment(pet, out, weights_folder, "--ct", str(ct), "--report") == 0
    assert table_of(out)["provenance"]["case"] == "PET M\\xfcller"
    assert cli.main(["measure", str(tmp_path / "other"), "--pet", str(pet), "--mask", str(out / "mask.nii.gz")]) == 0
    assert cli.main(["report", "--pet", str(pet), "--mask", str(out / "mask.nii.gz"), "-o", str(tmp_path / "x.html")]) == 0


def test_save_guards_its_folder(case, weights_folder, tmp_path):
    result = l2s.segment(case, weights=weights_folder, device="cpu")
    with pytest.raises(InputError, match="format 'nrrd': one of nii.gz, mha"):
        result.save(tmp_path / "a", format="nrrd")
    (tmp_path / "mask.mha").write_text("")
    with pytest.raises(InputError, match="no record.json"):
        result.save(tmp_path)
    assert [p.name for p in result.save(tmp_path / "a", format="mha")][-1] == "record.json"
    assert read_input(tmp_path / "a").study.grid.matches(result.study.grid)


def test_the_package_s_stage_is_also_the_verb():
    import l2s.segment.windows as windows

    assert callable(l2s.segment)
    assert windows.WindowsConfig
    assert inspect.signature(l2s.segment) == inspect.signature(api.segment)
    assert pickle.loads(pickle.dumps(l2s.segment)) is copy.deepcopy(l2s.segment) is l2s.segment
    assert l2s.segment.__doc__ == api.segment.__doc__
    assert "Lesions of one study" in pydoc.render_doc(l2s.segment, renderer=pydoc.plaintext)
    assert set(l2s.__all__) == {"__version__", "segment"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"spacing_mm_zyx": (4, 4)}, "spacing_mm_zyx .4, 4.: three numbers"),
        ({"spacing_mm_zyx": 4.0}, "spacing_mm_zyx 4.0: three numbers"),
        ({"spacing_mm_zyx": (4, 4, 0.1)}, "^spacing_mm_zyx 4 4 0.1: each must be"),
        ({"time_budget": 0}, "^time_budget 0: seconds above 0"),
        ({"time_budget": "soon"}, "time_budget 'soon': a number"),
        ({"mirror": 1}, "mirror 1: text is needed"),
        ({"mirror": "q"}, "mirror axis 'q'"),
        ({"max_ram": 4}, "max_ram 4: text is needed, such as '4G'"),
        ({"max_vram": "4"}, "size '4'"),
        ({"min_volume_ml": "1"}, "minimum volume '1': a number"),
        ({"connectivity": 7}, "connectivity 7"),
        ({"name": 3}, "name 3: text"),
        ({"liver": 4}, "liver 4: a sphere"),
        ({"liver": (0, 0, 9999, 30)}, "reaches out of the image"),
        ({"blood": ("a", 0, 0, 9)}, "blood .'a', 0, 0, 9.: a sphere"),
        ({"baseline": 3}, "baseline int: give an earlier Result"),
        ({"baseline": "nowhere"}, "lesions.json: no such file"),
        ({"lean_mass": "own"}, "lean body mass by 'own'"),
        ({"ct": "ct.nii.gz"}, "^ct goes with the path"),
        ({"pet_series": "1.2.3"}, "are for DICOM"),
    ],
)
def test_what_the_python_segment_refuses_in_its_own_words(weights_folder, words, message):
    source = (*arrays(), (8, 8, 8))
    with pytest.raises(InputError, match=message) as error:
        l2s.segment(source, weights=weights_folder, device="cpu", **words)
    assert "--" not in str(error.value)


def test_flags_in_messages_become_arguments(case, weights_folder):
    with pytest.raises(InputError, match="name it with ct$"):
        l2s.segment(case / "images" / "pet" / "anna.mha", weights=weights_folder, device="cpu")
    assert api.in_python("use --precision fp32; give --weight-kg") == "use precision fp32; give overrides.weight_kg"


def test_references_and_baseline_in_python(weights_folder, tmp_path):
    pet, ct = arrays()
    # soft tissue below the hot lump; the random networks do not mark it
    sphere = (120.0, 100.0, 24.0, 20.0)
    words = {"weights": weights_folder, "device": "cpu", "fusion": "none", "liver": sphere, "body": Body(70.0, 170.0, "F")}
    before = l2s.segment((pet, ct, (8, 8, 8)), name="before", mirror="x", max_ram="8G", **words)
    assert before.record["case"]["name"] == before.measures.case == before.lesions[0]["case"] == "before"
    assert before.patient["liver"]["source"].startswith("sphere at (120, 100, 24) mm")
    before.save(tmp_path / "before")
    answers = [
        l2s.segment((pet, ct, (8, 8, 8)), baseline=one, blood=sphere, **words).patient["percist"]
        for one in (before, tmp_path / "before")
    ]
    for one in answers:
        assert one["baseline"] == "before"
        assert one["sul_peak_change_percent"] == pytest.approx(0, abs=5)  # the mirrored copy moves the mask a little
    assert answers[0]["response"] == answers[1]["response"]


def test_the_report_in_python(case, weights_folder, tmp_path):
    result = l2s.segment(case, weights=weights_folder, device="cpu", fusion="none", min_volume_ml=4)
    (tmp_path / "file").write_text("")
    for path, message in (
        (tmp_path / "x.pdf", "the page is HTML"),
        (tmp_path, "the page is HTML"),
        (tmp_path / "file" / "x.html", "is a file"),
        (tmp_path / "file" / "sub" / "x.html", "cannot be written"),
    ):
        with pytest.raises(InputError, match=message):
            result.report(path)
    result.save(tmp_path / "out")
    truth = read_image(tmp_path / "out" / "mask.nii.gz")[0] > 0
    page = result.report(tmp_path / "new" / "dir" / "r.html", baseline=tmp_path / "out", truth=tmp_path / "out" / "mask.nii.gz")
    assert "Dice" in page.read_text()
    assert "Dice" in result.report(tmp_path / "r.html", baseline=result, truth=truth).read_text()
    for wrong in (truth[1:], truth.astype(np.uint8), 3):
        with pytest.raises(InputError, match="truth of shape"):
            result.report(tmp_path / "r.html", truth=wrong)
    with pytest.raises(InputError, match="baseline int"):
        result.report(tmp_path / "r.html", baseline=3)


def test_a_folder_that_cannot_be_written_is_seen_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        outdir.check(tmp_path / "file" / "out")


def test_the_notebook_runs_and_keeps_no_output(weights_folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("L2S_WEIGHTS", str(weights_folder))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    names: dict = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["result"].mask.shape == (220, 96, 112)
    assert names["page"].read_text().startswith("<!doctype html>")
    assert names["again"].warnings == ()  # the spheres lie in liver and blood pool, the grid is fine enough for SUVpeak
    assert len(names["table"]) == len(names["result"].lesions)
    assert (names["folder"] / "lesions.csv").is_file()
    assert "Deauville" in capsys.readouterr().out
