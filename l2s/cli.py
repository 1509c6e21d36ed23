"""The command line: `l2s COMMAND`, the same as `python -m l2s.cli COMMAND`. One module a command lies in l2s/commands.

A command imports what it needs when it runs: torch alone takes longer than the answer to --help may.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys

from l2s import __version__
from l2s.commands import convert, evaluate, export, inspect, measure, phantom, report, segment, serve, weights
from l2s.errors import InputError

TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h
TEMPORARY_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM)

COMMANDS = (inspect, convert, segment, measure, report, export, serve, evaluate, phantom, weights)


class Printable(logging.Formatter):
    """Messages quote files and their headers, which may hold what steers a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return inspect.printable(super().formatMessage(record))


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0; 2 where the input cannot be used, after one line on stderr; 75 where the disk or memory gave out, so that the same may go well
        later; 1 where the reader of our output has gone.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Printable("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    arguments = make_parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {inspect.printable(str(error))}", file=sys.stderr)
        return code_of(error)
    except BrokenPipeError:
        # `l2s ... | head`: python would flush stdout once more at exit and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_want_of_memory(error):
            raise
        print("error: main memory gave out; free some, or give --max-ram where the command has it", file=sys.stderr)
        return TEMPORARY
    except OSError as error:
        line = f"{error.filename or 'input or output'}: {error.strerror or error}"
        print(f"error: {inspect.printable(line)}", file=sys.stderr)
        return code_of(error)
    return 0


def code_of(error: BaseException | None) -> int:
    """TEMPORARY where the error, or one that it was raised from, is of the machine and not of the input; else 2."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in TEMPORARY_ERRORS:
            return TEMPORARY
        error = error.__cause__
    return 2


def is_want_of_memory(error: Exception) -> bool:
    """Whether main memory gave out: Python and numpy raise MemoryError, torch's allocator a RuntimeError."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="l2s", description="Lesions in whole-body FDG PET/CT by L2SNet. Research use only.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"l2s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
