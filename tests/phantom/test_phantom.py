"""Synthetic cases: seeded, on any grid, with physiology that fools a threshold and lesions that a reader could see."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from l2s.errors import InputError
from l2s.phantom import scanner as sc
from l2s.phantom.anatomy import make_anatomy
from l2s.phantom.frame import BRAIN, LIVER, LUNGS, VERTEX_Z, load_map, map_frame, random_frame
from l2s.phantom.growth import grow
from l2s.phantom.lesions import KINDS, draw_count
from l2s.phantom.sample import make_case, write_case, write_cases
from l2s.phantom.shapes import make_canvas, smooth_noise
from l2s.phantom.tissues import Tissue
from l2s.study import Grid

MAPS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "organ_maps"
WHOLE = Grid((240, 104, 136), (4.0, 4.0, 4.0), (-270.0, -206.0, -480.0))
SMALL = Grid((40, 48, 56), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
needs_maps = pytest.mark.skipif(not MAPS.is_dir(), reason="no real organ maps in ../shared/data")


@pytest.fixture(scope="module")
def healthy():
    return make_case(11, WHOLE, lesions=0)


@pytest.fixture(scope="module")
def sick():
    return make_case(12, WHOLE, lesions=9)


def tissue_of(seed: int, grid: Grid) -> np.ndarray:
    """The tissues behind a case at 4 mm: anatomy is the first of make_case's streams."""
    return make_anatomy(np.random.default_rng([seed, 0]), grid.shape_zyx, grid.spacing_mm_zyx, []).canvas.tissue


def deep(mask: np.ndarray, steps: int = 2) -> np.ndarray:
    """Voxels away from a tissue's edge, where blur does not reach."""
    inner = ndimage.binary_erosion(mask, iterations=steps)
    assert inner.any()
    return inner


def test_the_same_seed_gives_the_same_bits():
    np.random.default_rng(0)
    first, again, other = make_case(5, SMALL, lesions=3), make_case(5, SMALL, lesions=3), make_case(6, SMALL, lesions=3)
    assert np.array_equal(first.study.pet_suv, again.study.pet_suv)
    assert np.array_equal(first.study.ct_hu, again.study.ct_hu)
    assert np.array_equal(first.truth, again.truth)
    assert first.facts == again.facts
    assert not np.array_equal(first.study.pet_suv, other.study.pet_suv)


def test_lesions_do_not_change_the_patient(healthy):
    other = make_case(11, WHOLE, lesions=4)
    for key in ("height_cm", "bmi", "sex", "arms", "scanner", "physiology"):
        assert other.facts[key] == healthy.facts[key]
    same = ~ndimage.binary_dilation(other.truth, iterations=10)
    # noise hangs on counts from afar, so the PET is only nearly the same
    assert np.median(np.abs(other.study.pet_suv - healthy.study.pet_suv)[same]) < 1e-3


def test_types_ranges_and_facts(sick):
    study = sick.study
    assert study.pet_suv.dtype == study.ct_hu.dtype == np.float32
    assert sick.truth.dtype == bool
    assert study.pet_suv.shape == study.ct_hu.shape == sick.truth.shape == WHOLE.shape_zyx
    assert study.pet_suv.min() >= 0.0
    assert study.ct_hu.min() >= -1024.0
    assert json.loads(json.dumps(sick.facts)) == sick.facts
    assert 150.0 <= sick.facts["height_cm"] <= 195.0


def test_no_lesions_is_an_empty_truth(healthy):
    assert not healthy.truth.any()
    assert healthy.facts["lesions"] == []


def test_lesions_are_as_told(sick):
    lesions = sick.facts["lesions"]
    assert len(lesions) == 9
    for lesion in lesions:
        _, _, low, high = KINDS[lesion["kind"]][1]
        assert low <= lesion["volume_ml"] <= high * 1.05
        assert 2.0 <= lesion["suv"] <= 30.0
        z, y, x = np.rint(WHOLE.mm_to_index_zyx(lesion["centre_mm_xyz"])).astype(int)
        assert sick.truth[z - 3 : z + 4, y - 3 : y + 4, x - 3 : x + 4].any(), lesion
    told = sum(lesion["volume_ml"] for lesion in lesions)
    assert sick.truth.sum() * WHOLE.voxel_volume_ml == pytest.approx(told, rel=0.15)
    _, n = ndimage.label(sick.truth, np.ones((3, 3, 3)))
    assert 1 <= n <= 9


