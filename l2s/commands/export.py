"""`l2s export`: an existing mask as DICOM objects."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from l2s.commands.segment import add_count_flags
from l2s.errors import InputError

FORMATS = ("seg", "sr", "rtstruct")


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
    export.add_argument("--format", default=",".join(FORMATS), metavar="LIST", help=f"of {','.join(FORMATS)} (default: all)")
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
    from l2s.io.dicom_out import Producer, prepare
    from l2s.io.sr_out import figures_of, volumes_of
    from l2s.measure import lesions

    formats = read_formats(arguments.format)
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


def read_formats(text: str) -> tuple[str, ...]:
    """The formats of a comma-separated list.

    Raises:
        InputError: an unknown one, or none.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    wrong = [name for name in names if name not in FORMATS]
    if wrong or not names:
        raise InputError(f"--format {text!r}: {wrong[0] if wrong else 'nothing'} is no format; any of {','.join(FORMATS)}")
    return names


def write_results(out: Path, findings, figures, formats, one_region: bool = False, labelmap: bool = False) -> list[str]:
    """Writes seg.dcm, sr.dcm and rtstruct.dcm of the formats asked for, and returns a line on each.

    Where there is no lesion an SR is written whatever was asked for: SEG and RTSTRUCT cannot say so.
    """
    from l2s.io import rtstruct_out, seg_out, sr_out

    lines, segmentation = [], None
    if findings.count == 0 and "sr" not in formats:
        formats = (*formats, "sr")
    if "seg" in formats:
        segmentation = seg_out.write_seg(out / "seg.dcm", findings, seg_out.LABELMAP if labelmap else seg_out.BINARY)
    if "rtstruct" in formats:
        rtstruct_out.write_rtstruct(out / "rtstruct.dcm", findings, one_region)
    if "sr" in formats:
        sr_out.write_sr(out / "sr.dcm", findings, figures, segmentation)
    for name in FORMATS:
        path = out / f"{name}.dcm"
        if name in formats and findings.count == 0 and name != "sr":
            lines.append(f"no {name}.dcm: no lesion, which only the SR can say")
        elif name in formats:
            lines.append(f"{path}: {findings.count} lesions, {figures.tmtv_ml:.2f} ml, {path.stat().st_size} bytes")
    return lines


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
