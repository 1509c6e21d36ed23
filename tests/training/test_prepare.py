"""prepare: good studies become cases, bad ones rows of a table, a second run keeps what is there."""

import csv
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from l2s.errors import InputError
from training import prepare, readers
from training.cases import open_case, read_index, read_whole
from training.recipe import load_recipe

SHAPE = (16, 14, 12)
SPACING = 10.0
SMALL = Path(__file__).parents[2] / "training/recipes/small.toml"


def write_study(folder: Path, seed: int, lesion: bool = True) -> Path:
    """A block of tissue in air, as PET, CT on a grid of its own, and mask."""
    rng = np.random.default_rng(seed)
    body = np.zeros(SHAPE, bool)
    body[2:-2, 2:-2, 2:-2] = True
    truth = np.zeros(SHAPE, np.uint8)
    truth[4:8, 4:8, 4:8] = lesion
    pet = np.where(body, rng.uniform(0.5, 1.5, SHAPE), 0.0).astype(np.float32) + 8.0 * truth.astype(np.float32)
    ct = np.where(body, 40.0, -1000.0).astype(np.float32)
    folder.mkdir(parents=True)
    for name, array in (("PET", pet), ("CT", ct), ("GTV", truth)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((SPACING,) * 3)
        sitk.WriteImage(sitk.Expand(image, (2, 1, 1)) if name == "CT" else image, str(folder / f"{name}.nii.gz"))
    return folder


def scaled(path: Path, gain: float, offset: float = 0.0) -> None:
    """Overwrites an image with gain * image + offset."""
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image * gain + offset, str(path))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """small.toml without phantoms, at the studies' spacing, in two folds."""
    text = SMALL.read_text()
    shared = load_recipe(SMALL)
    for old, new in (
        (f"phantoms = {shared.phantoms}", "phantoms = 0"),
        (f"implants = {shared.implants}", "implants = 0"),
        ("folds = 5", "folds = 2"),
        ("spacing_mm_zyx = [4.0, 4.0, 4.0]", "spacing_mm_zyx = [10.0, 10.0, 10.0]"),
    ):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(text)
    return path


def run(recipe: Path, folder: Path, *data: str, flags: tuple[str, ...] = ()) -> list[dict]:
    """The index after a run on the data sets."""
    sources = [part for value in data for part in ("--data", value)]
    prepare.main(["--recipe", str(recipe), "--run-folder", str(folder), "--workers", "1", *sources, *flags])
    return read_index(folder / "cases")


def made(phantoms: int = 0, implants: int = 0) -> tuple[str, ...]:
    """Flags for so many small phantoms and implants."""
    changes = (f"phantoms={phantoms}", f"implants={implants}", "phantom_shape_zyx=[40, 28, 36]")
    return tuple(part for change in changes for part in ("--set", change))


