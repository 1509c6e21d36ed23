"""`l2s convert`: a DICOM study as SUV and HU images."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import tempfile
from pathlib import Path

from l2s.commands.dicom_options import add_dicom_options, overrides_from
from l2s.errors import InputError

LAYOUTS = ("autopet", "grand-challenge")
RECORD = "conversion.json"
SUL_KINDS = {"janmahasatian": "sul", "james": "sul-james"}

log = logging.getLogger(__name__)


def add(commands: argparse._SubParsersAction) -> None:
    convert = commands.add_parser(
        "convert", help="DICOM to NIfTI or MHA in SUV and HU", description=run_convert.__doc__, allow_abbrev=False
    )
    convert.add_argument("input", type=Path, help="a folder of DICOM files, a zip of one, or a DICOMDIR")
    convert.add_argument("outdir", type=Path, help="folder to write into; made if need be")
    convert.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="autopet",
        help="autopet: SUV, CTres and CT.nii.gz; grand-challenge: images/{pet,ct}/NAME.mha (default: autopet)",
    )
    convert.add_argument("--name", help="of the case in the grand-challenge layout (default: a pseudonym)")
    convert.add_argument(
        "--sul",
        nargs="?",
        choices=tuple(SUL_KINDS),
        const="janmahasatian",
        help="also write SUL, by lean body mass (default: janmahasatian)",
    )
    convert.add_argument("--suv-bsa", action="store_true", help="also write SUV by body surface, in cm2/ml")
    add_dicom_options(convert)
    convert.set_defaults(run=run_convert)


def run_convert(arguments: argparse.Namespace) -> None:
    """PET in body-weight SUV and CT in HU from a DICOM study, with a record of how they came about."""
    name = arguments.name
    if name is not None and (Path(name).name != name or name.startswith(".")):
        raise InputError(f"--name {name}: a plain name, without folders, that does not begin with a dot")
    overrides = overrides_from(arguments)
    if arguments.outdir.exists() and not arguments.outdir.is_dir():
        raise InputError(f"{arguments.outdir} is a file; name a folder to write into")
    from l2s.io.dicom import read_dicom

    case = read_dicom(arguments.input, arguments.pet_series, arguments.ct_series, overrides, name=name)
    for line in case.warnings:
        log.warning("%s", line)
    written = write_case(case, arguments.outdir, arguments.layout, SUL_KINDS.get(arguments.sul), arguments.suv_bsa)
    print(f"{arguments.outdir}: {', '.join(written)}; SUV factor {case.suv.factor:.9g}, SUVmax {case.study.pet_suv.max():.3f}")


def write_case(case, outdir: Path, layout: str, sul: str | None, bsa: bool) -> list[str]:
    """Writes the images and the record; returns the files' names below outdir.

    All is written and read back in a hidden folder beside its place first, so that a failure leaves what was there. The record comes
    last: where it lies, the images beside it are whole and its own.

    Args:
        case: a DicomCase.
        sul: 'sul', 'sul-james' or None.
    """
    from l2s.io.images import write_image
    from l2s.io.suv import per_suvbw

    study = case.study
    pet, ct = ("SUV.nii.gz", "CTres.nii.gz") if layout == "autopet" else (f"images/{k}/{study.name}.mha" for k in ("pet", "ct"))
    images = {pet: (study.pet_suv, study.stored), ct: (study.ct_hu, study.stored)}
    if layout == "autopet":
        images["CT.nii.gz"] = (case.ct_hu, case.ct_stored)
    extra = {}
    for kind, label in ((sul, "SUL"), ("bsa" if bsa else None, "SUVbsa")):
        if kind is not None:
            factor = per_suvbw(case.suv, kind)
            place = f"{label}.nii.gz" if layout == "autopet" else f"images/{label.lower()}/{study.name}.mha"
            images[place] = (study.pet_suv * factor, study.stored)
            extra[place] = {"kind": kind, "suvbw_times": factor}
    try:
        made = not outdir.exists()
        outdir.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".convert-", dir=outdir))
        try:
            for place, (array, stored) in images.items():
                write_image(partial / place, array, stored)
            (partial / RECORD).write_text(json.dumps(conversion(case, layout, pet, ct, extra), indent=2) + "\n")
            (outdir / RECORD).unlink(missing_ok=True)
            for place in (*images, RECORD):
                (outdir / place).parent.mkdir(parents=True, exist_ok=True)
                (partial / place).replace(outdir / place)
            made = False
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if made:
                outdir.rmdir()
    except OSError as error:
        raise InputError(
            f"{outdir} cannot be written ({error.strerror or error}); check the folder's rights and its space"
        ) from error
    return [*images, RECORD]


def conversion(case, layout: str, pet: str, ct: str, extra: dict) -> dict:
    """The sidecar: enough to check every SUV by hand, and nothing that names a patient (see l2s.io.dicom.record)."""
    from importlib.metadata import version

    from l2s import __version__
    from l2s.io.dicom import record

    return {
        "tool": f"l2s {__version__}",
        "use": "research use only",
        "versions": {name: version(name) for name in ("pydicom", "SimpleITK", "nibabel", "numpy")},
        "layout": layout,
        "files": {pet: "SUVbw in g/ml", ct: "HU on the PET's grid, linear, -1024 outside"}
        | ({"CT.nii.gz": "HU as scanned, -1024 at least"} if layout == "autopet" else {})
        | {place: f"{what['kind']}: SUVbw x {what['suvbw_times']:.9g}" for place, what in extra.items()},
        **record(case),
    }
