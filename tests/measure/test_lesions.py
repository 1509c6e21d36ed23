"""Lesion measures against a slow literal twin, against mirp (an independent IBSI library), and against numbers worked out by hand."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import pdist
from skimage.measure import marching_cubes, mesh_surface_area

from l2s.components import label, largest_first
from l2s.errors import InputError
from l2s.io.images import write_image
from l2s.measure.lesions import Settings, measure
from l2s.measure.shape import farthest
from l2s.study import Grid, Study, to_lps

# The digital phantom of IBSI (Zwanenburg et al., Radiology 2020, reference manual chapter 5.1): voxels of 2 mm, '-' outside
IBSI = """
1 4 4 1 1 / 1 4 6 1 1 / 4 1 6 4 1 / 4 4 6 4 1
1 4 4 1 1 / 1 1 6 1 1 / - 1 3 1 1 / 4 4 6 1 1
1 4 4 - - / 1 1 1 1 1 / 1 1 - 1 1 / 1 1 6 1 1
1 4 4 - - / 1 1 1 1 1 / 1 1 1 1 1 / 1 1 6 1 1
"""


def make_study(shape, seed=0, spacing=(3.27, 2.5, 2.0), origin=(-10.0, 5.0, -30.0)) -> tuple[Study, np.ndarray]:
    """A smooth PET, a noisy CT, and a mask of many lesions of all sizes, some at the image's edge, some touching by edges or corners."""
    rng = np.random.default_rng(seed)
    pet = ndimage.gaussian_filter(rng.random(shape), 1.5)
    pet = ((pet - pet.min()) / np.ptp(pet) * 12).astype(np.float32)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 1.2)
    mask = (field > np.quantile(field, 0.93)) | (rng.random(shape) < 0.004)
    return Study(pet, rng.normal(0, 50, shape).astype(np.float32), Grid(shape, spacing, origin)), mask


def twin(study: Study, mask: np.ndarray, probability, cue, connectivity: int, min_ml: float) -> list[dict]:
    """Each lesion by its own mask of the whole volume, word by word as lesions.py defines the figures."""
    grid = study.grid
    spacing, voxel_ml = np.array(grid.spacing_mm_zyx), grid.voxel_volume_ml
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])
    labels, count = ndimage.label(mask, structure)
    everywhere = np.stack(np.meshgrid(*map(np.arange, grid.shape_zyx), indexing="ij"), axis=-1) * spacing
    radius = (3000 / (4 * math.pi)) ** (1 / 3)
    found = []
    for number in range(1, count + 1):
        one = labels == number
        if one.sum() * voxel_ml < min_ml:
            continue
        suv = study.pet_suv[one].astype(float)
        places = np.argwhere(one)
        means = [study.pet_suv[((everywhere - p * spacing) ** 2).sum(-1) <= radius**2].astype(float).mean() for p in places]
        points, faces, _, _ = marching_cubes(np.pad(one, 1).astype(np.float32), 0.5, spacing=grid.spacing_mm_zyx)
        points = points.astype(float)
        a, b, c = (points[faces[:, k]] for k in range(3))
        volume = abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6
        area = mesh_surface_area(points, faces)
        top = places[np.argmax(suv)]
        found.append(
            {
                "voxels": len(suv),
                "volume_ml": len(suv) * voxel_ml,
                "suv_max": suv.max(),
                "suv_mean": suv.mean(),
                "suv_peak_local": max(m for m, v in zip(means, suv) if v == suv.max()),
                "suv_peak_global": max(means),
                "tlg_suv_ml": suv.mean() * len(suv) * voxel_ml,
                "mtv_41pct_ml": (suv >= 0.41 * suv.max()).sum() * voxel_ml,
                "mtv_suv2_5_ml": (suv >= 2.5).sum() * voxel_ml,
                "mtv_suv4_ml": (suv >= 4).sum() * voxel_ml,
                "centroid_mm_xyz": grid.index_to_mm_xyz(places.mean(axis=0)),
                "centroid_voxel_xyz": places.mean(axis=0)[::-1],
                "maximum_mm_xyz": grid.index_to_mm_xyz(top),
                "maximum_voxel_xyz": top[::-1],
                "longest_diameter_mm": pdist(points).max(),
                "surface_mm2": area,
                "mesh_volume_ml": volume / 1000,
                "sphericity": (36 * math.pi * volume**2) ** (1 / 3) / area,
                "mean_hu": study.ct_hu[one].astype(float).mean(),
                "probability_mean": probability[one].astype(float).mean(),
                "probability_max": probability[one].max(),
                "cue_share": (cue[one] > 0.5).mean(),
            }
        )
    return sorted(found, key=lambda row: -row["voxels"])  # sorted() keeps the scan order of equals


