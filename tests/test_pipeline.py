"""The whole method on a small study with random weights: geometry, settings, and the literal chain of its stages."""

import dataclasses
import math
import time

import numpy as np
import pytest
import torch

from l2s import engine, pipeline, weights
from l2s.errors import InputError
from l2s.pipeline import Settings
from l2s.study import Grid, Study
from l2s.working import to_working


@pytest.fixture(scope="module")
def model(weights_folder):
    return weights.load(weights_folder)


@pytest.fixture(scope="module")
def plan():
    return engine.choose("cpu")


@pytest.fixture(scope="module")
def study():
    shape = (30, 40, 44)
    rng = np.random.default_rng(0)
    ct = np.full(shape, -1000.0, np.float32)
    ct[:, 8:32, 6:38] = rng.normal(40, 10, (30, 24, 32))
    pet = rng.uniform(0, 0.1, shape).astype(np.float32)
    pet[10:14, 15:20, 15:20] = 12
    return Study(pet, ct, Grid(shape, (8.0, 8.0, 8.0), (0.0, 0.0, 0.0)))


def test_a_segmentation_lies_on_the_pet_grid(study, model, plan):
    seen = []
    result = pipeline.segment(study, model, plan, progress=lambda *step: seen.append(step))
    for array, dtype in ((result.mask, bool), (result.probability, np.float32), (result.cue, np.float32)):
        assert array.shape == study.grid.shape_zyx
        assert array.dtype == dtype
    assert 0 <= result.probability.min() <= result.probability.max() <= 1
    assert list(result.seconds) == ["prepare", "localize", "segment", "resample", "fuse"]
    assert {stage for stage, _, _ in seen} == {"localize", "segment"}
    assert result.details["windows"] == "tiles"
    assert result.warnings == []


