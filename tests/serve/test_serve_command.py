"""`l2s serve` as a user meets it, and the node's own rules: one at a time, a bug ends it, private files."""

import json
import logging
import os
import stat
import sys
import threading
import tomllib
import warnings
from pathlib import Path
from typing import ClassVar

import pytest

from l2s import cli
from l2s.errors import InputError
from l2s.serve import config, node, spool, worker
from l2s.serve.config import Config, Limits, Listen, Segment
from l2s.serve.intake import Intake
from tests.serve import peers
from tests.serve.test_serve_listener import listening, store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """The command sets umask, loggers and filters of its process, which here is pytest's."""
    mask = os.umask(0o022)
    for name in ("l2s.serve", "pynetdicom", "pynetdicom.transport", "pydicom"):
        logger = logging.getLogger(name)
        for attribute in ("handlers", "propagate", "level"):
            monkeypatch.setattr(logger, attribute, getattr(logger, attribute))
    with warnings.catch_warnings():
        yield
    os.umask(mask)


def failed(capsys, *argv) -> str:
    """The one line of a command that must exit with 2."""
    assert cli.main(["serve", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert err.startswith("error: ")
    return err


def test_check(tmp_path, capsys):
    with listening(tmp_path / "other", ae="PACS") as (port, _):
        where = f"PACS@127.0.0.1:{port}"
        assert (
            cli.main(
                ["serve", "--spool", str(tmp_path / "s"), "--destination", where, "--port", str(peers.free_port()), "--check"]
            )
            == 0
        )
        out = capsys.readouterr().out
        assert f"{where} answers C-ECHO, not encrypted" in out
        assert "port          free" in out
        assert cli.main(["serve", "--spool", str(tmp_path / "s"), "--port", str(port), "--check"]) == 0
        out = capsys.readouterr().out
        assert "in use" in out
        assert "none: results stay in the spool" in out
        wrong = failed(capsys, "--spool", tmp_path / "s", "--destination", f"OTHER@127.0.0.1:{port}", "--check")
        assert "rejected" in wrong


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "--spool"),
        (["--spool", "s", "--host", "0.0.0.0"], "not loopback"),
        (["--spool", "s", "--destination", "here"], "AE@HOST:PORT"),
        (["--spool", "s", "--destination", "PACS@127.0.0.1:1", "--check"], "no association"),
        (["--spool", "s", "--tls-cert", "no.crt", "--tls-key", "no.key", "--check"], "TLS: No such file"),
        (["--spool", "s", "--tls-cert", "no.crt", "--tls-key", "no.key"], "no.crt"),
        (["--spool", "file", "--check"], "cannot be used"),
        (["--spool", "file"], "cannot be used"),
        (["--config", "absent.toml"], "absent.toml"),
        (["--status", "empty"], "is no spool"),
        (["--spool", "s", "--json"], "--status"),
        (["--spool", "s", "--retry", "1.2.3"], "s is no spool"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, capsys, argv, said):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("empty").mkdir()
    assert said in failed(capsys, *argv)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--dev", "cpu"], "unrecognized arguments: --dev cpu"),
        (["--device"], "expected one argument"),
        (["--precision", "int4"], "invalid choice: 'int4'"),
        (["elsewhere"], "unrecognized arguments: elsewhere"),
        (["--help"], "--help segments nothing"),
        (["--format", "nii.gz"], "--format cannot be given (the node sends"),
        (["--weight-kg", "70"], "--weight-kg cannot be given (it would hold for every patient)"),
        (["--height-m=1.7"], "--height-m cannot be given"),
        (["--sex", "F"], "--sex cannot be given"),
        (["--dose-bq", "3e8"], "--dose-bq cannot be given"),
        (["--half-life-s", "6586.2"], "--half-life-s cannot be given"),
        (["--injection-time", "09:00:00"], "--injection-time cannot be given"),
        (["--reference-datetime", "09:00:00"], "--reference-datetime cannot be given"),
        (["--pet-series", "1.2"], "--pet-series cannot be given"),
        (["--ct-series", "1.2"], "--ct-series cannot be given"),
        (["--ct", "a.mha"], "--ct cannot be given"),
        (["--uid-seed", "a"], "--uid-seed cannot be given"),
        (["--time-budget", "0"], "--time-budget 0"),
        (["--min-volume-ml", "-1"], "minimum volume -1 ml"),
    ],
)
def test_flags_of_the_segmentation_are_checked_at_the_start(tmp_path, capsys, flags, said):
    assert said in failed(capsys, "--spool", tmp_path / "s", "--check", "--", *flags)
    assert not (tmp_path / "s").exists()


def test_flags_of_the_segmentation_in_the_file_are_checked_too(tmp_path, capsys):
    file = tmp_path / "node.toml"
    file.write_text(f'spool = "s"\n[listen]\nport = {peers.free_port()}\n[segment]\nflags = ["--weight-kg", "70"]\n')
    assert "--weight-kg cannot be given" in failed(capsys, "--config", file, "--check")
    flags = ["--device", "cpu", "--report", "--mirror", "x", "--max-ram", "4G", "--connectivity", "26"]
    assert cli.main(["serve", "--config", str(file), "--check", "--", *flags]) == 0
    assert f"further flags: {' '.join(flags)}" in capsys.readouterr().out


