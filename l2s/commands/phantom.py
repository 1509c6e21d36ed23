"""`l2s phantom`: synthetic cases with their truth."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from l2s.errors import InputError

SPACING_LIMITS_MM = (0.5, 20.0)
MIN_VOXELS_AN_AXIS = 8  # what read_image accepts
MAX_PHANTOM_VOXELS = 2**28  # 1 GiB an image; whole-body PET has a fifth of it


def add(commands: argparse._SubParsersAction) -> None:
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
