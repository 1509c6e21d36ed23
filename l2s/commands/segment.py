"""`l2s segment`: one case to a folder with mask, images, record and lesion table."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from l2s.commands.dicom_options import add_dicom_options, overrides_from
from l2s.errors import InputError

IMAGE_FORMATS = ("nii.gz", "mha")
DICOM_FORMATS = ("seg", "sr", "rtstruct")


def add(commands: argparse._SubParsersAction) -> None:
    segment = commands.add_parser(
        "segment", help="mark and measure the lesions of a PET/CT", description=run_segment.__doc__, allow_abbrev=False
    )
    segment.add_argument(
        "input",
        type=Path,
        help="a folder with images/pet and images/ct, one with SUV.nii.gz and CTres.nii.gz, a PET file with --ct, or DICOM: a folder, "
        "a zip, a DICOMDIR",
    )
    segment.add_argument("outdir", type=Path, help="folder to make: mask, SUV, CTres, record.json, lesions.csv, lesions.json")
    segment.add_argument("--ct", type=Path, metavar="FILE", help="the CT of a PET file, or of a DICOM PET without CT")
    segment.add_argument(
        "--format",
        default="nii.gz",
        metavar="LIST",
        help="of the mask: nii.gz or mha; of DICOM input also seg, sr, rtstruct, as in nii.gz,seg,sr (default: nii.gz)",
    )
    segment.add_argument(
        "--uid-seed", metavar="TEXT", help="equal seed, series and mask give equal DICOM UIDs (default: new ones)"
    )
    segment.add_argument("--save-probability", action="store_true", help="also write probability.nii.gz, 0..1 before fusion")
    segment.add_argument("--save-cue", action="store_true", help="also write cue.nii.gz, the localizer's answer, 0..1")
    segment.add_argument("--report", action="store_true", help="also write report.html, one page for people")
    add_count_flags(segment)
    from l2s import run

    run.add_flags(segment)
    add_dicom_options(segment)
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


def read_formats(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The formats of --format's comma-separated list.

    Raises:
        InputError: an unknown one, or none.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise InputError(f"--format {text!r}: {wrong[0] if wrong else 'nothing'} is no format; any of {','.join(known)}")
    return names


def run_segment(arguments: argparse.Namespace) -> None:
    """Mark the lesions of one PET/CT by L2SNet and measure them. Research use only."""
    from l2s import api, outdir, run
    from l2s.io import inputs
    from l2s.io.dicom_files import check_apart
    from l2s.measure import lesion_table
    from l2s.measure.lesions import Settings

    if arguments.verbose:
        logging.getLogger("l2s").setLevel(logging.INFO)
    formats = read_formats(arguments.format, (*IMAGE_FORMATS, *DICOM_FORMATS))
    image = [name for name in formats if name in IMAGE_FORMATS] or ["nii.gz"]
    dicom = tuple(name for name in formats if name in DICOM_FORMATS)
    if len(image) > 1:
        raise InputError(f"--format {arguments.format}: one of {' and '.join(IMAGE_FORMATS)} for the mask, not both")
    overrides = overrides_from(arguments)
    settings = Settings(arguments.connectivity, arguments.min_volume_ml)
    api.check(arguments, settings)
    outdir.check(arguments.outdir)
    record = run.Record()
    # the model comes last: it takes the longest to load, and most of what is wrong is wrong with the input
    with record.stage("read"):
        case = inputs.read_input(arguments.input, arguments.ct, arguments.pet_series, arguments.ct_series, overrides)
    outdir.check(arguments.outdir, case.files.values())
    if case.dicom:  # beside a result's images the next reading of the folder would take them, not the DICOM
        check_apart(arguments.outdir, arguments.input)
    elif case.kind == "grand-challenge":
        inputs.check_apart(arguments.outdir, arguments.input)
        if inputs.real(arguments.outdir) == inputs.real(arguments.input):
            raise InputError(f"{arguments.outdir} is the case's own folder, where the mask would be its truth; name another one")
    if dicom:
        api.check_dicom(case, dicom)
    plan, model = run.load_model(arguments, record)
    writing = api.WRITING + api.MAP_WRITING * (arguments.save_probability + arguments.save_cue)
    drawing = run.PAGE_DRAWING if arguments.report else 0.0
    result = api.run_case(arguments, case, record, plan, model, settings, writing, drawing)
    files = result.save(
        arguments.outdir, image[0], arguments.save_probability, arguments.save_cue, dicom, uid_seed=arguments.uid_seed
    )
    if arguments.report:
        with record.stage("report"):
            files.append(result.report(arguments.outdir / outdir.REPORT))
        # once more, as the page comes after the record: a page that fails does not cost the mask
        record.content["files"].append(outdir.REPORT)
        run.warn_over_budget(plan.budget, record)
        record.write(arguments.outdir / outdir.RECORD)
    print(lesion_table.as_text(result.measures))
    print(f"{arguments.outdir}: {', '.join(path.name for path in files)}")
