"""The states of a study on disk. Where a job's folder lies is its state; each step is one rename.

    incoming/STUDY/SOP_VERSION_DIGEST.dcm      what was received and acknowledged
    queued/JOB -> running/JOB -> sending/JOB -> done/JOB, or failed/JOB

JOB is STUDY_gN, generation N of a study: what had come when it fell quiet. In it lie job.json, input/ (hard links of the images, so that
what comes later cannot change a run), log.txt (of the segmentation), output/ (what it made), results/ and results.json (what is sent,
fixed before the job may lie in sending/) and sent/SOP (an empty file for each result that the destination has confirmed).
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from l2s.errors import InputError
from l2s.serve import disk

STATES = ("queued", "running", "sending", "done", "failed")  # in the order of their steps: see newest()
FOLDERS = ("incoming", *STATES, "trash")
JOB_NAME = re.compile(r"(?P<study>[0-9.]+)_g(?P<generation>\d+)")


@dataclass(frozen=True)
class Job:
    """One generation of a study, as job.json holds it.

    Attributes:
        study: Study Instance UID.
        generation: from 1 up.
        queued_at: Unix seconds; the order of the queue.
        instances: SOP Instance UID -> digest of all that the generation has.
        attempts: runs that crashed.
        interruptions: runs that ended with the node itself.
        send_failures: sendings in a row that the destination did not complete.
        refusals: how often the destination refused one of the results.
        reason: why it failed, or what the last sending said.
        sent_to: the destination that has confirmed every result; empty: none.
        ended_at: Unix seconds of its coming to done or failed.
    """

    study: str
    generation: int
    queued_at: float
    instances: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    interruptions: int = 0
    send_failures: int = 0
    refusals: int = 0
    reason: str = ""
    sent_to: str = ""
    ended_at: float | None = None

    @property
    def name(self) -> str:
        return f"{self.study}_g{self.generation}"


@dataclass(frozen=True)
class Result:
    """One object to send: results/SOP.dcm of a job."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str


def prepare(root: Path) -> None:
    """Makes the spool's folders where they lack."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in FOLDERS:
        disk.make_folder(root / name)
    disk.sync_folder(root)  # whoever made them may have died before this


def recover(root: Path, interruptions: int) -> list[tuple[Job, str]]:
    """Brings a spool whose node died back to order, before anything else runs; says which jobs went where.

    Half-written files go. What was running is queued again, or fails where that happened `interruptions` times. Nothing else needs
    care: every other step is a single rename.
    """
    for leftover in (root / "trash").iterdir():
        disk.remove_folder(leftover)
    for leftover in (root / "queued").glob(f".*{disk.PARTIAL}"):
        disk.remove_folder(leftover)
    for pattern in (f"*/*/.*{disk.PARTIAL}", f"sending/*/sent/.*{disk.PARTIAL}"):
        for leftover in root.glob(pattern):
            disk.remove_file(leftover)
    moved = []
    for job in jobs(root, "running"):
        job = replace(job, interruptions=job.interruptions + 1)
        if job.interruptions >= interruptions:
            fail(root, "running", job, f"the node died {job.interruptions} times while this study ran")
            moved.append((job, "failed"))
        else:
            step(root, "running", "queued", job)
            moved.append((job, "queued"))
    return moved


def folder(root: Path, state: str, job: Job) -> Path:
    return root / state / job.name


def jobs(root: Path, state: str) -> list[Job]:
    """The jobs in a state, oldest first. One that moves on meanwhile is left out."""
    places = [place for place in (root / state).iterdir() if JOB_NAME.fullmatch(place.name)]
    found = [job for place in places if (job := read_job(place))]
    return sorted(found, key=lambda job: (job.queued_at, job.name))


def read_job(place: Path) -> Job | None:
    """The job of a folder; None where it has just moved away."""
    try:
        return Job(**json.loads((place / "job.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InputError(f"{place}/job.json is no job of this version ({error}); move the folder out of the spool") from None


def write_job(place: Path, job: Job) -> None:
    disk.write(place / "job.json", json.dumps(asdict(job)).encode())


def newest(root: Path, study: str) -> Job | None:
    """The study's job of the highest generation, in whatever state."""
    found: dict[int, Job] = {}
    # twice: one that is put back into the queue could slip past a single look; one that goes forward cannot
    for state in STATES * 2:
        for place in (root / state).glob(f"{study}_g*"):
            if JOB_NAME.fullmatch(place.name) and (job := read_job(place)):
                found[job.generation] = job
    return found[max(found)] if found else None


