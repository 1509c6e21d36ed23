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


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0; 2 where the input cannot be used, after one line on stderr; 75 where the disk or memory gave out, so that the same may go well
        later; 1 where the reader of our output has gone.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    arguments = make_parser().parse_args(argv)
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return code_of(error)
    except BrokenPipeError:
        # `l2s ... | head`: python would flush stdout once more at exit and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        return code_of(error)
    return 0


def code_of(error: BaseException | None) -> int:
    """TEMPORARY where the error, or one that it was raised from, is of the machine and not of the input; else 2."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in TEMPORARY_ERRORS:
            return TEMPORARY
        error = error.__cause__
    return 2


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
