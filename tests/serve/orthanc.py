"""The node beside a real PACS: python -m tests.serve.orthanc --study FOLDER --kills 10

Orthanc (Debian's package) holds a study, sends it to the node and is the destination of its results. The node is killed with SIGKILL at
random moments until the kills are used up; Orthanc is told to send again whenever its job failed. Counts are Orthanc's own.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

from tests.serve import peers


def start_orthanc(folder: Path, dicom_port: int, http_port: int, node_port: int) -> peers.Process:
    """Orthanc on loopback, as AE title PACS, which knows the node as 'l2s'."""
    settings = {
        "Name": "PACS",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": "PACS",
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomModalities": {"l2s": ["L2S", "127.0.0.1", node_port], "scanner": ["SCANNER", "127.0.0.1", node_port]},
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
    }
    folder.mkdir()
    (folder / "orthanc.json").write_text(json.dumps(settings))
    process = peers.Process([shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(folder / "orthanc.json")], folder / "log")
    peers.wait_for(lambda: peers.answers(http_port) and peers.answers(dicom_port))
    return process


def ask(http_port: int, path: str, data: bytes | None = None):
    with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{http_port}{path}", data), timeout=300) as answer:
        return json.load(answer)


def run(folder: Path, source: Path, kills: int, seed: int, seconds: float) -> Counter:
    """The counts.

    Raises:
        AssertionError: Orthanc has more or fewer objects than the study's and one set of results a generation.
    """
    ports = [peers.free_port() for _ in range(3)]
    study, files = peers.read_study(source)
    spool, log, counts, rng = folder / "spool", folder / "node.log", Counter(kills=kills), random.Random(seed)
    config = peers.write_config(folder / "node.toml", spool, ports[2], ports[0], quiet_s=3.0)
    config.write_text(config.read_text().replace("allow_ae = ['SCANNER']", "allow_ae = ['PACS']"))
    with start_orthanc(folder / "orthanc", *ports) as _:
        for file in files.values():
            ask(ports[1], "/instances", file.read_bytes())
        (identifier,) = ask(ports[1], "/studies")
        node = peers.start_node(config, ports[2], log, "--seconds", str(seconds))

        def send() -> None:
            while True:
                try:
                    ask(ports[1], "/modalities/l2s/store", identifier.encode())
                    return
                except urllib.error.HTTPError:
                    counts["sendings_cut"] += 1
                    time.sleep(0.1)

        sending = threading.Thread(target=send)
        sending.start()
        for _ in range(kills):
            time.sleep(rng.uniform(0.1, 5))
            node.kill()
            node = peers.start_node(config, ports[2], log, "--seconds", str(seconds))
        sending.join()
        peers.wait_for(lambda: peers.spool_is_done(spool, [study]), 120)
        assert node.terminate() == 0
        stored = [file.name.split("_")[0] for file in (spool / "incoming" / study).iterdir()]
        assert sorted(stored) == sorted(files), "the spool has other instances than were sent"
        jobs = list((spool / "done").iterdir())
        made = sorted(file.stem for job in jobs for file in (job / "results").iterdir())
        instances = ask(ports[1], "/instances?expand")
        have = sorted(instance["MainDicomTags"]["SOPInstanceUID"] for instance in instances)
        assert have == sorted([*files, *made]), "Orthanc has other objects than the study's and its results"
        counts.update(
            instances_sent=len(files),
            instances_in_spool=len(stored),
            generations=len(jobs),
            results_made=len(made),
            results_in_orthanc=len(have) - len(files),
            studies_in_orthanc=len(ask(ports[1], "/studies")),
        )
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--study", type=Path, help="folder of one study's files (default: 300 made-up images)")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3.0, help="of the stand-in for the segmentation")
    a = parser.parse_args()
    if not (shutil.which("Orthanc") or Path("/usr/sbin/Orthanc").exists()):
        print("error: Orthanc is not installed; apt-get install orthanc", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        source = a.study
        if source is None:
            source = Path(temporary) / "study"
            peers.make_study(source, 300)
        try:
            counts = run(Path(temporary), source, a.kills, a.seed, a.seconds)
        except AssertionError as error:
            print(f"LOST OR DOUBLED: {error}", file=sys.stderr)
            return 1
    for name, count in counts.items():
        print(f"{name:26}{count:8}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
