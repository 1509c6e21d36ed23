"""A result's way to its folder: refused before the work, whole or recognisably not, whatever stops it; exit code 75."""

import errno
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from l2s import api, cli, engine, outdir, run
from l2s.errors import InputError
from l2s.io import dicom_out
from l2s.io.inputs import read_input
from l2s.measure.lesions import measure
from l2s.pipeline import Segmentation

sys.path.insert(0, str(Path(__file__).parent / "io"))
from dicom_samples import ct_series, pet_series, save, study  # noqa: E402

STEPS = (3.0,) * 7 + (4.0,) * 4  # two beds of different spacing


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])


@pytest.fixture
def no_model(monkeypatch):
    def load(*_):
        raise AssertionError("the model was loaded before the input was known to be good")

    monkeypatch.setattr(run, "load_model", load)


def result(folder: Path, hot=(slice(5, 7), slice(3, 5), slice(4, 6))) -> api.Result:
    """What a run on a DICOM study leaves, without its networks."""
    case = read_input(folder)
    mask = np.zeros(case.study.grid.shape_zyx, bool)
    mask[hot] = True
    maps = mask * np.float32(0.9), mask * np.float32(1)
    segmentation = Segmentation(mask, *maps, {}, [], {}, {}, [])
    record = run.Record()
    record.content |= {"weights": {"name": "none", "sha256": "0"}, "case": {"name": case.name}, "body": {}}
    plan = engine.choose("cpu", "fp32", engine.Budget())
    return api.Result(case.study, segmentation, measure(case.study, mask, *maps), record, plan, case.dicom)


def content(folder: Path) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def failed(capsys, *words) -> str:
    assert cli.main([str(w) for w in words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:7]) == ("", 1, "error: ")
    return err


def test_the_input_is_read_before_the_model_is_loaded(tmp_path, capsys, no_model):
    save(tmp_path / "pet", pet_series())
    assert "there is no CT" in failed(capsys, "segment", tmp_path / "pet", tmp_path / "out")


@pytest.mark.parametrize("formats", ["seg", "nii.gz,sr", "rtstruct"])
def test_a_series_that_no_dicom_result_can_refer_to_is_refused_before_the_work(tmp_path, capsys, no_model, formats):
    save(tmp_path / "in" / "a", pet_series(FrameOfReferenceUID=None))
    save(tmp_path / "in" / "b", ct_series(FrameOfReferenceUID=None))
    line = failed(capsys, "segment", tmp_path / "in", tmp_path / "out", "--format", formats)
    assert "has no FrameOfReferenceUID" in line
    assert not (tmp_path / "out").exists()


def test_slices_too_far_off_their_planes_are_refused_before_the_work(tmp_path, capsys, no_model):
    study(tmp_path / "in", geometry={"offsets_mm": np.cumsum((0.0, *STEPS))})  # slice 7 at 21 mm of 37/11 mm each: 6.24
    line = failed(capsys, "segment", tmp_path / "in", tmp_path / "out", "--format", "seg")
    assert "0.76 voxels off the mask's grid (limit 0.5)" in line


def test_slices_off_their_planes_are_said(tmp_path):
    offsets = np.arange(12) * 3.0
    offsets[5:] += 0.8  # a bed joint
    study(tmp_path / "in", geometry={"offsets_mm": offsets})
    one = result(tmp_path / "in")
    one.save(tmp_path / "out", dicom_formats=("seg", "sr", "rtstruct"))
    assert (
        sum("DICOM results show each plane of the mask on the slice next to it" in line for line in one.record["warnings"]) == 1
    )
    study(tmp_path / "regular")
    one = result(tmp_path / "regular")
    one.save(tmp_path / "out", dicom_formats=("seg",))
    assert not any("DICOM results" in line for line in one.record["warnings"])


def test_what_was_mended_is_in_the_record(tmp_path):
    study(tmp_path / "in", PatientBirthDate="00000000")
    one = result(tmp_path / "in")
    one.save(tmp_path / "out", dicom_formats=("sr",))
    assert sum("PatientBirthDate cannot be copied" in line for line in one.record["warnings"]) == 1
    assert "00000000" not in (tmp_path / "out" / "record.json").read_text().replace("000000000", "")


