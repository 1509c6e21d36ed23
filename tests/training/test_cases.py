"""Cases on disk: what is read back is what was stored, slices unpack what they touch, and an old or cut case is noticed."""

import errno
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import blosc2
import numpy as np
import pytest

from l2s.errors import InputError
from l2s.study import Grid, Study
from l2s.working import resample, to_working
from training.cases import (
    BLOCK_ZYX,
    CHUNK_ZYX,
    Stored,
    cue_path,
    held_out_figures,
    open_case,
    read_whole,
    save_array,
    save_cue,
    some_voxels,
    store_case,
    stored_row,
)

SHAPE = (70, 40, 50)
SPACING = (4.0, 4.0, 4.0)
MADE = {"seed": 1}


def make_study(shape=SHAPE) -> tuple[Study, np.ndarray]:
    """A body of water with a lesion of SUV 10 and a hot organ of SUV 7."""
    rng = np.random.default_rng(0)
    pet = rng.uniform(0.1, 1.0, shape).astype(np.float32)
    truth = np.zeros(shape, bool)
    truth[20:26, 10:14, 30:36] = True
    pet[truth] = 10.0
    pet[40:44, 20:24, 10:14] = 7.0
    ct = rng.normal(30.0, 200.0, shape).astype(np.float32)
    return Study(pet, ct, Grid(shape, SPACING, (0.0, 0.0, 0.0))), truth


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(folder, row, study, truth) of one stored case at another spacing than its own."""
    folder = tmp_path_factory.mktemp("cases")
    study, truth = make_study()
    return folder, store_case(folder, "a", "sts", "p", MADE, study, truth, (5.0, 4.0, 4.0), ["odd"]), study, truth


def test_arrays_come_back_as_inference_would_see_them(stored):
    folder, row, study, truth = stored
    case = read_whole(open_case(folder, row))
    working = to_working(study, (5.0, 4.0, 4.0))
    assert list(working.grid.shape_zyx) == row["shape_zyx"] == list(case.truth.shape)
    np.testing.assert_allclose(case.pet_suv, working.pet_suv, rtol=1e-3)
    np.testing.assert_allclose(case.ct_hu, np.clip(working.ct_hu, -1024, 3071), atol=0.5)
    inside = tuple(slice(a, b) for a, b in zip(working.start_zyx, working.stop_zyx))
    assert (case.truth == (resample(truth.astype(np.float32), study.grid, working.full)[inside] > 0.5)).all()
    assert (case.pet_suv.dtype, case.ct_hu.dtype, case.truth.dtype) == (np.float32, np.int16, bool)
    assert row["lesion_ml"] == pytest.approx(6 * 4 * 6 * 0.064, abs=0.005)
    assert row["warnings"] == ["odd"]
    assert row["lesion_planes_zyx"] == [
        [n for n, plane in enumerate(np.moveaxis(case.truth, k, 0)) if plane.any()] for k in range(3)
    ]


def test_index_voxels_are_those_of_the_stored_arrays(stored):
    folder, row, _, _ = stored
    case = open_case(folder, row)
    whole = read_whole(case)
    assert sum(map(len, case.lesion_voxels)) == min(512, whole.truth.sum())
    assert all(whole.truth[tuple(v)] for voxels in case.lesion_voxels for v in voxels)
    assert all(
        (planes == np.flatnonzero(np.moveaxis(whole.truth, k, 0).any((1, 2)))).all()
        for k, planes in enumerate(case.lesion_planes)
    )
    assert (case.hot_voxels == some_voxels((whole.pet_suv > 2.5) & ~whole.truth)).all()
    assert len(case.lesion_voxels) > 0
    assert len(case.hot_voxels) > 0


def test_any_slice_equals_the_slice_of_the_whole(tmp_path):
    array = np.random.default_rng(1).integers(-900, 900, SHAPE).astype(np.int16)
    save_array(tmp_path / "x.b2nd", array)
    stored = Stored(tmp_path / "x.b2nd", SHAPE, array.dtype)
    for key in (np.s_[:], np.s_[3:40, 5:6, 1:50], np.s_[:, 10:15], np.s_[..., -1], np.s_[4], np.s_[60:70, 39:40, 0:1]):
        assert (stored[key] == array[key]).all()
        assert stored[key].shape == array[key].shape
    assert (np.asarray(stored) == array).all()
    assert (stored.ndim, stored.size, len(stored)) == (3, array.size, 70)


def test_many_threads_may_read_one_array_at_a_time(tmp_path):
    array = np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)
    save_array(tmp_path / "x.b2nd", array)
    stored = pickle.loads(pickle.dumps(Stored(tmp_path / "x.b2nd", SHAPE, array.dtype)))  # worker processes get it so
    starts = np.random.default_rng(3).integers(0, 20, (200, 3))

    def same(start) -> bool:
        key = tuple(slice(s, s + 20) for s in start)
        return bool((stored[key] == array[key]).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(same, starts))


def test_a_file_has_the_blocks_that_planes_and_patches_want(tmp_path):
    array = np.zeros((130, 100, 40), np.int16)
    save_array(tmp_path / "x.b2nd", array)
    stored = blosc2.open(str(tmp_path / "x.b2nd"), mode="r")
    assert stored.chunks == (64, 64, 40) == (*CHUNK_ZYX[:2], 40)
    assert stored.blocks == BLOCK_ZYX
    # an empty volume has nothing to say
    assert (tmp_path / "x.b2nd").stat().st_size < array.nbytes / 50


def test_opening_a_case_opens_no_volume(stored, monkeypatch):
    folder, row, _, _ = stored

    def refuse(*_, **__):
        raise AssertionError("a volume was opened")

    monkeypatch.setattr(blosc2, "open", refuse)
    assert open_case(folder, row).pet_suv.shape == tuple(row["shape_zyx"])


def test_a_cue_comes_back_to_its_step(stored, tmp_path):
    folder, row, _, _ = stored
    cue = np.random.default_rng(4).uniform(-0.1, 1.1, row["shape_zyx"]).astype(np.float32)
    save_cue(tmp_path, "a", cue)
    read = open_case(folder, row, tmp_path).cue
    assert np.abs(read[...] - np.clip(cue, 0, 1)).max() <= 0.5 / 255 + 1e-6
    assert read[2:3].dtype == np.float32
    assert cue_path(tmp_path, "a").is_file()
    with pytest.raises(InputError, match="make_cues"):
        open_case(folder, row | {"name": "b"}, tmp_path)


def test_a_complete_case_is_kept_and_a_stale_cut_or_old_one_is_not(tmp_path):
    study, truth = make_study((30, 30, 30))
    row = store_case(tmp_path, "a", "sts", "p", MADE, study, truth, SPACING)
    assert stored_row(tmp_path, "a", MADE) == row
    assert stored_row(tmp_path, "a", {"seed": 2}) is None
    assert stored_row(tmp_path, "none", MADE) is None
    (tmp_path / "a/row.json").write_text(json.dumps(row | {"format": 1}))
    assert stored_row(tmp_path, "a", MADE) is None
    (tmp_path / "a/row.json").write_text(json.dumps(row))
    path = tmp_path / "a/ct_hu.b2nd"
    path.write_bytes(path.read_bytes()[:-100])
    assert stored_row(tmp_path, "a", MADE) is None
    with pytest.raises(InputError, match="prepare again"):
        open_case(tmp_path, row | {"format": 1})
    (tmp_path / "a/hot_voxels.npy").unlink()
    with pytest.raises(InputError, match="incomplete"):
        open_case(tmp_path, row)


def test_a_truth_lost_by_resampling_is_a_warning(tmp_path):
    study, truth = make_study((30, 30, 40))
    truth[:] = False
    truth[5, 5, 5] = True
    row = store_case(tmp_path, "a", "sts", "p", MADE, study, truth, (12.0, 12.0, 12.0))
    assert "1 voxels are all lost" in row["warnings"][0]
    assert row["lesion_ml"] == 0.06
    assert len(open_case(tmp_path, row).lesion_voxels) == 0


def test_held_out_figures_are_of_whole_cases_by_source(stored):
    folder, row, _, _ = stored
    case = open_case(folder, row)
    names = [f"held_out_{figure}_{case.source}" for figure in ("dice", "fpv_ml", "fnv_ml")]
    exact = held_out_figures([case, case], lambda c: np.where(c.truth, 1.0, -1.0), 0.1)
    assert exact == list(zip(names, (1.0, 0.0, 0.0))) * 2
    empty = held_out_figures([case], lambda c: np.full(c.truth.shape, -1.0), 0.1)
    volume = float(np.asarray(case.truth).sum()) * 0.1
    assert dict(empty) == pytest.approx(dict(zip(names, (0.0, 0.0, volume))))
    assert held_out_figures([], lambda c: c.pet_suv, 0.1) == []


def test_a_disk_that_takes_no_more_is_an_error_of_the_disk(tmp_path, monkeypatch):
    def full(*_arguments, **_settings):
        raise RuntimeError("Error while creating the NDArray")  # on a full tmpfs, blosc2 3

    monkeypatch.setattr(blosc2, "asarray", full)
    with pytest.raises(OSError, match="Error while creating the NDArray.*full disk; free some") as caught:
        save_array(tmp_path / "pet.b2nd", np.zeros((2, 2, 2)))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path))
