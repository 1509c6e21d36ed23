"""`l2s export`: an existing mask as DICOM objects."""

from __future__ import annotations

import argparse
from pathlib import Path

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
    export.add_argument("--uid-seed", metavar="TEXT", help="equal seed, series and mask give equal UIDs (default: new UIDs)")
    export.set_defaults(run=run_export)


def run_export(arguments: argparse.Namespace) -> None:
    """Lesions of a mask as DICOM objects that refer to the PET series they were found in. Research use only."""
    import numpy as np

    from l2s import __version__
    from l2s.commands.evaluate import read_mask
    from l2s.io import slices
    from l2s.io.dicom_out import Producer, prepare
    from l2s.io.sr_out import volumes_of

    formats = read_formats(arguments.format)
    mask, grid = read_mask(arguments.mask)
    series = slices.choose_series(slices.read_pet_series(arguments.dicom), grid, arguments.series)
    name, version = arguments.algorithm or ("L2SNet", __version__)
    for value in (name, version):
        if not value or len(value) > 40 or "\\" in value or not value.isascii():
            raise InputError(f"--algorithm {value!r}: 1 to 40 plain characters without a backslash")
    findings = prepare(mask, grid, series, Producer(version, name), arguments.uid_seed)
    figures = volumes_of(findings)
    if arguments.suv:
        suv, suv_grid = read_suv(arguments.suv)
        if not suv_grid.matches(grid):
            raise InputError(
                f"{arguments.suv}: its grid is not that of {arguments.mask}; give the SUV image that the mask was made on"
            )
        figures = with_uptake(figures, findings.labels, np.asarray(series.as_stored(suv)))
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


def read_suv(path: Path):
    """(float32 (z, y, x), its Grid) of a PET in SUV."""
    from l2s.io.images import read_image

    array, grid, _, _ = read_image(path)
    return array, grid


def with_uptake(figures, labels, suv):
    """Adds SUVmax, SUVmean and TLG of each lesion and of all; labels and suv are of equal shape."""
    import dataclasses

    import numpy as np
    from scipy import ndimage

    numbers = [row.number for row in figures.lesions]
    if not numbers:
        return dataclasses.replace(figures, tlg_g=0.0)
    highest = ndimage.maximum(suv, labels, numbers)
    mean = ndimage.mean(suv.astype(np.float64), labels, numbers)
    rows = tuple(
        dataclasses.replace(row, suv_max=float(top), suv_mean=float(middle), tlg_g=float(middle) * row.volume_ml)
        for row, top, middle in zip(figures.lesions, highest, mean)
    )
    return dataclasses.replace(
        figures, lesions=rows, tlg_g=sum(row.tlg_g for row in rows), suv_max=max(row.suv_max for row in rows)
    )
