"""The files around the code: scripts, pins, what goes into the image, the check of documented commands."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import l2s

# the check of commands starts modules that other tests have imported: wanted here
pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules")

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ("build.sh", "test.sh", "export.sh", ".ci/run", ".ci/container.sh", "training/reproduce.sh")
IMPORT_NAMES = {"pillow": "PIL", "scikit-image": "skimage"}  # where it is not the package's own
# timm imports torchvision; the others are pydicom's decoders
INDIRECT = {"torchvision", "python-gdcm", "pylibjpeg", "pylibjpeg-openjpeg"}
# what grand-challenge sets for an algorithm's container
PLATFORM = (
    *("--network=none", "--memory=30g", "--memory-swap=30g", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--shm-size=128m", "--pids-limit=256", "--read-only", "--tmpfs /tmp"),
)


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    wrong = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9-]+==\d+(\.\d+)+", line)]
    assert not wrong, f"no exact pin: {wrong}"
    return dict(line.split("==") for line in lines)


def third_party(folder: str) -> set[str]:
    """Top names that a folder's files import, less ours and Python's."""
    names = set()
    for path in ROOT.glob(f"{folder}/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names - {"l2s", "training"} - sys.stdlib_module_names


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_executable_bash_that_stops_at_errors(script):
    path = ROOT / script
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in path.read_text()
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path], capture_output=True, text=True).stderr == ""


def test_requirements_are_the_direct_imports_pinned():
    pinned = {IMPORT_NAMES.get(name, name) for name in pins()}
    assert pinned - INDIRECT == third_party("l2s")


def test_what_the_training_alone_imports_is_pinned_in_its_extra():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["training"]
    assert all(re.fullmatch(r"[a-z0-9]+==\d+(\.\d+)+", line) for line in extra)
    named = {line.split("==")[0] for line in extra}
    # torch.utils.tensorboard imports tensorboard
    assert third_party("training") - third_party("l2s") == named - {"tensorboard"}


def test_torch_is_not_the_slow_release():
    assert not pins()["torch"].startswith("2.9.")


def dockerfile() -> list[str]:
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_build_context_holds_what_the_image_needs_and_nothing_else():
    first, *rest = (ROOT / ".dockerignore").read_text().split()
    assert first == "*"
    allowed = {line[1:] for line in rest if line.startswith("!")}
    copies = [line.split()[1:-1] for line in dockerfile() if line.startswith("COPY") and "--from" not in line]
    assert {source.rstrip("*") for sources in copies for source in sources} == allowed


def test_image_is_not_root_and_starts_without_a_shell():
    lines = dockerfile()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert len(users) == 1 and int(users[0]) >= 1000
    assert lines[-1] == 'ENTRYPOINT ["python3", "/opt/app/process.py"]'
    assert lines[0] == "ARG BASE_IMAGE=python:3.11-slim"


def test_dockerfile_suits_an_older_buildkit_without_registry():
    text = (ROOT / "Dockerfile").read_text()
    assert "<<" not in text and "--link" not in text and "# syntax" not in text


def test_every_restriction_of_the_platform_is_set():
    text = re.search(r"^limits=\((.*?)\)", (ROOT / "test.sh").read_text(), re.DOTALL | re.MULTILINE)[1]
    assert " ".join(text.split()) == " ".join(("--rm", *PLATFORM))


def test_citation_names_this_version():
    assert f"\nversion: {l2s.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def check_docs():
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / ".ci/check_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_commands_of_a_document(check_docs):
    text = "```sh\nmake run && make test   # c\nA=1 l2s phantom \\\n  out > log | cat\n```\n```\nl2s other\n```\n"
    assert check_docs.commands(text) == [["make", "run"], ["make", "test"], ["l2s", "phantom", "out"], ["cat"]]


@pytest.mark.parametrize(
    "command",
    [
        "make test PYTHON=python3.11",
        "./build.sh",
        ".venv/bin/l2s phantom out --cases 2 --shape 50 60 70",
        "python process.py --input IN --output OUT --preview",
        "docker run --gpus all --network none -v IN:/input:ro -v OUT:/output l2snet --on-error empty",
        "docker run --entrypoint l2s l2snet:latest weights verify",
    ],
)
def test_good_command_is_accepted(check_docs, command):
    assert check_docs.problem(command.split()) is None


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("make nonsense", "make has no target nonsense"),
        ("./bild.sh", "no such command here"),
        ("l2s phantum out", "invalid choice: 'phantum'"),
        ("l2s phantom out --spacing 4 4 4 --shap", "ambiguous|unrecognized|expected"),
        ("l2s phantom out --shape 3 4", "expected 3 arguments"),
        ("python process.py --in X", "unrecognized arguments: --in"),
        ("python -m training.nothing", "no such program"),
        ("python -m l2s.errors", "takes no command line"),
        ("docker run -v IN:/input:ro l2snet --edition autopet9", "invalid choice: 'autopet9'"),
        ("docker run --entrypoint l2s l2snet phantum", "invalid choice: 'phantum'"),
    ],
)
def test_wrong_command_is_refused(check_docs, command, reason):
    assert re.search(reason, check_docs.problem(command.split()) or "accepted")
