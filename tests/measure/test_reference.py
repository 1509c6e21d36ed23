"""Regions, lean body mass, PERCIST and Deauville: numbers worked out by hand from the papers' formulas."""

import dataclasses

import numpy as np
import pytest

from l2s.errors import InputError
from l2s.measure import reference
from l2s.measure.lesions import Settings, measure
from l2s.measure.reference import Baseline, Reference, deauville, lean_mass_kg, percist, region_of_labels, region_of_sphere
from l2s.study import Body, Grid, Study

GRID = Grid((20, 20, 20), (4.0, 2.0, 2.0), (-20.0, -20.0, 0.0))
MAN, WOMAN = Body(80.0, 180.0, "M"), Body(60.0, 165.0, "F")


def ref(suv_mean=2.0, suv_sd=0.2, suv_max=3.0, factor=0.7) -> Reference:
    return Reference("made up", 10.0, suv_mean, suv_sd, suv_max, suv_mean * factor, suv_sd * factor, 0)


def test_lean_body_mass_by_hand():
    # BMI 24.691: 741600 / (6680 + 5333.33); BMI 22.039: 556200 / (8780 + 5377.41)
    assert lean_mass_kg(MAN) == pytest.approx(741600 / 12013.3333, rel=1e-6)
    assert lean_mass_kg(WOMAN) == pytest.approx(556200 / 14157.4105, rel=1e-6)
    assert lean_mass_kg(MAN, "james") == pytest.approx(88 - 128 * (80 / 180) ** 2)
    assert lean_mass_kg(WOMAN, "james") == pytest.approx(64.2 - 148 * (60 / 165) ** 2)
    for lacking in ("weight_kg", "height_cm", "sex"):
        assert lean_mass_kg(dataclasses.replace(MAN, **{lacking: None})) is None


@pytest.mark.parametrize(
    ("body", "formula", "message"),
    [
        (Body(0.0, 180.0, "M"), "james", "weight 0 kg"),
        (Body(80.0, 1.8, "M"), "james", "height 1.8 cm: .* give centimetres"),
        (Body(80.0, 180.0, "X"), "james", "sex 'X'"),
        (MAN, "ideal", "lean body mass by 'ideal': one of"),
        (Body(200.0, 120.0, "F"), "james", "no meaning for 200 kg at 1.2 m"),
    ],
)
def test_bodies_that_cannot_be(body, formula, message):
    with pytest.raises(InputError, match=message):
        lean_mass_kg(body, formula)


def test_a_sphere_is_the_voxels_whose_centres_lie_in_it():
    centre, diameter = (0.5, 1.0, 38.0), 30.0
    region = region_of_sphere(GRID, centre, diameter)
    index = np.argwhere(np.ones(GRID.shape_zyx))
    expected = [
        int(np.ravel_multi_index(i, GRID.shape_zyx)) for i in index if np.linalg.norm(GRID.index_to_mm_xyz(i) - centre) <= 15
    ]
    assert sorted(region.voxels) == expected
    assert len(expected) * 0.016 == pytest.approx(14.14, rel=0.03)  # 4/3 pi 1.5^3 cm3
    assert "(0.5, 1, 38) mm LPS, diameter 30 mm" in region.source


@pytest.mark.parametrize(
    ("centre", "diameter", "message"),
    [
        ((0, 0, 0), 30, "reaches out of the image, which goes from"),
        ((0, 0, 38), 0, "diameter above 0"),
        ((0, float("nan"), 38), 30, "three coordinates"),
        ((1.0, 1.0, 38.0), 0.5, "holds no voxel centre"),
    ],
)
def test_spheres_that_cannot_be(centre, diameter, message):
    with pytest.raises(InputError, match=message):
        region_of_sphere(GRID, centre, diameter)


