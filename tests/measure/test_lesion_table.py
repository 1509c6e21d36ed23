"""lesions.csv, lesions.json and the table for people."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from l2s.errors import InputError
from l2s.measure import lesion_table
from l2s.measure.lesions import Lesion, Patient, Settings, measure
from l2s.measure.reference import Baseline, region_of_sphere
from l2s.study import Body, Grid, Study


@pytest.fixture
def measures():
    shape = (12, 12, 12)
    pet = np.ones(shape, np.float32)
    pet[2:5, 2:5, 2:5], pet[8, 8, 8] = 20, 1 / 3
    study = Study(pet, np.broadcast_to(np.float32(np.nan), shape), Grid(shape, (4.0, 4.0, 4.0), (0.0, 0.0, 0.0)), name="made")
    settings = Settings(liver=region_of_sphere(study.grid, (32.0, 32.0, 16.0), 12.0), body=Body(80.0, 180.0, "M"))
    return measure(study, pet != 1, settings=settings, mask_name="mask.mha")


def test_csv_is_one_line_a_lesion(measures):
    rows = list(csv.DictReader(lesion_table.as_csv(measures).splitlines()))
    assert len(rows) == 2
    assert [next(iter(row.items())) for row in rows] == [("case", "made")] * 2  # tables of many cases go under each other
    assert [rows[0][k] for k in ("number", "volume_ml", "centroid_mm_x", "maximum_voxel_z", "mean_hu")] == [
        "1",
        "1.728",
        "12.0",
        "2",
        "",
    ]
    assert rows[1]["suv_max"] == "0.3333333"
    flat = lesion_table.rows(measures)[0]
    assert list(flat) == list(rows[0])
    assert flat["mean_hu"] is None


def test_csv_of_no_lesion_is_the_heading(measures):
    empty = dataclasses.replace(measures, lesions=())
    assert lesion_table.as_csv(empty) == lesion_table.as_csv(measures).splitlines()[0] + "\n"


def test_json_says_units_and_where_it_comes_from(measures):
    content = json.loads(lesion_table.as_json(measures, "l2s 9.9"))
    assert content["schema_version"] == 1
    origin = content["provenance"]
    assert [origin[k] for k in ("tool", "case", "mask", "connectivity", "min_volume_ml", "min_voxels")] == [
        "l2s 9.9", "made", "mask.mha", 18, 0, 1,
    ]  # fmt: skip
    assert origin["grid"]["shape_zyx"] == [12, 12, 12]
    # 4 mm: the centre, 6 neighbours by faces, 12 by edges (5.7 mm); corners are 6.9 mm away, the sphere ends at 6.2
    assert (origin["peak_sphere_voxels"], origin["peak_sphere_ml"]) == (19, 1.216)
    assert origin["weights"] == {"name": None, "sha256": None}
    named = dataclasses.replace(measures, weights_name="some", weights_sha256="ab", warnings=("a doubt",))
    origin = lesion_table.as_dict(named, "l2s")["provenance"]
    assert (origin["weights"], origin["warnings"]) == ({"name": "some", "sha256": "ab"}, ["a doubt"])
    assert [one["mean_hu"] for one in content["lesions"]] == [None, None]
    assert set(content["lesions"][0]) == {f.name for f in dataclasses.fields(Lesion)}
    assert set(content["patient"]) == {f.name for f in dataclasses.fields(Patient)}
    assert content["patient"]["liver"]["suv_mean"] == 1


def test_every_figure_has_its_unit(measures):
    content = lesion_table.as_dict(measures, "l2s")
    without = {"number", "voxels", "lesions", "left_out_lesions", "sex"}
    patient = {k for k in content["patient"] if not isinstance(content["patient"][k], dict)} - {"blood"}
    figures = (set(content["lesions"][0]) | patient | set(content["patient"]["liver"])) - without
    assert figures - set(content["units"]) == {"source", "lesion_voxels", "notes"}
    assert (content["units"]["tlg_suv_ml"], content["units"]["tmtv_ml"]) == ("g/ml x ml", "ml")


def test_text_for_people(measures):
    text = lesion_table.as_text(measures).splitlines()
    assert " ".join(text[0].split()) == "lesion ml SUVmax SUVmean SUVpeak TLG mm HU p x mm y mm z mm"
    first = text[1].split()
    assert first[:4] == ["1", "1.73", "20.00", "20.00"]
    assert first[5:] == ["34.6", "16.5", "-", "-", "12", "12", "12"]
    assert len({len(line) for line in text[:3]}) == 1, "columns are aligned"
    assert "made: 2 lesions, TMTV 1.8 ml" in text[3]
    assert any(line.startswith("liver: SUVmean 1.00") for line in text)
    assert any(line.startswith("Deauville: 5 (SUVmax 20.00 is above 2 x the liver's 1.00)") for line in text)
    assert "... and 1 smaller ones, see lesions.csv" in lesion_table.as_text(measures, most=1)


def test_a_table_is_a_baseline(measures, tmp_path):
    paths = lesion_table.write(tmp_path, measures, "l2s")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths) == ["lesions.csv", "lesions.json"]
    baseline = lesion_table.read_baseline(tmp_path)
    one = measures.patient
    assert baseline == Baseline(
        "made",
        True,
        pytest.approx(one.percist.sul_peak),
        pytest.approx(one.percist.tlg_sul_ml),
        pytest.approx(one.liver.sul_mean),
        "janmahasatian",
        18,
        0.0,
        0,
        "liver",
    )
    lesion_table.write(tmp_path, dataclasses.replace(measures, connectivity=6, min_volume_ml=0.5), "l2s")
    baseline = lesion_table.read_baseline(tmp_path)
    assert (baseline.connectivity, baseline.min_volume_ml) == (6, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("{", "no table of l2s"),
        ("[]", "no table of l2s"),
        ('{"schema_version": 99}', "schema version 99, this l2s reads 1"),
        ('{"schema_version": 1, "patient": {}}', "KeyError: 'percist'"),
    ],
)
def test_what_is_no_baseline(tmp_path, text, message):
    if text is not None:
        (tmp_path / "lesions.json").write_text(text)
    with pytest.raises(InputError, match=message):
        lesion_table.read_baseline(tmp_path)
