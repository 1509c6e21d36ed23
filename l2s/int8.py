"""8-bit networks for the CPU: OpenVINO models beside the weights, verified, run in place of the torch ones when asked for.

    WEIGHTS/manifest.json, *.safetensors                        the weights that they were made from
    WEIGHTS/int8/int8.json                                      what they are, and what they cost in Dice
    WEIGHTS/int8/{localizer,segmenter}_FOLD.{xml,bin}           the networks

`l2s weights quantize` makes them (quantize.py). They answer a little differently from the weights, so they come into a run by
--precision int8 alone, or by a --time-budget that fp32 would miss, and the run's record says how much they lost where that was measured.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from l2s import weights
from l2s.errors import InputError, MissingExtra

log = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "int8"
FACTS = "int8.json"


@dataclass(frozen=True)
class Calibration:
    """What the value ranges were taken from.

    Attributes:
        cases: how many.
        names_sha256: of the sorted names, one a line: tells two calibrations apart and names no patient.
        planes, tiles: inputs a localizer and a segmenter were shown.
    """

    cases: int
    names_sha256: str
    planes: int
    tiles: int


@dataclass(frozen=True)
class Accuracy:
    """int8 against fp32 with the weights' own fusion; None where no case has a truth or a lesion.

    Attributes:
        cases: how many were segmented twice.
        calibration_cases: whether these were the calibration's own; others tell more.
        dice_fp32, dice_int8: mean Dice to the truth.
        dice_difference: mean of int8 - fp32; negative is a loss.
        worst_difference: of the case that lost most.
        agreement: mean Dice between the two masks, cases in which both are empty left out.
    """

    cases: int
    calibration_cases: bool
    dice_fp32: float | None
    dice_int8: float | None
    dice_difference: float | None
    worst_difference: float | None
    agreement: float | None


@dataclass(frozen=True)
class Facts:
    """int8.json.

    Attributes:
        format: version of this layout.
        weights_sha256: of the manifest of the weights they were made from.
        openvino, nncf: the versions that made them.
        files: every file beside int8.json.
    """

    format: int
    weights_sha256: str
    openvino: str
    nncf: str
    calibration: Calibration
    accuracy: Accuracy
    files: tuple[weights.WeightsFile, ...]


class Compiled(nn.Module):
    """An OpenVINO model that takes the place of a Localizer or a Segmenter: (n, c, ...) fp32 -> (n, 1, ...) fp32 logits, on the CPU."""

    def __init__(self, model, config):
        """Args: an OpenVINO model or its file; the config of the network it was made from."""
        super().__init__()
        self.config = config
        settings = {
            "PERFORMANCE_HINT": "LATENCY",  # one stream with all threads: inputs come one after the other
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",  # of what is not int8: a processor with bf16 units would use them unasked
        }
        self.request = openvino().Core().compile_model(model, "CPU", settings).create_infer_request()

    def forward(self, x: Tensor) -> Tensor:
        # OpenVINO reads (n, c, ...) memory; the copy of a channels-last input is a thousandth of the network's time
        self.request.infer({0: np.ascontiguousarray(x.numpy())}, share_inputs=True)
        # its output memory is overwritten by the next call
        return torch.from_numpy(self.request.get_output_tensor(0).data.copy())


def openvino():
    """The openvino package. Raises MissingExtra."""
    return _extra("openvino")


def nncf():
    """The nncf package, which quantizing alone needs. Raises MissingExtra."""
    return _extra("nncf")


def _extra(package: str):
    # both report their use to their makers' server at import unless this package is absent; a hospital's computer must not
    sys.modules.setdefault("openvino_telemetry", None)
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if error.name != package:
            raise  # it is there and broken: not a thing that installing mends
        raise MissingExtra(
            f"int8 needs {package}, which is not installed: run pip install '.[openvino]' in the folder of l2s, or use --precision fp32"
        ) from None


def file_names(manifest: weights.Manifest) -> tuple[list[str], list[str]]:
    """(localizers, segmenters): the names of the models, one a fold, without ending."""
    parts = (("localizer", manifest.localizer.files), ("segmenter", manifest.segmenter.files))
    return tuple([f"{part}_{fold}" for fold in range(len(files))] for part, files in parts)


def is_there(folder: Path) -> bool:
    """Whether a weights folder has int8 networks and openvino is installed."""
    return (Path(folder) / FOLDER / FACTS).is_file() and importlib.util.find_spec("openvino") is not None


def read_facts(folder: Path) -> Facts:
    """int8.json of a weights folder.

    Raises:
        InputError: there is none, or it is not exactly as Facts says.
    """
    path = Path(folder) / FOLDER / FACTS
    if not path.is_file():
        raise InputError(f"no int8 networks in {folder}: make some with l2s weights quantize, or use --precision fp32")
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); copy the weights folder again") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else None
        raise InputError(f"{path}: format {found!r}, this version reads {FORMAT}; make them again with l2s weights quantize")
    return weights.build(Facts, value, FACTS)


def facts(folder: Path) -> dict:
    """What a run's record says of a weights folder's int8 networks, JSON-able: all of int8.json but the files."""
    found = asdict(read_facts(folder))
    del found["files"]
    return found


def load(model: weights.Model) -> weights.Model:
    """The model with its networks replaced by the int8 ones of its folder.

    Raises:
        MissingExtra: openvino is not installed.
        InputError: there are none, they were made from other weights, or a file is missing or altered.
    """
    folder = model.folder / FOLDER
    found = read_facts(model.folder)
    if found.weights_sha256 != model.sha256:
        raise InputError(
            f"{folder} was made from other weights (manifest {found.weights_sha256[:12]}..., here {model.sha256[:12]}...); "
            "make it again with l2s weights quantize"
        )
    names = file_names(model.manifest)
    listed = {entry.file: entry for entry in found.files}
    wanted = [f"{name}.{ending}" for part in names for name in part for ending in ("xml", "bin")]
    if sorted(listed) != sorted(wanted):
        raise InputError(
            f"{folder / FACTS} lists {len(listed)} files, {len(wanted)} are expected; make them again with l2s weights quantize"
        )
    for entry in found.files:
        weights.checked_path(folder, entry)
    log.info("int8 networks: Dice %s against fp32 on %d cases", found.accuracy.dice_difference, found.accuracy.cases)
    parts = ((names[0], model.manifest.localizer.network), (names[1], model.manifest.segmenter.network))
    makers = [[partial(Compiled, folder / f"{name}.xml", config) for name in part] for part, config in parts]
    if isinstance(model.localizers, weights.OnDemand):  # memory is short: one compiled network at a time
        first, second = (weights.OnDemand(part) for part in makers)
    else:
        first, second = (tuple(make() for make in part) for part in makers)
    return replace(model, localizers=first, segmenters=second)
