"""One line an event: time, level, event, then key=value. No names, no patient IDs, no headers: UIDs, counts and addresses only."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import warnings

log = logging.getLogger("l2s.serve")

PLAIN = re.compile(r"[\w.:/@+,-]+")


def say(event: str, fields: dict[str, object] | None = None, level: int = logging.INFO) -> None:
    """Writes one event.

    Args:
        event: a word, the same for the same kind of event.
        fields: what happened; values with blanks, quotes or line ends are written as JSON strings.
        level: of `logging`.
    """
    log.log(level, "%s", " ".join([event, *(f"{key}={_value(v)}" for key, v in (fields or {}).items())]))


def warn(event: str, fields: dict[str, object] | None = None) -> None:
    say(event, fields, logging.WARNING)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text)


class OneLine(logging.Formatter):
    """The first line of a message after UTC time and level; no traceback from libraries, which may quote headers."""

    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        lines = record.getMessage().splitlines() or [""]
        source = "" if record.name == log.name else f"library={record.name} "
        return f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%SZ')} {record.levelname} {source}{lines[0]}"


def start() -> None:
    """Sends this node's events, and errors of the DICOM libraries, to standard error, one line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    levels = {log.name: logging.INFO, "pynetdicom": logging.ERROR, "pydicom": logging.CRITICAL}
    levels["pynetdicom.transport"] = logging.CRITICAL  # that a connection failed stands in our own event
    for name, level in levels.items():
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
    warnings.filterwarnings("ignore", module=r"pydicom")  # its warnings quote the values of elements
