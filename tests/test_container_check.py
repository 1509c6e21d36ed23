"""test.sh and export.sh on a stand-in for docker that carries its commands out here: each fault of an image must be found."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "images/automated-petct-lesion-segmentation"

# Understands what test.sh says to docker, with the volumes' paths translated. The image's algorithm answers with the truth of the
# case, spoilt as the case's name asks; the sample cases are those of $SAMPLES.
DOCKER = f"""#!{sys.executable}
import os, shutil, subprocess, sys
from pathlib import Path
import SimpleITK as sitk

def arguments(words):
    host = dict(reversed(word.removesuffix(":ro").rsplit(":", 1)) for word in volumes)
    for word in words:
        mount = next((m for m in host if word == m or word.startswith(m + "/")), None)
        yield host[mount] + word[len(mount):] if mount else word

def answer(case, out):
    truth = sitk.ReadImage(str(case / "truth.mha"))
    if case.name == "crash":
        sys.exit("no memory")
    if case.name == "shifted":
        truth.SetOrigin((9, 9, 9))
    if case.name == "float":
        truth = sitk.Cast(truth, sitk.sitkFloat32)
    if case.name == "label_2":
        truth = truth * 2
    if case.name.startswith("empty"):
        truth = truth * 0
    folder = out / "{FOLDER}"
    folder.mkdir(parents=True)
    sitk.WriteImage(truth, str(folder / ("pet.mha" if case.name == "misnamed" else "ct.mha")))
    if case.name == "two":
        sitk.WriteImage(truth, str(folder / "second.mha"))
    if case.name != "no_record":
        (out / "l2s-record.json").write_text("{{}}")

words = sys.argv[1:]
if words[0] == "image":
    sys.exit()
volumes = [words[k + 1] for k, word in enumerate(words) if word == "-v"]
rest = words[words.index("l2snet") + 1:]
entry = words[words.index("--entrypoint") + 1] if "--entrypoint" in words else None
if "--gpus" in words or "--read-only" not in words and entry != "find":
    sys.exit("refused")
if entry is None:
    answer(*(Path(p) for p in arguments(("/input", "/output"))))
elif rest[0] == "phantom":
    shutil.copytree(os.environ["SAMPLES"], *arguments(rest[1:2]), dirs_exist_ok=True)
else:
    program = {{"l2s": [sys.executable, "-m", "l2s.cli"], "python3": [sys.executable], "find": ["find"]}}[entry]
    sys.exit(subprocess.run([*program, *arguments(rest)], cwd={str(ROOT)!r}).returncode)
"""


def write_case(folder: Path) -> None:
    truth = np.zeros((8, 9, 10), np.uint8)
    truth[2:4, 3:5, 4:6] = 1
    for name, array in (("images/pet/pet", truth * 5.0), ("images/ct/ct", truth - 900.0), ("truth", truth)):
        path = folder / f"{name}.mha"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((4, 4, 3))
        sitk.WriteImage(image, str(path))


@pytest.fixture
def run(tmp_path):
    """(names of cases, arguments of test.sh) -> its result; the cases lie in tmp_path/cases."""
    program = tmp_path / "bin/docker"
    program.parent.mkdir()
    program.write_text(DOCKER)
    program.chmod(0o755)

    def call(names, *given):
        for name in names:
            write_case(tmp_path / "cases" / name)
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        environment = os.environ | {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "SAMPLES": str(tmp_path / "cases"),
            "TMPDIR": str(scratch),
            "OMP_NUM_THREADS": "1",
        }
        for variable in ("TAG", "MIN_DICE", "KEEP"):
            environment.pop(variable, None)
        done = subprocess.run([ROOT / "test.sh", *given], capture_output=True, text=True, env=environment)
        assert list(scratch.iterdir()) == [], "the working folder stayed"
        return done

    return call


def test_each_fault_is_named(run, tmp_path):
    faults = {
        "crash": "exit code 1",
        "float": "the mask: pixel type 32-bit float, uint8 is wanted",
        "label_2": "the mask: label values [0, 2], 0 and 1 are wanted",
        "misnamed": f"{FOLDER}/pet.mha is not named after ct.mha",
        "no_record": "no l2s-record.json",
        "shifted": "the mask: Origin (9.0, 9.0, 9.0) differs from the PET's (0.0, 0.0, 0.0)",
        "two": "2 images written, exactly one is wanted",
    }
    done = run([*faults, "good"], tmp_path / "cases")
    verdicts = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "passed"))]
    assert verdicts == sorted(["passed: good", *(f"FAILED: {name}: {fault}" for name, fault in faults.items())], key=by_case)
    assert done.stdout.endswith("1 passed, 7 failed\n")
    assert done.returncode == 1


def by_case(verdict: str) -> str:
    return verdict.split(": ")[1]


def test_sample_cases_need_the_dice(run):
    done = run(["empty", "good"])
    assert "FAILED: empty: Dice 0.0, at least 0.01 is wanted\n" in done.stdout
    assert "Dice 1.0 against the truth\npassed: good\n1 passed, 1 failed\n" in done.stdout
    assert done.returncode == 1


def test_sample_cases_need_their_mean_dice_too(run):
    done = run(["empty", "empty_2", "empty_3", "good"])
    assert "FAILED: mean Dice 0.25 of the sample cases, at least 0.3 is wanted\n" in done.stdout
    assert done.returncode == 1


def test_good_cases_pass_with_one_warning(run):
    done = run(["good"])
    assert done.returncode == 0
    assert done.stdout.endswith("1 passed, 0 failed\n")
    assert [line for line in done.stdout.splitlines() if "warning" in line] == [
        "warning: no GPU that docker can use; running on the CPU"
    ]
    assert done.stderr == ""


def test_folder_without_cases_is_refused(run, tmp_path):
    done = run([], tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} holds no CASE/images folder\n"


def test_export_packs_image_and_readable_weights(tmp_path):
    """export.sh in a folder of its own, with a docker whose images are a few bytes."""
    (tmp_path / "weights").mkdir()
    manifest = tmp_path / "weights/manifest.json"
    manifest.write_text("{}")
    manifest.chmod(0o600)
    script = tmp_path / "export.sh"
    shutil.copy(ROOT / "export.sh", script)
    program = tmp_path / "bin/docker"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1" = save ] && printf "image of $2"\nexit 0\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run([script, "l2snet:2"], capture_output=True, text=True, env=environment)

    assert done.returncode == 0, done.stderr
    image, model = tmp_path / "dist/l2snet_2.tar.gz", tmp_path / "dist/model.tar.gz"
    assert sorted((tmp_path / "dist").iterdir()) == [image, model]
    assert gzip.decompress(image.read_bytes()) == b"image of l2snet:2"
    with tarfile.open(model) as archive:
        assert {member.name: member.mode for member in archive if member.isfile()} == {"./manifest.json": 0o644}
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    assert done.stdout.startswith(f"dist/l2snet_2.tar.gz: 0 MB, sha256 {digest}\n")

    manifest.unlink()
    done = subprocess.run([script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (2, "error: weights/manifest.json is missing; there are no weights to pack\n")
