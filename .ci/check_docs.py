"""Checks that the commands in the fenced sh blocks of documents would be accepted: files, targets, subcommands, flags, values.

python .ci/check_docs.py README.md ...      Nothing is carried out: a program stops where it has parsed its command line.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTINUED = re.compile(r"\\\n\s*")
SEPARATORS = {"&&", "||", "|", ";", "&"}
REDIRECTIONS = {">", ">>", "<"}
ENVIRONMENT = re.compile(r"\w+=.*", re.DOTALL)  # VARIABLE=value before a command
NOT_OURS = {"apt-get", "cat", "cd", "cp", "export", "git", "ls", "mkdir", "pip", "pytest", "ruff", "source", "sudo", "tar"}
MODULES_NOT_OURS = {"pip", "pytest", "venv"}
IMAGE = re.compile(r"l2snet(:[\w.-]+)?")


def commands(text: str) -> list[list[str]]:
    """The words of every command in the document's sh blocks, without comments, redirections and variables set for it."""
    found = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in CONTINUED.sub(" ", block).splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            words: list[str] = []
            skip = False
            for word in [*lexer, ";"]:
                if word in SEPARATORS:
                    found += [words] if words else []
                    words = []
                elif word in REDIRECTIONS:
                    skip = True
                elif skip or (not words and ENVIRONMENT.fullmatch(word)):
                    skip = False
                else:
                    words.append(word)
    return found


class Accepted(Exception):
    """The command line was parsed."""


def refused(program: str, arguments: list[str]) -> str | None:
    """What the argument parser of a module of ours ('process' is process.py) says against the arguments, or None."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, args=None, namespace=None):
        parse_args(parser, args, namespace)
        raise Accepted

    complaint = io.StringIO()
    before = sys.argv
    sys.argv = [program, *arguments]
    argparse.ArgumentParser.parse_args = parse_and_stop
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(io.StringIO()):
            runpy.run_module(program, run_name="__main__")
    except Accepted:
        return None
    except ImportError as error:
        return f"no such program ({error})"
    except SystemExit as stop:  # --help and --version stop with 0
        return (complaint.getvalue().strip().splitlines() or ["refused"])[-1] if stop.code else None
    finally:
        argparse.ArgumentParser.parse_args = parse_args
        sys.argv = before
    return f"{program} takes no command line"


def problem(words: list[str]) -> str | None:
    """What is wrong with a command, or None."""
    name, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if name in NOT_OURS:
        return None
    if name == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in rest if not ENVIRONMENT.fullmatch(word) and word not in targets]
        return f"make has no target {unknown[0]}" if unknown else None
    if name == "docker":
        image = next((k for k, word in enumerate(rest) if IMAGE.fullmatch(word)), None)
        if rest[:1] != ["run"] or image is None:
            return None
        entry = rest[rest.index("--entrypoint") + 1] if "--entrypoint" in rest else "process.py"
        return problem([entry, *rest[image + 1 :]]) if entry in ("process.py", "l2s") else None
    if name in ("python", "python3") and rest:
        if rest[0] == "-m" and len(rest) > 1:
            return None if rest[1] in MODULES_NOT_OURS else refused(rest[1], rest[2:])
        name, rest = rest[0], rest[1:]
    if name == "l2s":
        return refused("l2s.cli", rest)
    if name.removeprefix("./") == "process.py":
        return refused("process", rest)
    return None if (ROOT / name).is_file() else "no such command here"


def main() -> int:
    sys.path.insert(0, str(ROOT))
    checked = bad = 0
    for document in sys.argv[1:]:
        for words in commands((ROOT / document).read_text()):
            checked += 1
            if reason := problem(words):
                bad += 1
                print(f"{document}: {shlex.join(words)}: {reason}")
    print(f"{checked} commands checked, {bad} wrong")
    return 1 if bad or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
