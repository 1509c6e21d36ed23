"""The command line: `l2s COMMAND`, the same as `python -m l2s.cli COMMAND`.

A command imports what it needs when it runs: torch alone takes longer than the answer to --help may.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from pathlib import Path

from l2s import __version__
from l2s.errors import InputError

SPACING_LIMITS_MM = (0.5, 20.0)
MIN_VOXELS_AN_AXIS = 8  # what read_image accepts
MAX_PHANTOM_VOXELS = 2**28  # 1 GiB an image; whole-body PET has a fifth of it
DICE_AGREEMENT = 1e-5  # evalutils answers in float32


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0; 2 where the input cannot be used, after one line on stderr; 1 where the reader of our output has gone.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    arguments = make_parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # `l2s ... | head`: python would flush stdout once more at exit and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="l2s", description="Lesions in whole-body FDG PET/CT by L2SNet. Research use only.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"l2s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    evaluate = commands.add_parser(
        "evaluate", help="score predicted masks against true ones", description=run_evaluate.__doc__, allow_abbrev=False
    )
    evaluate.add_argument("truth", type=Path, help="a label image (.mha, .nii, .nii.gz), or a folder of them")
    evaluate.add_argument("prediction", type=Path, help="the same for the predictions; files pair by name without ending")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all cases here; null where undefined")
    evaluate.add_argument("--csv", type=Path, metavar="FILE", help="write one line a case here")
    evaluate.add_argument(
        "--no-surface", action="store_true", help="leave out Hausdorff and surface distances (large masks: faster)"
    )
    evaluate.set_defaults(run=run_evaluate)

    phantom = commands.add_parser(
        "phantom", help="make synthetic PET/CT with known lesions", description=run_phantom.__doc__, allow_abbrev=False
    )
    phantom.add_argument("out", type=Path, help="folder to write OUT/CASE/images/{ct,pet}/CASE.mha and OUT/CASE/truth.mha into")
    phantom.add_argument("--cases", type=int, default=1, help="how many (default 1)")
    phantom.add_argument("--seed", type=int, default=0, help="the same seed makes the same cases (default 0)")
    phantom.add_argument(
        "--shape", type=int, nargs=3, default=(250, 128, 128), metavar=("Z", "Y", "X"), help="voxels (default 250 128 128)"
    )
    phantom.add_argument(
        "--spacing-mm", type=float, nargs=3, default=(4.0, 4.0, 4.0), metavar=("Z", "Y", "X"), help="default 4 4 4"
    )
    phantom.add_argument("--organ-maps", type=Path, metavar="DIR", help="folder of organ label maps to take the anatomy from")
    phantom.set_defaults(run=run_phantom)

    weights = commands.add_parser("weights", help="verify or list a weights folder, or make int8 networks of it")
    actions = weights.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, run in (("verify", run_weights_verify), ("list", run_weights_list)):
        action = actions.add_parser(name, help=run.__doc__.splitlines()[0], description=run.__doc__, allow_abbrev=False)
        action.add_argument("folder", nargs="?", help="default: $L2S_WEIGHTS, /opt/ml/model, or the weights that came with l2s")
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(run=run)
    add_quantize(actions)
    return parser


def add_quantize(actions) -> None:
    quantize = actions.add_parser(
        "quantize",
        help="make int8 networks for the CPU (needs the extra 'openvino')",
        description=run_weights_quantize.__doc__,
        allow_abbrev=False,
    )
    quantize.add_argument("folder", nargs="?", help="default: $L2S_WEIGHTS, /opt/ml/model, or the weights that came with l2s")
    quantize.add_argument(
        "--calibration",
        type=Path,
        required=True,
        metavar="DIR",
        help="cases to take the ranges of values from: CASE/images/{ct,pet}/*.mha or CASE/{CT,PET}.nii.gz; truth.mha or GTV.nii.gz "
        "beside them where there is one",
    )
    quantize.add_argument(
        "--evaluate", type=Path, metavar="DIR", help="other cases, to measure the loss of Dice on (default: the calibration's)"
    )
    quantize.add_argument("--out", type=Path, required=True, help="folder to make: the weights with the int8 networks in it")
    quantize.add_argument("--samples", type=int, default=48, metavar="N", help="the most inputs a network is shown (default 48)")
    quantize.add_argument("--json", action="store_true", help="print JSON")
    quantize.set_defaults(run=run_weights_quantize)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Dice, false positive and false negative volume (autoPET), lesion detection and surface distances of predicted masks."""
    from tqdm import tqdm

    from l2s.measure import table
    from l2s.measure.metrics import evaluate_masks
    from l2s.measure.surface import surface_scores

    outputs = [path for path in (arguments.json, arguments.csv) if path]
    for path in outputs:  # before the work, not after it
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
    scores, surfaces = [], []
    for case, truth_path, prediction_path in tqdm(pair(arguments.truth, arguments.prediction), disable=None, leave=False):
        truth, grid = read_mask(truth_path)
        prediction, other = read_mask(prediction_path)
        if not grid.matches(other):
            raise InputError(
                f"{prediction_path}: its grid ({geometry(other)}) is not that of {truth_path} ({geometry(grid)}); "
                "bring the prediction to the truth's grid first"
            )
        scores.append(evaluate_masks(truth, prediction, grid.voxel_volume_ml, case))
        if not arguments.no_surface:
            surfaces.append(surface_scores(truth, prediction, grid.spacing_mm_zyx))
            second = surfaces[-1].dice_evalutils
            if not math.isnan(second) and abs(second - scores[-1].dice) > DICE_AGREEMENT:
                raise RuntimeError(f"{case}: Dice is {scores[-1].dice}, evalutils finds {second}; one of the two is wrong")
    rows = [table.to_row(s, surfaces[k] if surfaces else None) for k, s in enumerate(scores)]
    summary = table.summary_of(scores, surfaces)
    if arguments.json:
        table.write_text(arguments.json, table.as_json(rows, summary))
    if arguments.csv:
        table.write_text(arguments.csv, table.as_csv(rows))
    print(table.as_text(rows, summary))


