"""grand-challenge's adapter: one case from /input to /output, with a record of all that happened. process.py calls main."""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import resource
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path

from l2s import __version__, sockets
from l2s.errors import InputError

log = logging.getLogger("l2s")

RECORD = "l2s-record.json"
PREVIEW = "l2s-preview.png"
LEAST_WRITING_S = 1.0  # reading may be quicker than writing, from files that lie in memory
# times preparing, which takes the same processor through the same voxels: phantoms of 2 to 52 million voxels and a real PET/CT, on two
# cores of an AMD EPYC, needed up to 0.6 for the preview and up to 4.3 for a page of 300 lesions. One of 950 needed 8 and may be late
PREVIEW_DRAWING, PAGE_DRAWING = 1.0, 5.0
REPORT = "l2s-report.html"
MODEL_FLAG_FILE = "data-centric-model.json"  # autoPET III asks whether the model is its data-centric baseline: it is not


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="process.py", description="Lesions in one whole-body FDG PET/CT, by L2SNet. Research use only.", allow_abbrev=False
    )
    p.add_argument("--input", type=Path, default=Path("/input"), help="folder with images/pet and images/ct (default: /input)")
    p.add_argument("--output", type=Path, default=Path("/output"), help="folder for the mask and the record (default: /output)")
    p.add_argument("--edition", choices=sockets.EDITIONS, default="auto", help="whose folder names to write (default: auto)")
    add_run_flags(p)
    p.add_argument(
        "--on-error", choices=("fail", "empty"), default="fail", help="empty: write an empty mask and exit 0 (for challenges)"
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


def add_run_flags(p: argparse.ArgumentParser) -> None:
    """The flags that say with what and how a study is segmented; process.py and `l2s segment` share them."""
    p.add_argument("--weights", help="weights folder (default: $L2S_WEIGHTS, /opt/ml/model, the bundled one)")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    p.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
        default="auto",
        help="of the networks (default: auto: fp32 on a CPU, 16 bits on a GPU; int8 only where --time-budget needs it)",
    )
    p.add_argument("--max-ram", metavar="SIZE", help="peak memory of the process, such as 4G: smaller tiles, one fold at a time")
    p.add_argument("--max-vram", metavar="SIZE", help="peak memory of the GPU, such as 6G")
    p.add_argument(
        "--time-budget",
        type=float,
        metavar="SECONDS",
        help="of the whole run: the base answer always, then folds and mirrors while they fit",
    )
    p.add_argument("--mirror", metavar="AXES", help="average mirrored copies along these axes, such as x or xyz (default: none)")
    p.add_argument("--fusion", choices=("voxelwise", "componentwise", "none"), help="default: what the weights' manifest says")
    p.add_argument("--windows", choices=("tiles", "gaussian"), help="default: what the weights' manifest says")
    p.add_argument(
        "--spacing-mm", nargs=3, type=float, metavar=("Z", "Y", "X"), help="working spacing other than the weights' own"
    )


def run_defaults() -> argparse.Namespace:
    """The flags of add_run_flags as they are when none is given, for callers without a command line."""
    p = argparse.ArgumentParser(add_help=False)
    add_run_flags(p)
    return p.parse_args([])


