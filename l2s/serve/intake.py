"""What comes in: from an instance in memory to one on disk that may be acknowledged, and from a study that fell quiet to a job.

A folder incoming/STUDY holds SOP_VERSION_DIGEST.dcm. The digest in the name says whether an instance that comes twice is the same; a
corrected one (same UID, other content) gets the next version and replaces the older.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from l2s.serve import disk, spool
from l2s.serve.config import Limits
from l2s.serve.logs import say, warn
from l2s.serve.spool import Job

UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # PS3.5 9.1; leading zeros, which some scanners write, do no harm in a file's name
UID_LENGTH = 64
FILE_NAME = re.compile(r"(?P<sop>[0-9.]+)_(?P<version>\d+)_(?P<digest>[0-9a-f]+)\.dcm")
GIB = 2**30


class Refusal(Exception):
    """An instance that this node has no room for; the text says which limit."""


class Sender(Protocol):
    """An association; a study that one of these is still sending is not complete."""

    def is_alive(self) -> bool: ...


@dataclass(frozen=True)
class Stored:
    """One instance on disk."""

    version: int
    digest: str
    size: int


@dataclass
class Received:
    """A study in memory: what lies in incoming/STUDY, and what of it the newest job has.

    Attributes:
        stored: SOP Instance UID -> what lies there.
        generation: of the newest job; 0: there is none.
        covered: (SOP Instance UID, digest) of that job's images.
        last: clock() of the last arrival.
        senders: associations that have sent an instance of it.
        fresh: SOP Instance UIDs that no job has in this form.
        size: bytes of all that is stored.
    """

    stored: dict[str, Stored] = field(default_factory=dict)
    generation: int = 0
    covered: frozenset[tuple[str, str]] = frozenset()
    last: float = 0.0
    senders: set[Sender] = field(default_factory=set)
    fresh: set[str] = field(default_factory=set)
    size: int = 0


def is_uid(text: str) -> bool:
    """Whether a UID is one, and so also safe as a file's name."""
    return len(text) <= UID_LENGTH and UID.fullmatch(text) is not None


