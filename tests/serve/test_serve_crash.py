"""The node as a process, with dcmtk on both sides: killed, stopped, with studies that fail, and with a real PET/CT study."""

import time

import pytest

from tests.serve import peers
from tests.serve.crash import Crash

needs_dcmtk = pytest.mark.skipif(not peers.has_dcmtk(), reason="dcmtk is not installed (apt-get install dcmtk)")


@needs_dcmtk
def test_kill_9_loses_and_doubles_nothing(tmp_path, capsys):
    counts = Crash(tmp_path, studies=3, images=20, kills=5, seed=1, gap_s=1.5, quiet_s=1.0, seconds=0.4).run()
    with capsys.disabled():
        print("\n", dict(counts))
    assert counts["kills"] == 5
    assert counts["instances_in_spool"] == 60
    assert counts["results_at_destination"] >= 9


@needs_dcmtk
def test_studies_that_fail_do_not_hold_up_others(tmp_path):
    """One has bad input, one crashes its process each time; the destination comes up last."""
    port, destination_port, bad, crashing = peers.free_port(), peers.free_port(), tmp_path / "bad", tmp_path / "crashing"
    studies = [peers.make_study(tmp_path / f"study{k}", 2) for k in range(3)]
    bad.write_text(studies[0][0])
    crashing.write_text(studies[1][0])
    spool = tmp_path / "spool"
    config = peers.write_config(tmp_path / "node.toml", spool, port, destination_port, quiet_s=0.2)
    log = tmp_path / "node.log"
    with peers.start_node(config, port, log, "--fail", str(bad), "--crash", str(crashing), "--seconds", "0.1") as node:
        for k in range(3):
            assert peers.storescu(port, tmp_path / f"study{k}").returncode == 0
        peers.wait_for(lambda: len(list((spool / "failed").iterdir())) == 2 and list((spool / "sending").iterdir()))
        peers.wait_for(lambda: "not_sent" in log.read_text())
        with peers.start_destination(tmp_path / "pacs", destination_port, tmp_path / "pacs.log"):
            peers.wait_for(lambda: list((spool / "done").iterdir()))
            assert len(list((tmp_path / "pacs").iterdir())) == 3
        assert node.terminate() == 0
    lines = log.read_text()
    assert (spool / "failed" / f"{studies[0][0]}_g1" / "log.txt").read_text().count("no PET series") == 1
    assert (spool / "failed" / f"{studies[1][0]}_g1" / "log.txt").read_text().count("2 images") == 2
    assert "SIGKILL" in lines
    assert "exit code 2" in lines
    assert "Secret" not in lines
    assert "SECRET" not in lines
    assert all(line.split()[1] in ("INFO", "WARNING") for line in lines.splitlines()), lines


@needs_dcmtk
def test_sigterm_abandons_a_run_and_the_next_start_takes_it_up(tmp_path):
    port, spool = peers.free_port(), tmp_path / "spool"
    study, files = peers.make_study(tmp_path / "study", 4)
    config = peers.write_config(tmp_path / "node.toml", spool, port, None, quiet_s=0.2)
    with peers.start_node(config, port, tmp_path / "log", "--seconds", "600") as node:
        assert peers.storescu(port, tmp_path / "study").returncode == 0
        peers.wait_for(lambda: list((spool / "running").glob("*/log.txt")))
        assert node.terminate() == 0
    assert [place.name for place in (spool / "queued").iterdir()] == [f"{study}_g1"]
    with peers.start_node(config, port, tmp_path / "log", "--seconds", "0") as node:
        peers.wait_for(lambda: peers.spool_is_done(spool, [study]))
        assert node.terminate() == 0
    assert len(list((spool / "done" / f"{study}_g1" / "results").iterdir())) == 3


@needs_dcmtk
def test_a_segmentation_dies_with_its_node(tmp_path):
    port, spool = peers.free_port(), tmp_path / "spool"
    peers.make_study(tmp_path / "study", 2)
    config = peers.write_config(tmp_path / "node.toml", spool, port, None, quiet_s=0.2)
    with peers.start_node(config, port, tmp_path / "log", "--seconds", "600") as node:
        assert peers.storescu(port, tmp_path / "study").returncode == 0
        (log,) = peers.wait_for(lambda: list((spool / "running").glob("*/log.txt")))
        peers.wait_for(lambda: "2 images" in log.read_text())
        (children,) = [f"/proc/{node.process.pid}/task/"]
        pids = [pid for task in peers.Path(children).iterdir() for pid in (task / "children").read_text().split()]
        (child,) = map(int, pids)
        assert peers.Path(f"/proc/{child}/oom_score_adj").read_text().strip() == "800"
        node.kill()
        peers.wait_for(lambda: not peers.alive(child) or "Z" in peers.Path(f"/proc/{child}/stat").read_text(), 10)


@needs_dcmtk
def test_a_late_instance_makes_a_new_generation(tmp_path):
    port, destination_port, spool = peers.free_port(), peers.free_port(), tmp_path / "spool"
    study, files = peers.make_study(tmp_path / "study", 4)
    (tmp_path / "late").mkdir()
    late = list(files.values())[-1].rename(tmp_path / "late" / "late.dcm")
    config = peers.write_config(tmp_path / "node.toml", spool, port, destination_port, quiet_s=0.2)
    with (
        peers.start_destination(tmp_path / "pacs", destination_port, tmp_path / "pacs.log"),
        peers.start_node(config, port, tmp_path / "log", "--seconds", "0.1") as node,
    ):
        assert peers.storescu(port, tmp_path / "study").returncode == 0
        peers.wait_for(lambda: peers.spool_is_done(spool, [study]))
        assert peers.storescu(port, tmp_path / "late").returncode == 0
        peers.wait_for(lambda: (spool / "done" / f"{study}_g2").exists())
        assert peers.storescu(port, tmp_path / "late").returncode == 0  # once more the same: nothing happens
        time.sleep(1)
        assert node.terminate() == 0
    files = {sop: file if file.exists() else late for sop, file in files.items()}
    counts = peers.check_all(spool, {study: files}, tmp_path / "pacs")
    assert counts["generations"] == 2
    assert "WARNING late" in (tmp_path / "log").read_text()


@needs_dcmtk
def test_a_real_study_comes_through(tmp_path, data):
    """All four series of a scanner's folder, 405 images and a scout."""
    folder = data / "acrin042"
    if not folder.is_dir():
        pytest.skip("no acrin042 at ../shared/data")
    port, destination_port, spool = peers.free_port(), peers.free_port(), tmp_path / "spool"
    study, files = peers.read_study(folder)
    config = peers.write_config(tmp_path / "node.toml", spool, port, destination_port, quiet_s=0.5)
    with (
        peers.start_destination(tmp_path / "pacs", destination_port, tmp_path / "pacs.log"),
        peers.start_node(config, port, tmp_path / "log", "--seconds", "0.1") as node,
    ):
        assert peers.storescu(port, folder).returncode == 0
        peers.wait_for(lambda: peers.spool_is_done(spool, [study]), 60)
        assert node.terminate() == 0
    assert peers.check_all(spool, {study: files}, tmp_path / "pacs")["instances_in_spool"] == len(files)
