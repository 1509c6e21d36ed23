"""What the node's tests have on the other side: made-up studies, dcmtk's programs, the node as a process of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {"PT": "1.2.840.10008.5.1.4.1.1.128", "CT": "1.2.840.10008.5.1.4.1.1.2"}
RESULTS_A_STUDY = 3  # of fake_segment.py


def has_dcmtk() -> bool:
    return all(shutil.which(name) for name in ("storescu", "storescp", "echoscu"))


def make_image(study: str, modality: str = "PT", number: int = 1, **changes) -> Dataset:
    """A small image with everything that a store asks for; changes: other elements by keyword."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = CLASSES[modality], generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = study, generate_uid(entropy_srcs=[study, modality])
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Secret^Name", "SECRET-ID", "", ""
    image.StudyID = image.AccessionNumber = image.StudyDate = image.StudyTime = ""
    image.Modality, image.SeriesNumber, image.InstanceNumber = modality, "1", str(number)
    image.Rows = image.Columns = 64
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.PixelData = np.full((64, 64), number, np.uint16).tobytes()
    for key, value in changes.items():
        setattr(image, key, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def make_study(folder: Path, images: int) -> tuple[str, dict[str, Path]]:
    """(Study Instance UID, SOP Instance UID -> file): half PET, half CT."""
    study, files = generate_uid(), {}
    folder.mkdir(parents=True)
    for number in range(images):
        image = make_image(study, "PT" if number % 2 else "CT", number)
        files[image.SOPInstanceUID] = folder / f"{number:04d}.dcm"
        image.save_as(files[image.SOPInstanceUID], enforce_file_format=True)
    return study, files


def read_study(folder: Path) -> tuple[str, dict[str, Path]]:
    """The same of a folder of files."""
    files, studies = {}, set()
    for file in sorted(folder.rglob("*.dcm")):
        head = pydicom.dcmread(file, stop_before_pixels=True)
        files[head.SOPInstanceUID] = file
        studies.add(head.StudyInstanceUID)
    assert len(studies) == 1
    return studies.pop(), files


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what, seconds: float = 30.0, every: float = 0.05):
    """what()'s first true answer."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        time.sleep(every)
    return answer


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A program that is killed at the end of the test at the latest."""

    def __init__(self, argv: list[str], log: Path):
        with log.open("ab") as output:
            self.process = subprocess.Popen(argv, stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=ROOT)
        self.log = log

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, seconds: float = 30.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def start_destination(folder: Path, port: int, log: Path, *flags: str) -> Process:
    """dcmtk's storescp as the PACS."""
    folder.mkdir(exist_ok=True)
    process = Process(["storescp", "-v", "-aet", "PACS", *flags, "-od", str(folder), str(port)], log)
    wait_for(lambda: answers(port))
    return process


def write_config(path: Path, spool: Path, port: int, destination_port: int | None, quiet_s=1.0, more: str = "") -> Path:
    lines = [
        f"spool = {json.dumps(str(spool))}",
        f"[listen]\nport = {port}\nallow_ae = ['SCANNER']",
        "[limits]\nfree_disk_gib = 0.1",
        f"[segment]\nquiet_s = {quiet_s}\ninterruptions = 100000",
    ]
    if destination_port:
        lines.append(
            f"[destination]\nae = 'PACS'\nhost = '127.0.0.1'\nport = {destination_port}\nretry_s = 0.3\nretry_max_s = 1.0"
        )
    path.write_text("\n".join([*lines, more]))
    return path


def start_node(config: Path, port: int, log: Path, *flags: str) -> Process:
    """The node with fake_segment.py, once it listens."""
    process = Process([sys.executable, "-m", "tests.serve.run_node", str(config), *flags], log)
    wait_for(lambda: answers(port) or process.process.poll() is not None)
    assert process.process.poll() is None, log.read_text()[-2000:]
    return process


def storescu(port: int, folder: Path, *flags: str) -> subprocess.CompletedProcess:
    """Sends a folder as the scanner would; the exit code is 0 when every instance was acknowledged."""
    argv = ["storescu", "-aet", "SCANNER", "-aec", "L2S", *flags, "+sd", "+r", "127.0.0.1", str(port), str(folder)]
    return subprocess.run(argv, capture_output=True, text=True)


def same_dataset(one: Path, other: Path) -> bool:
    """Whether two files hold the same elements (group lengths, which dcmtk leaves out, and file meta aside)."""
    first, second = (pydicom.dcmread(path) for path in (one, other))
    for dataset in (first, second):
        for element in [element for element in dataset if element.tag.element == 0]:
            del dataset[element.tag]
    return first == second


def check_all(
    spool: Path, sent: dict[str, dict[str, Path]], destination: Path, results_a_study: int = RESULTS_A_STUDY
) -> Counter:
    """Asserts that nothing was lost or doubled; the counts.

    Args:
        sent: study -> SOP Instance UID -> the file that was sent.
        destination: storescp's folder.
    """
    counts = Counter(studies=len(sent), instances_sent=sum(map(len, sent.values())))
    made: list[tuple[str, str]] = []
    for study, files in sent.items():
        stored = {f.name.split("_")[0]: f for f in (spool / "incoming" / study).iterdir()}
        assert set(stored) == set(files), f"{study}: {len(stored)} instances in the spool, {len(files)} were sent"
        assert all(same_dataset(stored[sop], files[sop]) for sop in files), f"{study}: an instance differs from what was sent"
        counts["instances_in_spool"] += len(stored)
        jobs = [json.loads((place / "job.json").read_text()) for place in (spool / "done").glob(f"{study}_g*")]
        assert jobs, f"{study} is not done"
        newest = max(jobs, key=lambda job: job["generation"])
        assert set(newest["instances"]) == set(files), f"{study}: the newest generation lacks instances"
        assert len({json.dumps(job["instances"], sort_keys=True) for job in jobs}) == len(jobs), f"{study} was segmented twice"
        counts["generations"] += len(jobs)
        counts["interrupted_runs"] += sum(job["interruptions"] for job in jobs)
        for job in jobs:
            place = spool / "done" / f"{study}_g{job['generation']}"
            made += [(study, file.stem) for file in (place / "results").iterdir()]
    for state in ("queued", "running", "sending", "failed", "trash"):
        assert not list((spool / state).iterdir()), f"something is left in {state}"
    arrived = [pydicom.dcmread(file, stop_before_pixels=True) for file in destination.iterdir()]
    pairs = [(str(dataset.StudyInstanceUID), str(dataset.SOPInstanceUID)) for dataset in arrived]
    assert sorted(pairs) == sorted(made), "the destination has other results than the node made"
    assert len(set(pairs)) == len(pairs)
    assert len(pairs) == results_a_study * counts["generations"]
    counts["results_made"], counts["results_at_destination"] = len(made), len(pairs)
    return counts


def spool_is_done(spool: Path, studies) -> bool:
    """Whether every study has a done job and nothing is under way."""
    busy = any(any((spool / state).iterdir()) for state in ("queued", "running", "sending"))
    return not busy and all(any((spool / "done").glob(f"{study}_g*")) for study in studies)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