def enqueue(root: Path, job: Job, files: dict[str, Path]) -> None:
    """Puts a new job into the queue: its images (SOP Instance UID -> file) by hard links, then the one rename that counts."""
    target = folder(root, "queued", job)
    building = disk.partial_of(target)
    disk.remove_folder(building)
    disk.make_folder(building)
    disk.make_folder(building / "input")
    for sop, file in files.items():
        disk.link(file, building / "input" / f"{sop}.dcm")
    disk.sync_folder(building / "input")
    write_job(building, job)
    disk.move(building, target)


def step(root: Path, state: str, following: str, job: Job) -> None:
    """Writes the job's facts and moves it to another state."""
    write_job(folder(root, state, job), job)
    disk.move(folder(root, state, job), folder(root, following, job))


def fail(root: Path, state: str, job: Job, reason: str) -> None:
    """To failed/, with the reason in job.json and at the end of log.txt."""
    with (folder(root, state, job) / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"failed: {reason}\n")
    step(root, state, "failed", replace(job, reason=reason, ended_at=time.time()))


def begin(root: Path, job: Job) -> Path:
    """Clears a job's folder in running/ of what an earlier run left, and makes output/; returns the folder.

    Results that were fixed but not moved on (the node died between the two) go as well: this run makes others.
    """
    place = folder(root, "running", job)
    disk.remove_file(place / "results.json")  # first: it is what says that the rest is whole
    for name in ("output", "results", "sent"):
        disk.remove_folder(place / name)
    disk.make_folder(place / "output")
    return place


def fix_results(root: Path, job: Job, made: list[tuple[Path, Result]]) -> None:
    """From running to sending: from here on these very objects, with these UIDs, are sent, however often it takes.

    Args:
        made: files below the job's output/ and what they are; each UID once.
    """
    place = folder(root, "running", job)
    for name in ("results", "sent"):
        disk.remove_folder(place / name)
        disk.make_folder(place / name)
    for file, result in made:
        disk.sync_file(file)
        disk.link(file, place / "results" / f"{result.sop_instance}.dcm")
    disk.sync_folder(place / "results")
    disk.write(place / "results.json", json.dumps([asdict(result) for _, result in made]).encode())
    step(root, "running", "sending", job)


def results(place: Path) -> list[Result]:
    """The fixed results of a job's folder."""
    return [Result(**entry) for entry in json.loads((place / "results.json").read_text())]


def unsent(place: Path) -> list[Result]:
    """Those that the destination has not confirmed."""
    return [result for result in results(place) if not (place / "sent" / result.sop_instance).exists()]


def confirm(place: Path, result: Result) -> None:
    """Notes that the destination has it."""
    disk.write(place / "sent" / result.sop_instance, b"")


def discard(root: Path, place: Path) -> None:
    """Removes a folder of the spool in one step for those who look, then for good."""
    bin_ = root / "trash" / f"{place.parent.name}_{place.name}_{time.time_ns()}"
    disk.move(place, bin_)
    disk.remove_folder(bin_)


def retry(root: Path, study: str) -> Job:
    """Puts the newest generation of a failed study back where it failed: to sending where its results are fixed, else into the queue.

    Raises:
        InputError: root is no spool, or the study has no failed job, or a newer generation than the failed one.
    """
    if not (root / "failed").is_dir():
        raise InputError(f"{root} is no spool; name the folder that `l2s serve --spool` was given")
    job = newest(root, study) if JOB_NAME.fullmatch(f"{study}_g1") else None
    if job is None or not (place := folder(root, "failed", job)).is_dir():
        raise InputError(f"{study}: its newest job is not in {root / 'failed'}; --status lists what is there")
    following = "sending" if (place / "results.json").exists() else "queued"
    job = replace(job, attempts=0, interruptions=0, send_failures=0, refusals=0, reason="", ended_at=None)
    step(root, "failed", following, job)
    return job
