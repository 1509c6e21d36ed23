"""`l2s export`: an existing mask as DICOM objects."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from l2s.commands.dicom_options import add_dicom_options, overrides_from
from l2s.commands.segment import DICOM_FORMATS, add_count_flags, read_formats
from l2s.errors import InputError

log = logging.getLogger(__name__)


def add(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser(
        "export", help="write a mask as DICOM SEG, SR and RTSTRUCT", description=run_export.__doc__, allow_abbrev=False
    )
    export.add_argument("mask", type=Path, help="a mask (.mha, .nii, .nii.gz) on the PET's grid; above 0 is lesion")
    export.add_argument("out", type=Path, help="folder to write seg.dcm, sr.dcm and rtstruct.dcm into")
    export.add_argument(
        "--dicom",
        type=Path,
        required=True,
        metavar="DIR",
        help="the PET's study: a folder of DICOM files, a zip of one, or a DICOMDIR",
    )
    export.add_argument(
        "--format", default=",".join(DICOM_FORMATS), metavar="LIST", help=f"of {','.join(DICOM_FORMATS)} (default: all)"
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
    add_dicom_options(export, ct=False)
    export.set_defaults(run=run_export)


def run_export(arguments: argparse.Namespace) -> None:
    """Lesions of a mask as DICOM objects that refer to the PET series they were found in. Research use only."""
    from l2s import __version__, outdir
    from l2s.commands.evaluate import read_mask
    from l2s.io import dicom
    from l2s.io.dicom_files import check_apart
    from l2s.io.dicom_out import Producer, prepare, write_results
    from l2s.io.sr_out import figures_of, volumes_of
    from l2s.measure import lesions

    if not arguments.mask.exists():
        raise InputError(f"{arguments.mask} does not exist; name a mask (.mha, .nii, .nii.gz)")
    check_apart(arguments.out, arguments.dicom)
    formats = read_formats(arguments.format, DICOM_FORMATS)
    settings = lesions.Settings(arguments.connectivity, arguments.min_volume_ml)
    lesions.check(settings)
    overrides = overrides_from(arguments)
    name, version = arguments.algorithm or ("L2SNet", __version__)
    for value in (name, version):
        if not value or len(value) > 40 or "\\" in value or not value.isascii():
            raise InputError(f"--algorithm {value!r}: 1 to 40 plain characters without a backslash")
    mask, grid = read_mask(arguments.mask)
    source = dicom.read_slices(arguments.dicom, arguments.pet_series, overrides)
    found = match(source, grid)
    for line in source.warnings:
        log.warning("%s", line)
    measures = measure(source.pet, mask, settings) if source.pet else None
    if measures is None:
        log.warning("SUV cannot be computed, so the SR has volumes alone: %s", source.problem)
    min_voxels = lesions.voxels_of(settings.min_volume_ml, grid.voxel_volume_ml)
    findings = prepare(mask, grid, found, Producer(version, name), arguments.uid_seed, settings.connectivity, min_voxels)
    figures = figures_of(measures.lesions, measures.patient) if measures else volumes_of(findings)
    with outdir.staging(arguments.out) as stage:
        lines = write_results(stage, findings, figures, formats, arguments.one_region, arguments.labelmap)
        for name in outdir.DICOM_RESULTS:
            if (stage / name).exists():
                (stage / name).replace(arguments.out / name)
            elif not findings.count:  # of an earlier export: it shows lesions
                (arguments.out / name).unlink(missing_ok=True)
            elif (arguments.out / name).exists():
                log.warning("%s holds %s of an earlier export; it may be of another mask", arguments.out, name)
    for line in lines:
        print(f"{arguments.out}: {line}")


def match(source, grid):
    """The slices in the order of the mask's planes.

    Raises:
        InputError: the mask lies on another grid than the chosen PET series.
    """
    from l2s.io import slices

    # a mask on the very grid that an irregular series was resampled to is that series' own
    own = source.grid.matches(grid, slices.TOLERANCE_VOXELS * min(grid.spacing_mm_zyx))
    try:
        return slices.match(source.headers, grid, slices.IRREGULAR_VOXELS if own else slices.TOLERANCE_VOXELS)
    except InputError as error:
        raise InputError(f"{error}: --pet-series UID names another one, l2s inspect lists them") from None


def measure(pet, mask, settings):
    """The table of a mask's lesions on the PET; without HU."""
    import numpy as np

    from l2s.io.dicom import body_of
    from l2s.measure import lesions
    from l2s.study import Study

    no_ct = np.broadcast_to(np.float32(np.nan), pet.pet_suv.shape)
    return lesions.measure(Study(pet.pet_suv, no_ct, pet.grid, pet.stored, body=body_of(pet.suv)), mask, settings=settings)
