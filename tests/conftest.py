"""Fixtures that several test folders share: a small real weights folder, and the real data where they are at hand."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from l2s import weights
from l2s.localize.network import Localizer, LocalizerConfig
from l2s.localize.planes import PlanesConfig
from l2s.segment.network import Segmenter, SegmenterConfig
from l2s.segment.windows import WindowsConfig

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def write_weights(folder: Path, spacing_mm=8.0, norm="batch", seed=0) -> Path:
    """A complete weights folder with random networks: the real code, a small encoder."""
    torch.manual_seed(seed)
    localizer = Localizer(LocalizerConfig(encoder="test_resnet", decoder_channels=(16, 16, 8, 8, 8)))
    segmenter = Segmenter(SegmenterConfig(channels=(4, 4, 8, 8), norm=norm))
    files = []
    for name, network in (("localizer", localizer), ("segmenter", segmenter)):
        path = folder / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
        files.append(weights.WeightsFile(path.name, weights.file_sha256(path)))
    manifest = weights.Manifest(
        format=weights.FORMAT,
        name="random",
        intended_use="tests",
        spacing_mm_zyx=(spacing_mm,) * 3,
        fusion="voxelwise",
        localizer=weights.LocalizerPart(localizer.config, PlanesConfig(), (files[0],)),
        segmenter=weights.SegmenterPart(segmenter.config, WindowsConfig(patch_zyx=(16, 16, 16)), (files[1],)),
        training={},
    )
    (folder / weights.MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest)))
    return folder


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory) -> Path:
    """Random weights at 8 mm; shared by all tests, so no test may change it."""
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="session")
def make_weights():
    """write_weights, for weights of another spacing, norm or seed."""
    return write_weights


def write_marking_weights(folder: Path, source, share=0.03) -> Path:
    """write_weights whose last bias is moved until they mark a share of one case: left alone they mark all of it or nothing."""
    import numpy as np
    from safetensors.torch import load_file
    from scipy.special import logit

    import l2s

    write_weights(folder)
    probability = l2s.segment(source, weights=folder, device="cpu", fusion="none").probability
    limit = float(logit(np.quantile(probability, 1 - share))) if share else 20.0
    path = folder / "segmenter.safetensors"
    values = load_file(path)
    values["head.bias"] -= limit
    save_file(values, path)
    manifest = json.loads((folder / weights.MANIFEST).read_text())
    manifest["segmenter"]["files"][0]["sha256"] = weights.file_sha256(path)
    (folder / weights.MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="session")
def make_marking_weights():
    """write_marking_weights; run with --fusion none, as random networks agree on nothing."""
    return write_marking_weights


@pytest.fixture
def own_weights_folder(tmp_path) -> Path:
    """The same for one test to break."""
    folder = tmp_path / "weights"
    folder.mkdir()
    return write_weights(folder)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real PET/CT; its tests skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip("no real PET/CT at ../shared/data")
    return DATA
