"""`l2s convert`: a DICOM study as SUV and HU images."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from l2s.commands.dicom_options import add_dicom_options, overrides_from
from l2s.errors import InputError

LAYOUTS = ("autopet", "grand-challenge")
RECORD = "conversion.json"
SUL_KINDS = {"janmahasatian": "sul", "james": "sul-james"}
# what run_convert writes: a record says nothing else that we would remove
OURS = re.compile(r"(SUV|CTres|CT|SUL|SUVbsa)\.nii\.gz|images/(pet|ct|sul|suvbsa)/[^/]+\.mha")

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
    convert.add_argument("--pet-only", action="store_true", help="where there is no CT: write the SUV alone")
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
    if name is not None and (not name or Path(name).name != name or name.startswith(".")):
        raise InputError(f"--name {name}: a plain name, without folders, that does not begin with a dot")
    overrides = overrides_from(arguments)
    if arguments.outdir.exists() and not arguments.outdir.is_dir():
        raise InputError(f"{arguments.outdir} is a file; name a folder to write into")
    from l2s.io.dicom_files import check_apart

    check_apart(arguments.outdir, arguments.input)
    check_free(arguments.outdir, arguments.layout)
    from importlib.metadata import version

    import numpy as np

    from l2s import __version__
    from l2s.io.dicom import pseudonym, read_dicom, read_pet, record
    from l2s.io.suv import per_suvbw

    if arguments.pet_only:
        if arguments.ct_series:
            raise InputError("--pet-only and --ct-series contradict each other; leave one out")
        case = read_pet(arguments.input, arguments.pet_series, overrides)
        pet, stored, name = case.pet_suv, case.stored, name or pseudonym(case.series.uid)
    else:
        case = read_dicom(arguments.input, arguments.pet_series, arguments.ct_series, overrides, name=name)
        pet, stored, name = case.study.pet_suv, case.study.stored, case.study.name
    for line in case.warnings:
        log.warning("%s", line)
    files = {place(arguments.layout, "SUV", "pet", name): (pet, stored, "SUVbw in g/ml")}
    if not arguments.pet_only:
        label = "HU on the PET's grid, linear, -1024 outside"
        files[place(arguments.layout, "CTres", "ct", name)] = (case.study.ct_hu, stored, label)
        if arguments.layout == "autopet":
            files["CT.nii.gz"] = (case.ct_hu, case.ct_stored, "HU as scanned, -1024 at least")
    for kind, label, unit in wanted(arguments):
        factor = per_suvbw(case.suv, kind)
        files[place(arguments.layout, label, label.lower(), name)] = (
            pet * np.float32(factor),
            stored,
            f"{unit}: SUVbw x {factor:.9g}",
        )
    content = {
        "tool": f"l2s {__version__}",
        "use": "research use only",
        "versions": {package: version(package) for package in ("pydicom", "SimpleITK", "nibabel", "numpy")},
        "layout": arguments.layout,
        "files": {path: meaning for path, (_, _, meaning) in files.items()},
        **record(case),
    }
    write_all(arguments.outdir, {path: (array, grid) for path, (array, grid, _) in files.items()}, content)
    print(f"{arguments.outdir}: {', '.join([*files, RECORD])}; SUV factor {case.suv.factor:.9g}, SUVmax {pet.max():.3f}")


def place(layout: str, label: str, socket: str, name: str) -> str:
    """An image's path below the output folder."""
    return f"{label}.nii.gz" if layout == "autopet" else f"images/{socket}/{name}.mha"


def wanted(arguments: argparse.Namespace) -> list[tuple[str, str, str]]:
    """(kind for per_suvbw, file's label, unit) of each further SUV that was asked for."""
    kinds = []
    if arguments.sul:
        kinds.append((SUL_KINDS[arguments.sul], "SUL", f"SUL in g/ml (lean body mass by {arguments.sul.capitalize()})"))
    if arguments.suv_bsa:
        kinds.append(("bsa", "SUVbsa", "SUVbsa in cm2/ml (body surface by Du Bois)"))
    return kinds


def files_of(outdir: Path) -> list[str] | None:
    """What the record of an earlier conversion says that it wrote; None where there is no such record.

    Of a conversion that was cut off among its renames, the record lies in its hidden folder still.
    """
    from l2s.outdir import STAGING

    places = [outdir / RECORD, *outdir.glob(f"{STAGING}*/{RECORD}")]
    try:
        record = json.loads(next((p for p in places if p.is_file()), places[0]).read_text(encoding="utf-8"))
        return [path for path in record["files"] if OURS.fullmatch(path)] if record["tool"].startswith("l2s ") else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def check_free(outdir: Path, layout: str) -> None:
    """Raises InputError where outdir holds images that we may not replace, and that `l2s segment` would take for this case's."""
    from l2s.io.inputs import holds_images

    former = files_of(outdir)
    if former is None and outdir.is_dir() and holds_images(outdir):
        raise InputError(f"{outdir} holds images but no {RECORD} of l2s: l2s convert did not write them; name another folder")
    if former and any(path.startswith("images/") for path in former) != (layout == "grand-challenge"):
        raise InputError(f"{outdir} holds a conversion in another layout than {layout}; name another folder")


def stale(outdir: Path, written: Iterable[str]) -> list[str]:
    """Files of an earlier conversion that would lie beside those written now as if they were one case's.

    Images of other names in the grand-challenge layout stay: nothing pairs them with ours.
    """
    names = {Path(path).name for path in written}
    former = [path for path in files_of(outdir) or () if path not in written]
    return [path for path in former if not path.startswith("images/") or Path(path).name in names]


def write_all(outdir: Path, images: dict, content: dict) -> None:
    """Writes images and record, all or nothing, in the place of an earlier conversion's.

    All is written and read back in a hidden folder beside its place first, so that a failure leaves what was there. The record comes
    last: where it lies, the images beside it are whole and its own.

    Args:
        images: (LPS array, the grid to write it on) by path below outdir.
        content: of the record.
    """
    from l2s.io.images import write_image
    from l2s.outdir import STAGING, staging

    try:
        former = stale(outdir, images)
        with staging(outdir, RECORD) as partial:
            for path, (array, grid) in images.items():
                write_image(partial / path, array, grid)
            (partial / RECORD).write_text(json.dumps(content, indent=2) + "\n")
            (outdir / RECORD).unlink(missing_ok=True)
            for path in former:
                (outdir / path).unlink(missing_ok=True)
            for path in (*images, RECORD):
                (outdir / path).parent.mkdir(parents=True, exist_ok=True)
                (partial / path).replace(outdir / path)
            for other in outdir.glob(f"{STAGING}*"):
                shutil.rmtree(other, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{outdir} cannot be written ({error.strerror or error}); check the folder's rights and its space"
        ) from error
