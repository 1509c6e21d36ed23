"""The training loop of both stages: read it from top to bottom."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.tensorboard import SummaryWriter

from l2s.engine import Plan
from l2s.errors import InputError
from l2s.wholefile import whole_file
from training.loader import batches
from training.log import append_log, read_log
from training.pictures import show
from training.processes import Process, gathered, shared, summed
from training.recipe import Schedule
from training.sampling import Batch

log = logging.getLogger(__name__)

SETTLING_BATCHES = 24


@dataclass(frozen=True)
class Machine:
    """What a run uses.

    Attributes:
        plan: device and precision; on a GPU below fp32 the mixed precision of torch.autocast.
        process: which of several processes this is.
        workers: processes that make batches ahead.
    """

    plan: Plan
    process: Process = Process()
    workers: int = 0


def make_optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; norms and biases do not decay (ours: the paper decays "the weights")."""
    decay = [p for p in network.parameters() if p.ndim > 1]
    keep = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": schedule.weight_decay}, {"params": keep, "weight_decay": 0.0}]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.learning_rate)


def learning_rate(schedule: Schedule, step: int) -> float:
    """lr * (1 - n/N)^power with n counted in epochs (paper equation 3), after a linear warm-up."""
    epoch = step // schedule.steps_per_epoch
    rate = schedule.learning_rate * (1 - epoch / schedule.epochs) ** schedule.poly_power
    return rate * min(1.0, (step + 1) / max(1, schedule.warmup_steps))


def save(path: Path, state: dict) -> None:
    """A checkpoint through a temporary name, so that a kill leaves the last whole one."""
    with whole_file(path) as partial:
        torch.save(state, partial)


