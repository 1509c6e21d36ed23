"""suv.md rule by rule: each test fails when its rule is broken. Expected factors are worked out by hand from weight, dose and minutes."""

import math
from datetime import datetime, time

import pydicom
import pytest
from dicom_samples import pet_header

from l2s import body
from l2s.errors import InputError
from l2s.io.suv import NUCLIDES, Overrides, per_suvbw, suv_facts
from l2s.io.suv_times import first_acquisition, mean_activity_s

HALF_LIFE_MIN = 6586.2 / 60
F18 = ("C-111A1", "SRT", "^18^Fluorine")
GE_TIME = ("GEMS_PETD_01", 0x0D, "DT")
SIEMENS_TIME = ("SIEMENS MED PT", 0x22, "DT")
SUV_FACTOR = ("Philips PET Private Group", 0x00, "DS")
ACTIVITY_FACTOR = ("Philips PET Private Group", 0x09, "DS")


def expected(minutes: float, weight_kg=80.0, dose_bq=4e8) -> float:
    return weight_kg * 1000 / (dose_bq * 2 ** (-minutes / HALF_LIFE_MIN))


def factor(*headers, **overrides) -> float:
    return suv_facts(headers, Overrides(**overrides)).factor


def refused(*headers, **overrides) -> str:
    with pytest.raises(InputError) as caught:
        suv_facts(headers, Overrides(**overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def warned(*headers, **overrides) -> str:
    return " | ".join(suv_facts(headers, Overrides(**overrides)).warnings)


MATRIX = {  # vendor: (header, minutes between injection and reference; or the factor itself)
    "Siemens, private reference": (
        pet_header(private=[(*SIEMENS_TIME, "20240531095500.000")], SeriesTime="101500", AcquisitionTime="100000"), 55),
    "Siemens, series time": (pet_header(SeriesTime="095800.250", AcquisitionTime="095900"), 58 + 0.25 / 60),
    "GE, private scan time": (
        pet_header(Manufacturer="GE MEDICAL SYSTEMS", private=[(*GE_TIME, "20240531095000.00")], SeriesTime="100000"), 50),
    "GE, series time": (pet_header(Manufacturer="GE MEDICAL SYSTEMS"), 60),
    "Philips, Bq/ml": (pet_header(Manufacturer="Philips Medical Systems"), 60),
    "UIH, start": (pet_header(Manufacturer="UIH", SeriesTime="100500", AcquisitionTime="100500"), 65),
    "UIH, injection": (pet_header(Manufacturer="UIH", DecayCorrection="ADMIN"), 0),
    "Canon": (pet_header(Manufacturer="CANON_MEC"), 60),
    "Philips, counts to SUV": (pet_header(
        Manufacturer="Philips Medical Systems", Units="CNTS", private=[(*SUV_FACTOR, "0.00045")]), "0.00045"),
    "Philips, counts to Bq/ml": (pet_header(
        Manufacturer="Philips Medical Systems", Units="CNTS", private=[(*SUV_FACTOR, "0"), (*ACTIVITY_FACTOR, "1.5")]), "1.5 x 60"),
    "SUV, no type": (pet_header(Units="GML"), "1"),
    "SUVbw": (pet_header(Units="GML", SUVType="BW"), "1"),
}  # fmt: skip


@pytest.mark.parametrize("vendor", MATRIX)
def test_vendors(vendor):
    header, answer = MATRIX[vendor]
    if isinstance(answer, str):
        first, *minutes = answer.split(" x ")
        answer = float(first) * (expected(float(minutes[0])) if minutes else 1.0)
    else:
        answer = expected(answer)
    assert factor(header) == pytest.approx(answer, rel=1e-12)


def test_a_hand_worked_factor():
    # one half-life after injection half of 400 MBq is left: 80000 g / 200e6 Bq
    header = pet_header({"RadionuclideHalfLife": "3600", "Radiopharmaceutical": None}, SeriesTime="100000")
    assert factor(header) == pytest.approx(4e-4, rel=1e-12)


# --- what is PET at all ---


@pytest.mark.parametrize("keep", [["DECY", "SCAT"], ["NORM"], None])
def test_without_attenuation_correction_it_is_refused(keep):
    assert "NAC" in refused(pet_header(CorrectedImage=keep))


def test_a_nac_series_that_claims_attenuation_correction_is_refused():
    # GE's NAC series of acrin042 does: its private flag tells
    assert "NAC" in refused(pet_header(private=[("GEMS_PETD_01", 0x8C, "SL", 0)]))
    assert factor(pet_header(private=[("GEMS_PETD_01", 0x8C, "SL", 2)])) > 0
    assert "NAC" in refused(pet_header(AttenuationCorrectionMethod="NONE"))


def test_without_decy_it_is_refused():
    assert "DECY" in refused(pet_header(CorrectedImage=["ATTN", "NORM"]))


@pytest.mark.parametrize(("value", "shown"), [("NONE", "NONE"), (None, "absent"), ("LATER", "a word that DICOM does not define")])
def test_decay_correction_must_be_start_or_admin(value, shown):
    assert f"DecayCorrection is {shown}" in refused(pet_header(DecayCorrection=value))


@pytest.mark.parametrize("uid", ["1.2.840.10008.5.1.4.1.1.130", "1.2.840.10008.5.1.4.1.1.128.1"])
def test_enhanced_pet_is_refused_by_name(uid):
    assert "Enhanced PET" in refused(pet_header(SOPClassUID=uid))


def test_enhanced_pet_is_known_by_its_attributes_too():
    for keyword in ("DecayCorrected", "AttenuationCorrected"):
        assert "Enhanced PET" in refused(pet_header(**{keyword: "YES"}))


def test_other_modalities_and_units_are_refused_by_name():
    assert "Modality is CT" in refused(pet_header(Modality="CT"))
    assert "PROPCNTS" in refused(pet_header(Units="PROPCNTS"))
    assert "absent" in refused(pet_header(Units=None))


def test_slices_that_disagree_are_refused():
    assert "PatientWeight" in refused(pet_header(), pet_header(PatientWeight="81"))
    assert "RadionuclideTotalDose" in refused(pet_header(), pet_header({"RadionuclideTotalDose": "4.1e8"}))
    assert "Units" in refused(pet_header(), pet_header(Units="GML"))
    assert factor(pet_header(), pet_header(PatientWeight="80.0")) == pytest.approx(expected(60))


def test_two_radiopharmaceuticals_are_refused():
    header = pet_header()
    header.RadiopharmaceuticalInformationSequence.append(header.RadiopharmaceuticalInformationSequence[0])
    assert "2 radiopharmaceuticals" in refused(header)


# --- SUV of other kinds ---

LEAN = {  # of 80 kg and 1.75 m: worked out with a pocket calculator
    ("LBMJANMA", "M"): 9270 * 80 / (6680 + 216 * 26.12244898),
    ("LBMJANMA", "F"): 9270 * 80 / (8780 + 244 * 26.12244898),
    ("LBMJAMES128", "M"): 1.10 * 80 - 128 * (80 / 175) ** 2,
    ("LBMJAMES128", "F"): 1.07 * 80 - 148 * (80 / 175) ** 2,
    ("LBM", "M"): 1.10 * 80 - 120 * (80 / 175) ** 2,
    ("LBM", "F"): 1.07 * 80 - 148 * (80 / 175) ** 2,
    ("IBW", "M"): 48.0 + 1.06 * (175 - 152),
    ("IBW", "F"): 45.5 + 0.91 * (175 - 152),
}


@pytest.mark.parametrize(("kind", "sex"), LEAN)
def test_lean_suv_becomes_suvbw(kind, sex):
    assert factor(pet_header(Units="GML", SUVType=kind, PatientSex=sex)) == pytest.approx(80 / LEAN[kind, sex], rel=1e-8)


def test_surface_suv_becomes_suvbw():
    # Du Bois: 80 kg and 175 cm have 1.9561 m2
    surface_m2 = 0.007184 * 80**0.425 * 175**0.725
    assert surface_m2 == pytest.approx(1.9561, abs=1e-4)
    assert factor(pet_header(Units="CM2ML")) == pytest.approx(80000 / (surface_m2 * 1e4), rel=1e-12)
    assert factor(pet_header(Units="CM2ML", SUVType="BSA", PatientSex="O")) == pytest.approx(80000 / (surface_m2 * 1e4))


@pytest.mark.parametrize("kind", ["LBM", "LBMJAMES128", "LBMJANMA", "IBW"])
def test_lean_suv_without_height_or_sex_is_refused(kind):
    assert "--height-m" in refused(pet_header(Units="GML", SUVType=kind, PatientSize=None))
    assert "--height-m" in refused(pet_header(Units="GML", SUVType=kind, PatientSize="175"))  # cm
    assert "--sex" in refused(pet_header(Units="GML", SUVType=kind, PatientSex="O"))
    assert "--weight-kg" in refused(pet_header(Units="GML", SUVType=kind, PatientWeight=None))
    assert factor(pet_header(Units="GML", SUVType=kind, PatientSize=None), height_m=1.75) == pytest.approx(
        80 / LEAN[kind, "M"], rel=1e-8
    )


def test_units_and_types_that_contradict_each_other_are_refused():
    assert "contradict" in refused(pet_header(Units="GML", SUVType="BSA"))
    assert "contradict" in refused(pet_header(Units="CM2ML", SUVType="BW"))
    assert "which is not known" in refused(pet_header(Units="GML", SUVType="XYZ"))


def test_suv_needs_neither_weight_nor_dose():
    facts = suv_facts([pet_header({"RadionuclideTotalDose": None}, Units="GML", PatientWeight=None)])
    assert (facts.factor, facts.weight_kg, facts.dose_bq) == (1.0, None, None)
    assert "no bearing" in warned(pet_header(Units="GML"), dose_bq=3e8)


def test_james_has_a_vertex():
    with pytest.raises(InputError, match="no meaning"):
        body.lean_james_kg(160, 1.60, "F")
    assert body.lean_james_kg(92, 1.60, "F") == pytest.approx(1.07 * 92 - 148 * (92 / 160) ** 2)
    with pytest.raises(InputError, match="no meaning"):
        body.ideal_kg(0.9, "M")


def test_other_suv_on_request():
    facts = suv_facts([pet_header()])
    assert per_suvbw(facts, "sul") == pytest.approx(LEAN["LBMJANMA", "M"] / 80, rel=1e-8)
    assert per_suvbw(facts, "sul-james") == pytest.approx(LEAN["LBMJAMES128", "M"] / 80)
    assert per_suvbw(facts, "bsa") == pytest.approx(0.007184 * 80**0.425 * 175**0.725 * 1e4 / 80000)
    with pytest.raises(InputError, match="--height-m"):
        per_suvbw(suv_facts([pet_header(PatientSize=None)]), "sul")
    with pytest.raises(InputError, match="--sex"):
        per_suvbw(suv_facts([pet_header(PatientSex=None)]), "sul-james")
    assert per_suvbw(suv_facts([pet_header(PatientSex=None)]), "bsa") > 0


# --- Philips ---


def philips(**changes):
    return pet_header(Manufacturer="Philips", Units="CNTS", **changes)


def test_philips_factors_that_disagree_are_told():
    agree = expected(60) * 1.5
    assert "apart" not in warned(philips(private=[(*SUV_FACTOR, f"{agree * 1.005:.8f}"), (*ACTIVITY_FACTOR, "1.5")]))
    header = philips(private=[(*SUV_FACTOR, f"{agree * 1.02:.8f}"), (*ACTIVITY_FACTOR, "1.5")])
    assert "2.0% apart" in warned(header)
    assert factor(header) == pytest.approx(agree * 1.02, rel=1e-4)


def test_philips_overrides_go_through_the_activity_factor():
    header = philips(private=[(*SUV_FACTOR, "0.00045"), (*ACTIVITY_FACTOR, "1.5")])
    assert factor(header, weight_kg=100) == pytest.approx(1.5 * expected(60, weight_kg=100))
    alone = philips(private=[(*SUV_FACTOR, "0.00045")])
    assert "dose_bq given" in warned(alone, dose_bq=3e8)
    assert factor(alone, dose_bq=3e8) == 0.00045
    # made with the header's 80 kg
    assert factor(alone, weight_kg=100) == pytest.approx(0.00045 * 100 / 80, rel=1e-12)
    assert "no bearing" not in warned(alone, weight_kg=100)
    assert "cannot correct it" in refused(philips(private=[(*SUV_FACTOR, "0.00045")], PatientWeight=None), weight_kg=100)


def test_counts_without_factors_are_refused():
    assert "(7053,xx00)" in refused(philips())
    assert "--dose-bq" in refused(philips(drug={"RadionuclideTotalDose": None}, private=[(*ACTIVITY_FACTOR, "1.5")]))


# --- the decay reference ---


def test_private_elements_are_found_by_their_creator():
    header = pet_header()
    header.private_block(0x0009, "SOMEBODY ELSE", create=True).add_new(0x0D, "DT", "20240531080000")
    assert factor(header) == pytest.approx(expected(60))  # (0009,100D) is not GE's here
    header.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20240531095000")
    assert (0x0009, 0x110D) in header
    assert factor(header) == pytest.approx(expected(50))


def test_a_private_element_of_unknown_type_is_read_as_text():
    header = pet_header(private=[("SIEMENS MED PT", 0x22, "UN", b"20240531095500.000000 ")])
    assert factor(header) == pytest.approx(expected(55))


def test_a_private_time_of_another_date_lends_its_time_of_day():
    header = pet_header(private=[(*GE_TIME, "20240508095000.00")])
    assert factor(header) == pytest.approx(expected(50))
    assert "23 days away" in warned(header)


def test_a_private_time_just_before_midnight_is_no_shifted_date():
    header = pet_header(
        {"RadiopharmaceuticalStartTime": "230000"}, private=[(*GE_TIME, "20240530235900.00")],
        AcquisitionTime="000100", SeriesTime="000100",
    )  # fmt: skip
    assert factor(header) == pytest.approx(expected(59))
    assert "away" not in warned(header)


def test_series_time_after_the_first_acquisition_gives_way_to_the_frame():
    # FrameReferenceTime of Siemens: the moment of mean activity, counted from the reference
    duration, half_life = 180.0, 6586.2
    mean = mean_activity_s(duration, half_life)
    slices = [
        pet_header(SeriesTime="113000", AcquisitionTime=clock, FrameReferenceTime=f"{1000 * (start + mean):.6f}")
        for clock, start in (("100500", 300), ("100200", 120))
    ]
    assert factor(*slices) == pytest.approx(expected(60), rel=1e-9)


def test_the_mean_of_a_frame_is_where_its_activity_equals_the_mean():
    # by the trapezoid rule and bisection, without the formula
    half_life, duration, steps = 6586.2, 1800.0, 20000
    curve = [2 ** (-duration * k / steps / half_life) for k in range(steps + 1)]
    mean = (sum(curve) - (curve[0] + curve[-1]) / 2) / steps
    low, high = 0.0, duration
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if 2 ** (-middle / half_life) > mean else (low, middle)
    assert mean_activity_s(duration, half_life) == pytest.approx(low, abs=1e-4)


def test_a_frame_time_that_counts_to_the_start_is_known_by_the_decay_factor():
    # GE's numbers of acrin042: beds of 300 s, FrameReferenceTime 0 and 303 s, DecayFactor of the mean activity
    def bed(since_ms, decay_factor):
        return pet_header(
            SeriesTime="113000", FrameReferenceTime=since_ms, ActualFrameDuration="300000", DecayFactor=decay_factor
        )  # fmt: skip

    assert factor(bed("303000", "1.04877"), bed("0", "1.01587")) == pytest.approx(expected(60))
    assert "start of the frame" in warned(bed("0", "1.01587"))
    # without the proof, and with Siemens's numbers, it is the mean
    late = expected(60 + mean_activity_s(300, 6586.2) / 60)
    assert factor(bed("303000", None), bed("0", None)) == pytest.approx(late)
    assert factor(bed("149605.344", "1.01587")) == pytest.approx(expected(60), rel=1e-5)


def test_a_series_time_that_is_later_by_a_lost_fraction_counts():
    assert suv_facts([pet_header(SeriesTime="100000.9")]).reference_source == "SeriesTime"
    assert suv_facts([pet_header(SeriesTime="100001.1")]).reference_source == "AcquisitionTime and FrameReferenceTime"


def test_no_reference_is_refused():
    for missing in ("FrameReferenceTime", "ActualFrameDuration"):
        assert "--reference-datetime" in refused(pet_header(SeriesTime="113000", **{missing: None}))
    assert "--reference-datetime" in refused(pet_header(AcquisitionTime=None))
    assert factor(pet_header(AcquisitionTime=None), reference=time(10, 10)) == pytest.approx(expected(70))
    assert factor(pet_header(), reference=datetime(2024, 5, 31, 10, 20)) == pytest.approx(expected(80))


def test_series_time_is_measured_against_the_first_acquisition_of_all_slices():
    slices = [pet_header(AcquisitionTime=clock, FrameReferenceTime="0") for clock in ("101000", "095500")]
    assert suv_facts(slices).reference_source == "AcquisitionTime and FrameReferenceTime"


def test_admin_is_not_decayed_again():
    assert factor(pet_header(DecayCorrection="ADMIN")) == pytest.approx(80000 / 4e8)
    assert suv_facts([pet_header(DecayCorrection="ADMIN")]).uptake_s == 3600
    header = pet_header({"RadiopharmaceuticalStartTime": None}, DecayCorrection="ADMIN")
    assert factor(header) == pytest.approx(80000 / 4e8)
    assert "unknown" in warned(header)


# --- the injection ---


def test_start_datetime_goes_before_start_time():
    header = pet_header({"RadiopharmaceuticalStartDateTime": "20240531091000"})
    assert factor(header) == pytest.approx(expected(50))
    assert "disagree" in warned(header)


def test_past_midnight():
    late = {"SeriesTime": "003000", "AcquisitionTime": "003000"}
    assert factor(pet_header({"RadiopharmaceuticalStartTime": "233000"}, **late)) == pytest.approx(expected(60))
    dated = {"RadiopharmaceuticalStartTime": None, "RadiopharmaceuticalStartDateTime": "20240530233000"}
    assert factor(pet_header(dated, **late)) == pytest.approx(expected(60))
    # series begun before midnight, first acquisition after it
    both = {"SeriesDate": "20240530", "SeriesTime": "235900", "AcquisitionTime": "000100"}
    assert factor(pet_header({"RadiopharmaceuticalStartTime": "225900"}, **both)) == pytest.approx(expected(60))


NIGHT = (("235500", "20240531"), ("000500", "20240601"), ("001000", "20240601"))
INJECTIONS = {
    "dated": {"RadiopharmaceuticalStartTime": None, "RadiopharmaceuticalStartDateTime": "20240531225000"},
    "a time of day": {"RadiopharmaceuticalStartTime": "225000"},
}


@pytest.mark.parametrize("drug", INJECTIONS.values(), ids=INJECTIONS)
@pytest.mark.parametrize(
    ("changes", "minutes"),
    [
        ({"SeriesTime": "235000"}, 60),
        ({"SeriesTime": "235500.9"}, 65 + 0.9 / 60),  # a lost fraction
        ({"SeriesTime": "235000", "private": [(*GE_TIME, "20240531234500.00")]}, 55),
        # a series made after midnight: the first frame began 5 min after the reference
        ({"SeriesTime": "003000", "FrameReferenceTime": f"{1000 * (300 + mean_activity_s(180, 6586.2)):.6f}"}, 60),
        ({"SeriesTime": "235000", "DecayCorrection": "ADMIN"}, 0),
    ],
    ids=["series time", "lost fraction", "private", "frame", "ADMIN"],
)
@pytest.mark.parametrize("day", [{"AcquisitionDate": None}, {}], ids=["absent", "not advanced"])
def test_a_scan_past_midnight_whose_date_stands_still(day, changes, minutes, drug):
    true = [pet_header(drug, AcquisitionTime=clock, AcquisitionDate=date, **changes) for clock, date in NIGHT]
    still = [pet_header(drug, AcquisitionTime=clock, **changes | day) for clock, _ in reversed(NIGHT)]
    assert factor(*true) == pytest.approx(expected(minutes), rel=1e-9)
    assert factor(*still) == factor(*true)
    assert suv_facts(still).uptake_s == suv_facts(true).uptake_s


@pytest.mark.parametrize(
    ("clocks", "series"),
    [
        (("080000", "210000"), "075500"),  # both after the series began
        (("080000", "210000"), "220000"),  # both before
        (("000000", "130000", "235500"), "140000"),  # nonsense: no night is that long
        (("235000", "000500"), None),  # nothing tells which came first
    ],
)
def test_other_times_of_one_date_keep_it(clocks, series):
    slices = [pet_header(AcquisitionTime=clock, SeriesTime=series) for clock in clocks]
    assert first_acquisition(slices) == datetime.combine(datetime(2024, 5, 31), time.fromisoformat(min(clocks)))


def test_an_injection_after_the_scan_is_refused():
    assert "30.0 min after the scan" in refused(pet_header({"RadiopharmaceuticalStartTime": "103000"}))
    assert "after the scan" in refused(pet_header({"RadiopharmaceuticalStartDateTime": "20240531103000"}))
    assert "after the scan" in refused(pet_header({"RadiopharmaceuticalStartTime": "103000"}, DecayCorrection="ADMIN"))
    assert "after the scan" in refused(pet_header(), injection=datetime(2024, 5, 31, 11))


def test_an_injection_with_a_shifted_date_lends_its_time_of_day():
    header = pet_header({"RadiopharmaceuticalStartDateTime": "20191101090000"})
    assert factor(header) == pytest.approx(expected(60))
    assert "away from the scan" in warned(header)


def test_long_lived_nuclides_may_wait_for_days():
    drug = {
        "RadiopharmaceuticalStartDateTime": "20240527100000",
        "RadionuclideHalfLife": None,
        "nuclide": ("63360001", "SCT", "Zr"),
    }
    assert factor(pet_header(drug)) == pytest.approx(80000 / (4e8 * 2 ** (-4 * 86400 / 282276)))


def test_unusual_uptake_times_are_told():
    assert "uptake" not in warned(pet_header({"RadiopharmaceuticalStartTime": "093000"}))
    assert "uptake time 29.0 min" in warned(pet_header({"RadiopharmaceuticalStartTime": "093100"}))
    assert "uptake" not in warned(pet_header({"RadiopharmaceuticalStartTime": "073000"}))
    assert "uptake time 151.0 min" in warned(pet_header({"RadiopharmaceuticalStartTime": "072900"}))


def test_zones():
    drug = {"RadiopharmaceuticalStartDateTime": "20240531090000+0200"}
    assert factor(pet_header(drug)) == pytest.approx(expected(60))  # no zone in the header: the wall clock
    assert factor(pet_header(drug, TimezoneOffsetFromUTC="+0300")) == pytest.approx(expected(0), rel=1e-9)


def test_headers_without_dates_still_have_times():
    bare = dict.fromkeys(("AcquisitionDate", "SeriesDate", "StudyDate"))
    assert factor(pet_header(**bare)) == pytest.approx(expected(60))
    assert factor(pet_header({"RadiopharmaceuticalStartDateTime": "20240531091000"}, **bare)) == pytest.approx(expected(50))
    assert factor(pet_header(**bare), injection=datetime(2024, 5, 31, 9, 20)) == pytest.approx(expected(40))


def test_a_time_of_day_does_not_date_a_long_lived_tracer():
    zr = {"RadionuclideHalfLife": None, "nuclide": ("63360001", "SCT", "Zr")}
    line = refused(pet_header(zr))
    assert "--injection-datetime with its date" in line
    assert "78.4 h" in line
    wanted = 80000 / (4e8 * 2 ** (-4 * 86400 / 282276))
    assert factor(pet_header(zr), injection=datetime(2024, 5, 27, 10)) == pytest.approx(wanted)
    assert "--injection-datetime" in refused(pet_header(zr), injection=time(9))
    copper = {
        "RadionuclideHalfLife": None,
        "nuclide": ("3932008", "SCT", "Cu"),
        "RadiopharmaceuticalStartDateTime": "20140531090000",
    }
    assert "--injection-datetime" in refused(pet_header(copper))  # ten years: only its time of day is left
    facts = suv_facts([pet_header(zr, DecayCorrection="ADMIN")])
    assert (facts.factor, facts.uptake_s) == (80000 / 4e8, None)


def test_an_offset_without_a_zone_gives_way_to_the_wall_clock():
    # 09:00 in Japan is midnight UTC: 60 min, not ten hours
    drug = {"RadiopharmaceuticalStartDateTime": "20240531000000+0000"}
    assert factor(pet_header(drug)) == pytest.approx(expected(60))
    assert "StartTime is taken" in warned(pet_header(drug))
    assert factor(pet_header(drug, TimezoneOffsetFromUTC="+0900")) == pytest.approx(expected(60))
    # 23:30 in Chicago is 04:30 UTC of the next day
    late = {"SeriesTime": "003000", "AcquisitionTime": "003000"}
    drug = {"RadiopharmaceuticalStartDateTime": "20240531043000+0000", "RadiopharmaceuticalStartTime": "233000"}
    assert factor(pet_header(drug, **late)) == pytest.approx(expected(60))
    # nothing to compare with
    drug = {"RadiopharmaceuticalStartDateTime": "20240531091000+0000", "RadiopharmaceuticalStartTime": None}
    assert factor(pet_header(drug)) == pytest.approx(expected(50))
    assert "scanner's own clock" in warned(pet_header(drug))


def test_a_private_reference_after_the_scan_began_is_refused():
    line = refused(pet_header(private=[(*GE_TIME, "20240531130000.00")]))
    assert "13:00:00, after the first acquisition at 10:00:00" in line
    assert "--reference-datetime" in line
    assert factor(pet_header(private=[(*GE_TIME, "20240531101000.00")])) == pytest.approx(expected(70))
    assert "after the first" in refused(pet_header(private=[(*SIEMENS_TIME, "20240531101001.00")]))
    given = factor(pet_header(private=[(*GE_TIME, "20240531130000.00")]), reference=time(10))
    assert given == pytest.approx(expected(60))


def test_lines_quote_no_text_of_the_header():
    import pydicom.config

    smith = "Smith 19600101"
    with pydicom.config.disable_value_validation():
        fields = ("Units", "DecayCorrection", "SUVType", "Manufacturer", "PatientWeight", "Modality", "CorrectedImage")
        headers = [pet_header(**{field: smith}) for field in fields if field != "PatientWeight"]
        headers += [pet_header(Units="GML", SUVType=smith), pet_header(Units="CM2ML", SUVType=smith)]
        for keyword in ("Radiopharmaceutical", "RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime"):
            headers += [pet_header({keyword: smith}, Units=units) for units in ("BQML", "GML")]
        shown = []
        for one in headers:
            try:
                shown.append(repr(suv_facts([one])))
            except InputError as error:
                shown.append(str(error))
        two = pet_header({"RadiopharmaceuticalStartDateTime": "20240531091000"}), pet_header()
        shown.append(repr(suv_facts([pet_header(Units="GML", SeriesDate=smith)])))
    shown.append(refused(*two))
    assert "StartDateTime (2 values)" in shown[-1]
    assert "dose and uptake time are unknown: RadiopharmaceuticalStartDateTime is no date" in " ".join(shown)
    for line in shown:
        assert "smith" not in line.lower(), line
        assert "19600101" not in line, line
        assert "20240531" not in line, line


def test_manufacturers_are_named_by_a_list():
    for words, name in (
        ("GE MEDICAL SYSTEMS", "GE"), ("SIEMENS", "Siemens"), ("Philips Medical Systems", "Philips"), ("UIH", "United Imaging"),
        ("CANON_MEC", "Canon"), ("Doe^John", "other"), ("IMAGER", "other"), (None, "unknown"),
    ):  # fmt: skip
        assert suv_facts([pet_header(Manufacturer=words)]).manufacturer == name


def test_elements_of_a_wrong_type_are_refused():
    header = pet_header()
    header.add_new(0x00540016, "US", 5)
    assert "RadiopharmaceuticalInformationSequence in the header is no sequence" in refused(header)
    header = pet_header()
    header.RadiopharmaceuticalInformationSequence[0].add_new(0x00540300, "US", 5)
    assert "RadionuclideCodeSequence in the header is no sequence" in refused(header)
    header = pet_header()
    header.RadiopharmaceuticalInformationSequence[0].add_new(0x00540304, "US", 5)
    assert suv_facts([header]).tracer == "FDG"


# --- weight, dose, half-life ---


def test_a_weight_by_the_user_that_cannot_count_is_told():
    assert "weight_kg given, but the series is in SUV already" in warned(pet_header(Units="GML"), weight_kg=100)
    for kind, units in (("LBM", "GML"), ("IBW", "GML"), ("BSA", "CM2ML")):
        header = pet_header(Units=units, SUVType=kind)
        assert "weight_kg given, but the stored values were made with the header's" in warned(header, weight_kg=100)
        assert "made with the header's" not in warned(header, weight_kg=80)
        assert "height_m given, but" in warned(header, height_m=1.8)


def test_weight_must_be_there():
    assert "--weight-kg" in refused(pet_header(PatientWeight=None))
    assert "PatientWeight is 0" in refused(pet_header(PatientWeight="0"))
    assert "limits" in refused(pet_header(PatientWeight="80000"))
    assert factor(pet_header(PatientWeight="0"), weight_kg=50) == pytest.approx(expected(60, weight_kg=50))
    assert "limits" in refused(pet_header(), weight_kg=0.0)


def test_a_dose_in_mbq_is_refused_with_the_hint():
    line = refused(pet_header({"RadionuclideTotalDose": "388.5"}))
    assert "MBq written as Bq" in line
    assert "--dose-bq 388500000" in line
    assert "MBq" in refused(pet_header({"RadionuclideTotalDose": "9999"}))
    assert factor(pet_header({"RadionuclideTotalDose": "10000"})) == pytest.approx(expected(60, dose_bq=1e4))
    assert "--dose-bq" in refused(pet_header({"RadionuclideTotalDose": None}))
    assert "--dose-bq" in refused(pet_header({"RadionuclideTotalDose": "-4e8"}))
    assert factor(pet_header("none"), dose_bq=3e8, injection=time(9), half_life_s=6586.2) == pytest.approx(
        expected(60, dose_bq=3e8)
    )


def test_the_half_life_comes_from_the_nuclide_where_absent():
    none = {"RadionuclideHalfLife": None}
    for code in (F18, ("77004003", "SCT", "x"), ("C-1", "99SDM", "18F"), ("C-1", "99SDM", "Fluorine F^18^"), ("", "", "F-18")):
        assert factor(pet_header(none | {"nuclide": code})) == pytest.approx(expected(60)), code
    assert "--half-life-s" in refused(pet_header(none))
    assert "--half-life-s" in refused(pet_header(none | {"nuclide": ("C-1", "99SDM", "FDG 2018")}))
    assert factor(pet_header(none), half_life_s=6586.2) == pytest.approx(expected(60))


def test_a_half_life_of_another_unit_is_refused():
    assert "109.8 s, but F-18" in refused(pet_header({"RadionuclideHalfLife": "109.8", "nuclide": F18}))
    assert factor(pet_header({"RadionuclideHalfLife": "6600", "nuclide": F18})) > 0
    # FDG is F-18 where no code says so: in minutes the dose would be a millionth
    assert "109.8 s, but F-18" in refused(pet_header({"RadionuclideHalfLife": "109.8"}))
    assert factor(pet_header({"RadionuclideHalfLife": "4070", "Radiopharmaceutical": "PSMA"})) > 0


def test_a_half_life_of_the_user_is_held_to_the_nuclide_too():
    for header in (pet_header({"nuclide": F18}), pet_header()):  # by its code, by the tracer alone
        assert "110 s, it is in minutes, but F-18 has 6586.2 s (limit 3% apart)" in refused(header, half_life_s=110.0)
        assert "1.83 s, it is in hours, but F-18" in refused(header, half_life_s=1.83)
        assert "4070 s, but F-18" in refused(header, half_life_s=4070.0)
        assert factor(header, half_life_s=6600.0) == pytest.approx(80e3 / 4e8 * 2 ** (3600 / 6600))
    wrong = pet_header({"RadionuclideHalfLife": "109.8", "nuclide": F18})
    assert factor(wrong, half_life_s=6586.2) == pytest.approx(expected(60))
    # of an unknown nuclide nothing is known better
    unknown = pet_header({"Radiopharmaceutical": "PSMA"})
    assert factor(unknown, half_life_s=4070.0) == pytest.approx(80e3 / 4e8 * 2 ** (3600 / 4070))
    assert "limits" in refused(unknown, half_life_s=0.0)


def test_nuclide_codes_are_those_of_dicom():
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping

    for (symbol, element), (srt, sct), half_life in NUCLIDES.values():
        assert mapping["SCT"][sct] == srt
        names = [name for name, codes in concepts["SCT"].items() if sct in codes]
        assert any(element in name.upper() for name in names), (symbol, names)
        assert half_life > 60


def test_other_tracers_are_told():
    for name in ("FDG", "Fluorodeoxyglucose F18", "FDG -- fluorodeoxyglucose", "F-18 fluoro-2-deoxy-D-glucose"):
        assert "not FDG" not in warned(pet_header({"Radiopharmaceutical": name})), name
    for name in ("FLT", "Ga-68 PSMA-11", "DOTATATE"):
        assert "not FDG" in warned(pet_header({"Radiopharmaceutical": name})), name


def test_facts_hold_nothing_that_names_a_patient():
    shown = repr(suv_facts([pet_header(PatientAge="093Y")]))
    assert "SECRET" not in shown
    assert "19500102" not in shown
    assert "age_years=90" in shown


# --- real headers, and a second opinion ---


def headers_of(folder):
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(folder.glob("*.dcm"))]


def test_factors_of_real_series(data):
    facts = suv_facts(headers_of(data / "acrin042" / "PT_AC"))
    assert facts.factor == pytest.approx(0.00042111007, abs=5e-12)
    assert facts.uptake_s == 9527
    assert "23 days" in facts.warnings[0]
    facts = suv_facts(headers_of(data / "sts001_wholebody" / "FDG_PET" / "image"))
    assert facts.factor == pytest.approx(0.000242902977, abs=5e-13)
    assert "NAC" in refused(*headers_of(data / "acrin042" / "PT_NAC"))
    for name, number in (("1.dcm", 0.00059424853), ("2.dcm", 0.00047354892)):
        facts = suv_facts([pydicom.dcmread(data / "acrin_flt_headers" / name, stop_before_pixels=True)])
        assert facts.factor == pytest.approx(number, abs=5e-12)
        assert facts.reference_source == "SeriesTime"


def test_pysuv_agrees_on_real_series(data):
    pysuv = pytest.importorskip("pysuv")
    for path in ("sts001_wholebody/FDG_PET/image/1-001.dcm", "acrin_flt_headers/1.dcm", "acrin_flt_headers/2.dcm"):
        header = pydicom.dcmread(data / path, stop_before_pixels=True)
        assert suv_facts([header]).factor == pytest.approx(pysuv.get_suv_factor(header).suv_factor, rel=1e-6), path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("vendor", ["Siemens, series time", "GE, series time", "UIH, start", "Canon", "Philips, counts to SUV"])
def test_pysuv_agrees_on_vendors(vendor):
    # it knows neither private times, ADMIN, GML nor CM2ML, and for Philips's Bq/ml takes the frame where suv.md takes the series' time
    pysuv = pytest.importorskip("pysuv")
    header, _ = MATRIX[vendor]
    assert factor(header) == pytest.approx(pysuv.get_suv_factor(header).suv_factor, rel=1e-6)


def test_pysuv_agrees_on_body_sizes():
    normalization = pytest.importorskip("pysuv.core.normalization")
    for sex in "MF":
        assert body.lean_james_kg(80, 1.75, sex) == pytest.approx(normalization.calculate_lbm(80, 175, sex))
        assert body.ideal_kg(1.75, sex) == pytest.approx(normalization.calculate_ibw(175, sex))
    assert body.surface_cm2(80, 1.75) == pytest.approx(normalization.calculate_bsa(80, 175) * 1e4)
    assert math.isclose(body.surface_cm2(70, 1.70), 18097, rel_tol=1e-3)
