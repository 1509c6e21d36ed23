"""Weights: a folder of safetensors files and a manifest that says all that inference must know. Verified, strict, never pickle."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from l2s import fuse
from l2s.errors import InputError
from l2s.localize.network import Localizer, LocalizerConfig
from l2s.localize.network import fold_batch_norms as fold_localizer
from l2s.localize.planes import PLANE_AXIS, PlanesConfig
from l2s.segment.network import NORMS, Segmenter, SegmenterConfig
from l2s.segment.network import fold_batch_norms as fold_segmenter
from l2s.segment.windows import WINDOWS, WindowsConfig

FORMAT = 1
MANIFEST = "manifest.json"
PLATFORM_FOLDER = Path("/opt/ml/model")  # where grand-challenge extracts a model tarball
BUNDLED_FOLDER = Path(__file__).resolve().parents[1] / "weights"


@dataclass(frozen=True)
class WeightsFile:
    """One network's file: its name in the folder and the SHA-256 of its bytes."""

    file: str
    sha256: str


@dataclass(frozen=True)
class LocalizerPart:
    """Stage 1: network, preprocessing, one file a fold."""

    network: LocalizerConfig
    planes: PlanesConfig
    files: tuple[WeightsFile, ...]


@dataclass(frozen=True)
class SegmenterPart:
    """Stage 2: network, preprocessing, one file a fold."""

    network: SegmenterConfig
    windows: WindowsConfig
    files: tuple[WeightsFile, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything inference needs beside the study.

    Attributes:
        format: version of this layout.
        name: the weights' own name.
        intended_use: what they may be used for.
        spacing_mm_zyx: the working spacing.
        fusion: the policy by default: 'voxelwise', 'componentwise' or 'none'.
        localizer, segmenter: the two stages.
        training: provenance: data, recipe, seeds, code version, figures; read by people.
    """

    format: int
    name: str
    intended_use: str
    spacing_mm_zyx: tuple[float, float, float]
    fusion: str
    localizer: LocalizerPart
    segmenter: SegmenterPart
    training: dict


@dataclass(frozen=True)
class Model:
    """Loaded weights: networks in eval mode on the CPU, one of each kind a fold.

    Attributes:
        sha256: of the manifest's bytes; as the manifest holds the files' own sums, it stands for all of them.
    """

    folder: Path
    manifest: Manifest
    sha256: str
    localizers: Sequence[nn.Module]
    segmenters: Sequence[nn.Module]

    @property
    def name(self) -> str:
        return self.manifest.name


def find(explicit: str | None = None) -> Path:
    """The weights folder: the one given, else $L2S_WEIGHTS, else /opt/ml/model if it holds a manifest, else the bundled one."""
    named = explicit or os.environ.get("L2S_WEIGHTS")
    if named:
        return Path(named)
    return PLATFORM_FOLDER if (PLATFORM_FOLDER / MANIFEST).is_file() else BUNDLED_FOLDER


def build(kind: type, value, where: str):
    """A value of JSON as the dataclass, tuple or plain type `kind`, strictly: no missing, unknown or mistyped field."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where}: an object is expected, not {value!r}")
        hints = get_type_hints(kind)
        wrong = sorted(set(value) ^ set(hints))
        if wrong:
            raise InputError(f"{where}: fields {wrong} are missing or unknown to this version; use weights made for it")
        return kind(**{name: build(hint, value[name], f"{where}.{name}") for name, hint in hints.items()})
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(value, list) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            raise InputError(f"{where}: a list as {kind} is expected, not {value!r}")
        return tuple(build(inner[0], item, f"{where}[{k}]") for k, item in enumerate(value))
    accepted = get_args(kind) if get_origin(kind) is UnionType else (kind,)
    if float in accepted and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) not in accepted:
        raise InputError(f"{where}: {getattr(kind, '__name__', kind)} is expected, not {value!r}")
    return value


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """The folder's manifest and the SHA-256 of its bytes.

    Raises:
        InputError: there is none, it is no JSON, of another format, or not exactly as Manifest says.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"no {MANIFEST} in {folder}: name a weights folder with --weights or L2S_WEIGHTS")
    raw = path.read_bytes()
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); copy the weights folder again") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else None
        raise InputError(f"{path}: format {found!r}, this version reads {FORMAT}; use weights made for it")
    manifest = build(Manifest, value, MANIFEST)
    if not manifest.localizer.files or len(manifest.localizer.files) != len(manifest.segmenter.files):
        raise InputError(
            f"{path}: {len(manifest.localizer.files)} localizers and {len(manifest.segmenter.files)} segmenters; one of each a fold"
        )
    check_values(manifest)
    return manifest, hashlib.sha256(raw).hexdigest()


def check_values(manifest: Manifest) -> None:
    """Raises InputError for a manifest whose values no code here can follow."""
    first, second = manifest.localizer, manifest.segmenter
    stride = second.network.stride
    for good, field, value in (
        (all(0 < s < math.inf for s in manifest.spacing_mm_zyx), "spacing_mm_zyx", manifest.spacing_mm_zyx),
        (manifest.fusion in fuse.POLICIES, "fusion", manifest.fusion),
        (first.planes.plane in PLANE_AXIS, "localizer.planes.plane", first.planes.plane),
        (first.network.neighbours >= 0, "localizer.network.neighbours", first.network.neighbours),
        (second.network.norm in NORMS, "segmenter.network.norm", second.network.norm),
        (second.windows.windows in WINDOWS, "segmenter.windows.windows", second.windows.windows),
        (
            all(n > 0 and n % stride == 0 for n in second.windows.patch_zyx),
            "segmenter.windows.patch_zyx",
            second.windows.patch_zyx,
        ),
        (0 <= second.windows.overlap < 1, "segmenter.windows.overlap", second.windows.overlap),
    ):
        if not good:
            raise InputError(f"{MANIFEST}: {field} is {value!r}, which this version does not know; use weights made for it")


def file_sha256(path: Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_path(folder: Path, entry: WeightsFile) -> Path:
    """The file's path once its bytes have the sum that the manifest gives."""
    path = Path(folder) / entry.file
    if Path(entry.file).name != entry.file:
        raise InputError(f"{MANIFEST}: file name {entry.file!r} leaves the weights folder")
    if not path.is_file():
        raise InputError(f"{path} is missing; copy the weights folder again")
    found = file_sha256(path)
    if found != entry.sha256:
        raise InputError(
            f"{path}: SHA-256 {found[:12]}..., the manifest says {entry.sha256[:12]}...; copy the weights folder again"
        )
    return path


