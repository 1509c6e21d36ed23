"""`l2s export`: an existing mask as DICOM objects."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from l2s.commands.segment import DICOM_FORMATS, add_count_flags, read_formats
from l2s.errors import InputError


def add(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser(
        "export", help="write a mask as DICOM SEG, SR and RTSTRUCT", description=run_export.__doc__, allow_abbrev=False
    )
    export.add_argument("mask", type=Path, help="a mask (.mha, .nii, .nii.gz) on the PET's grid; above 0 is lesion")
    export.add_argument("out", type=Path, help="folder to write seg.dcm, sr.dcm and rtstruct.dcm into")
    export.add_argument(
        "--dicom", type=Path, required=True, metavar="DIR", help="folder of the PET series (searched with its subfolders)"
    )
    export.add_argument("--series", metavar="UID", help="SeriesInstanceUID of the PET, where several fit the mask")
    export.add_argument(
        "--format", default=",".join(DICOM_FORMATS), metavar="LIST", help=f"of {','.join(DICOM_FORMATS)} (default: all)"
    )
    export.add_argument(
        "--suv",
        type=Path,
        metavar="FILE",
        help="the PET in body-weight SUV on the mask's grid: the SR then has uptake, not volumes alone",
    )
    export.add_argument("--one-region", action="store_true", help="RTSTRUCT: all lesions as one region")
    export.add_argument(
        "--labelmap", action="store_true", help="SEG: as LABELMAP (DICOM of 2024): smaller, fewer readers know it"
    )
    export.add_argument(
        "--algorithm",
        nargs=2,
        metavar=("NAME", "VERSION"),
        help="what made the mask (default: L2SNet and the version of this software); it is written into each object",
    )
    add_count_flags(export)
    export.add_argument("--uid-seed", metavar="TEXT", help="equal seed, series and mask give equal UIDs (default: new UIDs)")
    export.set_defaults(run=run_export)


def run_export(arguments: argparse.Namespace) -> None:
    """Lesions of a mask as DICOM objects that refer to the PET series they were found in. Research use only."""
    from l2s import __version__
    from l2s.commands.evaluate import read_mask
    from l2s.io import slices
    from l2s.io.dicom_out import Producer, prepare, write_results
    from l2s.io.sr_out import figures_of, volumes_of
    from l2s.measure import lesions

    formats = read_formats(arguments.format, DICOM_FORMATS)
    settings = lesions.Settings(arguments.connectivity, arguments.min_volume_ml)
    lesions.check(settings)
    name, version = arguments.algorithm or ("L2SNet", __version__)
    for value in (name, version):
        if not value or len(value) > 40 or "\\" in value or not value.isascii():
            raise InputError(f"--algorithm {value!r}: 1 to 40 plain characters without a backslash")
    mask, grid = read_mask(arguments.mask)
    series = slices.choose_series(slices.read_pet_series(arguments.dicom), grid, arguments.series)
    measures = None
    if arguments.suv:
        measures = lesions.measure(read_suv(arguments.suv, grid, arguments.mask), mask, settings=settings)
    min_voxels = measures.min_voxels if measures else max(1, math.ceil(settings.min_volume_ml / grid.voxel_volume_ml - 1e-6))
    findings = prepare(mask, grid, series, Producer(version, name), arguments.uid_seed, settings.connectivity, min_voxels)
    figures = figures_of(measures.lesions, measures.patient) if measures else volumes_of(findings)
    for line in write_results(arguments.out, findings, figures, formats, arguments.one_region, arguments.labelmap):
        print(line)


def read_suv(path: Path, grid, mask: Path):
    """A Study of a PET in SUV alone, on the mask's grid.

    Raises:
        InputError: it cannot be read, or lies on another grid.
    """
    import numpy as np

    from l2s.io.images import read_image
    from l2s.study import Study

    suv, suv_grid, _, _ = read_image(path)
    if not suv_grid.matches(grid):
        raise InputError(f"{path}: its grid is not that of {mask}; give the SUV image that the mask was made on")
    return Study(suv, np.broadcast_to(np.float32(np.nan), suv.shape), grid)
