"""The states on disk: killed at every single step, and against a literal twin that holds the same in a few dictionaries."""

import itertools
import json
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from l2s.errors import InputError
from l2s.serve import disk, spool
from l2s.serve.config import Limits
from l2s.serve.intake import Intake, Refusal
from l2s.serve.spool import Job, Result

LIMITS = Limits(free_disk_gib=0)
STEPS = ("make_folder", "write_partial", "rename", "link", "remove_file", "remove_folder")


class Killed(BaseException):
    """kill -9 in the middle of things: nothing may catch it."""


class Association:
    def __init__(self, alive=False):
        self.alive = alive

    def is_alive(self):
        return self.alive


class Reaper:
    """Lets a number of changes on disk happen, then kills; what is half done at that moment stays half done."""

    def __init__(self, monkeypatch):
        self.left = None
        self.done = 0
        for name in STEPS:
            monkeypatch.setattr(disk, name, self._watched(name, getattr(disk, name)))
        monkeypatch.setattr(os, "fsync", lambda handle: None)  # a kill, unlike a power cut, takes back nothing

    def _watched(self, name, real):
        def step(path, *rest):
            if self.left == 0:
                self._half(name, path, *rest)
                raise Killed
            if self.left is not None:
                self.left -= 1
            self.done += 1
            return real(path, *rest)

        return step

    def _half(self, name, path, *rest):
        if name == "write_partial":
            disk.partial_of(path, *rest[1:]).write_bytes(rest[0][: len(rest[0]) // 2])
        elif name == "remove_folder" and path.is_dir():
            for inner in list(path.iterdir())[:1]:
                shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
        elif name == "make_folder":
            path.mkdir(exist_ok=True)  # made, its parent not synced


class Node:
    """The node without its network and processes: the same calls in the same order."""

    def __init__(self, root: Path, uids):
        self.root, self.uids, self.time = root, uids, 0.0
        spool.prepare(root)
        self.moved = spool.recover(root, 1000)
        self.intake = Intake(root, LIMITS, 10.0, lambda: self.time)

    def take(self, study, sop, content):
        return self.intake.take(study, sop, f"{content:08x}", b"x" * 10 + b"%d" % content, Association())

    def queue(self):
        self.time += 10
        return self.intake.queue_complete()

    def work(self, ending="ok"):
        job = self.intake.start_next()
        if job is None:
            return None
        output = spool.begin(self.root, job) / "output"
        if ending == "fail":
            spool.fail(self.root, "running", job, "bad input")
        elif ending == "crash":
            spool.step(self.root, "running", "queued", replace(job, attempts=job.attempts + 1))
        else:
            made = []
            for kind in ("seg", "sr"):
                result = Result(kind, f"9.{next(self.uids)}", "1.2.840.10008.1.2.1")
                (output / kind).write_text(result.sop_instance)
                made.append((output / kind, result))
            spool.fix_results(self.root, job, made)
        return job

    def send(self, destination: list):
        """One result of the oldest job in sending, or its step to done."""
        for job in spool.jobs(self.root, "sending"):
            place = spool.folder(self.root, "sending", job)
            for result in spool.unsent(place):
                destination.append((place / "results" / f"{result.sop_instance}.dcm").read_text())
                spool.confirm(place, result)
                return
            spool.step(self.root, "sending", "done", replace(job, sent_to="PACS", ended_at=1.0))
            return


def received(root: Path) -> dict:
    """study -> SOP Instance UID -> content, read from the files themselves."""
    found = {}
    for place in (root / "incoming").iterdir():
        whole = (file for file in place.iterdir() if not file.name.startswith("."))
        for file in sorted(whole, key=lambda f: int(f.name.split("_")[1])):
            found.setdefault(place.name, {})[file.name.split("_")[0]] = int(file.read_bytes()[10:])
    return found


def jobs_on_disk(root: Path) -> dict:
    """(study, generation) -> (state, {SOP Instance UID: content of input/}, results, confirmed)."""
    found = {}
    for state in spool.STATES:
        for place in (root / state).glob("[!.]*"):
            study, generation = place.name.split("_g")
            inputs = {f.stem: int(f.read_bytes()[10:]) for f in (place / "input").iterdir()}
            fixed = frozenset(f.stem for f in (place / "results").iterdir()) if state in ("sending", "done") else frozenset()
            sent = frozenset(f.name for f in (place / "sent").iterdir()) if state in ("sending", "done") else frozenset()
            key = (study, int(generation))
            assert key not in found, "one job in two states"
            found[key] = (state, inputs, fixed, sent)
    return found


ARRIVALS = [("1.2", "1.2.1", 1), ("1.2", "1.2.2", 2), ("1.3", "1.3.1", 3), ("1.2", "1.2.2", 2)]
LATE = [("1.2", "1.2.3", 4), ("1.3", "1.3.1", 5)]  # one more instance, and a corrected one


def whole_life(node: Node, acknowledged: list, destination: list):
    """Two studies come, one instance comes too late, one is corrected; all are segmented and sent."""
    for batch in (ARRIVALS, LATE):
        for arrival in batch:
            if arrival not in acknowledged:
                node.take(*arrival)
                acknowledged.append(arrival)
        node.queue()
        while node.work():
            pass
        while spool.jobs(node.root, "sending"):
            node.send(destination)


def test_a_kill_at_any_step_loses_and_doubles_nothing(tmp_path, monkeypatch):
    reaper = Reaper(monkeypatch)
    node = Node(tmp_path / "whole", itertools.count())
    reaper.done = 0
    whole_life(node, [], [])
    steps = reaper.done
    assert steps > 80
    for kill in range(steps):
        root = tmp_path / f"kill{kill}"
        uids, acknowledged, destination = itertools.count(), [], []
        node = Node(root, uids)
        reaper.left = kill
        with pytest.raises(Killed):
            whole_life(node, acknowledged, destination)
        reaper.left = None
        before = set(acknowledged)
        stored = received(root)
        for study, sop, content in before:
            assert stored[study][sop] in [content, *(c for _, s, c in LATE if s == sop)], "acknowledged, but not there"
        whole_life(Node(root, uids), acknowledged, destination)

        assert received(root) == {"1.2": {"1.2.1": 1, "1.2.2": 2, "1.2.3": 4}, "1.3": {"1.3.1": 5}}
        jobs = jobs_on_disk(root)
        assert {state for state, *_ in jobs.values()} == {"done"}
        for study, content in received(root).items():
            inputs = [value[1] for key, value in sorted(jobs.items()) if key[0] == study]
            assert inputs[-1] == content
            assert all(a != b for a, b in itertools.pairwise(inputs)), "the same images segmented and sent twice"
        made = [uid for _, _, fixed, sent in jobs.values() for uid in fixed if fixed == sent]
        assert sorted(set(destination)) == sorted(made), "the destination has other results than were made"
        assert len(made) == 2 * len(jobs)
        assert all(job.sent_to == "PACS" and job.ended_at for job in spool.jobs(root, "done"))
        assert len(list(root.glob("incoming/*/*"))) == 4, "an older version is left"
        assert not list(root.rglob(f"*{disk.PARTIAL}"))
        assert not list((root / "trash").iterdir())


def test_an_answer_follows_the_syncs(tmp_path, monkeypatch):
    """Content, then the name: in this order they are on disk before take() returns."""
    node = Node(tmp_path, itertools.count())
    node.take("1.2", "1.2.1", 1)
    log = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(handle):
        log.append(("fsync", str(Path(f"/proc/self/fd/{handle}").readlink()).removeprefix(str(tmp_path))))
        real_fsync(handle)

    def rename(source, target):
        log.append(("rename", str(target).removeprefix(str(tmp_path))))
        return real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    node.take("1.2", "1.2.2", 2)
    assert [kind for kind, _ in log] == ["fsync", "rename", "fsync"]
    assert log[0][1].startswith("/incoming/1.2/.1.2.2_")
    assert log[1][1] == "/incoming/1.2/1.2.2_1_00000002.dcm"
    assert log[2][1] == "/incoming/1.2"
    log.clear()
    assert node.take("1.2", "1.2.2", 2) is False
    assert log == [("fsync", "/incoming/1.2")]
    node.queue()
    assert log[-3:] == [
        ("fsync", "/queued/.1.2_g1.partial"),
        ("rename", "/queued/1.2_g1"),
        ("fsync", "/queued"),
    ]


class Twin(RuleBasedStateMachine):
    """Spool and Intake against dictionaries. A kill may leave any state on the way of one action, and no other."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.reaper = Reaper(self.patch)
        self.root = Path(os.environ["PYTEST_TWIN"]) / str(id(self))
        self.uids = itertools.count()
        self.node = Node(self.root, self.uids)
        self.stored, self.jobs, self.destination = {}, {}, []

    def teardown(self):
        self.patch.undo()
        shutil.rmtree(self.root)

    def state(self):
        return received(self.root), jobs_on_disk(self.root)

    def act(self, action, path, kill):
        """Runs action, perhaps killed; path: every (stored, jobs) from before it to after it."""
        self.reaper.left = kill
        try:
            action()
            allowed = path[-1:]
        except Killed:
            self.reaper.left = None
            self.node = Node(self.root, self.uids)  # which recovers
            allowed = [(s, self.recovered(j)) for s, j in path]
        self.reaper.left = None
        now = self.state()
        fixed = {key: job[2] for key, job in now[1].items()}
        for stored, jobs in allowed:  # the twin cannot know the UIDs of new results before they are made
            known = {k: (s, i, fixed.get(k, f) if f == "new" else f, sent) for k, (s, i, f, sent) in jobs.items()}
            if (stored, known) == now:
                self.stored, self.jobs = stored, known
                return
        raise AssertionError(f"{now} is none of {allowed}")

    @staticmethod
    def recovered(jobs):
        return {
            k: ("queued", i, frozenset(), frozenset()) if s == "running" else (s, i, f, x) for k, (s, i, f, x) in jobs.items()
        }

    def newest(self, study):
        return max((g for s, g in self.jobs if s == study), default=0)

    def is_fresh(self, study):
        newest = self.newest(study)
        covered = self.jobs[study, newest][1] if newest else {}
        return any(covered.get(sop) != content for sop, content in self.stored.get(study, {}).items())

    kills = st.one_of(st.none(), st.none(), st.integers(0, 25))
    studies = st.sampled_from(["1.1", "1.2"])

    @rule(study=studies, sop=st.integers(1, 3), content=st.integers(1, 2), kill=kills)
    def arrives(self, study, sop, content, kill):
        sop = f"{study}.{sop}"
        after = {**self.stored, study: {**self.stored.get(study, {}), sop: content}}
        self.act(lambda: self.node.take(study, sop, content), [(self.stored, self.jobs), (after, self.jobs)], kill)

    @rule(kill=kills)
    def falls_quiet(self, kill):
        path, jobs = [(self.stored, self.jobs)], self.jobs
        fresh = [study for study in self.stored if self.is_fresh(study)]
        additions = [((s, self.newest(s) + 1), ("queued", dict(self.stored[s]), frozenset(), frozenset())) for s in fresh]
        for order in itertools.permutations(additions):  # the order among studies is the node's own
            jobs = self.jobs
            for key, job in order:
                jobs = {**jobs, key: job}
                path.append((self.stored, jobs))
        self.act(self.node.queue, path, kill)

    @precondition(lambda self: any(job[0] == "queued" for job in self.jobs.values()))
    @rule(ending=st.sampled_from(["ok", "ok", "fail", "crash"]), kill=kills)
    def works(self, ending, kill):
        path, jobs = [(self.stored, self.jobs)], dict(self.jobs)
        times = {(j.study, j.generation): (j.queued_at, j.name) for j in spool.jobs(self.root, "queued")}
        for key in sorted(times, key=times.get):
            study, generation = key
            if generation < self.newest(study):
                jobs = {k: v for k, v in jobs.items() if k != key}
                path.append((self.stored, jobs))
            elif not self.is_fresh(study):
                inputs = jobs[key][1]
                path.append((self.stored, {**jobs, key: ("running", inputs, frozenset(), frozenset())}))
                end = {"ok": ("sending", "new"), "fail": ("failed", frozenset()), "crash": ("queued", frozenset())}[ending]
                path.append((self.stored, {**jobs, key: (end[0], inputs, end[1], frozenset())}))
                break
        self.act(lambda: self.node.work(ending), path, kill)

    @precondition(lambda self: any(job[0] == "sending" for job in self.jobs.values()))
    @rule(kill=kills)
    def sends(self, kill):
        job = spool.jobs(self.root, "sending")[0]
        key = (job.study, job.generation)
        _, inputs, fixed, sent = self.jobs[key]
        left = [r.sop_instance for r in spool.unsent(spool.folder(self.root, "sending", job))]
        after = ("sending", inputs, fixed, sent | {left[0]}) if left else ("done", inputs, fixed, sent)
        self.act(
            lambda: self.node.send(self.destination), [(self.stored, self.jobs), (self.stored, {**self.jobs, key: after})], kill
        )

    @rule()
    def restarts(self):
        self.node = Node(self.root, self.uids)
        assert self.state() == (self.stored, self.recovered(self.jobs))

    @invariant()
    def destination_has_what_was_confirmed(self):
        confirmed = {uid for *_, sent in self.jobs.values() for uid in sent}
        assert confirmed <= set(self.destination)
        made = {uid for job in self.jobs.values() if job[2] != "new" for uid in job[2]}
        assert set(self.destination) <= made


def test_the_spool_is_its_literal_twin(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_TWIN", str(tmp_path))
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Twin,
        settings=settings(
            max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
        ),
    )


def test_an_open_association_keeps_a_study_open(tmp_path):
    node = Node(tmp_path, itertools.count())
    association = Association(alive=True)
    node.intake.take("1.2", "1.2.1", "aa", b"data", association)
    node.time = 1000
    assert node.intake.queue_complete() == []
    association.alive = False
    assert [job.name for job in node.intake.queue_complete()] == ["1.2_g1"]


def test_a_study_is_quiet_after_the_last_instance_not_the_first(tmp_path):
    node = Node(tmp_path, itertools.count())
    node.take("1.2", "1.2.1", 1)
    node.time = 9.0
    node.take("1.2", "1.2.2", 2)
    node.time = 18.9
    assert node.intake.queue_complete() == []
    node.time = 19.0
    assert len(node.intake.queue_complete()) == 1


def test_what_comes_late_cannot_change_a_run(tmp_path):
    node = Node(tmp_path, itertools.count())
    node.take("1.2", "1.2.1", 1)
    node.queue()
    job = node.intake.start_next()
    node.take("1.2", "1.2.1", 2)
    node.take("1.2", "1.2.2", 3)
    place = spool.folder(tmp_path, "running", job) / "input"
    assert [(f.name, f.read_bytes()[10:]) for f in place.iterdir()] == [("1.2.1.dcm", b"1")]
    assert [j.generation for j in node.queue()] == [2]


def test_a_generation_that_never_began_gives_way_to_the_next(tmp_path):
    node = Node(tmp_path, itertools.count())
    node.take("1.2", "1.2.1", 1)
    node.queue()
    node.take("1.2", "1.2.2", 2)
    assert node.intake.start_next() is None, "something newer is on its way: the older is not begun"
    node.queue()
    assert [job.generation for job in spool.jobs(tmp_path, "queued")] == [1, 2]
    assert node.intake.start_next().generation == 2
    assert spool.jobs(tmp_path, "queued") == []


def test_recovery_removes_what_was_half_made(tmp_path):
    node = Node(tmp_path, itertools.count())
    node.take("1.2", "1.2.1", 1)
    (tmp_path / "queued" / f".1.2_g1{disk.PARTIAL}" / "input").mkdir(parents=True)
    (tmp_path / "incoming" / "1.2" / f".1.2.2_7{disk.PARTIAL}").write_bytes(b"ha")
    (tmp_path / "trash" / "done_1.2_g1").mkdir()
    Node(tmp_path, itertools.count())
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()] == ["incoming/1.2/1.2.1_1_00000001.dcm"]
    assert not list((tmp_path / "queued").iterdir())
    assert not list((tmp_path / "trash").iterdir())


def test_limits_of_a_study(tmp_path):
    node = Node(tmp_path, itertools.count())
    node.intake.limits = Limits(free_disk_gib=0, study_instances=2, study_gib=30 / 2**30)
    node.take("1.2", "1.2.1", 1)
    node.take("1.2", "1.2.2", 2)
    with pytest.raises(Refusal, match="study_instances 2"):
        node.take("1.2", "1.2.3", 3)
    node.take("1.2", "1.2.2", 2)  # the same once more needs no room
    with pytest.raises(Refusal, match="study_gib"):
        node.take("1.2", "1.2.1", 10**9)
    node.intake.limits = Limits(free_disk_gib=10**9)
    with pytest.raises(Refusal, match="free_disk_gib"):
        node.take("1.3", "1.3.1", 1)
    assert received(tmp_path) == {"1.2": {"1.2.1": 1, "1.2.2": 2}}


def test_a_disk_that_fails_acknowledges_nothing(tmp_path, monkeypatch):
    node = Node(tmp_path, itertools.count())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write_partial", full)
    with pytest.raises(OSError, match="No space"):
        node.take("1.2", "1.2.1", 1)
    monkeypatch.undo()
    assert node.take("1.2", "1.2.1", 1) is True


def test_retention_deletes_only_what_was_sent(tmp_path):
    node, destination = Node(tmp_path, itertools.count()), []
    for study in ("1.1", "1.2", "1.3"):
        node.take(study, f"{study}.1", 1)
    node.queue()
    node.work()
    node.work()
    for _ in range(3):
        node.send(destination)  # both results and the step to done: the first study only
    (sent,) = [job.study for job in spool.jobs(tmp_path, "done")]
    for place in (tmp_path / "incoming").iterdir():
        os.utime(place, (0.5, 0.5))
    assert node.intake.delete_sent(before=0.9) == []
    assert node.intake.delete_sent(before=1.0) == [sent]
    assert node.intake.delete_sent(before=1.0) == []
    assert sorted(received(tmp_path)) == sorted({"1.1", "1.2", "1.3"} - {sent})
    place = spool.folder(tmp_path, "done", spool.jobs(tmp_path, "done")[0])
    assert not (place / "input").exists()
    assert len(list((place / "results").iterdir())) == 2
    # the same images once more make no new generation, an unknown one does
    node.take(sent, f"{sent}.1", 1)
    assert node.queue() == []
    node.take(sent, f"{sent}.2", 2)
    assert [(j.generation, sorted(j.instances)) for j in node.queue()] == [(2, [f"{sent}.1", f"{sent}.2"])]


def test_retention_keeps_what_was_not_sent_or_has_news(tmp_path):
    node, destination = Node(tmp_path, itertools.count()), []
    for study in ("1.1", "1.2"):
        node.take(study, f"{study}.1", 1)
    node.queue()
    for _ in range(2):
        node.work()
    for _ in range(6):
        node.send(destination)
    kept, newer = spool.jobs(tmp_path, "done")
    spool.write_job(spool.folder(tmp_path, "done", kept), replace(kept, sent_to=""))  # made while no destination was set
    node.take(newer.study, f"{newer.study}.2", 2)
    for place in (tmp_path / "incoming").iterdir():
        os.utime(place, (0.5, 0.5))
    assert node.intake.delete_sent(before=10.0) == []
    assert sorted(received(tmp_path)) == ["1.1", "1.2"]


def test_a_study_that_takes_the_node_down_fails_in_the_end(tmp_path):
    for _ in range(3):
        spool.prepare(tmp_path)
        moved = spool.recover(tmp_path, 3)
        intake = Intake(tmp_path, LIMITS, 0.0)
        if not (tmp_path / "incoming" / "1.2").exists():
            intake.take("1.2", "1.2.1", "aa", b"data", Association())
            intake.queue_complete()
        assert moved == [] or moved[0][1] == "queued"
        assert intake.start_next()
    assert [state for _, state in spool.recover(tmp_path, 3)] == ["failed"]
    (job,) = spool.jobs(tmp_path, "failed")
    assert "3 times" in job.reason
    assert "3 times" in (spool.folder(tmp_path, "failed", job) / "log.txt").read_text()


def test_a_failed_write_leaves_no_half(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        disk.write(tmp_path / "a", b"data")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_a_dead_node_made_are_synced_at_the_start(tmp_path, monkeypatch):
    spool.prepare(tmp_path)
    (tmp_path / "incoming" / "1.2").mkdir()  # made, and killed before the sync
    synced = []
    real = os.fsync

    def fsync(handle):
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink().relative_to(tmp_path)))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    spool.prepare(tmp_path)
    Intake(tmp_path, LIMITS, 0.0)
    assert synced == [".", "incoming"]


def test_results_that_were_fixed_but_not_moved_on_are_never_sent_for_a_later_run(tmp_path):
    """Killed between results.json and the move, then a run that fails: --retry must run again."""
    node = Node(tmp_path, itertools.count())
    node.take("1.2", "1.2.1", 1)
    node.queue()
    job = node.intake.start_next()
    place = spool.begin(tmp_path, job)
    (place / "output" / "seg").write_text("9.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "step", lambda *_: None)
        spool.fix_results(tmp_path, job, [(place / "output" / "seg", Result("seg", "9.1", "1.2"))])
    assert (place / "results.json").exists()
    node = Node(tmp_path, itertools.count(5))
    node.work("fail")
    spool.retry(tmp_path, "1.2")
    assert [j.study for j in spool.jobs(tmp_path, "queued")] == ["1.2"]
    node.work()
    (job,) = spool.jobs(tmp_path, "sending")
    assert [r.sop_instance for r in spool.results(spool.folder(tmp_path, "sending", job))] == ["9.5", "9.6"]


def test_retry_puts_a_study_back_where_it_failed(tmp_path):
    node = Node(tmp_path, itertools.count())
    node.take("1.2", "1.2.1", 1)
    node.queue()
    with pytest.raises(InputError, match="not in"):
        spool.retry(tmp_path, "1.2")
    node.work("fail")
    assert spool.retry(tmp_path, "1.2").reason == ""
    node.work()
    (job,) = spool.jobs(tmp_path, "sending")
    spool.fail(tmp_path, "sending", job, "refused")
    spool.retry(tmp_path, "1.2")
    assert [job.name for job in spool.jobs(tmp_path, "sending")] == ["1.2_g1"]
    for wrong in ("1.2_g1", "../1.2", "", "*"):
        with pytest.raises(InputError):
            spool.retry(tmp_path, wrong)


def test_a_job_of_another_version_is_named(tmp_path):
    spool.prepare(tmp_path)
    (tmp_path / "queued" / "1.2_g1").mkdir()
    (tmp_path / "queued" / "1.2_g1" / "job.json").write_text(json.dumps({"study": "1.2", "colour": 1}))
    with pytest.raises(InputError, match="no job of this version"):
        spool.jobs(tmp_path, "queued")


def test_two_jobs_keep_their_order(tmp_path):
    spool.prepare(tmp_path)
    file = tmp_path / "image"
    file.write_bytes(b"")
    for study, queued_at in (("1.9", 1.0), ("1.1", 2.0), ("1.5", 0.5)):
        spool.enqueue(tmp_path, Job(study, 1, queued_at), {f"{study}.1": file})
    assert [job.study for job in spool.jobs(tmp_path, "queued")] == ["1.5", "1.9", "1.1"]
    assert stat.S_ISREG((tmp_path / "queued" / "1.5_g1" / "input" / "1.5.1.dcm").stat().st_mode)
