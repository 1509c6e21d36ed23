"""`l2s weights`: verify, list, quantize."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from l2s.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    weights = commands.add_parser("weights", help="verify or list a weights folder, or make int8 networks of it")
    actions = weights.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, run in (("verify", run_weights_verify), ("list", run_weights_list)):
        action = actions.add_parser(name, help=run.__doc__.splitlines()[0], description=run.__doc__, allow_abbrev=False)
        action.add_argument("folder", nargs="?", help="default: $L2S_WEIGHTS, /opt/ml/model, or the weights that came with l2s")
        action.add_argument("--json", action="store_true", help="print JSON")
        action.set_defaults(run=run)
    add_quantize(actions)


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
        help="cases to take the ranges of values from: CASE/images/{ct,pet}/*.mha, or CASE/ with SUV or PET and CTres or CT "
        "(.mha, .nii, .nii.gz); beside them truth, GTV, seg or mask where there is one",
    )
    quantize.add_argument(
        "--evaluate", type=Path, metavar="DIR", help="other cases, to measure the loss of Dice on (default: the calibration's)"
    )
    quantize.add_argument("--out", type=Path, required=True, help="folder to make: the weights with the int8 networks in it")
    quantize.add_argument("--samples", type=int, default=48, metavar="N", help="the most inputs a network is shown (default 48)")
    quantize.add_argument("--json", action="store_true", help="print JSON")
    quantize.set_defaults(run=run_weights_quantize)


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

    for cases in (arguments.calibration, arguments.evaluate):
        if cases:
            check_truths(cases)
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


def check_truths(cases: Path) -> None:
    """Raises InputError where a case's truth is the mask of a result of ours: the networks would agree with themselves."""
    from l2s import outdir
    from l2s.io.cases import find_cases

    for case in find_cases(cases):
        if case.truth and case.truth.name in outdir.MASKS and outdir.is_ours(case.truth.parent):
            raise InputError(
                f"{case.truth} is the mask of a result of l2s, no truth; put the true one beside it as truth.nii.gz, or leave "
                f"{case.name} out"
            )