def test_at_the_pet_s_own_spacing_it_is_the_literal_chain(study, model, plan):
    result = pipeline.segment(study, model, plan, Settings(fusion="none"))
    (z0, y0, x0), (z1, y1, x1) = result.details["body_box_zyx"]
    pet, ct = study.pet_suv[z0:z1, y0:y1, x0:x1], study.ct_hu[z0:z1, y0:y1, x0:x1]
    volume = np.full((2, -(-(z1 - z0) // 8) * 8, -(-(y1 - y0) // 8) * 8, -(-(x1 - x0) // 8) * 8), -1, np.float32)
    inside = (slice(0, z1 - z0), slice(0, y1 - y0), slice(0, x1 - x0))
    volume[0][inside] = np.clip(pet / 15, 0, 1) * 2 - 1
    volume[1][inside] = np.clip((ct + 100) / 350, 0, 1) * 2 - 1
    with torch.inference_mode():
        logits = model.segmenters[0](torch.from_numpy(volume)[None])[0, 0].numpy()[inside]
    expected = np.zeros(study.grid.shape_zyx, np.float32)
    expected[z0:z1, y0:y1, x0:x1] = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(result.probability, expected, atol=1e-5)
    assert (result.mask == (result.probability > 0.5)).all()


def test_outside_the_body_box_nothing_is_lesion(study, model, plan):
    result = pipeline.segment(study, model, plan)
    outside = np.ones(study.grid.shape_zyx, bool)
    outside[tuple(slice(a, b) for a, b in zip(*result.details["body_box_zyx"]))] = False
    assert outside.any()
    assert result.probability[outside].max() < 1e-9


def test_settings_are_kept_and_said(study, model, plan):
    result = pipeline.segment(study, model, plan, Settings("componentwise", "gaussian", (9.0, 10.0, 11.0)))
    assert result.details["fusion"] == "componentwise"
    assert result.details["windows"] == "gaussian"
    assert result.details["spacing_mm_zyx"] == [9.0, 10.0, 11.0]
    assert any("working spacing" in line for line in result.warnings)
    assert any("0.0124" in line for line in result.warnings)


@pytest.mark.parametrize("settings", [Settings(fusion="majority"), Settings(windows="spiral")])
def test_unknown_settings_are_refused(study, model, plan, settings):
    with pytest.raises(InputError, match="one of"):
        pipeline.segment(study, model, plan, settings)


def test_mirrors_are_the_mean_of_mirrored_studies(study, model, plan):
    """The study lies in the middle of a cube of strides, so that mirroring moves no plane against the stride's grid."""
    start, stop = (10, 15, 15), (14, 20, 20)
    pet, ct = np.full((32, 32, 32), 0.05, np.float32), np.full((32, 32, 32), 40, np.float32)
    pet[tuple(slice(a, b) for a, b in zip(start, stop))] = 12
    grid = Grid(pet.shape, (8.0, 8.0, 8.0), (0.0, 0.0, 0.0))
    both = pipeline.segment(Study(pet, ct, grid), model, plan, Settings(mirror=("x",)))
    one = pipeline.segment(Study(pet, ct, grid), model, plan)
    other = pipeline.segment(Study(pet[..., ::-1].copy(), ct, grid), model, plan)
    mean = (logit(one.probability) + logit(other.probability)[..., ::-1]) / 2
    np.testing.assert_allclose(logit(both.probability), mean, atol=1e-3)
    assert [p["mirrors"] for p in both.details["passes"]] == [["none", "x"]] * 2


def logit(probability):
    return np.log(probability / (1 - probability))


def test_a_deadline_that_has_passed_leaves_the_base_answer(study, model, plan):
    base = pipeline.segment(study, model, plan)
    late = pipeline.segment(study, model, plan, Settings(deadline=time.perf_counter()))
    np.testing.assert_array_equal(late.mask, base.mask)
    np.testing.assert_array_equal(late.probability, base.probability)
    assert late.left_out == ["localize fold 0 (x)", "segment fold 0 (x)"]
    assert any("--time-budget" in line for line in late.warnings)


def test_a_far_deadline_runs_all(study, model, plan):
    twice = dataclasses.replace(model, localizers=model.localizers * 2, segmenters=model.segmenters * 2)
    result = pipeline.segment(study, twice, plan, Settings(deadline=time.perf_counter() + 1e6, mirror=("x", "y")))
    assert result.left_out == []
    assert len(result.details["passes"]) == 2 * 2 * 4
    at_once = pipeline.segment(study, twice, plan, Settings(mirror=("x", "y")))
    np.testing.assert_allclose(result.probability, at_once.probability, atol=1e-5)


def test_the_deadline_leaves_time_to_draw_the_answer(study, model, plan):
    far = time.perf_counter() + 1e3
    assert pipeline.segment(study, model, plan, Settings(deadline=far, drawing=1.0)).left_out == []
    # at least half a second is reckoned for preparing, however small the study
    late = pipeline.segment(study, model, plan, Settings(deadline=far, drawing=2e3))
    assert late.left_out == ["localize fold 0 (x)", "segment fold 0 (x)"]


def probed(monkeypatch, int8_seconds: float) -> None:
    """What the pieces of both networks are said to take: in fp32 a second."""
    monkeypatch.setattr(pipeline, "base_seconds", lambda w, m, plan, c: int8_seconds if plan.precision == "int8" else 1.0)


def test_the_faster_networks_come_only_when_the_deadline_needs_them(study, model, plan, monkeypatch):
    probed(monkeypatch, 0.5)
    calls = []

    def faster():
        calls.append(1)
        return model

    far = pipeline.segment(study, model, plan, Settings(deadline=time.perf_counter() + 1e6), faster=faster)
    assert not calls
    assert far.plan["precision"] == "fp32"
    near = pipeline.segment(study, model, plan, Settings(deadline=time.perf_counter()), faster=faster)
    assert calls == [1]
    assert near.plan["precision"] == "int8"
    assert any("int8 networks are used" in line for line in near.warnings)
    pipeline.segment(study, model, plan, faster=faster)
    assert calls == [1]


def test_int8_networks_that_are_no_faster_are_left_out(study, model, plan, monkeypatch):
    probed(monkeypatch, 1.5)
    result = pipeline.segment(study, model, plan, Settings(deadline=time.perf_counter()), faster=lambda: model)
    assert result.plan["precision"] == "fp32"
    assert any("no faster here" in line for line in result.warnings)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("libopenvino.so: cannot open"), "libopenvino.so: cannot open"),
        (RuntimeError("Exception from core.cpp:110:\nmore"), "Exception from core.cpp:110:"),
        (InputError("damaged"), "damaged"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_broken_extra_does_not_cost_the_base_answer(study, model, plan, error, said):
    def broken():
        raise error

    result = pipeline.segment(study, model, plan, Settings(deadline=time.perf_counter()), faster=broken)
    np.testing.assert_array_equal(result.mask, pipeline.segment(study, model, plan).mask)
    assert any(line.endswith(f"no int8 networks, {said}") for line in result.warnings)


def overflowing(monkeypatch, precisions: tuple[str, ...]) -> list[str]:
    """Stage 2 answers with NaN in these precisions; returns the precisions it is asked in, as they come."""
    asked, whole = [], pipeline.run_pass

    def logits(one, working, model, plan, config, report=None):
        answer = whole(one, working, model, dataclasses.replace(plan, precision="fp32"), config, report)
        if one.stage == "segment":
            asked.append(plan.precision)
            answer = answer * np.float32("nan") if plan.precision in precisions else answer
        return answer

    monkeypatch.setattr(pipeline, "run_pass", logits)
    return asked


def test_sixteen_bits_that_overflow_are_computed_once_more(study, model, plan, monkeypatch):
    expected = pipeline.segment(study, model, plan).mask
    asked = overflowing(monkeypatch, ("bf16",))
    result = pipeline.segment(study, model, dataclasses.replace(plan, precision="bf16"))
    np.testing.assert_array_equal(result.mask, expected)
    assert asked == ["bf16", "fp32"]
    assert result.plan["precision"] == "fp32"
    assert any("NaN or infinity in bf16" in line for line in result.warnings)


def test_an_addition_that_overflows_is_left_out(study, model, plan, monkeypatch):
    whole = pipeline.run_pass

    def logits(one, *args, **kwargs):
        return whole(one, *args, **kwargs) * np.float32(1 if one.flips == ((),) else "nan")

    monkeypatch.setattr(pipeline, "run_pass", logits)
    short = dataclasses.replace(plan, precision="bf16")
    result = pipeline.segment(study, model, short, Settings(deadline=time.perf_counter() + 1e6))
    assert result.left_out == ["localize fold 0 (x)", "segment fold 0 (x)"]
    assert result.plan["precision"] == "bf16"


def test_nan_in_fp32_is_an_error(study, model, plan, monkeypatch):
    overflowing(monkeypatch, ("bf16", "fp32"))
    with pytest.raises(InputError, match="NaN or infinity"):
        pipeline.segment(study, model, dataclasses.replace(plan, precision="bf16"))


def test_the_plan_tells_how_the_box_was_cut(study, model, plan, monkeypatch):
    facts = pipeline.segment(study, model, plan).plan
    assert facts["tiles"] == 1
    assert facts["halo"] == 0
    (_, first, _), (_, last, _) = pipeline.segment(study, model, plan).details["body_box_zyx"]
    assert facts["batch_planes"] == facts["planes"] == last - first
    assert facts["tile_voxels"] == math.prod(facts["tile_zyx"])  # there is no more of this study
    monkeypatch.setattr(engine, "LEAST_TILE_VOXELS", 1000)
    small = dataclasses.replace(plan, budget=engine.Budget(ram_bytes=1))
    assert pipeline.segment(study, model, small).plan["tile_voxels"] == 1000


def test_folds_are_averaged_as_logits(study, model, plan):
    one = pipeline.segment(study, model, plan)
    twice = dataclasses.replace(model, localizers=model.localizers * 2, segmenters=model.segmenters * 2)
    two = pipeline.segment(study, twice, plan)
    np.testing.assert_allclose(two.probability, one.probability, atol=1e-6)
    assert two.details["folds"] == 2


@pytest.mark.parametrize(("deadline", "copies"), [(None, 2), (600.0, 1)])
def test_sizes_are_of_what_goes_through_at_once(study, model, plan, deadline, copies):
    """A deadline sends mirrored copies one after the other."""
    settings = Settings(mirror=("x",), deadline=deadline and time.perf_counter() + deadline)
    facts = pipeline.segment(study, model, plan, settings).plan
    assert facts["tile_voxels"] == copies * math.prod(facts["tile_zyx"])


def test_a_gpu_s_answer_is_brought_back_on_the_gpu(monkeypatch):
    rng = np.random.default_rng(5)
    study = Study(*rng.uniform(0, 5, (2, 20, 24, 28)).astype(np.float32), Grid((20, 24, 28), (3.0, 2.0, 2.0), (0.0, 0.0, 0.0)))
    working = to_working(study, (4.0, 4.0, 4.0))
    logits = rng.normal(0, 4, working.grid.shape_zyx).astype(np.float32)
    plan = engine.choose("cpu")
    moved = []
    monkeypatch.setattr(engine, "to_device", lambda array, plan: moved.append(plan.device) or torch.from_numpy(array))
    there = pipeline.on_pet_grid(logits, working, study.grid, dataclasses.replace(plan, device="cuda:0"))
    assert moved == ["cuda:0"]
    np.testing.assert_allclose(there, pipeline.on_pet_grid(logits, working, study.grid, plan), atol=1e-6)


def test_a_full_gpu_leaves_the_way_back_to_the_cpu(study, model, plan, monkeypatch):
    def logits(one, working, *args, **kwargs):
        return working.pet_suv - 2

    monkeypatch.setattr(pipeline, "run_pass", logits)
    expected = pipeline.segment(study, model, plan)
    monkeypatch.setattr(engine, "fit", lambda plan, *args, **kwargs: dataclasses.replace(plan, device="cuda:0"))

    def full(array, plan):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate\nmore")

    monkeypatch.setattr(engine, "to_device", full)
    result = pipeline.segment(study, model, plan)
    assert (result.mask == expected.mask).all()
    (line,) = [line for line in result.warnings if "CUBLAS" in line]
    assert "done on the CPU" in line
    assert "more" not in line

    def broken(array, plan):
        raise RuntimeError("expected Float, found Half")

    monkeypatch.setattr(engine, "to_device", broken)
    with pytest.raises(RuntimeError, match="found Half"):  # no want of memory, but a bug
        pipeline.segment(study, model, plan)


def test_a_warm_up_shows_each_stage_a_piece_and_hides_its_failure(model, plan):
    shown = []
    handles = [
        network.register_forward_pre_hook(lambda module, args: shown.append(type(module).__name__))
        for network in (model.localizers[0], model.segmenters[0].head)
    ]
    pipeline.warm_up(model, plan)
    assert set(shown) == {"Localizer", "Conv3d"}
    for handle in handles:
        handle.remove()
    pipeline.warm_up(model, dataclasses.replace(plan, device="cuda:7"))  # there is none
