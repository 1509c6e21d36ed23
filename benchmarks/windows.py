"""Stage 2 by exact tiles against the sliding windows of MONAI and of nnU-Net v2: same network, same volume, same device.

    python -m benchmarks.windows [--quick] [--repeats 3] [--case FOLDER] [--max-ram 4G] [--skip-uncropped]

Theirs: overlap 0.5, Gaussian weights, no mirroring, batch 1, channels-last input; nnU-Net makes its patches contiguous by itself.
Ours: (a) tiles on the body box without a memory limit, (b) within --max-ram, (c) on the body box where theirs get the whole volume;
beside them the weights' own windows, which process.py takes by default: of another size and overlap than theirs.
Neither library is a dependency: pip install monai==1.6.1 nnunetv2==2.8.1 in an environment of its own (nnU-Net asks for another timm
than requirements.txt). Without them their rows are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.timing import in_turn, machine, ratio, table
from l2s import engine, fuse, pipeline, weights
from l2s.io.images import read_image
from l2s.io.studies import read_study
from l2s.measure.metrics import dice
from l2s.phantom.sample import make_case
from l2s.segment import windows
from l2s.study import Grid, Study
from l2s.working import Working, resample, to_working, working_grid

PATCH_ZYX = (96, 64, 80)  # half the paper's patch at twice its spacing: the same millimetres
OVERLAP = 0.5
LIBRARIES = ("monai", "nnunetv2")


def monai_logits(volume: np.ndarray, network: torch.nn.Module, patch_zyx) -> np.ndarray:
    """(2, z, y, x) -> logits (z, y, x) by MONAI's sliding_window_inference."""
    from monai.inferers import sliding_window_inference

    tensor = torch.from_numpy(volume[None]).to(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        return sliding_window_inference(tensor, patch_zyx, 1, network, overlap=OVERLAP, mode="gaussian")[0, 0].numpy()


def nnunet_logits(volume: np.ndarray, network: torch.nn.Module, patch_zyx) -> np.ndarray:
    """(2, z, y, x) -> logits (z, y, x) by nnU-Net's predictor; it needs of its plans the patch and the number of outputs only."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - OVERLAP,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        verbose=False,
        verbose_preprocessing=False,
        allow_tqdm=False,
    )
    plans = SimpleNamespace(get_label_manager=lambda _: SimpleNamespace(num_segmentation_heads=1))
    predictor.manual_initialization(network, plans, SimpleNamespace(patch_size=list(patch_zyx)), None, {}, "", None)
    return predictor.predict_sliding_window_return_logits(torch.from_numpy(volume))[0].float().numpy()


def theirs(network: torch.nn.Module, volume: np.ndarray, patch_zyx) -> dict[str, Callable[[], np.ndarray]]:
    """The libraries that are installed."""
    # theirs would answer with NaN outside, and cost no more, if a patch were larger than the volume
    padded, crop = windows.pad_air(volume, patch_zyx), tuple(slice(0, n) for n in volume.shape[1:])
    kinds = {"monai": ("MONAI", monai_logits), "nnunetv2": ("nnU-Net", nnunet_logits)}
    return {
        name: lambda answer=answer: answer(padded, network, patch_zyx)[crop]
        for library, (name, answer) in kinds.items()
        if importlib.util.find_spec(library)
    }


def load_case(args: argparse.Namespace) -> tuple[Study, np.ndarray]:
    """A phantom, or FOLDER/images/{ct,pet}/*.mha with FOLDER/truth.mha."""
    if args.case is None:
        spacing = 8.0 if args.quick else 4.0
        shape = (16, 20, 24) if args.quick else (250, 128, 128)
        sample = make_case(args.seed, Grid(shape, (spacing,) * 3, (0.0, 0.0, 0.0)), lesions=6)
        return sample.study, sample.truth
    pet, ct = (next((args.case / "images" / kind).glob("*.mha")) for kind in ("pet", "ct"))
    return read_study(pet, ct, args.case.name)[0], read_image(args.case / "truth.mha")[0] > 0.5


def scores(
    answers: dict[str, np.ndarray], cue: np.ndarray, working: Working, study: Study, truth: np.ndarray, plan: engine.Plan
) -> dict:
    """{name: mask on the PET's grid} from each one's logits in the body box, all fused with one cue."""
    first = pipeline.on_pet_grid(cue, working, study.grid, plan)
    masks = {}
    for name, logits in answers.items():
        probability = pipeline.on_pet_grid(logits, working, study.grid, plan)
        masks[name] = fuse.apply("voxelwise", probability, first)
    return {name: (dice(truth, mask), dice(masks["tiles"], mask)) for name, mask in masks.items()}


def whole_volume(study: Study, spacing_mm_zyx, config: windows.WindowsConfig) -> np.ndarray:
    """(2, z, y, x) of the uncropped study."""
    full = working_grid(study.grid, spacing_mm_zyx)
    return windows.scale(*(resample(a, study.grid, full) for a in (study.pet_suv, study.ct_hu)), config)


def show(seconds: dict[str, list[float]], figures: dict, voxels: dict[str, int]) -> str:
    rows = []
    for name, taken in seconds.items():
        to_truth, to_tiles = figures.get(name, ("", ""))
        quality = [f"{v:.4f}" if isinstance(v, float) else v for v in (to_tiles, to_truth)]
        rows.append(
            [name, f"{voxels[name]}", f"{statistics.median(taken):.2f}", f"{ratio(taken, seconds['tiles']):.2f}", *quality]
        )
    return table(["stage 2 by", "voxels", "s, median", "times our tiles", "Dice to our answer", "Dice to the truth"], rows)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    p.add_argument("--quick", action="store_true", help="a small volume and window: shows that it runs, not how fast")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--seed", type=int, default=1, help="of the phantom")
    p.add_argument("--case", type=Path, help="a folder with images/{ct,pet}/*.mha and truth.mha instead of a phantom")
    p.add_argument("--weights", help="default: the bundled ones")
    p.add_argument("--max-ram", default="4G", help="of row (b)")
    p.add_argument("--skip-uncropped", action="store_true", help="leave (c) out: it takes theirs minutes")
    args = p.parse_args()
    patch = (32, 32, 32) if args.quick else PATCH_ZYX
    model, plan = weights.load(weights.find(args.weights)), engine.choose("cpu")
    study, truth = load_case(args)
    working = to_working(study, model.manifest.spacing_mm_zyx)
    config = replace(pipeline.windows_config(model, "tiles"), patch_zyx=patch, overlap=OVERLAP)
    network = model.segmenters[0]
    limited = engine.choose("cpu", budget=engine.Budget(ram_bytes=engine.parse_bytes(args.max_ram)))
    volume = windows.scale(working.pet_suv, working.ct_hu, config)

    def ours(with_plan: engine.Plan, laid: windows.WindowsConfig = config) -> Callable[[], np.ndarray]:
        return lambda: windows.logits(working.pet_suv, working.ct_hu, network, laid, with_plan)

    print(f"{machine(args.repeats)}; {study.name}, window {' x '.join(map(str, patch))}, weights {model.name}", flush=True)
    for library in (name for name in LIBRARIES if not importlib.util.find_spec(name)):
        print(f"{library} is absent: its row is left out (see --help)")
    calls = {"tiles": ours(plan), f"tiles, --max-ram {args.max_ram}": ours(limited)}
    default = pipeline.windows_config(model)
    if default.windows == "gaussian":
        size = " x ".join(map(str, default.patch_zyx))
        calls[f"the weights' windows ({size}, overlap {default.overlap:g})"] = ours(plan, default)
    calls |= theirs(network, volume, patch)
    seconds, answers = in_turn(calls, args.repeats)
    figures = scores(answers, pipeline.cue_logits(working, model, plan), working, study, truth, plan)
    shape = " x ".join(map(str, working.grid.shape_zyx))
    print(f"\nOn the body box, {shape}:\n")
    print(show(seconds, figures, dict.fromkeys(seconds, volume[0].size)))
    if not args.skip_uncropped:
        whole = whole_volume(study, model.manifest.spacing_mm_zyx, config)
        once, _ = in_turn({"tiles": ours(plan)} | theirs(network, whole, patch), 1)
        voxels = {name: volume[0].size if name == "tiles" else whole[0].size for name in once}
        print("\nTheirs on the uncropped volume, ours on the body box (n = 1):\n")
        print(show(once, {}, voxels))


if __name__ == "__main__":
    main()