@pytest.mark.parametrize(("connectivity", "min_ml"), [(6, 0.0), (18, 0.0), (26, 0.03)])
def test_all_at_once_equals_the_literal_twin(connectivity, min_ml):
    study, mask = make_study((14, 16, 18), seed=connectivity)
    rng = np.random.default_rng(1)
    probability, cue = (rng.random(mask.shape).astype(np.float32) for _ in range(2))
    found = measure(study, mask, probability, cue, Settings(connectivity, min_ml)).lesions
    expected = twin(study, mask, probability, cue, connectivity, min_ml)
    assert len(found) == len(expected) > 5
    for number, (one, row) in enumerate(zip(found, expected), 1):
        assert one.number == number
        for name, value in row.items():
            assert getattr(one, name) == pytest.approx(value, rel=2e-6, abs=1e-6), (number, name)


def test_the_patient_is_the_sum_of_the_lesions():
    study, mask = make_study((14, 16, 18))
    table = measure(study, mask, settings=Settings(min_volume_ml=0.05))
    one, lesions = table.patient, table.lesions
    sizes = label(mask).sizes
    kept = sizes[sizes * 0.01635 >= 0.05]
    assert table.min_voxels == 4  # 0.05 / 0.01635 = 3.06
    assert (one.lesions, one.left_out_lesions) == (len(kept), len(sizes) - len(kept))
    assert one.left_out_lesions > 0
    assert one.tmtv_ml == pytest.approx(kept.sum() * 0.01635)
    assert one.left_out_ml == pytest.approx((mask.sum() - kept.sum()) * 0.01635)
    assert one.tlg_suv_ml == pytest.approx(sum(x.suv_mean * x.volume_ml for x in lesions))
    assert one.suv_mean == pytest.approx(one.tlg_suv_ml / one.tmtv_ml)
    assert (one.suv_max, one.suv_peak) == (max(x.suv_max for x in lesions), max(x.suv_peak_global for x in lesions))
    assert one.largest_share == pytest.approx(kept.max() / kept.sum())
    assert one.dmax_centroids_mm == pytest.approx(pdist([x.centroid_mm_xyz for x in lesions]).max())
    voxels = largest_first(label(mask), table.min_voxels).voxels
    places = np.stack(np.unravel_index(voxels, mask.shape), axis=1) * study.grid.spacing_mm_zyx
    assert one.dmax_voxels_mm == pytest.approx(pdist(places).max())


@pytest.mark.filterwarnings("ignore:builtin type swig:DeprecationWarning")
def test_mirp_finds_the_same(tmp_path):
    """mirp 2.7 (IBSI features by other authors) on each lesion: mesh, diameter, sphericity, both peaks, mean and maximum.

    Lesions stay away from the image's edge: there mirp counts tissue beyond it as 0 or not at all, depending on their size.
    """
    from mirp.extract_features_and_images import extract_features

    study, mask = make_study((34, 40, 44), seed=2)
    mask[12:20, 14:22, 16:22] = True
    inner = np.zeros_like(mask)
    inner[4:-4, 5:-5, 6:-6] = True
    table = largest_first(label(mask & inner))
    wanted = [0, 1, 2, 5, table.count - 1]
    labels = np.zeros(mask.shape, np.uint8)
    for place, k in enumerate(wanted, 1):
        labels.reshape(-1)[table.voxels[table.owner == k]] = place
    lesions = measure(study, mask & inner).lesions
    assert lesions[0].voxels > 300 > lesions[1].voxels > 1 == lesions[-1].voxels  # mirp goes two ways, 300 voxels divide them
    for name, array in (("pet", study.pet_suv), ("labels", labels)):
        write_image(tmp_path / f"{name}.nii.gz", array, study.grid)
    (features,) = extract_features(
        image=str(tmp_path / "pet.nii.gz"),
        mask=str(tmp_path / "labels.nii.gz"),
        image_modality="pet",
        base_feature_families=["morphological", "local_intensity", "statistical"],
    )
    assert len(features) == len(wanted)
    for k, (_, row) in zip(wanted, features.iterrows()):
        one = lesions[k]
        pairs = {
            "morph_volume": one.mesh_volume_ml * 1000,
            "morph_vol_approx": one.volume_ml * 1000,
            "morph_area_mesh": one.surface_mm2,
            "morph_sphericity": one.sphericity,
            "morph_diam": one.longest_diameter_mm,
            "loc_peak_loc": one.suv_peak_local,
            "loc_peak_glob": one.suv_peak_global,
            "stat_mean": one.suv_mean,
            "stat_max": one.suv_max,
        }
        for name, value in pairs.items():
            assert value == pytest.approx(row[name], rel=1e-5), (one.number, name)


