"""int8 networks: made of tiny random networks on tiny phantoms, loaded, compared with the fp32 ones, and every way of refusal.

Without the extra 'openvino' only the refusals that come before it are tested; the rest is skipped.
"""

import contextlib
import dataclasses
import importlib.util
import io
import json
import shutil
import sys
import types

import numpy as np
import pytest
import torch

from l2s import challenge, cli, engine, int8, pipeline, quantize, weights
from l2s.commands.weights import check_truths
from l2s.errors import InputError, MissingExtra
from l2s.io.cases import find_cases
from l2s.io.studies import read_study
from l2s.phantom.sample import write_cases

EXTRA = all(importlib.util.find_spec(name) for name in ("openvino", "nncf"))
needs_extra = pytest.mark.skipif(not EXTRA, reason="the extra 'openvino' is not installed: pip install '.[openvino]'")


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Three whole bodies at 16 mm."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_cases(folder, 3, 5, (66, 28, 36), (16.0, 16.0, 16.0), None, lambda line: None)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, phantoms, make_weights):
    """(fp32 weights, the folder with int8 networks, what was printed)."""
    if not EXTRA:
        pytest.skip("the extra 'openvino' is not installed: pip install '.[openvino]'")
    base = tmp_path_factory.mktemp("int8")
    (base / "weights").mkdir()
    make_weights(base / "weights", spacing_mm=16.0)
    printed = io.StringIO()
    argv = ["weights", "quantize", str(base / "weights"), "--calibration", str(phantoms), "--out", str(base / "small")]
    with contextlib.redirect_stdout(printed):
        assert cli.main([*argv, "--samples", "6"]) == 0
    return base / "weights", base / "small", printed.getvalue().splitlines()


@pytest.mark.parametrize("flag", ["--calibration", "--evaluate"])
def test_a_mask_of_ours_is_no_truth(phantoms, tmp_path, capsys, flag):
    case = tmp_path / "results" / "anna"
    shutil.copytree(phantoms / find_cases(phantoms)[0].name, case)
    (case / "truth.mha").rename(case / "mask.mha")
    (case / "record.json").write_text('{"tool": "l2s 1.0"}')
    folders = {"--calibration": phantoms, "--evaluate": phantoms} | {flag: case.parent}
    argv = ["weights", "quantize", "--out", tmp_path / "o", *(word for pair in folders.items() for word in pair)]
    assert cli.main([str(word) for word in argv]) == 2
    assert f"{case / 'mask.mha'} is the mask of a result of l2s, no truth" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    # the truth beside it is taken, and a mask that another program recorded
    check_truths(phantoms)
    shutil.copy(case / "mask.mha", case / "truth.mha")
    check_truths(case.parent)
    (case / "truth.mha").unlink()
    (case / "record.json").write_text('{"tool": "other"}')
    check_truths(case.parent)


@pytest.fixture
def own(made, tmp_path):
    """A copy of the int8 folder for one test to break."""
    return shutil.copytree(made[1], tmp_path / "small")


def inputs_and_networks(model):
    """Planes and a block of odd sizes in channels-last memory, each with its network."""
    torch.manual_seed(3)
    channels = model.manifest.localizer.network.in_channels
    planes = (torch.rand(3, channels, 96, 64) * 2 - 1).to(memory_format=torch.channels_last)
    block = (torch.rand(1, 2, 24, 40, 16) * 2 - 1).to(memory_format=torch.channels_last_3d)
    return (planes, model.localizers[0]), (block, model.segmenters[0])


# --- what it computes -------------------------------------------------------------------------------------------------------------


@needs_extra
@pytest.mark.parametrize(("stage", "norm"), [(1, "batch"), (2, "batch"), (2, "layer"), (2, "instance")])
def test_a_converted_network_is_the_network(tmp_path, make_weights, stage, norm):
    model = weights.load(make_weights(tmp_path, norm=norm))
    (x, network) = inputs_and_networks(model)[stage - 1]
    compiled = int8.Compiled(quantize.convert(network, x.shape[1], x.ndim - 2), network.config)
    for piece in (x, x[:1, :, :32, :32]):  # sizes and batch are free
        with torch.inference_mode():
            expected = network(piece)
        found = compiled(piece)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@needs_extra
def test_int8_logits_are_near_those_of_fp32(made, phantoms):
    model = weights.load(made[0])
    small = int8.load(weights.load(made[1]))
    case = find_cases(phantoms)[0]
    study, _ = read_study(case.pet, case.ct, case.name)
    plan = dataclasses.replace(engine.choose("cpu", "int8"), tile_voxels=40_000)
    one, two = (pipeline.segment(study, m, plan) for m in (model, small))
    for name in ("cue", "probability"):
        a, b = getattr(one, name), getattr(two, name)
        assert b.dtype == np.float32
        assert np.abs(a - b).max() < 0.1 * np.ptp(a), name  # 7 bits a layer; a wrong network or input is wholly elsewhere
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99, name
        assert not np.array_equal(a, b), name  # it is int8 that answered


