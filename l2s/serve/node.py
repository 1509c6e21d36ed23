"""The node: listener, keeper, worker and sender over one spool, until it is told to stop. Each can be killed at any moment."""

from __future__ import annotations

import fcntl
import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from l2s.errors import InputError
from l2s.serve import disk, listener, sender, spool, worker
from l2s.serve.config import Config
from l2s.serve.intake import Intake
from l2s.serve.logs import log, say, warn

TICK_S = 0.2
RETENTION_EVERY_S = 60.0
LOCK_WAIT_S = 10.0  # a dead node's segmentation is killed by the kernel and lets go of the lock a moment later
DISK_PAUSE_S = 30.0


def run(config: Config, command: worker.Command | None = None, stop: threading.Event | None = None) -> int:
    """Runs the node until stop is set.

    Args:
        config: checked.
        command: makes the segmentation's command from (images, output); default: `l2s segment` with segment.flags.
        stop: set from a signal handler or a test.

    Returns:
        0, or 1 where one of its parts met a bug: better all ends than that a node listens which no longer works.

    Raises:
        InputError: the spool is in use or cannot be written, the address is taken, a TLS file does not hold.
    """
    stop = stop or threading.Event()
    command = command or worker.segment_command(config.segment.flags)
    root = config.spool.resolve()
    check_tls(config)
    held = lock(root)
    try:
        for job, state in spool.recover(root, config.segment.interruptions):
            warn("recovered", {"study": job.study, "generation": job.generation, "interruptions": job.interruptions, "to": state})
        intake = Intake(root, config.limits, config.segment.quiet_s)
        broken: list[str] = []
        try:
            server = listener.start(config, intake)
        except OSError as error:
            where = f"{config.listen.host}:{config.listen.port}"
            raise InputError(f"{where}: {error.strerror or error}; is another node running?") from None
        parts: dict[str, Callable[[], None]] = {
            "keeper": lambda: keep(config, intake, stop),
            "worker": lambda: work(root, intake, command, config, stop, held),
            "sender": lambda: send_all(root, config, stop),
        }
        threads = [threading.Thread(target=_watched, args=(name, part, stop, broken), name=name) for name, part in parts.items()]
        for thread in threads:
            thread.start()
        say("listening", {"ae": config.listen.ae, "host": config.listen.host, "port": config.listen.port, "pid": os.getpid()})
        stop.wait()
        say("stopping")
        listener.stop(server)
        for thread in threads:
            thread.join()
        say("stopped")
        return 1 if broken else 0
    finally:
        os.close(held)


def check_tls(config: Config) -> None:
    """Raises InputError where a TLS file cannot be read, is no PEM or does not belong to the other."""
    try:
        listener.server_tls(config)
        if config.destination:
            sender.client_tls(config.destination)
    except OSError as error:
        files = [config.listen.tls_cert, config.listen.tls_key, config.listen.tls_ca]
        if config.destination:
            files += [config.destination.tls_ca, config.destination.tls_cert, config.destination.tls_key]
        named = ", ".join(str(file) for file in files if file)
        raise InputError(f"TLS: {error.strerror or error}; give PEM files that belong together (given: {named})") from None


def _watched(name: str, part: Callable[[], None], stop: threading.Event, broken: list[str]) -> None:
    """Runs one part; a bug in it stops the node. The spool is in order at any moment, so a supervisor may start it anew."""
    try:
        part()
    except Exception as error:  # what it is does not matter here: it must not pass in silence
        place = traceback.extract_tb(error.__traceback__)[-1]
        log.critical("bug part=%s error=%s at=%s:%d", name, type(error).__name__, Path(place.filename).name, place.lineno or 0)
        broken.append(name)
        stop.set()


def lock(root: Path) -> int:
    """Makes the spool where it lacks and takes it for this process; the file descriptor that holds it.

    Raises:
        InputError: another node has it, or it cannot be made or written.
    """
    try:
        spool.prepare(root)
        check_links(root)
        held = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InputError(f"the spool {root} cannot be used ({error.strerror}); give a folder that can be written") from None
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return held
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(held)
                raise InputError(f"{root} is in use by another node; stop that one or give another --spool") from None
            time.sleep(TICK_S)


def check_links(root: Path) -> None:
    """Raises OSError where the file system has no hard links, which a job's images are."""
    probe, second = root / "trash" / f"probe_{os.getpid()}", root / "trash" / f"probe_{os.getpid()}_link"
    disk.write(probe, b"")
    try:
        disk.link(probe, second)
    finally:
        disk.remove_file(probe)
        disk.remove_file(second)


