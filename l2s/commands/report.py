"""`l2s report`: one HTML page of a result, for people."""

from __future__ import annotations

import argparse
import json
import logging
import types
import typing
from dataclasses import is_dataclass
from pathlib import Path

from l2s.errors import InputError

log = logging.getLogger(__name__)


def add(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser(
        "report", help="make one HTML page of a result", description=run_report.__doc__, allow_abbrev=False
    )
    report.add_argument("case", type=Path, nargs="?", help="a result of l2s segment, or a folder of l2s measure --pet --mask")
    report.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the page (default: report.html in the result's folder)"
    )
    report.add_argument("--pet", type=Path, metavar="FILE", help="show this PET (SUV) instead of a result")
    report.add_argument("--mask", type=Path, metavar="FILE", help="the mask on that PET's grid, above 0 is lesion")
    report.add_argument("--ct", type=Path, metavar="FILE", help="the CT of that PET")
    report.add_argument("--baseline", type=Path, metavar="CASE", help="an earlier study's result to compare with")
    report.add_argument("--followup", type=Path, metavar="CASE", help="the later study's result: the same as naming it first")
    report.add_argument(
        "--truth", type=Path, metavar="FILE", help="true mask on the PET's grid: lesions are shown as right, false, missed"
    )
    report.set_defaults(run=run_report)


def run_report(arguments: argparse.Namespace) -> None:
    """Make one self-contained HTML page of a result: pictures, lesion table, viewer. It opens offline. Research use only."""
    from l2s import __version__, outdir
    from l2s.io.cases import read_truth
    from l2s.report.page import write_report

    folder = arguments.case or arguments.followup
    check_words(arguments, folder)
    output = arguments.output or folder / outdir.REPORT
    check(arguments, folder, output)
    case = read_files(arguments) if arguments.pet else read_case(folder)
    baseline = read_case(arguments.baseline) if arguments.baseline else None
    truth = read_truth(arguments.truth, case.study.grid) if arguments.truth else None
    scores = score(truth, case) if truth is not None else None
    output.resolve().parent.mkdir(parents=True, exist_ok=True)
    size = write_report(output, case, f"l2s {__version__}", baseline, truth, scores)
    outdir.list_file(output)
    print(f"{output}: {len(case.table['lesions'])} lesions, {size / 1e6:.1f} MB, opens in a browser without a network")


def check_words(arguments: argparse.Namespace, folder: Path | None) -> None:
    """Raises InputError where flags do not go together."""
    if arguments.case and arguments.followup:
        raise InputError(f"{arguments.case} and --followup {arguments.followup}: both name the study to show; give one of them")
    if (arguments.pet is None) != (arguments.mask is None):
        raise InputError("--pet and --mask go together: give both, or the folder of a result")
    if arguments.ct and not arguments.pet:
        raise InputError(f"--ct {arguments.ct} goes with --pet and --mask; a result has its own CT")
    if arguments.pet is None and folder is None:
        raise InputError(
            "one result is needed: l2s report CASE, l2s report --baseline EARLIER --followup LATER, or --pet FILE --mask FILE"
        )
    if folder is None and arguments.output is None:
        raise InputError("with --pet and --mask the page needs a name: -o FILE.html")
    if arguments.pet and folder:
        raise InputError(f"{folder} and --pet {arguments.pet}: both name the study to show; give one of them")


def check(arguments: argparse.Namespace, folder: Path | None, output: Path) -> None:
    """Raises InputError, before any work, for paths that would end it."""
    from l2s import outdir
    from l2s.io.inputs import check_target

    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"-o {output}: the page is HTML; give a name that ends in .html")
    if output.is_dir():
        raise InputError(f"-o {output} is a folder; name a file")
    if folder and not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one that l2s segment has written")
    if arguments.baseline and folder and arguments.baseline.resolve() == folder.resolve():
        raise InputError(f"--baseline {arguments.baseline} is the study itself; name the earlier one's folder")
    for flag in ("pet", "mask", "ct", "truth"):
        path = getattr(arguments, flag)
        if path and not path.is_file():
            raise InputError(f"--{flag} {path}: no such file")
        if path:
            check_target("-o", output, {f"the file of --{flag}": path})
    outdir.check_writable(output.resolve().parent)


def read_case(folder: Path):
    """A result's folder as the page wants it; its lesions are measured here where it holds no table yet.

    Raises:
        InputError: it is no result, or its table is broken or of another schema.
    """
    from l2s import outdir

    saved, warnings = outdir.read(folder)
    return as_case(saved, warnings, folder)