class Intake:
    """The received studies. Its lock orders arrivals, the making of jobs and the start of jobs; disk alone holds what counts."""

    def __init__(self, root: Path, limits: Limits, quiet_s: float, clock: Callable[[], float] = time.monotonic):
        self.root, self.limits, self.quiet_s, self.clock = root, limits, quiet_s, clock
        self._lock = threading.Lock()
        self._studies: dict[str, Received] = {}
        disk.sync_folder(root / "incoming")  # a study's folder may have been made, and the node killed before its sync
        for place in (root / "incoming").iterdir():
            if is_uid(place.name):
                self._study(place.name)

    def _study(self, study: str) -> Received:
        """The study in memory, read from disk where it is not there. The lock must be held, but for the start."""
        if study in self._studies:
            return self._studies[study]
        received = Received(last=self.clock())
        place = self.root / "incoming" / study
        for file in sorted(place.iterdir()) if place.is_dir() else []:
            if not (match := FILE_NAME.fullmatch(file.name)):
                continue
            stored = Stored(int(match["version"]), match["digest"], file.stat().st_size)
            known = received.stored.get(match["sop"])
            if known:  # the node died between writing a newer version and removing the older
                older, stored = sorted((known, stored), key=lambda s: s.version)
                disk.remove_file(place / file_name(match["sop"], older))
            received.stored[match["sop"]] = stored
        received.size = sum(s.size for s in received.stored.values())
        if job := spool.newest(self.root, study):
            received.generation, received.covered = job.generation, frozenset(job.instances.items())
        received.fresh = {sop for sop, s in received.stored.items() if (sop, s.digest) not in received.covered}
        self._studies[study] = received
        return received

    def take(self, study: str, sop: str, digest: str, data: bytes, sender: Sender) -> bool:
        """Stores one instance. When this returns, it is on disk and may be acknowledged.

        Args:
            study, sop: UIDs; is_uid holds for both.
            digest: hexadecimal, of the dataset and its encoding.
            data: the whole file.

        Returns:
            False where the very same instance was there already.

        Raises:
            Refusal: a limit of the study or of the disk is reached.
            OSError: the disk failed; nothing is stored.
        """
        place = self.root / "incoming" / study
        with self._lock:
            received = self._study(study)
            received.senders.add(sender)
            received.last = self.clock()
            same = sop in received.stored and received.stored[sop].digest == digest
            if not same:
                self._check_room(received, sop, len(data))
                disk.make_folder(place)
        if same:
            disk.sync_folder(place)  # its first writer may have died before this
            return False
        partial = disk.write_partial(place / sop, data, f"_{threading.get_ident()}")
        with self._lock:
            known = received.stored.get(sop)
            if known and known.digest == digest:  # the same came over two associations at once
                disk.remove_file(partial)
                disk.sync_folder(place)
                return False
            stored = Stored(known.version + 1 if known else 1, digest, len(data))
            disk.rename(partial, place / file_name(sop, stored))
            disk.sync_folder(place)
            if known:
                warn("replaced", {"study": study, "instance": sop, "version": stored.version})
                disk.remove_file(place / file_name(sop, known))
            late = received.generation and not received.fresh
            received.stored[sop] = stored
            received.size += stored.size - (known.size if known else 0)
            received.fresh.discard(sop)
            if (sop, digest) not in received.covered:
                received.fresh.add(sop)
            received.last = self.clock()
        if late and received.fresh:
            warn("late", {"study": study, "after_generation": received.generation})
        return True

    def _check_room(self, received: Received, sop: str, size: int) -> None:
        if sop not in received.stored and len(received.stored) >= self.limits.study_instances:
            raise Refusal(f"limits.study_instances {self.limits.study_instances}")
        if received.size + size > self.limits.study_gib * GIB:
            raise Refusal(f"limits.study_gib {self.limits.study_gib:g}")
        if not self.has_room(size):
            raise Refusal(f"limits.free_disk_gib {self.limits.free_disk_gib:g}")

    def has_room(self, size: int = 0) -> bool:
        """Whether the disk keeps its reserve when size bytes more lie on it."""
        return shutil.disk_usage(self.root).free - size >= self.limits.free_disk_gib * GIB

    def queue_complete(self) -> list[Job]:
        """Makes a job of every study that has something new and fell quiet; forgets (in memory) those that rest."""
        queued = []
        with self._lock:
            for study, received in list(self._studies.items()):
                received.senders = {sender for sender in received.senders if sender.is_alive()}
                if received.senders or self.clock() - received.last < self.quiet_s:
                    continue
                if received.fresh:
                    queued.append(self._queue(study, received))
                del self._studies[study]
        return queued

    def _queue(self, study: str, received: Received) -> Job:
        instances = {sop: s.digest for sop, s in received.stored.items()}
        job = Job(study, received.generation + 1, time.time(), instances)
        files = {sop: self.root / "incoming" / study / file_name(sop, s) for sop, s in received.stored.items()}
        spool.enqueue(self.root, job, files)
        say("queued", {"study": study, "generation": job.generation, "instances": len(instances), "new": len(received.fresh)})
        missing = sum(sop not in instances for sop, _ in received.covered)
        if missing:
            warn("incomplete", {"study": study, "generation": job.generation, "deleted_by_retention": missing})
        return job

    def start_next(self) -> Job | None:
        """Moves the oldest job whose study rests from queued to running. Older generations that never began are dropped."""
        with self._lock:
            for job in spool.jobs(self.root, "queued"):
                received = self._study(job.study)
                if job.generation < received.generation:
                    say("superseded", {"study": job.study, "generation": job.generation, "by": received.generation})
                    spool.discard(self.root, spool.folder(self.root, "queued", job))
                elif not received.fresh:
                    disk.move(spool.folder(self.root, "queued", job), spool.folder(self.root, "running", job))
                    return job
        return None

    def delete_sent(self, before: float) -> list[str]:
        """Deletes the received images of studies whose results were sent before that Unix time; results, log and facts stay.

        A study of which something newer came, or whose newest generation is not yet sent, is left alone.
        """
        deleted = []
        for job in spool.jobs(self.root, "done"):
            place = spool.folder(self.root, "done", job)
            incoming = self.root / "incoming" / job.study
            if not job.sent_to or job.ended_at is None or job.ended_at > before:
                continue
            if not (place / "input").is_dir() and not incoming.is_dir():
                continue
            if incoming.is_dir() and incoming.stat().st_mtime > before:
                continue  # it is being sent once more
            with self._lock:
                received = self._study(job.study)
                if received.fresh or received.generation != job.generation or any(s.is_alive() for s in received.senders):
                    continue
                for older in spool.jobs(self.root, "done"):
                    if older.study == job.study and (old := spool.folder(self.root, "done", older) / "input").is_dir():
                        spool.discard(self.root, old)
                if incoming.is_dir():
                    spool.discard(self.root, incoming)
                del self._studies[job.study]
            deleted.append(job.study)
        return deleted


def file_name(sop: str, stored: Stored) -> str:
    return f"{sop}_{stored.version}_{stored.digest}.dcm"