def test_lesions_stand_out_of_what_surrounds_them():
    for seed in (21, 22, 23):
        sample = make_case(seed, WHOLE, lesions=6)
        pet, truth = sample.study.pet_suv, sample.truth
        labels, n = ndimage.label(truth, np.ones((3, 3, 3)))
        assert n > 0
        for k, box in enumerate(ndimage.find_objects(labels), 1):
            wide = tuple(slice(max(s.start - 4, 0), s.stop + 4) for s in box)
            inside = labels[wide] == k
            ring = ndimage.binary_dilation(inside, iterations=4) & ~ndimage.binary_dilation(truth[wide], iterations=2)
            assert np.percentile(pet[wide][inside], 90) > 1.2 * np.median(pet[wide][ring])


def test_physiology_fools_a_threshold(healthy):
    hot = healthy.study.pet_suv > 4.0
    tissue = tissue_of(11, WHOLE)
    assert hot.sum() * WHOLE.voxel_volume_ml > 200.0
    assert hot[deep(tissue == Tissue.GREY, 1)].mean() > 0.8
    _, spots = ndimage.label(hot)
    assert spots >= 3  # not the brain alone


def test_organs_have_the_uptake_of_the_literature(healthy):
    tissue, pet = tissue_of(11, WHOLE), healthy.study.pet_suv
    ranges = {
        Tissue.LIVER: (1.3, 3.6),
        Tissue.LUNG: (0.2, 1.0),
        Tissue.MUSCLE: (0.4, 1.3),
        Tissue.FAT: (0.05, 0.6),
        Tissue.MARROW: (0.6, 4.0),
    }
    for t, (low, high) in ranges.items():
        assert low < np.median(pet[deep(tissue == t, 1)]) < high, t.name
    assert pet[deep(tissue == Tissue.LIVER)].std() > 0.04 * pet[deep(tissue == Tissue.LIVER)].mean()
    assert np.median(pet[deep(tissue == Tissue.AIR, 5)]) < 0.05


def test_organs_have_the_hu_of_the_literature(healthy):
    tissue, ct = tissue_of(11, WHOLE), healthy.study.ct_hu
    more = 75.0 if healthy.facts["scanner"]["contrast"] else 0.0
    ranges = {
        Tissue.LUNG: (-900, -650),
        Tissue.FAT: (-130, -60),
        Tissue.MUSCLE: (15, 75 + 0.2 * more),
        Tissue.LIVER: (40, 75 + more),
        Tissue.GREY: (15, 60),
    }
    for t, (low, high) in ranges.items():
        assert low < np.median(ct[deep(tissue == t, 1)]) < high, t.name
    assert np.percentile(ct[tissue == Tissue.CORTICAL], 90) > 350
    beyond = deep(tissue == Tissue.AIR, 3)
    assert np.median(ct[beyond]) < -900
    assert (healthy.facts["scanner"]["couch"] is None) or (ct[beyond] > -700).any()


def test_noise_follows_counts_and_attenuation():
    scanner = sc.random_scanner(np.random.default_rng(0))
    body = np.zeros((40, 80, 80), dtype=bool)
    body[:, 15:65, 15:65] = True
    one = body.astype(np.float32)
    spacing = (4.0, 4.0, 4.0)
    scale, fourfold = (sc.noise_scale(a, body, scanner, spacing) - np.float32(scanner.haze) for a in (one, 4 * one))
    assert fourfold[20, 40, 40] == pytest.approx(2.0 * scale[20, 40, 40], rel=1e-4)
    assert scale[20, 40, 40] > 1.3 * scale[20, 40, 19]  # the middle loses more photons than the rim
    thin = np.zeros_like(body)
    thin[:, 33:47, 33:47] = True
    assert scale[20, 40, 40] > 1.3 * (sc.noise_scale(thin.astype(np.float32), thin, scanner, spacing) - scanner.haze)[20, 40, 40]
    noisy = [
        sc.add_pet_noise(np.random.default_rng(k), 5 * one + 5, np.full(one.shape, 0.3, np.float32), scanner, spacing)
        for k in (1, 2)
    ]
    assert (noisy[0] - noisy[1])[body].std() == pytest.approx(0.3 * np.sqrt(2), rel=0.1)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((1, 1, 1), (4.0, 4.0, 4.0)),
        ((7, 5, 3), (11.0, 10.0, 13.0)),
        ((33, 90, 90), (3.0, 2.036, 2.036)),
        ((60, 40, 48), (16.0, 12.0, 10.0)),
        ((20, 30, 40), (0.7, 1.0, 1.3)),
        ((9, 100, 110), (5.0, 4.07, 4.07)),
    ],
)
def test_any_grid(shape, spacing):
    for seed in range(3):
        sample = make_case(seed, Grid(shape, spacing, (0.0, 0.0, 0.0)))
        assert sample.study.pet_suv.shape == sample.truth.shape == shape
        assert np.isfinite(sample.study.pet_suv).all()
        assert np.isfinite(sample.study.ct_hu).all()