def read_files(arguments: argparse.Namespace):
    """The same of --pet, --mask and --ct; the lesions are measured here."""
    from dataclasses import replace

    from l2s.commands.measure import read_mask_and_pet
    from l2s.io.images import plain_utf8

    saved, warnings = read_mask_and_pet(arguments)
    files = {flag: plain_utf8(path.name) for flag in ("pet", "ct", "mask") if (path := getattr(arguments, flag))}
    record = {"case": {"name": saved.study.name, "kind": "mask"} | files}  # as l2s measure --pet --mask writes it
    if not arguments.ct:
        warnings = [*warnings, "no --ct: no HU"]
    return as_case(replace(saved, record=record), warnings, None)


def as_case(saved, warnings: list[str], folder: Path | None):
    """What was read, with its table: the folder's where it has one, else measured here."""
    from l2s import __version__, outdir
    from l2s.measure import lesion_table, lesions
    from l2s.report.page import Case

    path = folder / lesion_table.JSON_NAME if folder else None
    if path and path.is_file():
        table = read_table(path)
        # the table was made while these were there
        warnings = [line for line in warnings if outdir.PROBABILITY not in line and outdir.CUE not in line]
    else:
        measures = lesions.measure(saved.study, saved.mask, saved.probability, saved.cue, mask_name=saved.mask_name)
        table = lesion_table.as_dict(measures, f"l2s {__version__}")
    for line in warnings:
        log.warning("%s", line)
    return Case(saved.study, saved.mask, table, saved.record, tuple(warnings))


def read_table(path: Path) -> dict:
    """lesions.json with every field that Patient and Lesion have, each of its kind.

    Raises:
        InputError: it is broken, or of another schema.
    """
    from l2s.measure.lesion_table import SCHEMA_VERSION
    from l2s.measure.lesions import Lesion, Patient

    try:
        table = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
        version, counted = table["schema_version"], table["provenance"]
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {version}, this l2s reads {SCHEMA_VERSION}: run l2s measure on its folder again"
            )
        if counted["connectivity"] not in (6, 18, 26) or not fits(counted["min_voxels"], int):
            raise TypeError(f"connectivity {counted['connectivity']}, min_voxels {counted['min_voxels']}")
        need_fields(table["patient"], Patient, "patient")
        for k, row in enumerate(table["lesions"]):
            need_fields(row, Lesion, f"lesions[{k}]")
            if row["number"] != k + 1:
                raise ValueError(f"lesions[{k}] has number {row['number']}")
        if table["patient"]["lesions"] != len(table["lesions"]):
            raise ValueError(f"{table['patient']['lesions']} lesions in patient, {len(table['lesions'])} rows")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is no table of l2s ({type(error).__name__}: {error}); run l2s measure on its folder again"
        ) from None
    return table


def refuse(constant: str):
    raise ValueError(f"{constant} is no figure")


def need_fields(value, kind: type, where: str) -> None:
    """Raises KeyError or TypeError for the first field of a dataclass that value lacks or that holds another kind of thing."""
    if not isinstance(value, dict):
        raise TypeError(f"{where} is {value!r:.40}")
    for name, hint in typing.get_type_hints(kind).items():
        if name not in value:
            raise KeyError(f"{where}.{name}")
        if not fits(value[name], hint):
            raise TypeError(f"{where}.{name} is {value[name]!r:.40}")


def fits(value, hint) -> bool:
    """Whether a value of JSON can stand for a type: a list for a tuple, a dict for a dataclass. A dataclass inside of a table may lack
    fields, as later versions add some, but holds none of another kind."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis and isinstance(value, list) else list(inner)
        return isinstance(value, list) and len(value) == len(kinds) and all(map(fits, value, kinds))
    if is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return isinstance(value, dict) and all(fits(v, hints[k]) for k, v in value.items() if k in hints)
    return type(value) in ((int, float) if hint is float else (hint,))


def score(truth, case) -> dict[str, float | None]:
    """Figures of the mask against the truth, by autoPET's rules."""
    from l2s.measure.metrics import evaluate_masks

    one = evaluate_masks(truth, case.mask, case.study.grid.voxel_volume_ml)
    return {"Dice": one.dice, "false positive ml": one.fpv_ml, "false negative ml": one.fnv_ml}
