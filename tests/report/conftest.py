"""A small patient that the report's tests share: a warm body of 240 x 300 x 480 mm with three lesions."""

import json

import numpy as np
import pytest

from l2s import outdir
from l2s.measure import lesion_table
from l2s.measure.lesions import measure
from l2s.report.page import Case
from l2s.study import Grid, Study

SPACING_MM_ZYX = (6.0, 5.0, 5.0)
SHAPE = (80, 60, 88)
LESIONS = (  # box of voxels (z, y, x), SUV
    ((60, 66), (28, 34), (52, 58), 9.0),
    ((40, 43), (20, 24), (30, 33), 14.0),
    ((20, 21), (40, 42), (50, 51), 6.0),
)
RECORD = {
    "tool": "l2s 9.9",
    "warnings": ["no GPU found: running on the CPU"],
    "plan": {"device": "cpu", "device_name": "a CPU", "precision": "fp32"},
    "weights": {"name": "some-weights", "sha256": "ab" * 32, "intended_use": "tests, trained on boxes"},
    "method": {"fusion": "voxelwise", "left_out": []},
}


def make_study(name="case", lesions=LESIONS) -> tuple[Study, np.ndarray]:
    """A study and the mask of its lesions."""
    rng = np.random.default_rng(0)
    pet = np.zeros(SHAPE, np.float32)
    ct = np.full(SHAPE, -1000, np.float32)
    body = (slice(2, 78), slice(6, 54), slice(14, 74))
    pet[body] = 1 + 0.1 * rng.standard_normal(pet[body].shape)
    ct[body] = 40 + 10 * rng.standard_normal(ct[body].shape)
    mask = np.zeros(SHAPE, bool)
    for *box, suv in lesions:
        part = tuple(slice(a, b) for a, b in box)
        pet[part] = suv
        mask[part] = True
        middle = tuple((a + b) // 2 for a, b in box)
        pet[middle] = suv + 1
    grid = Grid(SHAPE, SPACING_MM_ZYX, (-220.0, -150.0, -240.0))
    return Study(pet, ct, grid, name=name), mask


def make_case(name="case", lesions=LESIONS, record=RECORD, planes=slice(None)) -> Case:
    """The case; planes: a part of the scan along z."""
    study, mask = make_study(name, lesions)
    start, stop, _ = planes.indices(SHAPE[0])
    grid = study.grid.crop((start, 0, 0), (stop, *SHAPE[1:]))
    study, mask = Study(study.pet_suv[planes], study.ct_hu[planes], grid, name=name), mask[planes]
    measures = measure(study, mask, mask * np.float32(0.8), mask * np.float32(1))
    return Case(study, mask, json.loads(lesion_table.as_json(measures, "l2s 9.9")), record)


def write_outdir(folder, name="case", lesions=LESIONS):
    """The same as `l2s segment` leaves it."""
    study, mask = make_study(name, lesions)
    probability = mask * np.float32(0.8)
    measures = measure(study, mask, probability, mask_name=outdir.MASKS[0])
    outdir.write(folder, study, mask, measures, "l2s 9.9", probability=probability)
    (folder / "record.json").write_text(json.dumps(RECORD | {"case": {"name": name}}))
    return folder


@pytest.fixture(scope="session")
def case() -> Case:
    return make_case()


@pytest.fixture(scope="session")
def truth(case) -> np.ndarray:
    """It touches lesion 1 by one voxel, misses the others, and has a lesion of its own that the mask lacks."""
    mask = np.zeros(SHAPE, bool)
    mask[65:68, 33, 57] = True
    mask[10:12, 30, 40:42] = True
    return mask


@pytest.fixture(scope="session")
def make():
    """make_case, for one of another name, record, extent or lesions."""
    return make_case


@pytest.fixture(scope="session")
def write():
    """write_outdir."""
    return write_outdir