def test_small_fields_show_different_parts():
    lungs = {bool((tissue_of(seed, SMALL) == Tissue.LUNG).any()) for seed in range(10)}
    assert lungs == {False, True}


def test_only_positions_hang_on_the_grids_place():
    turned = Grid(SMALL.shape_zyx, SMALL.spacing_mm_zyx, (10.0, 20.0, 30.0), ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
    a, b = make_case(8, SMALL, lesions=2), make_case(8, turned, lesions=2)
    assert np.array_equal(a.study.pet_suv, b.study.pet_suv)
    assert len(a.facts["lesions"]) == 2
    for one, two in zip(a.facts["lesions"], b.facts["lesions"]):
        x, y, z = one["centre_mm_xyz"]
        assert two["centre_mm_xyz"] == pytest.approx([10.0 - y, 20.0 + x, 30.0 + z], abs=0.11)


def test_a_finer_grid_shows_the_same_patient():
    coarse = make_case(9, SMALL, lesions=2)
    fine = make_case(9, Grid((80, 96, 112), (2.0, 2.0, 2.0), (-1.0, -1.0, -1.0)), lesions=2)
    blocks = fine.study.pet_suv.reshape(40, 2, 48, 2, 56, 2).mean(axis=(1, 3, 5))
    assert np.corrcoef(blocks.ravel(), coarse.study.pet_suv.ravel())[0, 1] > 0.97
    assert fine.truth.sum() / 8 == pytest.approx(coarse.truth.sum(), rel=0.1)
    for one, two in zip(coarse.facts["lesions"], fine.facts["lesions"]):
        assert two["centre_mm_xyz"] == pytest.approx(one["centre_mm_xyz"], abs=0.11)


def test_counts_of_lesions():
    rng = np.random.default_rng(3)
    counts = np.array([draw_count(rng) for _ in range(2000)])
    assert (counts == 0).mean() == pytest.approx(0.25, abs=0.04)
    assert counts.max() <= 25
    assert np.median(counts[counts > 0]) <= 5 < counts.max()


@pytest.mark.parametrize("volume_ml", [0.5, 8.0, 200.0])
def test_a_lesion_has_its_volume(volume_ml):
    rng = np.random.default_rng(1)
    axis = np.arange(-120.0, 120.0, 4.0)
    canvas = make_canvas(rng, axis, axis, axis)
    shapes = [grow(rng, canvas, np.zeros(3), volume_ml, "node") for _ in range(8)]
    kept = [weight for _, weight in filter(None, shapes)]
    assert len(kept) >= 4
    for weight in kept:
        assert weight.sum() * canvas.voxel_volume_ml == pytest.approx(volume_ml, rel=0.05)


def test_smooth_noise_has_unit_variance():
    noise = smooth_noise(np.random.default_rng(0), (90, 80, 70), (4.0, 3.0, 1.0))
    assert noise.mean() == pytest.approx(0.0, abs=0.05)
    assert noise.std() == pytest.approx(1.0, abs=0.05)


def test_interpolate_equals_numpy():
    image = np.random.default_rng(0).random((5, 7, 6)).astype(np.float32)
    position = np.array([-1.0, 0.0, 0.25, 3.999, 6.0, 9.0])
    got = sc.interpolate(image, 1, position)
    want = np.array([[np.interp(position, np.arange(7), image[z, :, x]) for x in range(6)] for z in range(5)]).transpose(0, 2, 1)
    assert np.allclose(got, want, atol=1e-6)


def test_frames_stretch_and_return():
    frame = random_frame(np.random.default_rng(4))
    z = np.array([-1000.0, -50.0, 300.0, 900.0])
    assert np.allclose(frame.reference(frame.z(z)), z, atol=1e-6)
    assert frame.z(VERTEX_Z) - frame.z(-890.0) == pytest.approx(10 * frame.height_cm, rel=0.1)


@needs_maps
def test_real_maps_give_their_organs():
    organ_map = load_map(np.random.default_rng(0), sorted(MAPS.glob("*.nii.gz"))[:1])
    frame = map_frame(np.random.default_rng(0), organ_map)
    assert organ_map.start_mm_zyx[0] < frame.z(0.0) < frame.z(562.0) < frame.z(680.0)
    sample = make_case(3, WHOLE, MAPS, lesions=0)
    again = make_case(3, WHOLE, MAPS, lesions=0)
    assert np.array_equal(sample.study.pet_suv, again.study.pet_suv)
    anatomy = make_anatomy(np.random.default_rng([3, 0]), WHOLE.shape_zyx, WHOLE.spacing_mm_zyx, sorted(MAPS.glob("*.nii.gz")))
    assert anatomy.organ_map == sample.facts["organ_map"]
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(MAPS / anatomy.organ_map)))
    litres = [np.count_nonzero(stored == label) * 2.03642**2 * 3.0e-6 for label in (LIVER, LUNGS, BRAIN)]
    for t, expected in zip((Tissue.LIVER, Tissue.LUNG), litres):
        drawn = np.count_nonzero(anatomy.canvas.tissue == t) * WHOLE.voxel_volume_ml / 1000
        assert drawn == pytest.approx(expected, rel=0.35)  # stretched by up to 12 % an axis