def test_a_region_leaves_lesions_out():
    labels = np.zeros(GRID.shape_zyx, np.int32)
    labels[3, 4, 0:6] = 3
    labels[0, 0, 0] = 5
    region = region_of_labels(labels, (3,), "organs.nii.gz")
    pet = np.zeros(GRID.shape_zyx, np.float32)
    pet[3, 4, 0:6] = 1, 2, 3, 4, 50, 60
    lesions = np.flatnonzero(pet > 10)
    one = reference.uptake(region, pet, lesions, 0.016, 0.5)
    assert (one.suv_mean, one.suv_max, one.sul_mean, one.lesion_voxels) == (2.5, 4, 1.25, 2)
    assert one.suv_sd == pytest.approx(1.25**0.5)
    assert one.volume_ml == pytest.approx(0.064)
    assert one.source == "organs.nii.gz, label 3"
    with pytest.raises(InputError, match="lesions cover all 6 voxels"):
        reference.uptake(region, pet, np.flatnonzero(labels == 3), 0.016, None)
    with pytest.raises(InputError, match="no voxel has label 7, 8; the image holds 0, 3, 5"):
        region_of_labels(labels, (7, 8), "organs.nii.gz")


@pytest.mark.parametrize(
    ("suv_max", "liver", "blood", "score"),
    [
        (None, None, None, 1),
        (1.9, ref(suv_max=3.0), ref(suv_max=2.0), 2),
        (2.0, ref(suv_max=3.0), ref(suv_max=2.0), 2),  # up to: equal is not above
        (2.1, ref(suv_max=3.0), ref(suv_max=2.0), 3),
        (3.0, ref(suv_max=3.0), ref(suv_max=2.0), 3),
        (3.1, ref(suv_max=3.0), ref(suv_max=2.0), 4),
        (6.0, ref(suv_max=3.0), ref(suv_max=2.0), 4),
        (6.1, ref(suv_max=3.0), ref(suv_max=2.0), 5),
        (6.1, ref(suv_max=3.0), None, 5),
        (3.1, ref(suv_max=3.0), None, 4),
        (2.1, ref(suv_max=3.0), None, None),  # 2 or 3
        (1.9, None, ref(suv_max=2.0), 2),
        (2.1, None, ref(suv_max=2.0), None),  # 3, 4 or 5
        (2.5, ref(suv_max=2.0), ref(suv_max=3.0), 4),  # a liver below the blood pool decides still
    ],
)
def test_deauville(suv_max, liver, blood, score):
    answer = deauville(suv_max, liver, blood)
    assert answer.score == score
    assert answer.reason


def test_percist_measurability_by_hand():
    factor = lean_mass_kg(MAN) / 80
    # liver SUL mean 1.4, SD 0.14: threshold 2.38
    at = percist(2.38 / factor + 1e-9, 100.0, MAN, "janmahasatian", ref(), None, None)
    assert at.threshold_sul == pytest.approx(2.38)
    assert at.sul_peak == pytest.approx(2.38)
    assert at.tlg_sul_ml == pytest.approx(100 * factor)
    assert (at.measurable, at.response) == (True, None)
    below = percist(2.37 / factor, 100.0, MAN, "janmahasatian", ref(), None, None)
    assert (below.measurable, below.reason) == (False, ("no baseline: no response category",))
    none = percist(None, 0.0, MAN, "janmahasatian", ref(), None, None)
    assert (none.measurable, none.sul_peak) == (False, None)


def test_percist_says_what_it_lacks():
    answer = percist(5.0, 100.0, Body(80.0, None, None), "janmahasatian", ref(), None, None)
    assert answer.reason == ("height, sex not known: no lean body mass",)
    assert answer.lean_mass_kg is answer.sul_peak is answer.threshold_sul is answer.measurable is None
    answer = percist(5.0, 100.0, MAN, "janmahasatian", None, None, None)
    assert answer.sul_peak is not None
    assert answer.measurable is None
    assert "no liver region was given: no threshold" in answer.reason