def trained_state(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of a finished training's checkpoint, for a plain network.

    Raises:
        InputError: their batch norms are not settled.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not state.get("settled"):
        raise InputError(f"{checkpoint}: the norms of its averaged weights are not settled: run the training command again")
    return {name.removeprefix("module."): tensor for name, tensor in state["averaged"].items() if name != "n_averaged"}


def freeze_norms(network: nn.Module) -> None:
    """Batch norms use the statistics they have and no longer update them."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def settle_norms(averaged: nn.Module, images: Iterable[Tensor], process: Process) -> None:
    """Batch norms' statistics that belong to the averaged weights, from images of training batches.

    The network's running statistics are of its last weights, and an average of them is of none: with either the averaged network answers
    wrongly (training/README.md, Choices). Izmailov et al. 2018 pass over the data again, as this does.
    """
    update_bn(images, averaged)
    if process.world > 1:  # on CPUs each has seen its own samples alone
        for module in averaged.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for statistic in (module.running_mean, module.running_var):
                    statistic.copy_(summed(statistic, process) / process.world)


def to_device(batch: Batch, device: str) -> Batch:
    """The batch on the device, its image channels-last."""
    layout = torch.channels_last if batch.image.ndim == 4 else torch.channels_last_3d
    image = batch.image.to(device, memory_format=layout)
    truth, cue = (None if t is None else t.to(device) for t in (batch.truth, batch.cue))
    return Batch(image, truth, cue)


def resume(checkpoint: Path, parts: dict, machine: Machine) -> int:
    """Loads a checkpoint's state into each part; returns the step to go on from, 0 without a checkpoint."""
    if not checkpoint.is_file():
        return 0
    plan = machine.plan
    state = torch.load(checkpoint, map_location=plan.device, weights_only=True)
    for name, part in parts.items():
        if name in state:  # a scaler, where the run began in another precision
            part.load_state_dict(state[name])
    # a kill may have come between the checkpoint and its row
    if machine.process.rank == 0:
        rows = read_log(checkpoint.parent)
        if not rows or rows[-1]["step"] < state["step"]:
            append_log(checkpoint.parent, json.loads(state["row"]))
    log.info("resumed %s at step %d", checkpoint.parent.name, state["step"])
    if (before := state.get("precision", plan.precision)) != plan.precision:
        log.warning("%s was trained in %s so far, this run is in %s", checkpoint.parent.name, before, plan.precision)
    return state["step"]


def end_settled(checkpoint: Path, averaged: nn.Module, settle: Callable[[], None], process: Process) -> None:
    """A checkpoint that a shorter schedule makes the last one gets the norms that the last one has."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not state.get("settled"):
        settle()
        if process.rank == 0:
            save(checkpoint, state | {"settled": True, "averaged": averaged.state_dict()})


def train(
    network: nn.Module,
    schedule: Schedule,
    make_batch: Callable[[int], Batch],
    loss_of: Callable[[Tensor, Batch], Tensor],
    folder: Path,
    machine: Machine,
    validate: Callable[[nn.Module], list[tuple[str, float]]] | None = None,
    validate_every: int = 5,
) -> nn.Module:
    """Trains the network; leaves last.pt, log.jsonl and TensorBoard's events in the folder.

    Args:
        network: on any device.
        schedule: length, rate, optimizer.
        make_batch: step -> this process's part of the batch; it must depend on the step alone, which makes a resumed run exact.
        loss_of: (logits, batch) -> scalar.
        folder: the run's folder; an existing last.pt is continued.
        machine: device, precision, processes.
        validate: None, or network in eval mode -> (name, value) figures of this process's part of the held-out cases, asked every
            validate_every epochs and at the end, once the averaged network's batch norms are settled; the log has the mean of each
            name, NaN left out.

    Returns:
        The moving average of the weights, in eval mode.

    Raises:
        InputError: the loss or its gradient is NaN or infinite (the last checkpoint stays), or the batch cannot be shared among
            the processes.
    """
    process, device = machine.process, machine.plan.device
    if schedule.batch % process.world:
        raise InputError(
            f"a batch of {schedule.batch} cannot be shared by {process.world} processes: make it a multiple in the recipe"
        )
    # bit-equal runs on the CPU; new memory need not be filled for it, no operation here reads what it has not written
    torch.use_deterministic_algorithms(device == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False
    folder.mkdir(parents=True, exist_ok=True)
    network = shared(network.to(device), process, device)
    bare = network.module if process.world > 1 else network
    averaged = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(schedule.average))
    optimizer = make_optimizer(bare, schedule)
    kind = torch.device(device).type
    scaler = torch.amp.GradScaler(kind, enabled=machine.plan.precision == "fp16")
    total = schedule.epochs * schedule.steps_per_epoch

    # resume
    checkpoint = folder / "last.pt"
    parts = {"network": bare, "averaged": averaged, "optimizer": optimizer} | ({"scaler": scaler} if scaler.is_enabled() else {})
    step = resume(checkpoint, parts, machine)
    # the epoch that ended at this step was written
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1) if process.rank == 0 and step < total else None

    def settle() -> None:
        if schedule.average and not schedule.freeze_norms:
            more = batches(make_batch, total, total + SETTLING_BATCHES, machine.workers)
            with torch.autocast(kind, machine.plan.dtype, enabled=machine.plan.precision != "fp32"):
                settle_norms(averaged.module, (to_device(batch, device).image for batch in more), process)

    if step >= total and checkpoint.is_file():
        end_settled(checkpoint, averaged, settle, process)

    network.train()
    if schedule.freeze_norms:
        freeze_norms(network)
    started, losses, waited = time.perf_counter(), [], 0.0
    wait_from = started
    for batch in batches(make_batch, step, total, machine.workers) if step < total else ():
        waited += time.perf_counter() - wait_from

        # one step: forward, backward, clip, update, average
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, step)
        batch = to_device(batch, device)
        with torch.autocast(kind, machine.plan.dtype, enabled=machine.plan.precision != "fp32"):
            logits = network(batch.image)
        loss = loss_of(logits, batch)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(bare.parameters(), schedule.clip_norm)
        losses.append(loss.item())
        # gradients are shared, so that all processes stop at one's NaN; fp16's scaler steps over a gradient that overflows and halves its
        # scale, which is at 1 where halving has not helped
        is_stepped_over = math.isfinite(losses[-1]) and scaler.is_enabled() and scaler.get_scale() > 1.0
        if not (math.isfinite(norm) and math.isfinite(losses[-1])) and not is_stepped_over:
            raise InputError(
                f"{folder.name}: the loss is {losses[-1]} and its gradient {float(norm)} at step {step}; lower learning_rate in the "
                f"recipe and go on from {checkpoint}"
            )
        scaler.step(optimizer)
        scaler.update()
        averaged.update_parameters(bare)
        step += 1
        wait_from = time.perf_counter()
        if step % schedule.steps_per_epoch:
            continue

        # an epoch ends: validate, checkpoint, log
        epoch = step // schedule.steps_per_epoch
        seconds = time.perf_counter() - started
        means = gathered([sum(losses) / len(losses)], process)
        row = {
            "epoch": epoch,
            "step": step,
            "loss": round(sum(means) / len(means), 4),
            "rate": optimizer.param_groups[0]["lr"],
            "seconds": round(seconds, 1),
            "waited_for_data": round(waited / seconds, 3),
        }
        is_looked_at = step == total or (validate is not None and epoch % validate_every == 0)
        looked_from = time.perf_counter()
        if is_looked_at:
            settle()
        if is_looked_at and validate:
            row |= means_by_name(gathered(validate(averaged.module.eval()), process))
        if is_looked_at:
            row["looking_seconds"] = round(time.perf_counter() - looked_from, 1)
        if process.rank == 0:
            state = {name: part.state_dict() for name, part in parts.items()}
            save(
                checkpoint,
                state | {"step": step, "settled": is_looked_at, "precision": machine.plan.precision, "row": json.dumps(row)},
            )
            append_log(folder, row)
            note(board, row, show(batch, logits))
            log.info("%s %s", folder.name, row)
        started, losses, waited = time.perf_counter(), [], 0.0
        wait_from = started
    if board:
        board.close()
    return averaged.module.eval()


def means_by_name(figures: list[tuple[str, float]]) -> dict[str, float]:
    """The mean of each name's figures that are not NaN; a name without any is left out."""
    values: dict[str, list[float]] = {}
    for name, value in figures:
        if not math.isnan(value):
            values.setdefault(name, []).append(value)
    return {name: round(sum(of) / len(of), 4) for name, of in values.items()}


def note(board: SummaryWriter, row: dict, picture: np.ndarray) -> None:
    """An epoch's figures and the last batch's picture for TensorBoard."""
    for name in row.keys() - {"epoch", "step"}:
        board.add_scalar(name, row[name], row["step"])
    board.add_image("input, truth, probability", picture[None], row["step"])
