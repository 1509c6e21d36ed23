"""`l2s segment`: one case to a folder with mask, images, record and lesion table."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    segment = commands.add_parser(
        "segment", help="mark and measure the lesions of a PET/CT", description=run_segment.__doc__, allow_abbrev=False
    )
    segment.add_argument(
        "input",
        type=Path,
        help="a folder with images/pet and images/ct, one with SUV.nii.gz and CTres.nii.gz, or a PET file with --ct",
    )
    segment.add_argument("outdir", type=Path, help="folder to make: mask, SUV, CTres, record.json, lesions.csv, lesions.json")
    segment.add_argument("--ct", type=Path, metavar="FILE", help="the CT of a PET file")
    segment.add_argument("--format", choices=("nii.gz", "mha"), default="nii.gz", help="of the mask (default: nii.gz)")
    segment.add_argument("--save-probability", action="store_true", help="also write probability.nii.gz, 0..1 before fusion")
    segment.add_argument("--save-cue", action="store_true", help="also write cue.nii.gz, the localizer's answer, 0..1")
    segment.add_argument("--report", action="store_true", help="also write report.html, one page for people")
    add_count_flags(segment)
    from l2s.challenge import add_run_flags

    add_run_flags(segment)
    segment.add_argument("--verbose", action="store_true", help="say what is being done")
    segment.set_defaults(run=run_segment)


def add_count_flags(parser: argparse.ArgumentParser) -> None:
    """How lesions are counted, for `l2s segment` and `l2s measure`."""
    parser.add_argument(
        "--connectivity", type=int, choices=(6, 18, 26), default=18, help="neighbours that make one lesion (default: 18)"
    )
    parser.add_argument(
        "--min-volume-ml",
        type=float,
        default=0.0,
        metavar="ML",
        help="smaller components count as no lesions; the mask keeps them (default: 0)",
    )


def run_segment(arguments: argparse.Namespace) -> None:
    """Mark the lesions of one PET/CT by L2SNet and measure them. Research use only."""
    from l2s import api, challenge, outdir
    from l2s.io.inputs import read_input
    from l2s.measure import lesion_table
    from l2s.measure.lesions import Settings

    if arguments.verbose:
        logging.getLogger("l2s").setLevel(logging.INFO)
    settings = Settings(arguments.connectivity, arguments.min_volume_ml)
    api.check(arguments, settings)
    outdir.check(arguments.outdir)
    record = challenge.Record()
    plan, model = challenge.load_model(arguments, record)
    with record.stage("read"):
        case = read_input(arguments.input, arguments.ct)
    outdir.check(arguments.outdir, case.files.values())
    result = api.run(arguments, case, record, plan, model, settings)
    files = result.save(arguments.outdir, arguments.format, arguments.save_probability, arguments.save_cue)
    if arguments.report:
        files.append(result.report(arguments.outdir / outdir.REPORT))
    print(lesion_table.as_text(result.measures))
    print(f"{arguments.outdir}: {', '.join(path.name for path in files)}")