def test_written_cases_are_read_back(tmp_path):
    lines = []
    folders = write_cases(tmp_path, 2, 7, (24, 20, 22), (8.0, 8.0, 8.0), None, lines.append)
    assert [f.name for f in folders] == ["phantom_0001", "phantom_0002"]
    assert len(lines) == 2
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    name = "phantom_0001"
    assert files[:4] == [
        f"{name}/facts.json",
        f"{name}/images/ct/{name}.mha",
        f"{name}/images/pet/{name}.mha",
        f"{name}/truth.mha",
    ]
    assert json.loads((tmp_path / name / "facts.json").read_text())["seed"] == 7
    sample = make_case(7, Grid((24, 20, 22), (8.0, 8.0, 8.0), (-88.0, -80.0, -96.0)))
    pet = sitk.ReadImage(str(tmp_path / name / "images" / "pet" / f"{name}.mha"))
    assert pet.GetSize() == (22, 20, 24)
    assert pet.GetOrigin() == (-88.0, -80.0, -96.0)
    assert np.array_equal(sitk.GetArrayFromImage(pet), sample.study.pet_suv)
    truth = sitk.ReadImage(str(tmp_path / name / "truth.mha"))
    assert truth.GetPixelID() == sitk.sitkUInt8
    assert np.array_equal(sitk.GetArrayFromImage(truth) > 0, sample.truth)
    ct = sitk.ReadImage(str(tmp_path / name / "images" / "ct" / f"{name}.mha"))
    assert ct.GetPixelID() == sitk.sitkInt16
    assert np.abs(sitk.GetArrayFromImage(ct) - sample.study.ct_hu).max() <= 0.5


def test_bad_requests_are_one_line(tmp_path):
    with pytest.raises(InputError, match="seed is -1"):
        make_case(-1, SMALL)
    with pytest.raises(InputError, match="lesions is 26"):
        make_case(0, SMALL, lesions=26)
    with pytest.raises(InputError, match="holds no organ maps"):
        make_case(0, SMALL, tmp_path)
    with pytest.raises(InputError, match="cases is 0"):
        write_cases(tmp_path, 0, 0, (8, 8, 8), (4, 4, 4))
    empty = sitk.Image(40, 40, 40, sitk.sitkUInt8)
    sitk.WriteImage(empty, str(tmp_path / "map.nii.gz"))
    with pytest.raises(InputError, match="has lungs"):
        make_case(0, SMALL, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_case(tmp_path / "file", "a", make_case(0, Grid((8, 8, 8), (8.0, 8.0, 8.0), (0.0, 0.0, 0.0))))
