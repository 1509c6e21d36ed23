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
        (Body(100.0, 155.0, "F"), "james", "no meaning for 100 kg at 1.55 m \\(limit 87 kg\\)"),  # 1.07 / (2 x 148) x 155^2
        (Body(170.0, 155.0, "F"), "james", "use Janmahasatian's"),  # the formula says 3.9 kg
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
    assert ("a new lesion would make it 5" in answer.reason) == (score in (2, 3, 4))


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
    assert "no liver or blood pool region was given: no threshold" in answer.reason


def test_without_a_liver_the_blood_pool_gives_the_threshold():
    # Wahl 2009, diseased liver: 2.0 x blood pool mean + 2 SD; SUL mean 1.26, SD 0.14: 2.80
    factor = lean_mass_kg(MAN) / 80
    blood = ref(suv_mean=1.8)
    at = percist(2.81 / factor, 100.0, MAN, "janmahasatian", None, blood, None)
    assert (at.threshold_sul, at.threshold_from, at.measurable) == (pytest.approx(2.80), "blood pool", True)
    assert any("diseased liver" in line for line in at.notes)
    assert percist(2.79 / factor, 100.0, MAN, "janmahasatian", None, blood, None).measurable is False
    both = percist(2.39 / factor, 100.0, MAN, "janmahasatian", ref(), blood, None)
    assert (both.threshold_sul, both.threshold_from, both.measurable) == (pytest.approx(2.38), "liver", True)
    # the blood pool alone decides whether a lesion is gone
    assert respond(1.25, 10.0, liver=None, blood=blood).response == "CMR"
    one = respond(1.27, 10.0, liver=None, blood=blood)
    assert one.response == "PMR"
    assert any("judged by the blood pool alone" in line for line in one.notes)
    assert respond(0.1, 10.0, liver=None).response == "PMR"


def test_a_peak_of_few_voxels_is_said():
    def noted(voxels):
        return percist(5.0, 1.0, MAN, "janmahasatian", ref(), None, None, peak_voxels=voxels).notes

    assert noted(7) == ()
    assert any("holds 1 voxel of this grid" in line for line in noted(1))
    pet = np.ones((4, 4, 4), np.float32)
    for spacing, voxels, count in ((8.0, 1, 1), (6.0, 7, 0), (4.0, 19, 0)):
        found = measure(Study(pet, pet, Grid((4, 4, 4), (spacing,) * 3, (0.0,) * 3), body=MAN), pet > 0)
        assert (found.peak_sphere_voxels, len(found.warnings), len(found.patient.percist.notes)) == (voxels, count, count)
        assert found.peak_sphere_ml == pytest.approx(voxels * spacing**3 / 1000)


def two_lumps(suv_small=9.0, suv_large=3.0, name="now") -> tuple[Study, np.ndarray, Settings]:
    """A small and a large lump in ones, 0.128 and 0.576 ml, and settings with a liver of SUV 1 to 1.2."""
    pet = np.ones(GRID.shape_zyx, np.float32)
    pet[2:4, 2:4, 2:4], pet[10:14, 10:13, 10:13] = suv_small, suv_large
    labels = np.zeros(GRID.shape_zyx, np.int32)
    labels[16:20, 16:20, 16:20] = 1
    pet[labels > 0] += np.linspace(0, 0.2, 64)
    liver = region_of_labels(labels, (1,), "o")
    return Study(pet, np.full_like(pet, np.nan), GRID, name=name), pet > 2, Settings(liver=liver, body=MAN)


def base_of(suv_small=9.0, suv_large=30.0, **changes) -> Baseline:
    study, mask, settings = two_lumps(suv_small, suv_large, "before")
    one = measure(study, mask, settings=dataclasses.replace(settings, **changes)).patient
    counted = settings.connectivity, changes.get("min_volume_ml", 0.0)
    p = one.percist
    return Baseline(
        "before", p.measurable, p.sul_peak, p.tlg_sul_ml, one.liver.sul_mean, p.lean_mass_formula, *counted, p.left_out, "liver"
    )


def scored(suv_small, suv_large, baseline, **changes):
    study, mask, settings = two_lumps(suv_small, suv_large)
    return measure(study, mask, settings=dataclasses.replace(settings, baseline=baseline, **changes)).patient