def test_ibsi_s_digital_phantom():
    cells = [[row.split() for row in plane.split("/")] for plane in IBSI.strip().split("\n")]
    mask = np.array([[[v != "-" for v in row] for row in plane] for plane in cells])
    pet = np.array([[[float(v.replace("-", "0")) for v in row] for row in plane] for plane in cells], np.float32)
    grid = Grid(mask.shape, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    (one,) = measure(Study(pet, pet, grid), mask).lesions
    assert one.voxels == 74
    # the consensus values, to the digits in which they are published
    assert f"{one.mesh_volume_ml * 1000:.0f}" == "556"
    assert f"{one.volume_ml * 1000:.0f}" == "592"
    assert f"{one.surface_mm2:.0f}" == "388"
    assert f"{one.sphericity:.3f}" == "0.843"
    assert f"{one.longest_diameter_mm:.1f}" == "13.1"
    assert (f"{one.suv_mean:.2f}", one.suv_max) == ("2.15", 6)


def two_lesions() -> tuple[Study, np.ndarray]:
    """A bar of 3 voxels along x with SUV 2, 5, 4 and one voxel of SUV 3, 5 x 3 x 2 mm each (z, y, x), on a SUV of 1; CT 7."""
    shape = (9, 9, 12)
    pet, mask = np.ones(shape, np.float32), np.zeros(shape, bool)
    pet[2, 3, 4:7] = 2, 5, 4
    pet[6, 5, 9] = 3
    mask[2, 3, 4:7] = mask[6, 5, 9] = True
    return Study(pet, np.full(shape, 7, np.float32), Grid(shape, (5.0, 3.0, 2.0), (100.0, -50.0, 10.0))), mask


def test_numbers_worked_out_by_hand():
    study, mask = two_lesions()
    probability = np.zeros(mask.shape, np.float32)
    probability[2, 3, 4:7] = 0.5, 0.75, 1.0
    table = measure(study, mask, probability, (probability > 0.6).astype(np.float32))
    bar, dot = table.lesions
    assert (bar.number, bar.voxels, bar.volume_ml) == (1, 3, pytest.approx(0.09))
    assert (bar.suv_max, bar.suv_mean, bar.tlg_suv_ml) == (5, pytest.approx(11 / 3), pytest.approx(0.33))
    # 41 % of 5 is 2.05: two voxels; 2.5: two; 4.0: two, as 4 counts
    assert [round(v, 6) for v in (bar.mtv_41pct_ml, bar.mtv_suv2_5_ml, bar.mtv_suv4_ml)] == [0.06, 0.06, 0.06]
    assert bar.centroid_voxel_xyz == (5, 3, 2)
    assert bar.centroid_mm_xyz == (110, -41, 20)
    assert bar.maximum_voxel_xyz == (5, 3, 2)
    assert bar.longest_diameter_mm == pytest.approx(
        math.hypot(4, 5)
    )  # 2 voxels along x, from the lower to the upper face; the ends are 6 apart
    assert (bar.mean_hu, bar.probability_mean, bar.probability_max) == (7, 0.75, 1)
    assert bar.cue_share == pytest.approx(2 / 3)
    # 1 ml: 6.2 mm; steps 0 or 5 mm in z, 0, 3, 6 in y, 0, 2, 4, 6 in x: 6.2035^2 = 38.48
    inside = sum(
        (5 * z) ** 2 + (3 * y) ** 2 + (2 * x) ** 2 <= 38.48
        for z, y, x in itertools.product(range(-2, 3), range(-3, 4), range(-4, 5))
    )
    assert bar.suv_peak_local == pytest.approx((inside - 3 + 11) / inside)
    assert bar.suv_peak_global == bar.suv_peak_local
    # one voxel's mesh is an octahedron with axes of 5, 3 and 2 mm: V = 5 x 3 x 2 / 6, A = 8 triangles
    assert dot.mesh_volume_ml == pytest.approx(0.005)
    triangle = np.linalg.norm(np.cross([-2.5, 1.5, 0], [-2.5, 0, 1])) / 2
    assert dot.surface_mm2 == pytest.approx(8 * triangle)
    assert dot.longest_diameter_mm == 5
    one = table.patient
    assert (one.lesions, one.suv_max, one.tmtv_ml) == (2, 5, pytest.approx(0.12))
    assert one.tlg_suv_ml == pytest.approx(0.33 + 0.09)
    assert one.largest_share == pytest.approx(0.75)
    assert one.dmax_centroids_mm == pytest.approx(math.hypot(4 * 5, 2 * 3, 4 * 2))
    assert one.dmax_voxels_mm == pytest.approx(math.hypot(4 * 5, 2 * 3, 5 * 2))


def test_an_empty_mask_is_an_answer():
    study, mask = two_lesions()
    table = measure(study, np.zeros_like(mask), np.zeros(mask.shape, np.float32))
    assert table.lesions == ()
    one = table.patient
    assert (one.lesions, one.tmtv_ml, one.tlg_suv_ml, one.largest_ml) == (0, 0, 0, 0)
    assert one.suv_max is one.suv_mean is one.suv_peak is one.largest_share is one.dmax_centroids_mm is one.dmax_voxels_mm is None
    assert one.deauville.score == 1
    # all below the minimum is empty too, and says so
    small = measure(study, mask, settings=Settings(min_volume_ml=1)).patient
    assert (small.lesions, small.left_out_lesions, small.left_out_ml) == (0, 2, pytest.approx(0.12))


def test_a_minimum_of_whole_voxels_keeps_them():
    study, mask = two_lesions()
    assert 3 * study.grid.voxel_volume_ml < 0.09 + 1e-12
    assert len(measure(study, mask, settings=Settings(min_volume_ml=0.09)).lesions) == 1
    assert len(measure(study, mask, settings=Settings(min_volume_ml=0.0901)).lesions) == 0


def test_what_has_no_source_is_none():
    study, mask = two_lesions()
    study = dataclasses.replace(study, ct_hu=np.broadcast_to(np.float32(np.nan), mask.shape))
    for one in measure(study, mask).lesions:
        assert one.mean_hu is one.probability_mean is one.probability_max is one.cue_share is None


def test_one_lesion_has_no_distance_between_centroids():
    study, mask = two_lesions()
    mask[6, 5, 9] = False
    one = measure(study, mask).patient
    assert one.dmax_centroids_mm is None
    assert one.dmax_voxels_mm == pytest.approx(4)


def test_voxel_indices_are_those_of_the_file():
    study, mask = two_lesions()
    # a file whose axes run y to the front, z down, x to the right
    stored = Grid((9, 12, 9), (3.0, 2.0, 5.0), (122.0, -26.0, 50.0), ((0.0, -1.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0)))
    _, grid = to_lps(np.zeros(stored.shape_zyx), stored)
    assert grid.matches(study.grid)
    bar = measure(dataclasses.replace(study, stored=stored), mask).lesions[0]
    assert bar.maximum_mm_xyz == (110, -41, 20)
    assert bar.maximum_voxel_xyz == (6, 6, 5)  # z from above: 8 - 2; x from the left: 11 - 5; y from behind: 8 - 3
    assert np.allclose(stored.index_to_mm_xyz(bar.maximum_voxel_xyz[::-1]), bar.maximum_mm_xyz)


def test_the_first_of_equal_maxima_is_the_position_and_the_best_of_them_the_peak():
    study, mask = two_lesions()
    study.pet_suv[2, 3, 4] = 5  # now (4, 3, 2) and (5, 3, 2) are equal; only the second has hot neighbours on both sides
    study.pet_suv[2, 3, 7:9] = 9
    bar = measure(study, mask).lesions[0]
    assert bar.maximum_voxel_xyz == (4, 3, 2)
    assert bar.suv_peak_local > measure(study, mask & (np.arange(12) < 5)).lesions[0].suv_peak_local


@pytest.mark.parametrize(
    "points",
    [
        np.zeros((100, 3)),
        np.arange(100.0)[:, None] * [3, 4, 0],
        np.random.default_rng(0).random((300, 2)) @ [[1, 2, 3], [0, 1, -1]],
        np.random.default_rng(0).normal(size=(3000, 3)),
        np.random.default_rng(0).random((10, 3)),
    ],
    ids=["one place", "a line", "a plane", "a body", "few"],
)
def test_farthest_equals_all_pairs(points):
    assert farthest(points) == pytest.approx(pdist(points).max(), rel=1e-9)


def test_what_cannot_be_measured_is_refused():
    study, mask = two_lesions()
    with pytest.raises(InputError, match="mask has shape"):
        measure(study, mask[1:])
    with pytest.raises(InputError, match="cue has shape"):
        measure(study, mask, cue=np.zeros((2, 2, 2), np.float32))
    with pytest.raises(InputError, match="connectivity 8: one of 6, 18, 26"):
        measure(study, mask, settings=Settings(connectivity=8))
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="minimum volume"):
            measure(study, mask, settings=Settings(min_volume_ml=wrong))
