"""Folders -> studies: the three layouts, channels by content, and messages that say what is wrong."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from l2s.errors import InputError
from training import readers
from training.readers import find_studies, is_swapped, load_study, one_study, safe_name

SHAPE = (10, 9, 8)
LONG = "01-01-2004-NA-PET-CT Ganzkoerper  primaer mit KM-05676"  # a study's folder of autoPET I and II, spaces and all
STS = Path(__file__).resolve().parents[2].parent / "shared/data/sts"


def write(path: Path, kind: str, shape=SHAPE, spacing=4.0, add=0.0) -> Path:
    """A tiny PET ('suv'), CT ('hu') or mask ('mask') as NIfTI."""
    rng = np.random.default_rng(len(path.name))
    if kind == "mask":
        array = np.zeros(shape, np.uint8)
        array[2:4, 3:5, 1:3] = 1
    else:
        array = rng.uniform(0, 8, shape) if kind == "suv" else rng.uniform(-1000, 1000, shape)
    image = nibabel.Nifti1Image((array + add).astype(np.float32), np.diag([-spacing, -spacing, spacing, 1.0]))
    image.set_sform(image.affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


def write_nnunet(root: Path, names, channels=("hu", "suv")) -> Path:
    for name in names:
        for k, kind in enumerate(channels):
            write(root / f"imagesTr/{name}_{k:04d}.nii.gz", kind)
        write(root / f"labelsTr/{name}.nii.gz", "mask")
    return root


def write_study(folder: Path, names=("SUV", "CTres", "SEG")) -> Path:
    for name, kind in zip(names, ("suv", "hu", "mask")):
        write(folder / f"{name}.nii.gz", kind)
    return folder


def test_autopet_one_and_two_are_found_with_spaces_in_their_names(tmp_path):
    for study in (LONG, "05-05-2005-x-1"):
        folder = write_study(tmp_path / "PETCT_0011f3deaf" / study)
        # beside what is wanted lie the PET in Bq/ml and the CT on its own grid
        write(folder / "PET.nii.gz", "suv", add=5000.0)
        write(folder / "CT.nii.gz", "hu")
    write_study(tmp_path / "PETCT_0143bab87a" / LONG)
    found, refused = find_studies("autopet", tmp_path)
    assert refused == []
    assert [f.patient for f in found] == ["0011f3deaf", "0011f3deaf", "0143bab87a"]
    assert found[0].name == "PETCT_0011f3deaf_01-01-2004-NA-PET-CT_Ganzkoerper_primaer_mit_KM-05676"
    assert {(f.pet.name, f.ct.name, f.truth.name) for f in found} == {("SUV.nii.gz", "CTres.nii.gz", "SEG.nii.gz")}
    assert len({f.name for f in found}) == 3


def test_names_that_become_equal_stay_apart(tmp_path):
    write_study(tmp_path / "a b")
    write_study(tmp_path / "a  b")
    assert [f.name for f in find_studies("x", tmp_path)[0]] == ["a_b", "a_b_2"]
    assert safe_name(" ../a/b: c ") == "a_b_c"
    assert safe_name("...") == "_"
    # what sets a made phantom's patient apart
    assert safe_name("phantom:0000") == "phantom_0000"


@pytest.mark.parametrize("channels", [("hu", "suv"), ("suv", "hu")])
def test_nnunet_channels_are_told_by_their_voxels(tmp_path, channels):
    write_nnunet(tmp_path, [f"fdg_p{k}_{LONG}" for k in range(2)], channels)
    found, refused = find_studies("autopet", tmp_path)
    assert refused == []
    assert [f.patient for f in found] == ["p0", "p1"]
    for f in found:
        assert f.pet.name.endswith(f"_{channels.index('suv'):04d}.nii.gz")
        study, truth, _ = load_study(f)
        assert study.pet_suv.min() >= 0 > study.ct_hu.min()
        assert truth.sum() == 8


def test_channels_that_cannot_be_told_or_differ_are_refused(tmp_path):
    write_nnunet(tmp_path / "a", ["fdg_p_s"], ("suv", "suv"))
    with pytest.raises(InputError, match="none of the 1 studies .* fdg_p_s: its channels cannot be told: .*_0000.nii.gz from"):
        find_studies("x", tmp_path / "a")
    write_nnunet(tmp_path / "b", ["fdg_p_s"], ("hu", "suv"))
    write_nnunet(tmp_path / "b", ["fdg_q_s"], ("suv", "hu"))
    with pytest.raises(InputError, match="_0000 is the CT in fdg_p_s, PET in fdg_q_s"):
        find_studies("x", tmp_path / "b")


def test_one_damaged_study_does_not_decide_on_the_channels(tmp_path):
    write_nnunet(tmp_path, ["fdg_a_s", "fdg_b_s"], ("suv", "hu"))
    (tmp_path / "imagesTr/fdg_a_s_0000.nii.gz").write_bytes(b"broken")
    found, _ = find_studies("x", tmp_path)
    assert [f.pet.name for f in found] == ["fdg_a_s_0000.nii.gz", "fdg_b_s_0000.nii.gz"]
    assert not is_swapped(found)


@pytest.mark.parametrize("bad", range(4))
def test_one_odd_study_of_four_neither_stops_the_others_nor_loses_its_reason(tmp_path, caplog, bad):
    write_nnunet(tmp_path, [f"fdg_p{k}_s" for k in range(4)], ("suv", "hu"))
    write(tmp_path / f"imagesTr/fdg_p{bad}_s_0000.nii.gz", "suv", add=5000.0)
    found, refused = find_studies("x", tmp_path)
    assert refused == []
    assert [f.pet.name for f in found] == [f"fdg_p{k}_s_0000.nii.gz" for k in range(4)]
    # the second of four is not looked at
    assert (f"fdg_p{bad}_s does not tell" in caplog.text) == (bad != 1)
    for k, study in enumerate(found):
        if k == bad:
            with pytest.raises(InputError, match="limit 1000.: this is Bq/ml"):
                load_study(study)
        else:
            assert load_study(study)[0].pet_suv.max() < 10


def test_whatever_a_reader_raises_leaves_the_channels_to_the_others(tmp_path, monkeypatch):
    write_nnunet(tmp_path, ["fdg_a_s", "fdg_b_s"], ("suv", "hu"))
    read = readers.read_image

    def broken(path, names):
        if any(name in path.name for name in names):
            raise ZeroDivisionError("slope")
        return read(path)

    monkeypatch.setattr(readers, "read_image", lambda path: broken(path, ["fdg_a"]))
    assert find_studies("x", tmp_path)[0][0].pet.name == "fdg_a_s_0000.nii.gz"
    monkeypatch.setattr(readers, "read_image", lambda path: broken(path, ["fdg_a", "fdg_b"]))
    with pytest.raises(InputError, match="none of the 2 studies .* fdg_a_s: ZeroDivisionError: slope"):
        find_studies("x", tmp_path)


def test_tracers_are_chosen_and_lacking_files_named(tmp_path):
    write_nnunet(tmp_path, ["fdg_a_s", "psma_95b8_2018-05-01", "psma_95b8_2019-05-01", "other"])
    (tmp_path / "labelsTr/fdg_a_s.nii.gz").unlink()
    found, refused = find_studies("x", tmp_path)
    assert [f.name for f in found] == ["other"]
    assert refused == [("fdg_a_s", "no labelsTr/fdg_a_s.nii.gz")]
    found, refused = find_studies("x", tmp_path, "psma")
    assert [(f.name, f.patient) for f in found] == [
        ("other", "other"), ("psma_95b8_2018-05-01", "95b8"), ("psma_95b8_2019-05-01", "95b8")
    ]  # fmt: skip
    assert len(find_studies("x", tmp_path, "all")[0]) == 3


def test_plain_folders_and_phantoms_are_found(tmp_path):
    from l2s.phantom.sample import write_cases

    write_study(tmp_path / "STS_001", ("PET", "CT", "GTV"))
    write_study(tmp_path / "case2", ("pet", "ct", "mask"))
    write_cases(tmp_path, 1, 3, (20, 20, 20), (20.0, 20.0, 20.0))
    found, refused = find_studies("x", tmp_path)
    assert refused == []
    assert [f.name for f in found] == [f.patient for f in found] == ["STS_001", "case2", "phantom_0001"]
    study, truth, _ = load_study(found[2])
    assert study.pet_suv.shape == truth.shape == (20, 20, 20)


def test_an_incomplete_study_says_what_it_lacks_and_what_it_holds(tmp_path, caplog):
    write_study(tmp_path / "a")
    (tmp_path / "a/SEG.nii.gz").unlink()
    write_study(tmp_path / "b")
    (tmp_path / "dicom").mkdir()
    found, refused = find_studies("x", tmp_path)
    assert [f.name for f in found] == ["b"]
    (name, reason), *none = refused
    assert (name, none) == ("a", [])
    assert "no truth (seg, gtv, truth, mask" in reason
    assert "holds CTres.nii.gz, SUV.nii.gz" in reason
    assert "dicom/ holds no study (nothing)" in caplog.text
    with pytest.raises(InputError, match="no truth"):
        one_study("x", tmp_path / "a")


def test_a_folder_with_nothing_says_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "stuff").mkdir()
    (tmp_path / "stuff/readme.txt").touch()
    with pytest.raises(InputError, match=r"looked for imagesTr.*SUV,CTres,SEG.*found stuff; stuff/ holds readme.txt"):
        find_studies("x", tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_studies("x", tmp_path / "none")
    with pytest.raises(InputError, match="itself a study"):
        find_studies("x", write_study(tmp_path / "one"))
    write_nnunet(tmp_path / "nn", ["psma_a_b"])
    with pytest.raises(InputError, match="holds psma_a_b_0000.nii.gz, .* none is taken with tracer 'fdg'"):
        find_studies("x", tmp_path / "nn")


def test_a_folder_one_too_high_is_not_one_patient(tmp_path):
    for k in range(21):
        (tmp_path / f"sts/case{k}").mkdir(parents=True)
        (tmp_path / f"sts/case{k}/PET.nii.gz").touch()
    with pytest.raises(InputError, match="21 studies, too many to be of one patient"):
        find_studies("x", tmp_path)


def test_a_truth_that_is_no_mask_on_the_pets_grid_is_refused(tmp_path):
    found = one_study("x", write_study(tmp_path / "a"))
    write(found.truth, "mask", shape=(10, 9, 7))
    with pytest.raises(InputError, match="not on the PET's grid"):
        load_study(found)
    write(found.truth, "mask", spacing=5.0)
    with pytest.raises(InputError, match="not on the PET's grid .* at 5 x 5 x 5 mm"):
        load_study(found)
    write(found.truth, "mask", add=0.25)
    with pytest.raises(InputError, match="no labels"):
        load_study(found)


@pytest.mark.skipif(not STS.is_dir(), reason="the STS crops are not beside the repository")
def test_the_sarcoma_crops_are_found_and_read():
    found, refused = find_studies("sts", STS)
    assert (len(found), refused) == (40, [])
    study, truth, warnings = load_study(found[0])
    assert study.pet_suv.shape == truth.shape == (59, 43, 41)
    assert 0.04 < truth.mean() < 0.06
    assert warnings == []