def test_a_count_filter_makes_no_complete_response():
    everything = base_of(min_volume_ml=100.0)
    assert (everything.sul_peak, everything.left_out) == (None, 2)
    one = scored(9, 3, dataclasses.replace(base_of(), min_volume_ml=100.0), min_volume_ml=100.0)
    assert (one.lesions, one.percist.response, one.deauville.score, one.percist.measurable) == (0, None, None, None)
    for reason in (*one.percist.reason, one.deauville.reason):
        assert reason.startswith("2 components below the minimum volume were left out"), reason
        assert reason.endswith("not scored")
    # an empty mask is a complete response still
    empty = scored(1.5, 1.5, base_of())
    assert (empty.percist.response, empty.deauville.score) == ("CMR", 1)


def test_only_a_hotter_component_that_was_left_out_forbids_a_score():
    before = base_of(min_volume_ml=0.2)
    assert before.left_out == 0
    cool, hot = scored(2.5, 15, before, min_volume_ml=0.2), scored(90, 15, before, min_volume_ml=0.2)
    assert (cool.percist.response, cool.percist.left_out, cool.deauville.score) == ("PMR", 0, 5)
    assert (hot.percist.response, hot.percist.left_out, hot.deauville.score) == (None, 1, 5)
    assert "1 component below the minimum volume was left out, hotter than all lesions: not scored" in hot.percist.reason
    assert any("not the hottest component's" in line for line in hot.percist.notes)
    # what is counted has grown: progress, whatever was left out
    assert scored(900, 90, before, min_volume_ml=0.2).percist.response == "PMD"
    # Deauville: 2.2 is above the liver's 1.2 and would be 4, but for the 9 that was left out
    assert scored(9, 2.2, None, min_volume_ml=0.2).deauville.score is None
    assert scored(2.1, 2.2, None, min_volume_ml=0.2).deauville.score == 4
    # the baseline's hottest one left out: nothing to compare with
    blind = base_of(900, 30, min_volume_ml=0.2)
    assert blind.left_out == 1
    assert scored(3, 9, blind, min_volume_ml=0.2).percist.response is None


def test_studies_counted_by_other_rules_get_no_response():
    for changes in ({"min_volume_ml": 0.1}, {"connectivity": 26}):
        one = scored(9, 9, base_of(), **changes).percist
        assert (one.response, one.baseline) == (None, "before")
        assert any("counted by 18 neighbours from 0 ml, these by" in line for line in one.reason)
    assert scored(9, 9, base_of(min_volume_ml=0.1), min_volume_ml=0.1).percist.response == "PMR"


def test_a_doubtful_reference_is_said():
    region = reference.Region(np.arange(8), "sphere")
    pet, ct = np.full((2, 2, 2), 2.0, np.float32), np.full((2, 2, 2), 60.0, np.float32)

    def notes(suv=1.0, hu=0.0, where=region, tissue="liver"):
        return reference.uptake(where, pet * suv, np.empty(0, int), 1.0, None, ct + hu, tissue).notes

    assert notes() == ()
    assert notes(0.3) == ("the liver region's SUVmean is 0.60, usual is 1 to 4: is it liver?",)
    assert "SUVmean is 4.20" in notes(2.1)[0]
    assert notes(hu=-160) == ("the liver region's mean is -100 HU, usual is 0 to 120: is it liver?",)
    assert "is 130 HU" in notes(hu=70)[0]
    assert notes(hu=np.nan) == ()
    assert (notes(0.4, tissue="blood pool"), notes(hu=200, tissue="blood pool")) == ((), ())
    assert "is it blood pool" in notes(0.3, tissue="blood pool")[0]
    whole = region_of_labels(np.ones((2, 2, 2), np.int32), (1,), "organs")
    assert "whole label, not eroded" in notes(where=whole)[0]
    # they reach the table's warnings and PERCIST's notes
    study, mask, settings = two_lumps()
    found = measure(study, mask, settings=settings)
    assert found.warnings == found.patient.liver.notes == found.patient.percist.notes
    assert "whole label" in found.warnings[0]


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
        ({"measurable": None}, "the baseline was measured without a liver or blood pool region"),
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
