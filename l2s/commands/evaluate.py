"""`l2s evaluate`: predicted masks against true ones."""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path

from l2s.errors import InputError

DICE_AGREEMENT = 1e-5  # evalutils answers in float32


def add(commands: argparse._SubParsersAction) -> None:
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
    evaluate.add_argument("--roi", metavar="NAME", help="the truth is a DICOM RTSTRUCT; take its region of this name")
    evaluate.set_defaults(run=run_evaluate)


def run_evaluate(arguments: argparse.Namespace) -> None:
    """Dice, false positive and false negative volume (autoPET), lesion detection and surface distances of predicted masks."""
    from tqdm import tqdm

    from l2s.io.inputs import check_target
    from l2s.measure import table
    from l2s.measure.metrics import evaluate_masks
    from l2s.measure.surface import surface_scores
    from l2s.wholefile import write_text

    pairs = pairs_of(arguments)
    kept = {f"{what} of {case}": path for case, *both in pairs for what, path in zip(("the truth", "the prediction"), both)}
    for flag, path in (("--json", arguments.json), ("--csv", arguments.csv)):  # before the work, not after it
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file")
        check_target(flag, path, kept)
        kept[f"the file of {flag}"] = path
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
    scores, surfaces = [], []
    for case, truth_path, prediction_path in tqdm(pairs, disable=None, leave=False):
        prediction, other = read_mask(prediction_path)
        truth, grid = read_region(truth_path, other, arguments.roi) if arguments.roi else read_mask(truth_path)
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
        write_text(arguments.json, table.as_json(rows, summary))
    if arguments.csv:
        write_text(arguments.csv, table.as_csv(rows))
    print(table.as_text(rows, summary))


def pairs_of(arguments: argparse.Namespace) -> list[tuple[str, Path, Path]]:
    """pair(), or the one RTSTRUCT and the one mask that go with --roi."""
    if not arguments.roi:
        return pair(arguments.truth, arguments.prediction)
    from l2s.io.images import stem

    for path in (arguments.truth, arguments.prediction):
        if not path.is_file():
            raise InputError(f"{path} is no file: --roi takes one RTSTRUCT file and one predicted mask")
    return [(stem(arguments.prediction), arguments.truth, arguments.prediction)]


def read_region(path: Path, grid, roi: str):
    """(bool mask (z, y, x) in LPS, grid) of an RTSTRUCT's region on the prediction's grid."""
    from l2s.io.rtstruct import read_rtstruct

    return read_rtstruct(path, grid, roi), grid


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
