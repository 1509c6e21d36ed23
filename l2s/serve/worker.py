"""One study's segmentation in a process of its own, and what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import l2s
from l2s.errors import InputError
from l2s.serve import disk, spool
from l2s.serve.config import Segment
from l2s.serve.intake import is_uid
from l2s.serve.spool import Job, Result

BAD_INPUT = 2  # the exit code of our commands for input that cannot be used
TRY_LATER = 75  # EX_TEMPFAIL: the disk or memory gave out
POLL_S = 0.05

Command = Callable[[Path, Path], list[str]]  # (folder of the images, folder for the output) -> the command and its arguments


@dataclass(frozen=True)
class Outcome:
    """How a run ended: 'sending', 'failed', 'queued' (try again) or 'stopped' (by us); and why.

    pause: whether the machine needs time before anything is tried again.
    """

    state: str
    reason: str = ""
    pause: bool = False


def segment_command(flags: tuple[str, ...]) -> Command:
    """`l2s segment` of this very package, with the node's further flags."""
    return lambda images, output: [
        *(sys.executable, "-m", "l2s.cli", "segment", str(images), str(output), "--format", "seg,sr,rtstruct"),
        *flags,
    ]


def run(root: Path, job: Job, command: Command, settings: Segment, stop: threading.Event, held: int) -> Outcome:
    """Runs the job that lies in running/ and moves it on.

    Args:
        held: file descriptor of the spool's lock. The process inherits it: as long as it lives no second node can begin.
    """
    place = spool.begin(root, job)
    code = run_process(command(place / "input", place / "output"), place / "log.txt", settings.timeout_s, stop, held)
    if code is None and stop.is_set():
        disk.move(place, spool.folder(root, "queued", job))
        return Outcome("stopped")
    if code == 0:
        try:
            made = find_results(place / "output", job.study)
        except InputError as error:
            spool.fail(root, "running", job, str(error))
            return Outcome("failed", str(error))
        spool.fix_results(root, job, made)
        return Outcome("sending")
    if code is None:
        reason = f"killed after segment.timeout_s {settings.timeout_s:g}"
    elif code < 0:
        reason = f"ended by {signal.Signals(-code).name}{'; out of memory?' if -code == signal.SIGKILL else ''}"
    else:
        reason = f"exit code {code}: see log.txt"
    if code == TRY_LATER:
        # no fault of the study's, so no attempt; to the end of the queue, as it may be its size after all that the disk cannot take
        disk.remove_folder(place / "output")
        reason = "the disk or memory gave out: see log.txt"
        spool.step(root, "running", "queued", replace(job, reason=reason, queued_at=time.time()))
        return Outcome("queued", reason, pause=True)
    job = replace(job, attempts=job.attempts + 1)
    if code not in (None, BAD_INPUT) and job.attempts < settings.attempts:
        spool.step(root, "running", "queued", replace(job, reason=reason))
        return Outcome("queued", reason)
    spool.fail(root, "running", job, reason)
    return Outcome("failed", reason)


def run_process(argv: list[str], log: Path, timeout_s: float, stop: threading.Event, held: int) -> int | None:
    """The exit code (negative: the signal that ended it); None where we killed it, for the time limit or because stop was set."""
    package = str(Path(l2s.__file__).parents[1])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])  # the same code as this node's
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "l2s.serve.guarded", str(os.getpid()), *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            pass_fds=(held,),
        )
        deadline = time.monotonic() + timeout_s
        while (code := process.poll()) is None:
            if stop.is_set() or time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)  # all of its output is thrown away: it has nothing to tidy up
                process.wait()
                return None
            time.sleep(POLL_S)
    return code


def find_results(output: Path, study: str) -> list[tuple[Path, Result]]:
    """The DICOM objects below output, whatever they are called.

    Raises:
        InputError: there is none, one cannot be read or belongs to another study, or two have the same UID.
    """
    import pydicom

    made: dict[str, tuple[Path, Result]] = {}
    for file in sorted(path for path in output.rglob("*") if path.is_file() and not path.is_symlink()):
        with file.open("rb") as opened:
            if opened.read(132)[128:] != b"DICM":
                continue
        try:
            head = pydicom.dcmread(
                file, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"]
            )
            result = Result(str(head.SOPClassUID), str(head.SOPInstanceUID), str(head.file_meta.TransferSyntaxUID))
        except Exception as error:  # of a dozen kinds; the study fails with it, not the node
            raise InputError(f"the result {file.name} cannot be read ({type(error).__name__})") from None
        if not is_uid(result.sop_instance) or result.sop_instance in made:
            raise InputError(f"the result {file.name} has no SOP Instance UID of its own")
        if head.get("StudyInstanceUID") != study:
            raise InputError(f"the result {file.name} belongs to another study; it is not sent")
        made[result.sop_instance] = (file, result)
    if not made:
        raise InputError("the segmentation ended well but made no DICOM object")
    return list(made.values())