class Record:
    """What a run leaves in l2s-record.json: filled as the run goes on, written at its end whatever happens."""

    def __init__(self):
        self.started = time.perf_counter()
        self.content: dict = {
            "tool": f"l2s {__version__}",
            "use": "research use only",
            "made": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": {},
            "files": [],
            "warnings": [],
        }

    @contextmanager
    def stage(self, name: str):
        """Times a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = round(time.perf_counter() - started, 3)
            self.content["seconds"][name] = seconds
            log.info("%s: %.2f s", name, seconds)

    def warn(self, lines: list[str]) -> None:
        for line in lines:
            log.warning(line)
        self.content["warnings"] += lines

    def write(self, path: Path) -> None:
        """Completes the totals and writes the file."""
        self.content["seconds"]["total"] = round(time.perf_counter() - self.started, 3)
        self.content["peak_rss_mib"] = round(peak_rss_bytes() / 2**20)
        log.info("total: %.2f s, peak memory %d MiB", self.content["seconds"]["total"], self.content["peak_rss_mib"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Through a temporary name."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def make_progress():
    """(stage, done, total) -> a bar on a terminal; elsewhere a plain line at the end of each stage."""
    if not sys.stderr.isatty():
        return lambda stage, done, total: log.info("%s: %d of %d", stage, done, total) if done == total else None
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = tqdm(total=total, desc=stage, file=sys.stderr, leave=False)
        bars[stage].update(done - bars[stage].n)
        if done == total:
            bars.pop(stage).close()  # the next fold starts a bar of its own

    return show


def find_case(find, args: argparse.Namespace) -> tuple[sockets.Sockets, Path]:
    """What find (sockets.find or sockets.rescue) sees under --input, and the mask's path.

    Raises:
        InputError: also where the container's user may not look into a mounted folder.
    """
    try:
        case = find(args.input, args.edition)
    except PermissionError as error:
        raise InputError(f"{error.filename} cannot be read ({error.strerror}); make folders and files readable for all") from None
    return case, sockets.check_output(args.output, case)


def count_clicks(case: sockets.Sockets, record: Record) -> int:
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
    check_run_flags(args)
    for flag, path in (("--preview", args.preview), ("--report", args.report)):
        place = (args.output / path).parent if path else args.output
        if place != args.output and not place.is_dir():
            raise InputError(f"{flag} {path}: {place} is no folder; make it or name another")


def check_run_flags(args: argparse.Namespace) -> None:
    """The same for those of add_run_flags."""
    from l2s.io.studies import SPACING_MM

    if args.spacing_mm and not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in args.spacing_mm):
        shown = " ".join(f"{s:g}" for s in args.spacing_mm)
        raise InputError(
            f"--spacing-mm {shown}: each must be {SPACING_MM[0]} to {SPACING_MM[1]}; leave it out for the weights' own"
        )
    if args.time_budget is not None and not 0 < args.time_budget < math.inf:
        raise InputError(f"--time-budget {args.time_budget:g}: seconds above 0")


def read_case(args: argparse.Namespace, record: Record):
    """(sockets, study, the mask's path): everything about the input that can be wrong is found here, before any network runs."""
    from l2s.io.studies import read_study

    case, target = find_case(sockets.find, args)
    record.content["case"] = {
        "name": case.name,
        "pet": case.pet.name,
        "ct": case.ct.name,
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


def load_model(args: argparse.Namespace, record: Record):
    """(plan, model): what the operator chose. It comes before the case: a wrong choice here is no reason for an empty mask."""
    with record.stage("load"):
        import torch

        from l2s import engine, int8, weights

        if args.mirror is not None and len(engine.flips_of(args.mirror)) == 1:
            raise InputError("--mirror '': name axes, such as x or xyz, or leave it out")
        ram, vram = (engine.parse_bytes(size) if size else None for size in (args.max_ram, args.max_vram))
        plan = engine.choose(args.device, args.precision, engine.Budget(ram, vram, args.time_budget))
        model = weights.load(weights.find(args.weights), on_demand=ram is not None)
        if args.precision == "int8":
            model = int8.load(model)
    record.content["plan"] = asdict(plan)
    record.content["torch"] = torch.__version__
    record.content["weights"] = {"name": model.name, "sha256": model.sha256, "intended_use": model.manifest.intended_use}
    log.info("weights %s, sha256 %s", model.name, model.sha256)
    if plan.device == "cpu" and args.device == "auto" and args.precision != "int8":
        record.warn(["no GPU found: running on the CPU"])
    return plan, model


def make_settings(args: argparse.Namespace, record: Record, writing: float = 1.0, drawing: float = 0.0):
    """pipeline.Settings of the flags; the deadline leaves so many times for writing as reading took, for drawing as preparing will."""
    from l2s import pipeline

    deadline = None
    if args.time_budget is not None:
        deadline = record.started + args.time_budget - writing * max(record.content["seconds"]["read"], LEAST_WRITING_S)
    spacing = tuple(args.spacing_mm) if args.spacing_mm else None
    return pipeline.Settings(args.fusion, args.windows, spacing, tuple(args.mirror or ()), deadline, drawing)


def faster_model(args: argparse.Namespace, plan, model):
    """What loads the int8 networks, for a time budget that fp32 on this CPU would miss; None where the operator did not leave it open."""
    from l2s import int8

    is_open = args.time_budget is not None and args.precision == "auto" and plan.kind == "cpu"
    return partial(int8.load, model) if is_open and int8.is_there(model.folder) else None


def run(args: argparse.Namespace, record: Record, plan, model) -> None:
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
    drawing = (PREVIEW_DRAWING if args.preview else 0.0) + (PAGE_DRAWING if args.report else 0.0)
    result = segment(args, record, plan, model, study, drawing=drawing)
    mask = result.mask
    if not args.report:  # nothing else reads its maps, which are 1.2 GB of a total-body scan
        del result
    with record.stage("write"):
        write_result(args, record, case, study, mask, target)
    warn_over_budget(plan.budget, record)
    if args.report:  # last: the page repeats the record's warnings
        with record.stage("report"):
            write_page(args, record, study, result)
        warn_over_budget(plan.budget, record)


def segment(args: argparse.Namespace, record: Record, plan, model, study, writing: float = 1.0, drawing: float = 0.0):
    """The study's Segmentation, by the flags of add_run_flags; what it took goes into the record.

    The record knows already what reading took; writing will take so many times that, and drawing so many times what preparing takes.
    """
    from l2s import int8, pipeline

    settings = make_settings(args, record, writing, drawing)
    result = pipeline.segment(study, model, plan, settings, make_progress(), faster_model(args, plan, model))
    record.content["seconds"] |= result.seconds
    record.content["plan"] = result.plan
    record.content["method"] = result.details
    record.content["left_out"] = result.left_out
    if result.plan["precision"] == "int8":
        record.content["weights"]["int8"] = int8.facts(model.folder)  # what it costs in Dice, where that was measured
    record.warn(result.warnings)
    if plan.kind == "cuda":  # even if the run ended on the CPU
        import torch

        record.content["peak_device_mib"] = round(torch.cuda.max_memory_reserved(plan.device) / 2**20)
    return result


def warn_over_budget(budget, record: Record) -> None:
    """Warns of each limit that the run did not keep; asked again later, the record has the later figure alone."""
    over = {}
    vram = record.content.get("peak_device_mib", 0) * 2**20
    if budget.vram_bytes is not None and vram > budget.vram_bytes:
        over["--max-vram was"] = f"peak memory of the GPU was {vram / 2**30:.2f} GiB", f"{budget.vram_bytes / 2**30:.2f} GiB"
    seconds, peak = time.perf_counter() - record.started, peak_rss_bytes()
    if budget.seconds is not None and seconds > budget.seconds:
        over["--time-budget was"] = f"the run took {seconds:.1f} s", f"{budget.seconds:g} s"
    if budget.ram_bytes is not None and peak > budget.ram_bytes:
        over["--max-ram was"] = f"peak memory was {peak / 2**30:.2f} GiB", f"{budget.ram_bytes / 2**30:.2f} GiB"
    record.content["warnings"] = [line for line in record.content["warnings"] if not any(limit in line for limit in over)]
    record.warn([f"{found}, {limit_was} {limit}" for limit_was, (found, limit) in over.items()])


def peak_rss_bytes() -> int:
    """Main memory that this process held at its peak. Not ru_maxrss where it can be avoided: that counts the parent's too."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_result(args: argparse.Namespace, record: Record, case: sockets.Sockets, study, mask, target: Path) -> None:
    """The mask with what belongs to it, the preview, and the mask's figures in the record."""
    from l2s.measure.metrics import overlap

    lesions = len(overlap(mask, mask).truth_voxels)
    volume_ml = float(mask.sum()) * study.grid.voxel_volume_ml
    write_answer(args, record, case, target, mask, study.stored)
    record.content["result"] = {"lesions": lesions, "volume_ml": round(volume_ml, 3)}
    log.info("mask: %d lesions, %.1f ml, in %s", lesions, volume_ml, target)
    if args.preview:
        from l2s.report.mip import preview

        path = args.output / args.preview
        preview(study, mask, path)
        record.content["files"].append(str(args.preview))
        log.info("preview: %s", path)


def write_answer(args: argparse.Namespace, record: Record, case: sockets.Sockets, target: Path, mask, stored) -> None:
    """The mask, and what the edition wants beside it."""
    from l2s.io.images import write_mask

    write_mask(target, mask, stored)
    record.content["files"].append(case.mask_name)
    if case.edition == "autopet3":
        write_text(args.output / MODEL_FLAG_FILE, "false\n")
        record.content["files"].append(MODEL_FLAG_FILE)


def write_page(args: argparse.Namespace, record: Record, study, result) -> None:
    """The HTML page, with the lesion table that it shows."""
    from l2s.measure import lesion_table, lesions
    from l2s.report.page import Case, write_report

    path, tool = args.output / args.report, f"l2s {__version__}"
    measures = lesions.measure(study, result.mask, result.probability, result.cue)
    write_report(path, Case(study, result.mask, lesion_table.as_dict(measures, tool), record.content), tool)
    record.content["files"].append(str(args.report))
    log.info("report: %s", path)


def write_empty(args: argparse.Namespace, record: Record) -> None:
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
    write_answer(args, record, case, target, empty, stored)
    record.content["result"] = {"lesions": 0, "volume_ml": 0.0, "empty_because_of_error": True}
    log.warning("--on-error empty: an EMPTY mask was written to %s", target)


def stopped(number: int, frame) -> None:
    """SIGTERM (docker stop, a platform's time limit) unwinds the run, so that partial files go and the record is written."""
    raise SystemExit(128 + number)


def settle(args: argparse.Namespace, record: Record, error: Exception) -> None:
    """With --on-error empty a challenge wants an answer whatever went wrong; the record and the log keep the cause."""
    log.error("%s", error if isinstance(error, InputError) else traceback.format_exc())
    if "result" in record.content:
        log.warning("--on-error empty: the mask had been written before the error and is kept")
    else:
        write_empty(args, record)


def main(argv: list[str] | None = None) -> int:
    """Runs one case; returns the exit code: 0 done, 2 bad input. Anything else that goes wrong keeps its traceback."""
    args = parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr, force=True
    )
    record = Record()
    code = 0
    before = signal.signal(signal.SIGTERM, stopped)
    try:
        check_flags(args)  # a mistyped flag is no case for an empty mask
        plan, model = load_model(args, record)
        try:
            run(args, record, plan, model)
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