@needs_extra
def test_answers_are_fp32_finite_and_not_overwritten_by_the_next(made):
    small = int8.load(weights.load(made[1]))
    for x, network in inputs_and_networks(small):
        first = network.to("cpu")(x)
        kept = first.clone()
        hot = network(x * 1e4)  # SUV beyond all that was calibrated
        assert torch.isfinite(hot).all()
        assert torch.equal(first, kept)
        assert first.dtype == torch.float32
        assert first.shape == (x.shape[0], 1, *x.shape[2:])


@needs_extra
def test_the_networks_are_shown_what_inference_shows_them(made, phantoms):
    model, cases = weights.load(made[0]), find_cases(phantoms)[:1]
    seen = quantize.calibration_inputs(model, model.localizers[0], 1, cases, samples=1000)
    study, _ = read_study(cases[0].pet, cases[0].ct, "case")
    hottest = max(float(x[:, model.manifest.localizer.network.neighbours].max()) for x in seen)
    # 16 mm is the phantoms' own spacing
    assert hottest == pytest.approx(study.pet_suv.max() * 2 / 35 - 1, rel=1e-5)
    assert all(x.shape[1:2] == (5,) and x.shape[2] % 32 == x.shape[3] % 32 == 0 for x in seen)
    tiles = quantize.calibration_inputs(model, model.segmenters[0], 2, cases, samples=1000)
    assert max(float(x[:, 0].max()) for x in tiles) == pytest.approx(min(study.pet_suv.max(), 15) / 7.5 - 1, rel=1e-5)


def test_lesions_hot_organs_and_others_are_chosen_in_turn():
    seen = [(np.array([k]), marked, hot) for k, (marked, hot) in enumerate([(0, 1), (9, 2), (5, 3), (0, 8), (0, 7), (1, 0)])]
    chosen = [int(x[0]) for x in quantize.choose(seen, 5, seed=0)]
    assert chosen[:2] == [1, 3]  # most marked, hottest
    assert len(set(chosen)) == 5
    assert chosen == [int(x[0]) for x in quantize.choose(seen, 5, seed=0)]
    assert len(quantize.choose(seen, 100, seed=0)) == 6


# --- the folder -------------------------------------------------------------------------------------------------------------------


@needs_extra
def test_the_folder_is_the_weights_and_more(made, phantoms):
    source, out, lines = made
    assert weights.load(out).sha256 == weights.load(source).sha256
    assert not (source / int8.FOLDER).exists()
    assert sorted(p.name for p in (out / int8.FOLDER).iterdir()) == [
        "int8.json",
        "localizer_0.bin",
        "localizer_0.xml",
        "segmenter_0.bin",
        "segmenter_0.xml",
    ]
    facts = int8.facts(out)
    assert facts["weights_sha256"] == weights.load(source).sha256
    assert facts["calibration"]["cases"] == 3
    assert facts["calibration"]["planes"] == 6
    assert facts["accuracy"]["cases"] == 3
    assert facts["accuracy"]["calibration_cases"] is True
    assert "phantom_0001" not in json.dumps(facts)  # names may be patients'
    assert [line for line in lines if line.startswith("mean ")]
    assert lines[-1].endswith("Dice measured on 3 of the calibration's own cases")
    assert "files" not in facts


def test_the_accuracy_is_worked_out_case_by_case(phantoms, monkeypatch):
    """Masks by hand: case 1 has a truth of 8 voxels, the others none."""
    cases = [dataclasses.replace(case, name=str(k)) for k, case in enumerate(find_cases(phantoms), 1)]
    masks = {("1", "fp32"): 8, ("1", "int8"): 4, ("2", "fp32"): 2, ("2", "int8"): 1, ("3", "fp32"): 0, ("3", "int8"): 0}

    def line(count, shape=(66, 28, 36)):
        mask = np.zeros(shape, bool)
        mask.reshape(-1)[:count] = True
        return mask

    monkeypatch.setattr(quantize, "read_truth", lambda path, grid: line(8 if "0001" in str(path) else 0))
    monkeypatch.setattr(pipeline, "segment", lambda study, m, plan: types.SimpleNamespace(mask=line(masks[study.name, m])))
    lines = []
    found = quantize.compare("fp32", "int8", cases, False, lines.append)
    assert found == int8.Accuracy(3, False, 1.0, 0.66667, -0.33333, -0.33333, 0.66667)
    assert len(lines) == 5
    nothing = quantize.compare("fp32", "int8", cases[2:], True, lines.append)
    assert nothing == int8.Accuracy(1, True, None, None, None, None, None)