def test_a_dicom_result_that_cannot_be_made_leaves_the_earlier_result_whole(tmp_path, monkeypatch):
    study(tmp_path / "in")
    one = result(tmp_path / "in")
    one.save(tmp_path / "out", dicom_formats=("seg",))
    before = content(tmp_path / "out")
    monkeypatch.setattr(dicom_out, "MAX_LESIONS", 0)
    for folder in ("out", "fresh"):
        with pytest.raises(InputError, match="1 lesions .limit 0"):
            result(tmp_path / "in").save(tmp_path / folder, "mha", dicom_formats=("seg",))
    assert content(tmp_path / "out") == before
    assert not (tmp_path / "fresh").exists()


def test_an_interrupted_save_is_whole_or_known_to_be_incomplete(tmp_path, monkeypatch):
    study(tmp_path / "in")
    first = result(tmp_path / "in")
    second = result(tmp_path / "in", (slice(2, 4), slice(3, 5), slice(4, 6)))
    real = Path.replace
    for old in (True, False):
        for kill in range(30):
            folder = tmp_path / f"{old}{kill}"
            if old:
                first.save(folder, save_cue=True)
            before, left = content(folder), [kill]

            def step(source, target, left=left):
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
                return real(source, target)

            monkeypatch.setattr(Path, "replace", step)
            try:
                second.save(folder, "mha", dicom_formats=("seg", "sr"))
                finished = True
            except KeyboardInterrupt:
                finished = False
            monkeypatch.setattr(Path, "replace", real)
            if (folder / "record.json").exists() and not finished:
                assert content(folder) == before
            elif not finished and folder.exists():
                with pytest.raises(InputError, match=r"record.json: no such file"):
                    outdir.read(folder)
            second.save(folder, "mha", dicom_formats=("seg", "sr"))
            names = {p.name for p in folder.iterdir()}
            assert names == {
                *("mask.mha", "SUV.nii.gz", "CTres.nii.gz", "record.json", "lesions.csv", "lesions.json", "seg.dcm", "sr.dcm")
            }
            if finished:
                break
        assert 10 < kill < 29


@pytest.mark.parametrize("record", [None, '{"mine": 1}', "no JSON", "[" * 100_000])
@pytest.mark.parametrize("name", [outdir.PET, *outdir.OPTIONAL, *outdir.TABLES])
def test_a_folder_of_somebody_else_is_not_written_into(tmp_path, name, record):
    (tmp_path / "out" / f"{outdir.STAGING}x").mkdir(parents=True)
    (tmp_path / "out" / name).write_text("a patient's")
    if record:
        (tmp_path / "out" / outdir.RECORD).write_text(record)
    with pytest.raises(InputError, match="l2s segment did not write it"):
        outdir.check(tmp_path / "out")


def test_a_record_of_another_program_is_not_written_over(tmp_path):
    (tmp_path / outdir.RECORD).write_text('{"mine": 1}')
    with pytest.raises(InputError, match="holds record.json but no record.json of l2s"):
        outdir.check(tmp_path)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")]
)
def test_want_of_memory_has_the_exit_code_of_what_may_go_well_later(tmp_path, capsys, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(outdir, "check", fail)
    assert cli.main(["segment", str(tmp_path), str(tmp_path / "out")]) == 75
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err[:28]) == ("", 1, "error: main memory gave out;")
    monkeypatch.setattr(outdir, "check", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["segment", str(tmp_path), str(tmp_path / "out")])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EACCES])
def test_what_may_go_well_later_has_an_exit_code_of_its_own(tmp_path, capsys, monkeypatch, number):
    expected = 2 if number == errno.EACCES else 75

    def plain(*_):
        raise OSError(number, "it failed", "there")

    def wrapped(*_):
        try:
            plain()
        except OSError as error:
            raise InputError("there cannot be written") from error

    for fail in (plain, wrapped):
        monkeypatch.setattr(outdir, "check", fail)
        assert cli.main(["segment", str(tmp_path), str(tmp_path / "out")]) == expected
        out, err = capsys.readouterr()
        assert (out, err.count("\n"), err[:12]) == ("", 1, "error: there")


def test_a_full_disk_while_saving_is_one_of_these(tmp_path, monkeypatch):
    study(tmp_path / "in")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    import nibabel

    monkeypatch.setattr(nibabel.Nifti1Image, "to_stream", full)
    with pytest.raises(InputError) as caught:
        result(tmp_path / "in").save(tmp_path / "out")
    assert cli.code_of(caught.value) == 75
    assert not (tmp_path / "out").exists()