def refused(folder: Path) -> dict[str, str]:
    with (folder / "cases/refused.csv").open() as file:
        return {row["name"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, recipe):
    """(run folder, data folder, index) of good and bad studies."""
    root = tmp_path_factory.mktemp("mixed")
    data = root / "sts"
    for k, name in enumerate(("good", "free", "twin_of_good", "bq_ml", "swapped", "nan", "cut", "no_mask", "good2")):
        write_study(data / name, k, lesion=name != "free")
    shutil.copytree(data / "good", data / "twin_of_good", dirs_exist_ok=True)
    scaled(data / "bq_ml/PET.nii.gz", 5000.0)
    (data / "swapped/PET.nii.gz").rename(data / "x.nii.gz")
    (data / "swapped/CT.nii.gz").rename(data / "swapped/PET.nii.gz")
    (data / "x.nii.gz").rename(data / "swapped/CT.nii.gz")
    scaled(data / "nan/PET.nii.gz", float("nan"))
    (data / "cut/CT.nii.gz").write_bytes((data / "cut/CT.nii.gz").read_bytes()[:200])
    (data / "no_mask/GTV.nii.gz").unlink()
    return root / "run", data, run(recipe, root / "run", f"sts={data}")


def test_good_studies_become_cases_and_lesion_free_ones_are_cases_too(mixed):
    folder, _, rows = mixed
    assert [(r["name"], r["source"], r["patient"]) for r in rows] == [(n, "sts", n) for n in ("free", "good", "good2")]
    by_name = {r["name"]: r for r in rows}
    assert (by_name["good"]["lesion_ml"], by_name["free"]["lesion_ml"]) == (64.0, 0.0)
    assert sorted(r["fold"] for r in rows)[0::2] == [0, 1]
    case = read_whole(open_case(folder / "cases", by_name["good"]))
    assert case.pet_suv[case.truth].mean() > 8
    assert case.truth.sum() == 64


def test_each_bad_study_is_refused_with_its_reason(mixed):
    reasons = refused(mixed[0])
    assert sorted(reasons) == ["bq_ml", "cut", "nan", "no_mask", "swapped", "twin_of_good"]
    for name, word in (
        ("bq_ml", "Bq/ml"),
        ("swapped", "swapped"),
        ("nan", "NaN"),
        ("cut", "CT.nii.gz"),
        ("no_mask", "no truth"),
        ("twin_of_good", "same, voxel for voxel, as that of good;"),
    ):
        assert word in reasons[name], name


def test_the_folds_are_written_in_nnunets_form(mixed):
    folder, _, rows = mixed
    folds = json.loads((folder / "cases/splits.json").read_text())
    assert [fold["val"] for fold in folds] == [[r["name"] for r in rows if r["fold"] == k] for k in (0, 1)]


def test_a_second_run_keeps_cases_and_remakes_those_whose_files_changed(recipe, tmp_path):
    data = tmp_path / "sts"
    for k, name in enumerate("ab"):
        write_study(data / name, k)
    run(recipe, tmp_path / "run", f"sts={data}")
    files = [tmp_path / f"run/cases/{name}/pet_suv.b2nd" for name in "ab"]
    before = [f.stat().st_ino for f in files]
    scaled(data / "b/PET.nii.gz", 2.0)
    os.utime(data / "b/PET.nii.gz", (1, 1))
    rows = run(recipe, tmp_path / "run", f"sts={data}")
    after = [f.stat().st_ino for f in files]
    assert after[0] == before[0]
    assert after[1] != before[1]
    assert read_whole(open_case(tmp_path / "run/cases", rows[1])).pet_suv.max() > 18


def test_two_sets_may_use_the_same_names(recipe, tmp_path, caplog):
    for k, name in enumerate(("one/case_001", "two/case_001", "two/case_002")):
        write_study(tmp_path / name, k)
    rows = run(recipe, tmp_path / "run", f"sts={tmp_path / 'one'}", f"other={tmp_path / 'two'}")
    assert [(r["source"], r["name"]) for r in rows] == [
        ("sts", "case_001"), ("other", "other-case_001"), ("other", "case_002")
    ]  # fmt: skip
    assert rows[0]["fold"] == rows[1]["fold"] != rows[2]["fold"]
    assert "draws no samples from source 'other'" in caplog.text


def test_implants_of_refused_studies_do_not_train(recipe, tmp_path, caplog):
    data = tmp_path / "sts"
    for k, name in enumerate(("a_good", "b_twin", "c_bad", "d_good")):
        write_study(data / name, k)
    shutil.copytree(data / "a_good", data / "b_twin", dirs_exist_ok=True)
    scaled(data / "c_bad/PET.nii.gz", 5000.0)
    rows = run(recipe, tmp_path / "run", f"sts={data}", flags=made(implants=1))
    fold = {r["name"]: r["fold"] for r in rows}
    assert sorted(fold) == ["a_good", "d_good", "implant_0000", "implant_0003"]
    assert fold["implant_0000"] == fold["a_good"] != fold["implant_0003"] == fold["d_good"]
    assert None not in fold.values()
    assert "2 implants are left out" in caplog.text
    # each refused study has one line, not another for its implant
    assert sorted(refused(tmp_path / "run")) == ["b_twin", "c_bad"]


def test_an_implant_that_fails_is_refused_itself():
    found = readers.Found("sts", "a", "p", Path("pet"), Path("ct"), Path("truth"))
    jobs = [prepare.Job("sts", "a", "p", found, None), prepare.Job("implant", "implant_0000", "p", found, 1)]
    row = {"name": "a", "source": "sts", "pet_sha256": "0"}
    assert prepare.sift(jobs, [row, "no place for it"]) == ([row], [(jobs[1], "no place for it")])


def test_studies_named_like_made_cases_stay_apart_from_them(recipe, tmp_path):
    data, names = tmp_path / "sts", ("implant_0000", "phantom_0001", "phantom_x", "sts-implant_0000")
    for k, name in enumerate(names):
        write_study(data / name, k)
    alone = run(recipe, tmp_path / "alone", f"sts={data}")
    rows = run(recipe, tmp_path / "run", f"sts={data}", flags=made(phantoms=2, implants=1))
    assert len({r["name"] for r in rows}) == len(rows) == 4 + 2 + 4
    # the studies' shapes, folds and arrays are those that they have where nothing is made
    assert rows[:4] == alone
    assert [(r["name"], r["patient"]) for r in rows[:4]] == list(
        zip(("sts-implant_0000", "sts-phantom_0001", "phantom_x", "sts-sts-implant_0000"), names)
    )
    for r in rows[:4]:
        assert open_case(tmp_path / "run/cases", r).truth[...].sum() == 64
    phantoms = [(r["name"], r["patient"], r["fold"]) for r in rows if r["source"] == "phantom"]
    assert phantoms == [("phantom_0000", "phantom:0000", 0), ("phantom_0001", "phantom:0001", 1)]
    fold_of = {r["patient"]: r["fold"] for r in rows[:4]}
    assert all(r["fold"] == fold_of[r["patient"]] for r in rows if r["source"] == "implant")


def test_two_jobs_of_one_name_are_a_bug(recipe, tmp_path):
    write_study(tmp_path / "sts/a", 1)
    found, *_ = prepare.gather([("sts", tmp_path / "sts")], "fdg")
    with pytest.raises(AssertionError, match="not unique"):
        prepare.list_jobs(found * 2, load_recipe(recipe))


def test_splits_beside_the_data_decide_and_moved_cases_are_said(recipe, tmp_path, caplog):
    data = tmp_path / "sts"
    for k, name in enumerate("abc"):
        write_study(data / name, k)
    dealt = {r["name"]: r["fold"] for r in run(recipe, tmp_path / "run", f"sts={data}")}
    swapped = [sorted(n for n in dealt if dealt[n] != k) for k in (0, 1)]
    (data / "splits_final.json").write_text(json.dumps([{"train": swapped[1 - k], "val": swapped[k]} for k in (0, 1)]))
    rows = run(recipe, tmp_path / "run", f"sts={data}")
    assert {r["name"]: r["fold"] for r in rows} == {n: 1 - fold for n, fold in dealt.items()}
    assert "3 cases changed their fold, such as a" in caplog.text
    rows = run(recipe, tmp_path / "run", f"sts={data}", flags=("--splits", "dealt"))
    assert {r["name"]: r["fold"] for r in rows} == dealt


def die(_job) -> None:
    os._exit(9)


def fail(_job) -> None:
    raise OSError("no space left")


def parent_of_worker(job: int) -> tuple[int, int]:
    return job, os.getppid()


def test_workers_are_no_forks_of_this_process_and_answers_keep_the_order():
    answers = prepare.prepare_all([3, 1, 2], parent_of_worker, 2)
    assert [job for job, _ in answers] == [3, 1, 2]
    assert os.getpid() not in {parent for _, parent in answers}


def fail_at_once_or_leave_a_mark(job: Path) -> None:
    if job.name == "0":
        raise OSError("no space left")
    time.sleep(0.05)
    job.touch()


def test_what_waits_is_not_worked_off_after_a_failure(tmp_path):
    with pytest.raises(OSError, match="no space left"):
        prepare.prepare_all([tmp_path / str(k) for k in range(100)], fail_at_once_or_leave_a_mark, 1)
    assert not multiprocessing.active_children()
    assert len(list(tmp_path.iterdir())) < 20  # what the pool had handed out already


def test_a_killed_worker_is_said_and_a_full_disk_is_no_refusal():
    with pytest.raises(InputError, match="a worker process died with 0 of 3 cases done.*--workers than 1"):
        prepare.prepare_all([1, 2, 3], die, 1)
    with pytest.raises(OSError, match="no space left"):
        prepare.prepare_all([1, 2, 3], fail, 1)


def test_whatever_a_reader_raises_refuses_one_study(recipe, tmp_path, monkeypatch):
    write_study(tmp_path / "sts/a", 1)
    found, *_ = prepare.gather([("sts", tmp_path / "sts")], "fdg")

    def broken(_found):
        raise ZeroDivisionError("slope")

    monkeypatch.setattr(readers, "load_study", broken)
    (job,) = prepare.list_jobs(found, load_recipe(recipe))
    answer = prepare.prepare_one(job, load_recipe(recipe), tmp_path, [])
    assert answer.startswith("reading failed with ZeroDivisionError: slope")


def test_a_link_to_nowhere_refuses_one_study(recipe, tmp_path):
    for k, name in enumerate("abc"):
        write_study(tmp_path / "sts" / name, k)
    (tmp_path / "sts/b/CT.nii.gz").unlink()
    (tmp_path / "sts/b/CT.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    rows = run(recipe, tmp_path / "run", f"sts={tmp_path / 'sts'}")
    assert [r["name"] for r in rows] == ["a", "c"]
    assert refused(tmp_path / "run")["b"].endswith("CT.nii.gz: No such file or directory; copy or fetch the study again")


def test_a_file_that_goes_while_prepare_is_at_work_refuses_one_study(recipe, tmp_path):
    write_study(tmp_path / "sts/a", 1)
    found, *_ = prepare.gather([("sts", tmp_path / "sts")], "fdg")
    (tmp_path / "sts/a/GTV.nii.gz").unlink()
    (job,) = prepare.list_jobs(found, load_recipe(recipe))
    answer = prepare.prepare_one(job, load_recipe(recipe), tmp_path, [])
    assert answer == f"{tmp_path}/sts/a/GTV.nii.gz: No such file or directory; copy or fetch the study again"


def test_a_source_with_a_share_but_no_case_is_said(recipe, tmp_path, caplog):
    for k, name in enumerate("ab"):
        write_study(tmp_path / "sts" / name, k)
    run(recipe, tmp_path / "run", f"sts={tmp_path / 'sts'}")
    assert "source 'phantom' has a share in the recipe but no case" in caplog.text
    assert "source 'sts' has a share" not in caplog.text


def test_each_of_two_sets_of_the_same_names_has_its_own_splits(recipe, tmp_path):
    names = ("one/fdg_p/case_1", "one/fdg_q/case_2", "two/fdg_p/case_1", "two/fdg_q/case_2")
    for k, name in enumerate(names):
        write_study(tmp_path / name, k)
    splits = [{"train": ["fdg_q_case_2"], "val": ["fdg_p_case_1"]}, {"train": ["fdg_p_case_1"], "val": ["fdg_q_case_2"]}]
    (tmp_path / "two/splits_final.json").write_text(json.dumps(splits))
    data = (f"sts={tmp_path / 'one'}", f"other={tmp_path / 'two'}")
    rows = run(recipe, tmp_path / "run", *data)
    # the patients are the same ones, so that the first set follows the second's file
    assert {r["name"]: r["fold"] for r in rows} == {
        "fdg_p_case_1": 0, "fdg_q_case_2": 1, "other-fdg_p_case_1": 0, "other-fdg_q_case_2": 1
    }  # fmt: skip
    (tmp_path / "one/splits_final.json").write_text(json.dumps(splits[::-1]))
    with pytest.raises(InputError, match="patient fdg_p is in two folds .fdg_p_case_1 in fold 1, other-fdg_p_case_1 in fold 0"):
        run(recipe, tmp_path / "run", *data)


def test_bad_flags_and_empty_runs_are_one_line(recipe, tmp_path):
    for value, word in (("sts", "NAME=DIR"), ("phantom=x", "'phantom' is taken"), ("a=", "NAME=DIR")):
        with pytest.raises(InputError, match=word):
            prepare.read_data([value])
    with pytest.raises(InputError, match="'a' is taken"):
        prepare.read_data(["a=x", "a=y"])
    with pytest.raises(InputError, match="nothing to prepare"):
        run(recipe, tmp_path / "run")
    write_study(tmp_path / "sts/a", 1)
    (tmp_path / "sts/a/PET.nii.gz").write_bytes(b"broken")
    with pytest.raises(InputError, match="all 1 were refused .*; the first: .*PET.nii.gz"):
        run(recipe, tmp_path / "run", f"sts={tmp_path / 'sts'}")


def test_the_summary_counts_what_there_is():
    rows = [
        {"name": n, "source": s, "patient": p, "lesion_ml": ml, "bytes": 5e8, "warnings": []}
        for n, s, p, ml in (("a", "x", "p", 0.0), ("b", "x", "p", 1.0), ("c", "x", "q", 3.0), ("d", "phantom", "d", 5.0))
    ]
    text = prepare.summary(rows)
    assert text == (
        "4 cases (1 phantom, 3 x), 2 patients, 1 lesion-free, lesion ml quartiles 2 / 3 / 4, 2 GB on disk, 0 with warnings"
    )