@needs_extra
def test_a_failure_leaves_nothing(weights_folder, phantoms, tmp_path, monkeypatch):
    rest = tmp_path / ".small.partial"
    rest.mkdir()
    (rest / "of a killed run").touch()

    def fail(*arguments):
        assert [p.name for p in tmp_path.iterdir()] == [rest.name]
        assert sorted(p.name for p in rest.iterdir()) == sorted(p.name for p in weights_folder.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(quantize, "write_networks", fail)
    with pytest.raises(KeyboardInterrupt):
        quantize.quantize(weights_folder, phantoms, tmp_path / "small", samples=2, report=lambda line: None)
    assert list(tmp_path.iterdir()) == []


# --- refusals ---------------------------------------------------------------------------------------------------------------------


def test_weights_without_int8_networks_are_refused(weights_folder):
    with pytest.raises(InputError, match="l2s weights quantize"):
        int8.load(weights.load(weights_folder))


@needs_extra
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda f: (f / "int8.json").write_text("{"), "no JSON"),
        (lambda f: edit(f, format=99), "format 99"),
        (lambda f: edit(f, extra=1), "extra"),
        (lambda f: edit(f, weights_sha256="0" * 64), "other weights"),
        (lambda f: edit(f, files=[]), "lists 0 files, 4 are expected"),
        (lambda f: (f / "localizer_0.bin").write_bytes(b"?"), "SHA-256"),
        (lambda f: (f / "segmenter_0.xml").unlink(), "missing"),
    ],
)
def test_a_wrong_folder_is_refused_in_one_line(own, change, line):
    change(own / int8.FOLDER)
    with pytest.raises(InputError, match=line) as caught:
        int8.load(weights.load(own))
    assert "\n" not in str(caught.value)


def edit(folder, **fields):
    path = folder / int8.FACTS
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@needs_extra
def test_networks_of_other_weights_are_refused(own, make_weights):
    make_weights(own, spacing_mm=16.0, seed=1)
    with pytest.raises(InputError, match="other weights"):
        int8.load(weights.load(own))


@pytest.mark.parametrize("package", ["openvino", "nncf"])
def test_a_missing_extra_is_one_line_with_the_command(monkeypatch, tmp_path, weights_folder, phantoms, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    if package == "openvino" or not EXTRA:
        monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[openvino\]'"):
        quantize.quantize(weights_folder, phantoms, tmp_path / "small")
    code = cli.main(
        ["weights", "quantize", str(weights_folder), "--calibration", str(phantoms), "--out", str(tmp_path / "small")]
    )
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is not installed" in err


# --- the commands -----------------------------------------------------------------------------------------------------------------


@needs_extra
def test_process_says_what_int8_costs(made, phantoms, tmp_path, capfd, monkeypatch):
    # tiny networks may be slower in int8
    monkeypatch.setattr(pipeline, "base_seconds", lambda working, model, plan, config: 1.0 if plan.precision == "int8" else 2.0)

    def run(*flags):
        case = phantoms / "phantom_0001"
        argv = ["--input", str(case), "--output", str(tmp_path), "--weights", str(made[1]), *flags]
        code = challenge.main(argv)
        return code, capfd.readouterr().err, json.loads((tmp_path / challenge.RECORD).read_text())

    code, _, record = run("--precision", "int8")
    assert code == 0
    assert record["plan"]["precision"] == "int8"
    assert record["plan"]["device"] == "cpu"
    assert record["weights"]["int8"] == int8.facts(made[1])
    code, _, record = run("--device", "cpu")  # an installed extra alone changes nothing
    assert code == 0
    assert "int8" not in record["weights"]
    code, err, record = run("--device", "cpu", "--time-budget", "0.01")  # a budget that fp32 misses does
    assert code == 0
    assert record["plan"]["precision"] == "int8"
    assert record["weights"]["int8"] == int8.facts(made[1])
    assert "int8 networks are used" in err
    code, _, record = run("--device", "cpu", "--time-budget", "0.01", "--precision", "fp32")  # unless fp32 is asked for
    assert record["plan"]["precision"] == "fp32"
    code, err, _ = run("--precision", "int8", "--device", "cuda")
    assert code == 2
    assert "int8 is for the CPU" in err


def test_the_command_prints_json_only_or_one_line(phantoms, weights_folder, tmp_path, capsys, monkeypatch):
    argv = ["weights", "quantize", str(weights_folder), "--out", str(tmp_path / "new"), "--calibration"]
    for flags, line in (
        ([str(phantoms), "--samples", "0"], "--samples 0"),
        ([str(phantoms), "--out", str(tmp_path)], "exists"),
        ([str(tmp_path / "absent")], "no such folder"),
        ([str(phantoms), "--evaluate", str(tmp_path)], "no case in it"),
    ):
        assert cli.main([*argv, *flags]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert line in err
    accuracy = int8.Accuracy(1, False, 0.5, 0.25, -0.25, -0.25, 0.5)
    facts = int8.Facts(1, "0", "1", "2", int8.Calibration(2, "0", 3, 4), accuracy, ())
    monkeypatch.setattr(quantize, "quantize", lambda *arguments: arguments[-1]("a line") or facts)
    assert cli.main([*argv, str(phantoms), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == dataclasses.asdict(accuracy)


@needs_extra
def test_the_packages_do_not_report_their_use(made):
    assert sys.modules["openvino_telemetry"] is None
