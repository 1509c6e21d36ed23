"""The node under kill -9: python -m tests.serve.crash --studies 20 --kills 50

dcmtk's storescu sends studies to the node, dcmtk's storescp takes the results, a stand-in segments. The node is killed with SIGKILL at
random moments while it receives, segments and sends, and started again; so is the destination, now and then. A study that was not
acknowledged as a whole is sent again, as a scanner would. In the end every instance lies in the spool as it was sent, and the
destination has each result exactly once; counts are printed, and the exit code is 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tests.serve import peers

PHASES = ("receiving", "running", "sending", "any")


SLOW = ("--sleep-during", "1")  # storescp takes a second for each result, so that there is a sending to kill


class Crash:
    """One run of it."""

    def __init__(
        self,
        folder: Path,
        studies: int,
        images: int,
        kills: int,
        seed: int,
        gap_s: float,
        quiet_s: float,
        seconds: float,
        pacs_flags: tuple[str, ...] = (),
    ):
        self.pacs_flags = pacs_flags
        self.folder, self.kills, self.gap_s, self.random = folder, kills, gap_s, random.Random(seed)
        self.spool, self.destination = folder / "spool", folder / "pacs"
        self.port, self.destination_port = peers.free_port(), peers.free_port()
        self.config = peers.write_config(folder / "node.toml", self.spool, self.port, self.destination_port, quiet_s)
        self.flags = ("--seconds", str(seconds))
        self.sent = dict(peers.make_study(folder / "sent" / f"{k:03d}", images) for k in range(studies))
        self.counts: Counter = Counter()
        self.done = 0
        self.is_sending = False

    def send_all(self) -> None:
        """The scanner: one study after another, spread over the kills, each until it is acknowledged."""
        for k, files in enumerate(self.sent.values()):
            while self.done < self.kills * k // len(self.sent):
                time.sleep(0.05)
            self.is_sending = True
            while peers.storescu(self.port, next(iter(files.values())).parent).returncode:
                self.counts["associations_cut"] += 1
                time.sleep(0.1)
            self.is_sending = False

    def is_in(self, phase: str) -> bool:
        if phase == "receiving":
            return self.is_sending
        return phase == "any" or any((self.spool / phase).iterdir())

    def run(self) -> Counter:
        """The counts.

        Raises:
            AssertionError: something was lost or doubled.
        """
        logs = self.folder / "node.log", self.folder / "pacs.log"
        pacs = peers.start_destination(self.destination, self.destination_port, logs[1], *self.pacs_flags)
        node = peers.start_node(self.config, self.port, logs[0], *self.flags)
        scanner = threading.Thread(target=self.send_all)
        scanner.start()
        try:
            while self.done < self.kills:
                phase = self.random.choice(PHASES)
                deadline = time.monotonic() + self.gap_s
                while not self.is_in(phase) and time.monotonic() < deadline:
                    time.sleep(0.01)
                time.sleep(self.random.uniform(0, self.gap_s / 3))
                for name in PHASES[:3]:
                    self.counts[f"kills_while_{name}"] += self.is_in(name)
                node.kill()
                self.counts["kills"] += 1
                if self.random.random() < 0.1:
                    pacs.kill()
                    self.counts["kills_of_destination"] += 1
                    pacs = peers.start_destination(self.destination, self.destination_port, logs[1], *self.pacs_flags)
                node = peers.start_node(self.config, self.port, logs[0], *self.flags)
                self.done += 1
            scanner.join()
            peers.wait_for(lambda: peers.spool_is_done(self.spool, self.sent), 60 + 5 * len(self.sent))
            assert node.terminate() == 0
        finally:
            self.done = self.kills
            node.kill()
            pacs.kill()
        self.counts["stores_at_destination"] = logs[1].read_text(errors="replace").count("storing DICOM file")
        return self.counts + peers.check_all(self.spool, self.sent, self.destination)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--images", type=int, default=60, help="of a study")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap-s", type=float, default=6.0, help="at most so long between two kills, about")
    parser.add_argument("--quiet-s", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a segmentation")
    parser.add_argument("--keep", type=Path, help="folder for spool, logs and files (default: a temporary one)")
    a = parser.parse_args()
    if not peers.has_dcmtk():
        print("error: dcmtk is not installed; apt-get install dcmtk", file=sys.stderr)
        return 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            counts = Crash(folder, a.studies, a.images, a.kills, a.seed, a.gap_s, a.quiet_s, a.seconds, SLOW).run()
        except AssertionError as error:
            print(f"LOST OR DOUBLED: {error}", file=sys.stderr)
            return 1
    for name, count in counts.items():
        print(f"{name:26}{count:8}")
    print(f"nothing lost, nothing doubled; {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
