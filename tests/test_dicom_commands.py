"""`l2s inspect`, `l2s convert` and `l2s evaluate --roi` as a user meets them."""

import errno
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from l2s import cli
from l2s.commands.dicom_options import moment_of
from l2s.errors import InputError
from l2s.io.images import read_image

sys.path.insert(0, str(Path(__file__).parent / "io"))
from dicom_samples import ct_series, pet_series, pet_volume, save, study  # noqa: E402

FACTOR = 80000 / (4e8 * 2 ** (-3600 / 6586.2))


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch):
    """process.py's tests leave a handler behind that writes to a stream which pytest has closed."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])


def done(capsys, *argv) -> str:
    assert cli.main([str(a) for a in argv]) == 0
    return capsys.readouterr().out


def failed(capsys, *argv, code=2) -> str:
    assert cli.main([str(a) for a in argv]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_inspect(tmp_path, capsys):
    study(tmp_path)
    save(
        tmp_path / "c",
        ct_series(SeriesInstanceUID="1.1", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesDescription="a\x1b[2Jb"),
    )
    out = done(capsys, "inspect", tmp_path)
    assert "taken as PET" in out
    assert "not taken: a scout" in out
    assert f"{FACTOR:.9g}" in out
    assert "uptake time 60 min" in out
    assert "400.00 MBq" in out
    assert out.rstrip().endswith("can be read")
    assert "\x1b" not in out
    assert "SECRET" not in out
    content = json.loads(done(capsys, "inspect", tmp_path, "--json", "--weight-kg", "100"))
    assert content["usable"]
    assert content["suv"]["factor"] == pytest.approx(FACTOR * 100 / 80)
    assert content["suv"]["overrides"] == ["weight_kg"]
    assert [s["chosen_as"] for s in content["series"]] == [None, "CT", "PET"]


def test_inspect_says_why_a_case_is_refused(tmp_path, capsys):
    save(tmp_path / "p", pet_series(PatientWeight="0"))
    out = done(capsys, "inspect", tmp_path)
    assert "CANNOT be read: SUV cannot be computed: PatientWeight is 0; give the patient's by --weight-kg" in out
    out = done(capsys, "inspect", tmp_path, "--weight-kg", "70")
    assert "the PET alone can be read, but NOT as a PET/CT: there is no CT" in out
    assert "l2s segment --ct FILE" in out
    assert "l2s convert --pet-only" in out
    content = json.loads(done(capsys, "inspect", tmp_path, "--json", "--weight-kg", "70"))
    assert (content["usable"], content["pet_alone"]) == (False, True)
    assert not json.loads(done(capsys, "inspect", tmp_path, "--json"))["usable"]
    assert "no such file" in failed(capsys, "inspect", tmp_path / "nowhere")


def test_no_header_steers_the_terminal(tmp_path, capsys):
    import pydicom

    evil = "\x1b[2J\x9b2J"
    with pydicom.config.disable_value_validation():
        save(tmp_path / "p", pet_series({"Radiopharmaceutical": evil}, SeriesDescription=evil, Manufacturer=evil, Units="GML"))
        save(tmp_path / "u", pet_series(SeriesInstanceUID=f"1.2{evil}", Units=f"a\n{evil}", DecayCorrection=evil))
        save(tmp_path / "o", pet_series(SeriesInstanceUID="1.3", Modality=evil))
    for flags in ((), ("--json",)):
        out = done(capsys, "inspect", tmp_path, *flags)
        assert not {c for c in out if not c.isprintable()} - {"\n"}
        assert "1.2?" in out or "\\u001b" in out
    strange = tmp_path / f"x{evil}\ny"
    assert "\x1b" not in failed(capsys, "inspect", strange)
    assert "\x1b" not in failed(capsys, "convert", tmp_path / "u", tmp_path / "out")
    log = logging.LogRecord("l2s", logging.WARNING, __file__, 1, "file %s", (f"a\n{evil}",), None)
    assert cli.Printable("%(levelname)s: %(message)s").format(log) == "WARNING: file a??[2J?2J"


def test_convert_writes_nothing_among_its_input(tmp_path, capsys):
    study(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "in2").symlink_to(tmp_path / "in")
    for source, target in (("in", "in"), ("in", "in/a/out"), ("in2", "in/out"), ("in/a/000", "in/a/out"), ("in", "in/../in")):
        assert "lies in the input folder" in failed(capsys, "convert", tmp_path / source, tmp_path / target)
    assert sorted(p for p in tmp_path.rglob("*") if p.name != "in2") == before
    done(capsys, "convert", tmp_path / "in", tmp_path / "in-suv")  # beside it, whatever its name begins with


def test_convert_to_autopets_layout(tmp_path, capsys):
    study(tmp_path / "in")
    out = done(
        capsys, "convert", tmp_path / "in", tmp_path / "out" / "deep", "--sul", "--suv-bsa", "--injection-time", "09:10:00"
    )
    assert "SUV factor" in out
    folder = tmp_path / "out" / "deep"
    assert sorted(p.name for p in folder.iterdir()) == [
        "CT.nii.gz", "CTres.nii.gz", "SUL.nii.gz", "SUV.nii.gz", "SUVbsa.nii.gz", "conversion.json"
    ]  # fmt: skip
    factor = 80000 / (4e8 * 2 ** (-3000 / 6586.2))
    suv, grid, _, _ = read_image(folder / "SUV.nii.gz")
    np.testing.assert_allclose(suv, pet_volume() * factor, rtol=1e-6)
    assert grid.origin_mm_xyz == pytest.approx((-30.0, -20.0, 100.0))
    ct, on, _, _ = read_image(folder / "CTres.nii.gz")
    assert on.matches(grid)
    whole, own, _, _ = read_image(folder / "CT.nii.gz")
    assert (whole.shape, own.spacing_mm_zyx) == ((14, 24, 30), pytest.approx((3.0, 2.0, 2.5)))
    content = json.loads((folder / "conversion.json").read_text())
    assert content["suv"]["factor"] == pytest.approx(factor)
    assert content["suv"]["overrides"] == ["injection"]
    assert content["suv"]["injection_time"] == "09:10:00"
    sul, _, _, _ = read_image(folder / "SUL.nii.gz")
    lean = 9270 * 80 / (6680 + 216 * 80 / 1.75**2)
    np.testing.assert_allclose(sul, suv * lean / 80, rtol=1e-5)
    text = (folder / "conversion.json").read_text()
    assert not any(word in text for word in ("SECRET", "1.2.3.4.5", "2024", str(tmp_path)))


def test_convert_to_grand_challenges_layout(tmp_path, capsys):
    study(tmp_path / "in")
    done(capsys, "convert", tmp_path / "in", tmp_path / "out", "--layout", "grand-challenge", "--name", "p1")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()) == [
        "conversion.json", "images/ct/p1.mha", "images/pet/p1.mha"
    ]  # fmt: skip
    pet, ct = (sitk.ReadImage(str(tmp_path / "out" / "images" / k / "p1.mha")) for k in ("pet", "ct"))
    assert (pet.GetSize(), pet.GetSpacing(), pet.GetOrigin()) == ((14, 10, 12), (5.0, 4.0, 3.0), (-30.0, -20.0, 100.0))
    assert pet.GetSize() == ct.GetSize()
    assert (pet.GetPixelIDValue(), ct.GetPixelIDValue()) == (sitk.sitkFloat32, sitk.sitkFloat32)


def test_convert_keeps_what_was_there_when_it_fails(tmp_path, capsys, monkeypatch):
    study(tmp_path / "in")
    done(capsys, "convert", tmp_path / "in", tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    from l2s.io import images

    real = images.write_image

    def full(path, array, stored):
        if path.name == "CT.nii.gz":
            raise OSError(28, "No space left on device")
        real(path, array, stored)

    monkeypatch.setattr(images, "write_image", full)
    assert "No space left" in failed(capsys, "convert", tmp_path / "in", tmp_path / "out", "--weight-kg", "90", code=75)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    failed(capsys, "convert", tmp_path / "in", tmp_path / "fresh", code=75)
    assert not (tmp_path / "fresh").exists()


def names_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("layout", "left"),
    [("autopet", ["SUV.nii.gz"]), ("grand-challenge", ["images/ct/b.mha", "images/pet/a.mha", "images/pet/b.mha"])],
)
def test_convert_leaves_no_other_case_s_files_beside_its_own(tmp_path, capsys, layout, left):
    study(tmp_path / "a")
    save(tmp_path / "b", pet_series(SeriesInstanceUID="1.9"))
    out = tmp_path / "out"
    flags = ("--layout", layout, "--name")
    done(capsys, "convert", tmp_path / "a", out, *flags, "a", "--sul", "--suv-bsa")
    if layout == "grand-challenge":  # another name's images are left alone
        done(capsys, "convert", tmp_path / "a", out, *flags, "b")
        done(capsys, "convert", tmp_path / "a", out, *flags, "a", "--suv-bsa")
        assert "images/sul/a.mha" in names_in(out), "no longer in the record"
        (out / "images/sul/a.mha").unlink()
    (out / "notes.txt").write_text("mine")
    (tmp_path / "outside.nii.gz").write_text("mine")
    record = json.loads((out / "conversion.json").read_text())
    record["files"] |= dict.fromkeys(("../outside.nii.gz", "notes.txt", str(tmp_path / "outside.nii.gz")), "a lie")
    (out / "conversion.json").write_text(json.dumps(record))
    done(capsys, "convert", tmp_path / "b", out, *flags, "a", "--pet-only")
    assert names_in(out) == sorted([*left, "conversion.json", "notes.txt"])
    assert (tmp_path / "outside.nii.gz").is_file()


@pytest.mark.parametrize("record", [None, "{", "[]", '{"tool": "other 1", "files": {"CT.nii.gz": ""}}', '{"tool": "l2s 1"}'])
@pytest.mark.parametrize("name", ["CT.nii.gz", "CTres.nii.gz", "SUV.nii.gz", "images/ct/x.mha"])
def test_convert_replaces_no_images_of_other_origin(tmp_path, capsys, name, record):
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    if record:
        (tmp_path / "out" / "conversion.json").write_text(record)
    before = names_in(tmp_path / "out")
    line = failed(capsys, "convert", tmp_path / "absent", tmp_path / "out", "--pet-only")
    assert "holds images but no conversion.json of l2s" in line
    assert names_in(tmp_path / "out") == before


def test_a_conversion_that_was_cut_off_can_be_made_again(tmp_path, capsys, monkeypatch):
    study(tmp_path / "in")
    out, replace = tmp_path / "out", Path.replace

    def full(self, target):
        if Path(target).name == "conversion.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    failed(capsys, "convert", tmp_path / "in", out, code=75)
    assert "SUV.nii.gz" in names_in(out)
    assert "conversion.json" not in names_in(out)
    monkeypatch.setattr(Path, "replace", replace)
    done(capsys, "convert", tmp_path / "in", out, "--pet-only")
    assert names_in(out) == ["SUV.nii.gz", "conversion.json"]


def test_convert_keeps_to_the_layout_of_its_folder(tmp_path, capsys):
    study(tmp_path / "in")
    for layout, other in (("autopet", "grand-challenge"), ("grand-challenge", "autopet")):
        done(capsys, "convert", tmp_path / "in", tmp_path / layout, "--layout", layout)
        line = failed(capsys, "convert", tmp_path / "in", tmp_path / layout, "--layout", other)
        assert f"in another layout than {other}" in line


def test_convert_of_a_pet_alone(tmp_path, capsys):
    save(tmp_path / "in", pet_series())
    assert "there is no CT" in failed(capsys, "convert", tmp_path / "in", tmp_path / "out")
    done(capsys, "convert", tmp_path / "in", tmp_path / "out", "--pet-only")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["SUV.nii.gz", "conversion.json"]
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["ct"] is None


def test_bad_flags(tmp_path, capsys):
    study(tmp_path / "in")
    (tmp_path / "file").touch()
    assert "is a file" in failed(capsys, "convert", tmp_path / "in", tmp_path / "file")
    assert "no time" in failed(capsys, "convert", tmp_path / "in", tmp_path / "o", "--injection-datetime", "nine")
    assert "--name" in failed(capsys, "convert", tmp_path / "in", tmp_path / "o", "--name", "a/../b")
    assert "limits" in failed(capsys, "convert", tmp_path / "in", tmp_path / "o", "--weight-kg", "-3")
    assert "no such series" in failed(capsys, "convert", tmp_path / "in", tmp_path / "o", "--ct-series", "1.9")
    assert not (tmp_path / "o").exists()


def test_a_mask_that_is_not_there_is_said_before_its_format(tmp_path, capsys):
    study(tmp_path / "in")
    for name in ("nothere", "nothere.mha"):
        assert f"{name} does not exist" in failed(capsys, "export", tmp_path / name, tmp_path / "o", "--dicom", tmp_path / "in")
    (tmp_path / "text.txt").touch()
    assert "format is not read" in failed(capsys, "export", tmp_path / "text.txt", tmp_path / "o", "--dicom", tmp_path / "in")


def test_moments():
    assert moment_of("20240531091500", "f") == moment_of("2024-05-31T09:15:00", "f") == moment_of("2024-05-31 09:15", "f")
    assert moment_of("091500.5", "f") == moment_of("09:15:00.5", "f")
    assert moment_of(None, "f") is None
    for words in ("2024", "20240531", "25:00:00", "2024-13-01T09:00:00", "9am", "20241301090000"):
        with pytest.raises(InputError):
            moment_of(words, "f")


def test_evaluate_against_an_rtstruct(data, tmp_path, capsys):
    folder = data / "sts001_wholebody"
    done(capsys, "convert", folder, tmp_path, "--pet-only")
    suv, _, stored, _ = read_image(tmp_path / "SUV.nii.gz")
    from l2s.io.images import write_mask

    write_mask(tmp_path / "hot.nii.gz", suv > 2.5, stored)
    truth = next((folder / "FDG_PET" / "mask").glob("*.dcm"))
    done(capsys, "evaluate", truth, tmp_path / "hot.nii.gz", "--roi", "GTV_Mass", "--no-surface", "--json", tmp_path / "s.json")
    case = json.loads((tmp_path / "s.json").read_text())["cases"][0]
    assert 0 < case["dice"] < 0.5  # most of what is hot in a whole body is no tumour
    assert "no region is named" in failed(capsys, "evaluate", truth, tmp_path / "hot.nii.gz", "--roi", "x")
    assert "--roi takes one RTSTRUCT" in failed(capsys, "evaluate", folder, tmp_path, "--roi", "x")