def load_network(path: Path, network: nn.Module) -> nn.Module:
    """The network in eval mode with the file's tensors, each present, none left over, 16-bit ones widened to fp32."""
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is no safetensors file ({error}); copy the weights folder again") from None
    own = network.state_dict()
    wrong = sorted(set(own) ^ set(state)) or sorted(k for k in own if own[k].shape != state[k].shape)
    if wrong:
        raise InputError(
            f"{path}: {len(wrong)} tensors do not fit the manifest's network, first {wrong[0]!r}; use the manifest of its training"
        )
    network.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=True, assign=True)
    return network.eval()


class OnDemand(Sequence):
    """Networks of which each is made anew when it is taken: an ensemble then needs the memory of one."""

    def __init__(self, makers: Sequence[Callable[[], nn.Module]]):
        self.makers = tuple(makers)

    def __len__(self) -> int:
        return len(self.makers)

    def __getitem__(self, k):
        return OnDemand(self.makers[k]) if isinstance(k, slice) else self.makers[k]()


def load(folder: Path, on_demand: bool = False) -> Model:
    """The verified model of a weights folder.

    Args:
        folder: holds the manifest and the networks' files.
        on_demand: several folds are not kept in memory, each is read when it is its turn.

    Raises:
        InputError: anything is missing, altered or does not fit.
    """
    manifest, sha256 = read_manifest(folder)
    first, second = manifest.localizer, manifest.segmenter
    localizers = [partial(load_localizer, checked_path(folder, f), first.network) for f in first.files]
    segmenters = [partial(load_segmenter, checked_path(folder, f), second.network) for f in second.files]
    if on_demand and len(localizers) + len(segmenters) > 2:
        return Model(Path(folder), manifest, sha256, OnDemand(localizers), OnDemand(segmenters))
    return Model(Path(folder), manifest, sha256, tuple(make() for make in localizers), tuple(make() for make in segmenters))


def load_localizer(path: Path, config: LocalizerConfig) -> nn.Module:
    with torch.device("meta"):  # the file has all the numbers: drawing random ones first takes longer than reading it
        network = Localizer(config)
    return fold_localizer(load_network(path, network)).to(memory_format=torch.channels_last)


def load_segmenter(path: Path, config: SegmenterConfig) -> nn.Module:
    with torch.device("meta"):
        network = Segmenter(config)
    return fold_segmenter(load_network(path, network)).to(memory_format=torch.channels_last_3d)


def verify(folder: Path) -> list[str]:
    """A line a file, once all of it is loaded and found right; raises InputError otherwise."""
    model = load(folder)
    lines = []
    for part, networks in ((model.manifest.localizer, model.localizers), (model.manifest.segmenter, model.segmenters)):
        for entry, network in zip(part.files, networks):
            parameters = sum(p.numel() for p in network.parameters())
            lines.append(f"{entry.file}: sha256 {entry.sha256}, {parameters / 1e6:.2f} million parameters: good")
    return lines


def describe(folder: Path) -> dict:
    """The manifest as JSON-able dictionary, with the folder's size and sum; files are not verified."""
    manifest, sha256 = read_manifest(folder)
    entries = [*manifest.localizer.files, *manifest.segmenter.files]
    sizes = [(Path(folder) / entry.file).stat().st_size for entry in entries if (Path(folder) / entry.file).is_file()]
    return {"sha256": sha256, "bytes": sum(sizes), **dataclasses.asdict(manifest)}