def respond(peak, tlg_sul=100.0, liver="usual", blood=None, **changes):
    factor = lean_mass_kg(MAN) / 80
    baseline = Baseline("before", True, 5.0, 100.0, 1.4, "janmahasatian")
    return percist(
        None if peak is None else peak / factor,
        tlg_sul / factor,
        MAN,
        "janmahasatian",
        ref() if liver == "usual" else liver,
        blood,
        dataclasses.replace(baseline, **changes),
    )


@pytest.mark.parametrize(
    ("sul_peak", "tlg_sul", "changes", "response"),
    [
        (None, 0.0, {}, "CMR"),
        (1.39, 10.0, {}, "CMR"),  # below the liver's mean of 1.4
        (1.41, 10.0, {}, "PMR"),
        (3.49, 100.0, {}, "PMR"),  # -30.2 %, -1.51
        (3.51, 100.0, {}, "SMD"),  # -29.8 %
        (6.49, 100.0, {}, "SMD"),  # +29.8 %
        (6.51, 100.0, {}, "PMD"),  # +30.2 %, +1.51
        (2.75, 100.0, {"sul_peak": 2.0}, "SMD"),  # +37.5 %, but 0.75 only
        (1.45, 100.0, {"sul_peak": 2.2}, "SMD"),  # -34 %, but 0.75 only
        (5.01, 176.0, {}, "PMD"),  # TLG up by 76 % while the peak has not fallen
        (4.99, 176.0, {}, "SMD"),
    ],
)
def test_percist_s_response(sul_peak, tlg_sul, changes, response):
    answer = respond(sul_peak, tlg_sul, **changes)
    assert answer.response == response
    assert answer.baseline == "before"
    if sul_peak:
        assert answer.sul_peak_change == pytest.approx(sul_peak - changes.get("sul_peak", 5.0))
        assert answer.sul_peak_change_percent == pytest.approx(100 * (sul_peak / changes.get("sul_peak", 5.0) - 1))
    assert any("new lesions" in line for line in answer.notes)


def test_a_response_needs_a_baseline_that_compares():
    for changes, line in (
        ({"measurable": False}, "the baseline is not measurable"),
        ({"measurable": None}, "the baseline was measured without a liver region"),
        ({"sul_peak": None}, "the baseline has no SULpeak"),
        ({"lean_mass_formula": "james"}, "the baseline's SUL are by james"),
    ):
        answer = respond(4.0, **changes)
        assert answer.response is None
        assert any(line in reason for reason in answer.reason)
    assert any("do not compare" in line for line in respond(4.0, liver_sul_mean=1.0).notes)
    assert not any("do not compare" in line for line in respond(4.0, liver_sul_mean=1.2).notes)
    # a blood pool that is given must not be exceeded either
    assert respond(1.39, 10.0, blood=ref(suv_mean=1.9)).response == "PMR"


def test_measure_joins_them():
    pet = np.ones(GRID.shape_zyx, np.float32)
    pet[10, 10, 10] = 9
    labels = np.zeros(GRID.shape_zyx, np.int32)
    labels[2:6, 2:6, 2:6] = 1
    labels[10, 10, 9:12] = 2
    pet[2, 2, 2] = 2
    study = Study(pet, pet, GRID, body=Body(None, 180.0, "M"))
    settings = Settings(
        liver=region_of_labels(labels, (1,), "o"), blood=region_of_labels(labels, (2,), "o"), body=Body(weight_kg=80.0)
    )
    one = measure(study, pet > 5, settings=settings).patient
    assert (one.weight_kg, one.height_cm, one.sex) == (80, 180, "M")  # the flag's and the file's join
    assert one.liver.suv_mean == pytest.approx(65 / 64)
    assert (one.blood.suv_mean, one.blood.lesion_voxels) == (1, 1)
    assert one.deauville.score == 5  # 9 against 2 x 2
    assert one.percist.measurable is False  # the peak of one hot voxel in 1 ml of ones
    assert one.percist.lean_mass_kg == pytest.approx(lean_mass_kg(MAN))
