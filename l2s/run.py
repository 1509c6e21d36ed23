"""A run, as process.py, `l2s segment` and l2s.segment(...) share it: its flags, its record, loading, segmenting, budgets."""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
import resource
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path

from l2s import __version__
from l2s.errors import InputError
from l2s.wholefile import write_text

log = logging.getLogger("l2s")

LEAST_WRITING_S = 1.0  # reading may be quicker than writing, from files that lie in memory
# times preparing, which takes the same processor through the same voxels: phantoms of 2 to 52 million voxels and a real PET/CT, on two
# cores of an AMD EPYC, needed up to 0.6 for the preview and up to 4.3 for a page of 300 lesions. One of 950 needed 8 and may be late
PREVIEW_DRAWING, PAGE_DRAWING = 1.0, 5.0


def add_flags(p: argparse.ArgumentParser) -> None:
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


def default_flags() -> argparse.Namespace:
    """The flags of add_flags as they are when none is given, for callers without a command line."""
    p = argparse.ArgumentParser(add_help=False)
    add_flags(p)
    return p.parse_args([])


def check_flags(args: argparse.Namespace) -> None:
    """Raises InputError for flags of add_flags that would end the run after the work instead of before it."""
    from l2s.io.studies import SPACING_MM

    if args.spacing_mm and not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in args.spacing_mm):
        shown = " ".join(f"{s:g}" for s in args.spacing_mm)
        raise InputError(
            f"--spacing-mm {shown}: each must be {SPACING_MM[0]} to {SPACING_MM[1]}; leave it out for the weights' own"
        )
    if args.time_budget is not None and not 0 < args.time_budget < math.inf:
        raise InputError(f"--time-budget {args.time_budget:g}: seconds above 0")


class Record:
    """What a run leaves behind about itself: filled as the run goes on, written at its end whatever happens."""

    def __init__(self):
        self.started = time.perf_counter()
        self.resting_from: float | None = None
        self.content: dict = {
            "tool": f"l2s {__version__}",
            "use": "research use only",
            "made": datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": {},
            "files": [],
            "warnings": [],
        }

    def rest(self) -> None:
        """What passes from now on, until the next stage, is not the run's: in Python a result may be saved an hour later."""
        self.resting_from = time.perf_counter()

    def go_on(self) -> None:
        """Ends a rest."""
        if self.resting_from is not None:
            self.started += time.perf_counter() - self.resting_from
            self.resting_from = None

    @contextmanager
    def stage(self, name: str):
        """Times a stage."""
        self.go_on()
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
        self.note(lines)

    def note(self, lines: list[str]) -> None:
        """Warnings for the record alone, each once."""
        known = self.content["warnings"]
        known += [line for line in dict.fromkeys(lines) if line not in known]

    def write(self, path: Path) -> None:
        """Completes the totals and writes the file."""
        self.content["seconds"]["total"] = round(time.perf_counter() - self.started, 3)
        self.content["peak_rss_mib"] = round(peak_rss_bytes() / 2**20)
        log.info("total: %.2f s, peak memory %d MiB", self.content["seconds"]["total"], self.content["peak_rss_mib"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(self.content, indent=2) + "\n")


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


def segment(args: argparse.Namespace, record: Record, plan, model, study, writing: float = 1.0, drawing: float = 0.0):
    """The study's Segmentation, by the flags of add_flags; what it took goes into the record.

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
        over["max-vram was"] = f"peak memory of the GPU was {vram / 2**30:.2f} GiB", f"{budget.vram_bytes / 2**30:.2f} GiB"
    seconds, peak = time.perf_counter() - record.started, peak_rss_bytes()
    if budget.seconds is not None and seconds > budget.seconds:
        over["time-budget was"] = f"the run took {seconds:.1f} s", f"{budget.seconds:g} s"
    if budget.ram_bytes is not None and peak > budget.ram_bytes:
        over["max-ram was"] = f"peak memory was {peak / 2**30:.2f} GiB", f"{budget.ram_bytes / 2**30:.2f} GiB"
    record.content["warnings"] = [line for line in record.content["warnings"] if not any(limit in line for limit in over)]
    record.warn([f"{found}, {limit_was} {limit}" for limit_was, (found, limit) in over.items()])


def peak_rss_bytes() -> int:
    """Main memory that this process held at its peak. Not ru_maxrss where it can be avoided: that counts the parent's too."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