def keep(config: Config, intake: Intake, stop: threading.Event) -> None:
    """Queues studies that fell quiet, and deletes received images whose time is up."""
    next_retention = 0.0
    while not stop.wait(TICK_S):
        try:
            intake.queue_complete()
            if config.retention.delete_received_h is not None and time.monotonic() >= next_retention:
                next_retention = time.monotonic() + RETENTION_EVERY_S
                for study in intake.delete_sent(time.time() - 3600 * config.retention.delete_received_h):
                    say("deleted", {"study": study, "what": "received images"})
        except OSError as error:
            _disk_trouble("keeper", error, stop)


def _disk_trouble(part: str, error: OSError, stop: threading.Event) -> None:
    """A full or failing disk: nothing is lost by waiting."""
    warn("disk", {"part": part, "error": error.strerror or type(error).__name__, "wait_s": DISK_PAUSE_S})
    stop.wait(DISK_PAUSE_S)


def work(root: Path, intake: Intake, command: worker.Command, config: Config, stop: threading.Event, held: int) -> None:
    """Segments one queued study after another."""
    while not stop.wait(TICK_S):
        try:
            if not intake.has_room():
                if any(spool.jobs(root, "queued")):
                    warn("waiting", {"reason": f"limits.free_disk_gib {config.limits.free_disk_gib:g}"})
                stop.wait(DISK_PAUSE_S)
                continue
            # what a full disk left in running/ goes first
            left = spool.jobs(root, "running")
            job = left[0] if left else intake.start_next()
            if job is None:
                continue
            say("running", {"study": job.study, "generation": job.generation, "instances": len(job.instances)})
            began = time.monotonic()
            outcome = worker.run(root, job, command, config.segment, stop, held)
            fields = {"study": job.study, "generation": job.generation, "to": outcome.state, "seconds": time.monotonic() - began}
            if outcome.reason:
                warn("segmented", fields | {"reason": outcome.reason})
            else:
                say("segmented", fields)
            if outcome.pause:
                stop.wait(DISK_PAUSE_S)
        except OSError as error:
            _disk_trouble("worker", error, stop)


def send_all(root: Path, config: Config, stop: threading.Event) -> None:
    """Sends the results of one job after another; one that fails waits its own time, a destination that is away holds all."""
    not_before: dict[str, float] = {}
    away, away_until = 0, 0.0
    while not stop.wait(TICK_S):
        try:
            for job in spool.jobs(root, "sending"):
                if stop.is_set():
                    return
                if config.destination is None:
                    spool.step(root, "sending", "done", replace(job, ended_at=time.time()))
                    continue
                if time.monotonic() < max(away_until, not_before.get(job.name, 0.0)):
                    continue
                answer = send_one(root, job, config)
                not_before.pop(job.name, None)
                if not answer.problem:
                    away = 0
                    continue
                if answer.refused:
                    away = 0
                    not_before[job.name] = time.monotonic() + sender.wait_s(config.destination, job.refusals + 1)
                else:
                    away += 1
                    away_until = time.monotonic() + sender.wait_s(config.destination, away)
        except OSError as error:
            _disk_trouble("sender", error, stop)


def send_one(root: Path, job: spool.Job, config: Config) -> sender.Sending:
    """Sends what the destination has not confirmed of a job, and moves the job on where that was all, or where it is refused."""
    destination = config.destination
    place = spool.folder(root, "sending", job)
    left = spool.unsent(place)
    answer = sender.Sending()
    if left:
        answer = sender.send(config.listen.ae, destination, place / "results", left, lambda result: spool.confirm(place, result))
    fields = {"study": job.study, "generation": job.generation, "destination": destination.ae}
    if not answer.problem:
        sent_to = f"{destination.ae}@{destination.host}:{destination.port}"
        spool.step(root, "sending", "done", replace(job, sent_to=sent_to, reason="", ended_at=time.time()))
        say("sent", fields | {"results": len(spool.results(spool.folder(root, "done", job)))})
        return answer
    job = replace(job, send_failures=job.send_failures + 1, refusals=job.refusals + bool(answer.refused), reason=answer.problem)
    warn("not_sent", fields | {"failures": job.send_failures, "left": len(spool.unsent(place)), "reason": answer.problem})
    if job.refusals >= destination.refusals:
        spool.fail(root, "sending", job, answer.problem)
    else:
        spool.write_job(place, job)
    return answer
