"""The node with the stand-in for `l2s segment`: python -m tests.serve.run_node CONFIG.toml [FLAGS OF fake_segment.py]"""

import signal
import sys
import threading
from pathlib import Path

from l2s.serve import config, logs, node

FAKE = Path(__file__).with_name("fake_segment.py")


def main() -> int:
    logs.start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    flags = sys.argv[2:]
    return node.run(
        config.load(Path(sys.argv[1]), {}),
        lambda images, output: [sys.executable, str(FAKE), str(images), str(output), *flags],
        stop,
    )


if __name__ == "__main__":
    sys.exit(main())
