"""Real tumours in phantoms: their volume, their place, their uptake, and whose they are."""

import numpy as np
import pytest
from scipy import ndimage

from l2s.phantom.implants import Tumour, cut_tumour, draw_volume, transplant
from l2s.phantom.sample import make_case
from l2s.phantom.shapes import Canvas
from l2s.study import Grid, Study

SPACING = (3.0, 4.0, 5.0)


def make_tumour(radius_mm=24.0) -> Tumour:
    """A ball whose upper half takes up 10, the lower 4."""
    half = [int(radius_mm / s) + 2 for s in SPACING]
    z, y, x = np.meshgrid(*(np.arange(-h, h + 1) * s for h, s in zip(half, SPACING)), indexing="ij")
    inside = (z**2 + y**2 + x**2 <= radius_mm**2).astype(np.float32)
    return Tumour("P1", np.where(z > 0, 10.0, 4.0).astype(np.float32), inside, SPACING)


def make_canvas(n=40, step=4.0) -> Canvas:
    axis = (np.arange(n) - n / 2) * step
    empty = np.zeros((n, n, n), dtype=np.float32)
    return Canvas(axis, axis, axis, empty.astype(np.uint8), empty, empty)


@pytest.mark.parametrize("volume_ml", [0.5, 5.0, 40.0])
def test_a_transplant_has_the_volume_and_the_place_asked_for(volume_ml):
    canvas, tumour = make_canvas(), make_tumour()
    place = np.array([10.0, -6.0, 14.0])
    for seed in range(4):
        slices, weight, suv = transplant(np.random.default_rng(seed), canvas, place, tumour, volume_ml, upright=False)
        assert weight.sum() * canvas.voxel_volume_ml == pytest.approx(volume_ml, rel=0.12)
        centre = [
            a[s][0] + c * 4.0 for a, s, c in zip((canvas.z_mm, canvas.y_mm, canvas.x_mm), slices, ndimage.center_of_mass(weight))
        ]
        np.testing.assert_allclose(centre, place[::-1], atol=1.0)
        assert 4.0 <= suv[weight > 0.5].min() <= suv[weight > 0.5].max() <= 10.0001


def test_an_upright_transplant_keeps_head_and_foot():
    slices, weight, suv = transplant(np.random.default_rng(1), make_canvas(), np.zeros(3), make_tumour(), 50.0, upright=True)
    middle = round(ndimage.center_of_mass(weight)[0])
    core = weight > 0.9
    assert suv[middle + 2 :][core[middle + 2 :]].min() > 9.0
    assert suv[: middle - 1][core[: middle - 1]].max() < 5.0


def test_a_place_outside_the_canvas_takes_nothing():
    assert transplant(np.random.default_rng(0), make_canvas(), np.array([500.0, 0, 0]), make_tumour(), 5.0, upright=False) is None


def test_most_volumes_are_small_and_none_exceeds_the_tumour():
    tumour = make_tumour()
    rng = np.random.default_rng(0)
    volumes = np.array([draw_volume(rng, tumour) for _ in range(2000)])
    assert tumour.volume_ml == pytest.approx(58, rel=0.1)
    assert volumes.max() <= tumour.volume_ml
    assert 0.3 <= volumes.min() < 0.4
    assert 0.7 < (volumes <= 10.0).mean() < 0.8


def test_the_largest_component_is_cut_and_an_empty_mask_gives_nothing():
    truth = np.zeros((20, 20, 20), bool)
    truth[2:4, 2:4, 2:4] = True
    truth[10:15, 8:12, 9:13] = True
    pet = np.arange(8000, dtype=np.float32).reshape(20, 20, 20)
    study = Study(pet, pet, Grid((20, 20, 20), SPACING, (0.0, 0.0, 0.0)), None, "a")
    tumour = cut_tumour(study, truth, "P7")
    assert tumour.donor == "P7"
    assert tumour.inside.sum() == 80
    np.testing.assert_array_equal(tumour.suv[1:-1, 1:-1, 1:-1], pet[10:15, 8:12, 9:13])
    assert cut_tumour(study, np.zeros_like(truth), "P7") is None


def test_a_phantom_with_a_tumour_carries_it_and_names_its_donor():
    grid = Grid((136, 56, 72), (8.0, 8.0, 8.0), (0.0, 0.0, 0.0))
    sample = make_case(11, grid, lesions=5, tumours=(make_tumour(),))
    assert 1 <= len(sample.facts["lesions"]) <= 5
    assert all(lesion["donor"] == "P1" and lesion["suv"] >= 2.5 for lesion in sample.facts["lesions"])
    drawn = make_case(11, grid, lesions=5)
    assert all("donor" not in lesion for lesion in drawn.facts["lesions"])
    assert sample.facts["height_cm"] == drawn.facts["height_cm"]
