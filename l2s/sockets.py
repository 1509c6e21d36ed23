"""grand-challenge's folders: which files lie under /input, which edition they belong to, and where the mask goes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from l2s.errors import InputError
from l2s.io.images import ENDINGS, stem

AUTOPET_2_FOLDER = "images/automated-petct-lesion-segmentation"
AUTOPET_4_FOLDER = "images/tumor-lesion-segmentation"
OUTPUT_FOLDERS = {
    "autopet1": AUTOPET_2_FOLDER,
    "autopet2": AUTOPET_2_FOLDER,
    "autopet3": AUTOPET_2_FOLDER,
    "autopet4": AUTOPET_4_FOLDER,
    "autopet5": AUTOPET_4_FOLDER,
}
EDITIONS = ("auto", *OUTPUT_FOLDERS)
SOCKET_PATHS = {"pet": "images/pet", "ct": "images/ct"}
INPUTS_FILE = "inputs.json"
CLICKS_FILE = "lesion-clicks.json"
CLICK_NAMES = ("tumor", "background")
NEWER_SLUGS = ("lesion-clicks", "tumor-lesion-segmentation")  # sockets that editions IV and V alone have


@dataclass(frozen=True)
class Sockets:
    """One case's files.

    Attributes:
        pet, ct: the image files.
        name: stem of the CT file, which names the mask (in edition I's test data the PET's stem differs).
        edition: never 'auto'.
        clicks_file: the lesion clicks of editions IV and V, where there are any.
    """

    pet: Path
    ct: Path
    name: str
    edition: str
    clicks_file: Path | None

    @property
    def mask_name(self) -> str:
        """The mask's path below /output."""
        return f"{OUTPUT_FOLDERS[self.edition]}/{self.name}.mha"


def find(folder: Path, edition: str = "auto") -> Sockets:
    """The case under folder (/input).

    Args:
        folder: holds images/pet and images/ct with one file each, perhaps inputs.json and lesion-clicks.json.
        edition: one of EDITIONS; 'auto' is IV's output folder where a clicks file or inputs.json says so, else II's.

    Raises:
        InputError: no file or several, a file of another format, or a broken inputs.json.
    """
    folder = Path(folder)
    if edition not in EDITIONS:
        raise InputError(f"edition {edition!r}: one of {', '.join(EDITIONS)}")
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the one that holds images/pet and images/ct with --input")
    listed = _read_inputs(folder)
    pet, ct = (_one_file(folder, listed, kind) for kind in ("pet", "ct"))
    return Sockets(pet, ct, stem(ct), _known_edition(folder, edition, listed), _clicks_file(folder))


def rescue(folder: Path, edition: str = "auto") -> Sockets:
    """What is needed to write an empty mask: one PET file, and a name from the CT, or from the PET where there is no single CT.

    Raises:
        InputError: there is not exactly one PET file.
    """
    folder = Path(folder)
    try:
        listed = _read_inputs(folder)
    except InputError:
        listed = {}
    pet = _one_file(folder, {}, "pet")
    try:
        ct = _one_file(folder, {}, "ct")
    except InputError:
        ct = pet
    return Sockets(pet, ct, stem(ct), _known_edition(folder, edition, listed), _clicks_file(folder))


def _known_edition(folder: Path, edition: str, listed: dict[str, str]) -> str:
    if edition != "auto":
        return edition
    newer = _clicks_file(folder) or any(slug in NEWER_SLUGS for slug in listed.values())
    return "autopet4" if newer else "autopet2"


def _clicks_file(folder: Path) -> Path | None:
    return folder / CLICKS_FILE if (folder / CLICKS_FILE).is_file() else None


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} is no readable JSON ({error}); write it again or leave it out") from error


def _read_inputs(folder: Path) -> dict[str, str]:
    """relative_path -> slug of the platform's inputs.json; empty where there is none."""
    path = folder / INPUTS_FILE
    if not path.is_file():
        return {}
    entries = _read_json(path)
    if not isinstance(entries, list):
        raise InputError(
            f"{path}: a list of sockets is expected, not {type(entries).__name__}; leave the file out to go by folders"
        )
    listed = {}
    for entry in entries:
        interface = entry.get("interface", entry.get("socket")) if isinstance(entry, dict) else None
        if not isinstance(interface, dict) or not isinstance(interface.get("relative_path"), str):
            raise InputError(f"{path}: an entry without interface.relative_path; leave the file out to go by folders")
        listed[interface["relative_path"].strip("/")] = str(interface.get("slug", ""))
    return listed


def _one_file(folder: Path, listed: dict[str, str], kind: str) -> Path:
    """The one image file of a socket."""
    relative = SOCKET_PATHS[kind]
    if listed and relative not in listed:
        raise InputError(f"inputs.json lists no {relative} (it has {', '.join(sorted(listed))}); give both PET and CT")
    place = folder / relative
    files = sorted(p for p in place.iterdir() if p.is_file() and not p.name.startswith(".")) if place.is_dir() else []
    if len(files) != 1:
        shown = ", ".join(p.name for p in files[:4]) + (" ..." if len(files) > 4 else "")
        raise InputError(
            f"{place} holds {len(files)} files{f' ({shown})' if files else ''}; exactly one is needed ({', '.join(ENDINGS)})"
        )
    stem(files[0])
    return files[0]


def read_clicks(path: Path) -> tuple[tuple[str, tuple[int, int, int]], ...]:
    """The clicks of a lesion-clicks.json as (name, (x, y, z) voxel index).

    Raises:
        InputError: it is not of the platform's type Multiple points.
    """
    content = _read_json(path)
    points = content.get("points") if isinstance(content, dict) else None
    if not isinstance(points, list):
        raise InputError(f"{path.name}: no list 'points'; a grand-challenge 'Multiple points' file is expected, or none")
    clicks = []
    for k, entry in enumerate(points):
        point = entry.get("point") if isinstance(entry, dict) else None
        numbers = isinstance(point, list) and len(point) == 3 and all(isinstance(v, int | float) and abs(v) < 1e6 for v in point)
        if not numbers or entry.get("name") not in CLICK_NAMES:
            raise InputError(
                f"{path.name}: point {k} is {str(entry)[:80]}; x, y, z and a name of {', '.join(CLICK_NAMES)} are expected"
            )
        clicks.append((entry["name"], tuple(int(round(v)) for v in point)))
    return tuple(clicks)


def check_output(output: Path, sockets: Sockets) -> Path:
    """The mask's path, once it is sure that it can be written and will be the only image there.

    Raises:
        InputError: the output folder cannot be written, or its image folder holds another image.
    """
    target = Path(output) / sockets.mask_name
    probe = target.parent / ".write-test"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{target.parent} cannot be written ({error.strerror}); give a writable folder with --output") from error
    others = sorted(p.name for p in target.parent.iterdir() if p != target and not p.name.startswith("."))
    if others:
        raise InputError(
            f"{target.parent} holds {others[0]} already; the platform takes exactly one image: empty the folder or name another"
        )
    return target
