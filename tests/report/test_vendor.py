"""NiiVue lies here as npm has it, with its licence, and asks for nothing from the network when it starts."""

import hashlib
import re
from pathlib import Path

import l2s.report

VENDOR = Path(l2s.report.__file__).parent / "vendor"


def test_the_file_is_what_the_readme_says():
    said = re.search(r"sha256 \| `([0-9a-f]{64})`", (VENDOR / "README.md").read_text()).group(1)
    assert hashlib.sha256((VENDOR / "niivue.umd.js").read_bytes()).hexdigest() == said


def test_the_version_is_the_file_s_own():
    version = re.search(r"`@niivue/niivue` ([\d.]+)", (VENDOR / "README.md").read_text()).group(1)
    assert f'"{version}"' in (VENDOR / "niivue.umd.js").read_text()
    assert f"@niivue/niivue {version} (BSD-2-Clause" in (VENDOR / "LICENSES.txt").read_text()


def test_it_is_a_plain_script():
    text = (VENDOR / "niivue.umd.js").read_text()
    assert not re.search(r"^\s*(import|export)\b", text, re.M)
    assert "\r" not in text  # the page's policy holds its hash: a line end that changes would stop it
