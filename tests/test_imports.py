"""The house's directions: who may import whom. Data flows one way, stages do not know each other (architecture.md, CONTRIBUTING.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = {"errors", "wholefile", "cores", "study", "body", "engine", "working", "components"}
STAGES = ("localize", "segment", "fuse", "measure", "io", "report", "phantom")
ALLOWED = {  # part of l2s -> the other parts that it may import
    "__init__": {"api", "segment"},  # `l2s.segment(...)`
    "errors": set(),
    "wholefile": set(),
    "cores": set(),
    "study": {"errors"},
    "body": {"errors"},
    "engine": {"errors", "cores"},
    "working": {"errors", "study", "cores"},
    "components": {"errors"},
    **dict.fromkeys(STAGES, BASE),
    "phantom": BASE | {"io"},  # it writes its cases as files
    "weights": BASE | {"localize", "segment", "fuse"},
    "ensemble": {"errors"},
    "pipeline": BASE | {"weights", "ensemble", "localize", "segment", "fuse"},
    "int8": BASE | {"weights"},
    "quantize": BASE | {"weights", "int8", "pipeline", "io", "measure"},
    "sockets": {"errors", "io"},
    "run": BASE | {"io", "weights", "int8", "pipeline", "__init__"},
    "challenge": BASE | {*STAGES, "sockets", "run", "pipeline", "__init__"},
    "outdir": BASE | {"io", "measure"},
    "api": BASE | {*STAGES, "pipeline", "run", "outdir", "__init__"},
    "serve": {"errors", "__init__"},  # the segmentation is a process of its own
    "commands": BASE | {*STAGES, "serve", "weights", "quantize", "pipeline", "run", "outdir", "api", "__init__"},
    "cli": {"errors", "commands", "__init__"},
}
TORCH = {"engine", "ensemble", "weights", "int8", "quantize", "pipeline", "run", "challenge", "localize", "segment"}
LAZY = (
    "torch",
    "timm",
    "SimpleITK",
    "scipy",
    "skimage",
    "pandas",
    "matplotlib",
    "PIL",
    "jinja2",
    "contourpy",
    "evalutils",
    "sklearn",
    "safetensors",
    "nibabel",
    "openvino",
    "nncf",
    "pydicom",
    "highdicom",
    "pynetdicom",
)


def imported(source: str, package: tuple[str, ...]) -> set[str]:
    """Dotted names of everything that a module imports, wherever in it; `from a import b` counts as a.b."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            names |= {".".join([*base, alias.name]) for alias in node.names}
    return names


def part_of(relative: Path) -> str:
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def violations(source: str, relative: Path) -> list[str]:
    """What a module at l2s/relative imports against the rules."""
    part = part_of(relative)
    assert part in ALLOWED, f"l2s/{relative} is a part without a rule: add it here and to CONTRIBUTING.md"
    found = []
    for name in sorted(imported(source, ("l2s", *relative.parts[:-1]))):
        top, *rest = name.split(".")
        if top in ("training", "tests", "process"):
            found.append(f"l2s/{relative} imports {name}")
        if top == "torch" and part not in TORCH:
            found.append(f"l2s/{relative} imports torch")
        if top == "l2s":
            other = rest[0] if rest and rest[0] in ALLOWED else "__init__"
            if other != part and other not in ALLOWED[part]:
                found.append(f"l2s/{relative} imports {name}")
    return found


MODULES = sorted(p.relative_to(ROOT / "l2s") for p in (ROOT / "l2s").rglob("*.py"))


def test_modules_were_found():
    assert {Path("study.py"), Path("fuse/voxelwise.py"), Path("cli.py")} <= set(MODULES)


@pytest.mark.parametrize("relative", MODULES, ids=str)
def test_imports_go_one_way(relative):
    assert violations((ROOT / "l2s" / relative).read_text(), relative) == []


@pytest.mark.parametrize("relative", [Path("localize/network.py"), Path("segment/network.py")], ids=str)
def test_networks_are_torch_only(relative):
    tops = {name.split(".")[0] for name in imported((ROOT / "l2s" / relative).read_text(), ("l2s", relative.parts[0]))}
    assert "torch" in tops
    assert not tops & {"numpy", "scipy", "SimpleITK", "pathlib"}


@pytest.mark.parametrize(
    ("relative", "source"),
    [
        ("localize/planes.py", "from l2s.segment import windows"),
        ("fuse/voxelwise.py", "from l2s import measure"),
        ("fuse/voxelwise.py", "from ..measure import metrics"),
        ("fuse/voxelwise.py", "from .. import io"),
        ("io/images.py", "def read():\n    import l2s.pipeline"),
        ("io/images.py", "import torch.nn"),
        ("measure/metrics.py", "from torch import Tensor"),
        ("report/mip.py", "from l2s.measure.metrics import dice"),
        ("study.py", "from l2s.engine import Plan"),
        ("pipeline.py", "import l2s.cli"),
        ("weights.py", "from l2s.pipeline import segment"),
        ("cli.py", "from training import loop"),
        ("engine.py", "from l2s import __version__"),
        ("commands/phantom.py", "from l2s import cli"),
        ("int8.py", "from l2s.pipeline import segment"),
        ("weights.py", "from l2s import int8"),
        ("serve/worker.py", "from l2s.pipeline import segment"),
        ("serve/listener.py", "from l2s.io import studies"),
    ],
)
def test_a_wrong_direction_is_seen(relative, source):
    assert violations(source, Path(relative))


@pytest.mark.parametrize(
    ("relative", "source"),
    [
        ("fuse/componentwise.py", "from l2s.components import label\nfrom . import voxelwise\nimport numpy"),
        ("localize/planes.py", "import torch\nfrom l2s.engine import Plan\nfrom ..errors import InputError"),
        ("cli.py", "from l2s import __version__\nfrom l2s.commands import weights"),
        ("commands/weights.py", "from l2s import weights"),
    ],
)
def test_a_right_direction_is_let_through(relative, source):
    assert violations(source, Path(relative)) == []


def test_the_command_line_starts_light():
    code = f"import sys, l2s.cli; l2s.cli.make_parser(); print(sorted(set({LAZY!r}) & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"
