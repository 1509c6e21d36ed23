"""`l2s report`: one HTML page of a result, for people."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from l2s.errors import InputError

log = logging.getLogger(__name__)


def add(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser(
        "report", help="make one HTML page of a result", description=run_report.__doc__, allow_abbrev=False
    )
    report.add_argument("case", type=Path, nargs="?", help="a result of l2s segment")
    report.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the page (default: report.html in the result's folder)"
    )
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

    if (arguments.case is None) == (arguments.followup is None):
        raise InputError("one result is needed: l2s report CASE, or l2s report --baseline EARLIER --followup LATER")
    folder = arguments.case or arguments.followup
    output = arguments.output or folder / outdir.REPORT
    check(arguments, folder, output)
    case = read_case(folder)
    baseline = read_case(arguments.baseline) if arguments.baseline else None
    truth = read_truth(arguments.truth, case.study.grid) if arguments.truth else None
    scores = score(truth, case) if truth is not None else None
    output.resolve().parent.mkdir(parents=True, exist_ok=True)
    size = write_report(output, case, f"l2s {__version__}", baseline, truth, scores)
    print(f"{output}: {len(case.table['lesions'])} lesions, {size / 1e6:.1f} MB, opens in a browser without a network")


def check(arguments: argparse.Namespace, folder: Path, output: Path) -> None:
    """Raises InputError, before any work, for paths that would end it."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"-o {output}: the page is HTML; give a name that ends in .html")
    if output.is_dir():
        raise InputError(f"-o {output} is a folder; name a file")
    if arguments.baseline and arguments.baseline.resolve() == folder.resolve():
        raise InputError(f"--baseline {arguments.baseline} is the study itself; name the earlier one's folder")
    if arguments.truth and not arguments.truth.is_file():
        raise InputError(f"--truth {arguments.truth}: no such file")


def read_case(folder: Path):
    """A result's folder as the page wants it; its lesions are measured here where it holds no table yet.

    Raises:
        InputError: it is no result, or its table is broken or of another schema.
    """
    from l2s import __version__, outdir
    from l2s.measure import lesion_table, lesions
    from l2s.report.page import Case

    saved, warnings = outdir.read(folder)
    for line in warnings:
        log.warning("%s", line)
    path = folder / lesion_table.JSON_NAME
    if not path.is_file():
        measures = lesions.measure(saved.study, saved.mask, saved.probability, saved.cue, mask_name=saved.mask_name)
        return Case(saved.study, saved.mask, lesion_table.as_dict(measures, f"l2s {__version__}"), saved.record)
    return Case(saved.study, saved.mask, read_table(path, lesion_table.SCHEMA_VERSION), saved.record)


def read_table(path: Path, schema: int) -> dict:
    """lesions.json.

    Raises:
        InputError: it is broken, or of another schema.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        version, counted = table["schema_version"], table["provenance"]
        if version != schema:
            raise InputError(f"{path} has schema version {version}, this l2s reads {schema}: run l2s measure on its folder again")
        whole = [table["patient"]["lesions"], counted["min_voxels"], *(row["voxels"] for row in table["lesions"])]
        if counted["connectivity"] not in (6, 18, 26) or not all(isinstance(n, int) for n in whole):
            raise TypeError(f"connectivity {counted['connectivity']}, voxels {whole[:4]}")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is no table of l2s ({type(error).__name__}: {error}); run l2s measure on its folder again"
        ) from None
    return table


def score(truth, case) -> dict[str, float | None]:
    """Figures of the mask against the truth, by autoPET's rules."""
    from l2s.measure.metrics import evaluate_masks

    one = evaluate_masks(truth, case.mask, case.study.grid.voxel_volume_ml)
    return {"Dice": one.dice, "false positive ml": one.fpv_ml, "false negative ml": one.fnv_ml}