def pair(truth: Path, prediction: Path) -> list[tuple[str, Path, Path]]:
    """(case, true file, predicted file) of two files, or of two folders by equal names without ending, in order of the names.

    Raises:
        InputError: a path or a prediction is missing, a file meets a folder, or a folder holds no case or one case twice.
    """
    from l2s.io.images import ENDINGS, stem

    for path in (truth, prediction):
        if not path.exists():
            raise InputError(f"{path} does not exist: name a label image or a folder of them")
    if truth.is_dir() != prediction.is_dir():
        raise InputError(f"{truth} and {prediction}: one is a folder, the other a file; name two of a kind")
    if truth.is_file():
        return [(stem(truth), truth, prediction)]
    truths, predictions = cases_in(truth), cases_in(prediction)
    if not truths:
        raise InputError(f"{truth}: no file ends in {', '.join(ENDINGS)}; name the folder that holds the true masks")
    missing = sorted(set(truths) - set(predictions))
    if missing:
        raise InputError(f"{prediction}: no prediction for {len(missing)} of {len(truths)} cases, first {missing[0]}; add it")
    extra = sorted(set(predictions) - set(truths))
    if extra:
        logging.getLogger(__name__).warning(
            "%s: %d predictions without truth are left out, first %s", prediction, len(extra), extra[0]
        )
    return [(case, truths[case], predictions[case]) for case in sorted(truths)]


def cases_in(folder: Path) -> dict[str, Path]:
    """The folder's images by case; hidden files are passed over."""
    from l2s.io.images import ENDINGS, stem

    cases: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(ENDINGS) or not path.is_file():
            continue
        case = stem(path)
        if case in cases:
            raise InputError(f"{folder}: {cases[case].name} and {path.name} are the same case; remove one")
        cases[case] = path
    return cases


