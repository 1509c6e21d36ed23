"""grand-challenge's adapter: one case from /input to /output, with a record of all that happened. process.py calls main."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from pathlib import Path

from l2s import __version__, run, sockets
from l2s.errors import InputError
from l2s.wholefile import write_text

log = logging.getLogger("l2s")

RECORD = "l2s-record.json"
PREVIEW = "l2s-preview.png"
REPORT = "l2s-report.html"
MODEL_FLAG_FILE = "data-centric-model.json"  # autoPET III asks whether the model is its data-centric baseline: it is not


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="process.py", description="Lesions in one whole-body FDG PET/CT, by L2SNet. Research use only.", allow_abbrev=False
    )
    p.add_argument("--input", type=Path, default=Path("/input"), help="folder with images/pet and images/ct (default: /input)")
    p.add_argument("--output", type=Path, default=Path("/output"), help="folder for the mask and the record (default: /output)")
    p.add_argument("--edition", choices=sockets.EDITIONS, default="auto", help="whose folder names to write (default: auto)")
    run.add_flags(p)
    p.add_argument(
        "--on-error",
        choices=("fail", "empty"),
        default="fail",
        help="empty: write an empty mask and exit 0 where the PET's geometry can be read, else exit 2 (for challenges)",
    )
    p.add_argument(
        "--preview", nargs="?", type=Path, const=Path(PREVIEW), help=f"also write a PNG (default: {PREVIEW} in --output)"
    )
    p.add_argument(
        "--report", nargs="?", type=Path, const=Path(REPORT), help=f"also write an HTML page (default: {REPORT} in --output)"
    )
    p.add_argument("--verbose", action="store_true", help="log more")
    p.add_argument("--version", action="version", version=f"l2s {__version__}")
    return p


def find_case(find, args: argparse.Namespace) -> tuple[sockets.Sockets, Path]:
    """What find (sockets.find or sockets.rescue) sees under --input, and the mask's path.

    Raises:
        InputError: also where the container's user may not look into a mounted folder.
    """
    try:
        case = find(args.input, args.edition)
    except PermissionError as error:
        raise InputError(
            f"{error.filename} cannot be read ({error.strerror}); make folders and files readable for all"
        ) from error
    return case, sockets.check_output(args.output, case)


def count_clicks(case: sockets.Sockets, record: run.Record) -> int:
    """Lesion clicks of the case. L2SNet does not use them, so a broken file is a warning and no reason to fail the case."""
    if case.clicks_file is None:
        return 0
    try:
        clicks = len(sockets.read_clicks(case.clicks_file))
    except InputError as error:
        record.warn([f"{error}; the clicks are passed over"])
        return 0
    log.info("%d lesion clicks noted; L2SNet does not use them", clicks)
    return clicks


def check_flags(args: argparse.Namespace) -> None:
    """Raises InputError for flags that would end the run after the work instead of before it."""
    from l2s.io.inputs import check_target, real

    run.check_flags(args)
    if args.preview is None and args.report is None:
        return
    kept = {"the record": args.output / RECORD, "edition III's model flag": args.output / MODEL_FLAG_FILE}
    kept |= {f"the input's {name}": args.input / name for name in (sockets.CLICKS_FILE, sockets.INPUTS_FILE)}
    for relative in sockets.SOCKET_PATHS.values():
        for place, _, names in os.walk(args.input / relative):  # passes over what may not be seen
            kept |= {f"the case's {relative}/{name}": Path(place, name) for name in names}
    folders = (args.output / "images", args.input / "images", *(args.input / one for one in sockets.SOCKET_PATHS.values()))
    for flag, path in (("--preview", args.preview), ("--report", args.report)):
        if path is None:
            continue
        target = args.output / path
        if target.parent != args.output and not target.parent.is_dir():
            raise InputError(f"{flag} {path}: {target.parent} is no folder; make it or name another")
        if target.is_dir():
            raise InputError(f"{flag} {path} is a folder; name a file")
        check_target(flag, target, kept)
        for folder in folders:  # a file beside PET, CT or mask is one too many
            if real(folder) in real(target).parents:
                raise InputError(f"{flag} {path} lies in {folder}, where images alone may be; name another place")
        kept[f"the file of {flag}"] = target


def read_case(args: argparse.Namespace, record: run.Record):
    """(sockets, study, the mask's path): everything about the input that can be wrong is found here, before any network runs."""
    from l2s.io.images import plain_utf8
    from l2s.io.studies import read_study

    case, target = find_case(sockets.find, args)
    record.content["case"] = {
        "name": case.name,
        "pet": plain_utf8(case.pet.name),
        "ct": plain_utf8(case.ct.name),
        "edition": case.edition,
        "clicks": count_clicks(case, record),
        "mask": case.mask_name,
    }
    log.info("case %s: PET %s, CT %s, edition %s", case.name, case.pet.name, case.ct.name, case.edition)
    with record.stage("read"):
        study, warnings = read_study(case.pet, case.ct, case.name)
    record.warn(warnings)
    record.content["geometry"] = asdict(study.stored)
    return case, study, target


def run_case(args: argparse.Namespace, record: run.Record, plan, model) -> None:
    """Reads the case, segments it, writes the mask and what the edition wants beside it."""
    from l2s import pipeline

    # a daemon: a signal that ends the run while the case is read does not wait for a GPU
    aside = threading.Thread(target=pipeline.warm_up, args=(model, plan), daemon=True)
    if plan.kind == "cuda":
        aside.start()
    try:
        case, study, target = read_case(args, record)
    except Exception:
        if plan.kind == "cuda":
            aside.join()  # torch may not be left at work when Python ends
        raise
    if plan.kind == "cuda":
        with record.stage("warm up"):
            aside.join()
    drawing = (run.PREVIEW_DRAWING if args.preview else 0.0) + (run.PAGE_DRAWING if args.report else 0.0)
    result = run.segment(args, record, plan, model, study, drawing=drawing)
    mask = result.mask
    if not args.report:  # nothing else reads its maps, which are 1.2 GB of a total-body scan
        del result
    with record.stage("write"):
        write_result(args, record, case, study, mask, target)
    run.warn_over_budget(plan.budget, record)
    if args.report:  # last: the page repeats the record's warnings
        with record.stage("report"):
            write_page(args, record, study, result)
        run.warn_over_budget(plan.budget, record)


def write_result(args: argparse.Namespace, record: run.Record, case: sockets.Sockets, study, mask, target: Path) -> None:
    """The mask with what belongs to it, the preview, and the mask's figures in the record."""
    from l2s.measure.metrics import overlap

    lesions = len(overlap(mask, mask).truth_voxels)
    volume_ml = float(mask.sum()) * study.grid.voxel_volume_ml
    write_answer(args, record, case, target, mask, study.stored, {"lesions": lesions, "volume_ml": round(volume_ml, 3)})
    log.info("mask: %d lesions, %.1f ml, in %s", lesions, volume_ml, target)
    if args.preview:
        from l2s.report.mip import preview

        path = args.output / args.preview
        preview(study, mask, path)
        record.content["files"].append(str(args.preview))
        log.info("preview: %s", path)


def write_answer(
    args: argparse.Namespace, record: run.Record, case: sockets.Sockets, target: Path, mask, stored, result: dict
) -> None:
    """The mask with its figures in the record, and what the edition wants beside it."""
    from l2s.io.images import write_mask

    write_mask(target, mask, stored)
    record.content["result"] = result  # at once: settle goes by it, whatever fails from here on
    record.content["files"].append(case.mask_name)
    if case.edition == "autopet3":
        write_text(args.output / MODEL_FLAG_FILE, "false\n")
        record.content["files"].append(MODEL_FLAG_FILE)


def write_page(args: argparse.Namespace, record: run.Record, study, result) -> None:
    """The HTML page, with the lesion table that it shows."""
    from l2s.measure import lesion_table, lesions
    from l2s.report.page import Case, write_report

    path, tool = args.output / args.report, f"l2s {__version__}"
    measures = lesions.measure(study, result.mask, result.probability, result.cue)
    write_report(path, Case(study, result.mask, lesion_table.as_dict(measures, tool), record.content), tool)
    record.content["files"].append(str(args.report))
    log.info("report: %s", path)


def write_empty(args: argparse.Namespace, record: run.Record) -> None:
    """An empty mask of the PET's geometry, for challenges that would rather count an empty answer than none.

    Raises:
        InputError: not even the PET's geometry can be read.
    """
    import numpy as np

    from l2s.io.images import read_grid
    from l2s.study import to_lps

    case, target = find_case(sockets.rescue, args)
    stored = read_grid(case.pet)
    empty, _ = to_lps(np.zeros(stored.shape_zyx, bool), stored)
    figures = {"lesions": 0, "volume_ml": 0.0, "empty_because_of_error": True}
    write_answer(args, record, case, target, empty, stored, figures)
    log.warning("--on-error empty: an EMPTY mask was written to %s", target)


def stopped(number: int, frame) -> None:
    """SIGTERM (docker stop, a platform's time limit) unwinds the run, so that partial files go and the record is written."""
    raise SystemExit(128 + number)


def settle(args: argparse.Namespace, record: run.Record, error: Exception) -> None:
    """With --on-error empty a challenge wants an answer whatever went wrong; the record and the log keep the cause."""
    log.error("%s", error if isinstance(error, InputError) else traceback.format_exc())
    if "result" in record.content:
        log.warning("--on-error empty: the mask had been written before the error and is kept")
    else:
        write_empty(args, record)


def main(argv: list[str] | None = None) -> int:
    """Runs one case; returns the exit code: 0 done, 2 bad input. Anything else that goes wrong keeps its traceback."""
    from l2s.io.inputs import check_apart

    args = parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    try:
        check_apart(args.output, args.input)
    except InputError as error:  # before there is a record, which would lie among the input
        print(f"error: {error}", file=sys.stderr)
        return 2
    record = run.Record()
    code = 0
    before = signal.signal(signal.SIGTERM, stopped)
    try:
        check_flags(args)  # a mistyped flag is no case for an empty mask
        plan, model = run.load_model(args, record)
        try:
            run_case(args, record, plan, model)
        except Exception as error:
            record.content["error"] = f"{type(error).__name__}: {error}"
            if args.on_error == "fail":
                raise
            settle(args, record, error)
    except InputError as error:
        record.content["error"] = str(error)
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except (SystemExit, KeyboardInterrupt):
        record.content["error"] = "stopped from outside before the end"
        raise
    finally:
        try:
            record.write(args.output / RECORD)
        except OSError as problem:
            log.error("no record: %s", problem)
        signal.signal(signal.SIGTERM, before)
    return code