def test_status(tmp_path, capsys):
    with listening(tmp_path) as (port, intake):
        for study in ("1.2.1", "1.2.2", "1.2.3"):
            assert store(port, peers.make_image(study)) == 0
        peers.wait_for(lambda: not any(s.is_alive() for r in intake._studies.values() for s in r.senders))
        intake.queue_complete()
        job = intake.start_next()
        spool.fail(tmp_path, "running", job, "no PET")
        store(port, peers.make_image("1.2.9"))
    assert cli.main(["serve", "--status", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {state: len(entries) for state, entries in found.items()} == {
        **{"incoming": 1, "queued": 2, "running": 0, "sending": 0, "done": 0, "failed": 1}
    }
    assert found["failed"][0]["reason"] == "no PET"
    assert found["incoming"] == [{"study": "1.2.9", "instances": 1, "new": 1}]
    assert cli.main(["serve", "--status", str(tmp_path)]) == 0
    assert "failed: 1\n  1.2.1  generation 1, 1 instances, no PET" in capsys.readouterr().out
    assert cli.main(["serve", "--spool", str(tmp_path), "--retry", "1.2.1"]) == 0
    assert "generation 1 is tried again" in capsys.readouterr().out
    assert [job.study for job in spool.jobs(tmp_path, "queued")] == ["1.2.1", "1.2.2", "1.2.3"]


def test_one_node_a_spool(tmp_path, monkeypatch):
    held = node.lock(tmp_path)
    monkeypatch.setattr(node, "LOCK_WAIT_S", 0.3)
    with pytest.raises(InputError, match="in use by another node"):
        node.run(Config(tmp_path))
    os.close(held)
    os.close(node.lock(tmp_path))


def test_a_port_in_use(tmp_path):
    with listening(tmp_path / "one") as (port, _), pytest.raises(InputError, match="is another node running"):
        node.run(Config(tmp_path / "two", Listen(port=port)))
    os.close(node.lock(tmp_path / "two"))  # it was given back


def test_a_bug_ends_the_node(tmp_path, caplog):
    def command(images, output):
        raise RuntimeError("Secret^Name")

    port = peers.free_port()
    settings = Config(tmp_path, Listen(port=port), Limits(free_disk_gib=0), Segment(quiet_s=0.0))
    answer = []
    thread = threading.Thread(target=lambda: answer.append(node.run(settings, command)))
    thread.start()
    peers.wait_for(lambda: peers.answers(port))
    store(port, peers.make_image("1.2.3"))
    thread.join(30)
    assert answer == [1]
    assert "bug part=worker error=RuntimeError at=test_serve_command.py" in caplog.text
    assert "Secret" not in caplog.text
    assert [job.study for job in spool.jobs(tmp_path, "running")] == ["1.2.3"]  # the next start takes it up


@pytest.mark.skipif(not peers.has_dcmtk(), reason="dcmtk is not installed (apt-get install dcmtk)")
def test_the_real_command(tmp_path):
    """`l2s serve` with `l2s segment` behind it, on a study of two small images that no segmentation can use."""
    port, place = peers.free_port(), tmp_path / "spool"
    study, _ = peers.make_study(tmp_path / "study", 2)
    argv = [*(sys.executable, "-m", "l2s.cli", "serve", "--spool", str(place)), *("--port", str(port), "--quiet-s", "0.2")]
    with peers.Process(argv, tmp_path / "log") as process:
        peers.wait_for(lambda: peers.answers(port))
        assert peers.storescu(port, tmp_path / "study").returncode == 0
        peers.wait_for(lambda: list((place / "failed").iterdir()), 60)
        assert process.terminate() == 0
    (job,) = spool.jobs(place, "failed")
    assert job.study == study
    assert "exit code 2" in job.reason
    assert "error: " in (spool.folder(place, "failed", job) / "log.txt").read_text()
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in place.rglob("*")}
    assert modes == {0}


def test_the_command_of_a_segmentation(tmp_path):
    argv = worker.segment_command(("--device", "cpu"))(tmp_path / "in", tmp_path / "out")
    assert argv == [
        *(sys.executable, "-m", "l2s.cli", "segment", str(tmp_path / "in"), str(tmp_path / "out")),
        *("--format", "seg,sr,rtstruct", "--device", "cpu"),
    ]


def run_once(tmp_path, code: str, **settings) -> tuple[worker.Outcome, spool.Job]:
    """One job through worker.run with `python -c CODE IMAGES OUTPUT`."""
    spool.prepare(tmp_path)
    image = tmp_path / "image.dcm"
    peers.make_image("1.2.3").save_as(image, enforce_file_format=True)
    spool.enqueue(tmp_path, spool.Job("1.2.3", 1, 0.0), {"1.2.3.1": image})
    (job,) = spool.jobs(tmp_path, "queued")
    spool.step(tmp_path, "queued", "running", job)
    held = node.lock(tmp_path)
    try:
        outcome = worker.run(
            *(tmp_path, job, lambda images, output: [sys.executable, "-c", code, str(images), str(output)]),
            *(Segment(**settings), threading.Event(), held),
        )
    finally:
        os.close(held)
    (moved,) = spool.jobs(tmp_path, outcome.state)
    return outcome, moved


WRITE = """
import sys, pydicom
sys.path.insert(0, %r)
from tests.serve.fake_segment import make_result
image = pydicom.dcmread(sys.argv[1] + "/1.2.3.1.dcm")
made = make_result("SEG", image, 1)
%s
made.save_as(sys.argv[2] + "/a.bin", enforce_file_format=True)
%s
"""


@pytest.mark.parametrize(
    ("before", "after", "state", "reason"),
    [
        ("", "", "sending", ""),
        ("made.StudyInstanceUID = '1.2.4'", "", "failed", "another study"),
        ("made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = '../x'", "", "failed", "of its own"),
        ("", "made.save_as(sys.argv[2] + '/b.dcm', enforce_file_format=True)", "failed", "of its own"),
        ("", "open(sys.argv[2] + '/c', 'wb').write(bytes(128) + b'DICM' + b'junk' * 9)", "failed", "cannot be read"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_results_are_looked_at(tmp_path, before, after, state, reason):
    outcome, job = run_once(tmp_path, WRITE % (str(ROOT), before, after))
    assert outcome.state == state
    assert reason in outcome.reason
    if state == "sending":
        place = spool.folder(tmp_path, "sending", job)
        (result,) = spool.results(place)
        assert [f.name for f in (place / "results").iterdir()] == [f"{result.sop_instance}.dcm"]
        assert (place / "output" / "a.bin").samefile(place / "results" / f"{result.sop_instance}.dcm")


@pytest.mark.parametrize(
    ("code", "settings", "state", "reason"),
    [
        ("pass", {}, "failed", "made no DICOM object"),
        ("raise SystemExit(2)", {"attempts": 9}, "failed", "exit code 2"),
        ("raise SystemExit(3)", {"attempts": 9}, "queued", "exit code 3"),
        ("raise SystemExit(75)", {"attempts": 1}, "queued", "disk or memory gave out"),
        ("raise SystemExit(3)", {"attempts": 1}, "failed", "exit code 3"),
        ("import os; os.kill(os.getpid(), 11)", {"attempts": 1}, "failed", "SIGSEGV"),
        ("import time; time.sleep(600)", {"timeout_s": 0.3, "attempts": 9}, "failed", "timeout_s 0.3"),
    ],
)
def test_how_a_run_can_end(tmp_path, code, settings, state, reason):
    outcome, job = run_once(tmp_path, code, **settings)
    assert outcome.state == state
    assert reason in outcome.reason
    assert reason in job.reason
    later = "75" in code
    assert outcome.pause == later
    assert not (later and job.attempts)
    assert (job.queued_at > 0) == later, "at the end of the queue"


def test_a_run_is_told_by_the_results_of_its_own(tmp_path):
    """results.json of a run that was cut off, and a run that fails after it."""
    real = spool.step

    def step(root, state, following, job):
        real(root, state, following, job)
        if following == "running":
            (spool.folder(root, following, job) / "results.json").write_text("[]")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "step", step)
        outcome, job = run_once(tmp_path, "raise SystemExit(2)")
    assert outcome.state == "failed"
    spool.retry(tmp_path, job.study)
    assert [j.study for j in spool.jobs(tmp_path, "queued")] == [job.study]


def test_the_worker_waits_where_the_disk_gave_out(tmp_path, monkeypatch):
    class Stop:
        waits: ClassVar[list[float]] = []

        def wait(self, seconds):
            self.waits.append(seconds)
            return len(self.waits) > 2

    spool.prepare(tmp_path)
    intake = Intake(tmp_path, Limits(free_disk_gib=0), 0.0)
    monkeypatch.setattr(intake, "start_next", lambda: spool.Job("1.2", 1, 0.0))
    monkeypatch.setattr(worker, "run", lambda *_: worker.Outcome("queued", "disk", pause=True))
    node.work(tmp_path, intake, None, Config(tmp_path), Stop(), 0)
    assert Stop.waits == [node.TICK_S, node.DISK_PAUSE_S, node.TICK_S]


def test_the_page_s_configuration_holds(tmp_path):
    page = (ROOT / "docs" / "serve.md").read_text()
    text = page.split("```toml\n")[1].split("```")[0]
    assert tomllib.loads(text)["listen"]["host"] == "0.0.0.0"
    (tmp_path / "node.toml").write_text(text)
    assert config.load(tmp_path / "node.toml", {}).destination.ae == "PACS"