def read_mask(path: Path):
    """(bool mask (z, y, x) in LPS, its Grid) of a label image: whole numbers from 0 up, above 0 is foreground."""
    import numpy as np

    from l2s.io.images import read_image

    array, grid, _, warnings = read_image(path)
    for line in warnings:
        logging.getLogger(__name__).warning("%s", line)
    wrong = ~((array >= 0) & (array == np.rint(array)))
    if wrong.any():
        raise InputError(f"{path} is no label image: it holds {array[wrong][0]:g}; whole numbers from 0 up are expected")
    return array > 0, grid


def geometry(grid) -> str:
    spacing = " x ".join(f"{s:g}" for s in grid.spacing_mm_zyx)
    origin = ", ".join(f"{v:g}" for v in grid.origin_mm_xyz)
    return f"z y x {' x '.join(map(str, grid.shape_zyx))} voxels of {spacing} mm from ({origin})"


def run_phantom(arguments: argparse.Namespace) -> None:
    """Synthetic whole-body PET/CT cases with their true lesion masks, laid out as process.py reads them."""
    if arguments.cases < 1:
        raise InputError(f"--cases {arguments.cases}: at least 1")
    if arguments.seed < 0:
        raise InputError(f"--seed {arguments.seed}: 0 or more")
    if min(arguments.shape) < MIN_VOXELS_AN_AXIS or math.prod(arguments.shape) > MAX_PHANTOM_VOXELS:
        raise InputError(
            f"--shape {' '.join(map(str, arguments.shape))}: {MIN_VOXELS_AN_AXIS} or more each, {MAX_PHANTOM_VOXELS} at most together"
        )
    low, high = SPACING_LIMITS_MM
    if not all(low <= s <= high for s in arguments.spacing_mm):
        raise InputError(f"--spacing-mm {' '.join(f'{s:g}' for s in arguments.spacing_mm)}: each {low:g} to {high:g} mm")
    if arguments.organ_maps and not arguments.organ_maps.is_dir():
        raise InputError(f"--organ-maps {arguments.organ_maps}: no such folder")
    from l2s.phantom.sample import write_cases

    write_cases(
        arguments.out,
        arguments.cases,
        arguments.seed,
        tuple(arguments.shape),
        tuple(arguments.spacing_mm),
        arguments.organ_maps,
        print,
    )


def run_weights_verify(arguments: argparse.Namespace) -> None:
    """Load a weights folder and compare every file with its SHA-256."""
    from l2s import weights

    folder = weights.find(arguments.folder)
    lines = weights.verify(folder)
    print(
        json.dumps({"folder": str(folder), "good": True, "files": lines}, indent=2)
        if arguments.json
        else "\n".join([f"{folder}:", *lines])
    )


def run_weights_list(arguments: argparse.Namespace) -> None:
    """Say what a weights folder holds, from its manifest."""
    from l2s import weights

    folder = weights.find(arguments.folder)
    facts = {"folder": str(folder)} | weights.describe(folder)
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        print(f"{key:18}{value if isinstance(value, str) else json.dumps(value)}")


def run_weights_quantize(arguments: argparse.Namespace) -> None:
    """Copy a weights folder and put int8 networks into it, for process.py --precision int8, with the Dice that they cost."""
    from dataclasses import asdict

    from l2s import quantize, weights

    facts = quantize.quantize(
        weights.find(arguments.folder),
        arguments.calibration,
        arguments.out,
        arguments.evaluate,
        arguments.samples,
        (lambda line: None) if arguments.json else print,
    )
    if arguments.json:
        print(json.dumps({"folder": str(arguments.out)} | asdict(facts), indent=2))
        return
    whose = "the calibration's own cases" if facts.accuracy.calibration_cases else "other cases"
    print(f"{arguments.out}: int8 networks; Dice measured on {facts.accuracy.cases} of {whose}")


if __name__ == "__main__":
    sys.exit(main())
