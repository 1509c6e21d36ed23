"""The training loop of both stages: read it from top to bottom."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.recipe import Schedule
from training.sampling import Batch

log = logging.getLogger(__name__)


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


def make_optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; norms and biases do not decay."""
    decay = [p for p in network.parameters() if p.ndim > 1]
    keep = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": schedule.weight_decay}, {"params": keep, "weight_decay": 0.0}]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum, nesterov=True)
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=schedule.learning_rate)
    raise ValueError(f"optimizer {schedule.optimizer!r}: one of sgd, adamw")


def learning_rate(schedule: Schedule, step: int) -> float:
    """lr * (1 - n/N)^power with n counted in epochs (paper equation 3), after a linear warm-up."""
    epoch = step // schedule.steps_per_epoch
    rate = schedule.learning_rate * (1 - epoch / schedule.epochs) ** schedule.poly_power
    return rate * min(1.0, (step + 1) / max(1, schedule.warmup_steps))


def save(path: Path, state: dict) -> None:
    """A checkpoint through a temporary name, so that a kill leaves the last whole one."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def trained_state(checkpoint: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, for a plain network."""
    averaged = torch.load(checkpoint, map_location="cpu", weights_only=True)["averaged"]
    return {name.removeprefix("module."): tensor for name, tensor in averaged.items() if name != "n_averaged"}


def train(
    network: nn.Module,
    schedule: Schedule,
    make_batch: Callable[[int], Batch],
    loss_of: Callable[[Tensor, Batch], Tensor],
    folder: Path,
    device: str,
    validate: Callable[[nn.Module], dict] | None = None,
    validate_every: int = 5,
) -> nn.Module:
    """Trains the network and leaves folder/last.pt and folder/log.jsonl; returns the moving average of its weights in eval mode.

    Args:
        network: on any device.
        schedule: length, rate, optimizer.
        make_batch: step -> batch; a batch must depend on the step alone, which makes a resumed run exact.
        loss_of: (logits, batch) -> scalar.
        folder: the run's folder; an existing last.pt is continued.
        device: torch's name.
        validate: network in eval mode -> figures, called every validate_every epochs and at the end.

    Raises:
        DivergedError: the loss is NaN or infinite; the last checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network.to(device)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(schedule.average), use_buffers=True)
    optimizer = make_optimizer(network, schedule)
    total = schedule.epochs * schedule.steps_per_epoch
    step = 0

    # resume
    checkpoint = folder / "last.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        log.info("resumed %s at step %d of %d", folder.name, step, total)

    # the next batch is cut while the network works on this one
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(make_batch, step) if step < total else None
        started, losses, waited = time.perf_counter(), [], 0.0
        network.train()
        while step < total:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, step)

            wait_from = time.perf_counter()
            batch = upcoming.result()
            waited += time.perf_counter() - wait_from
            upcoming = ahead.submit(make_batch, step + 1) if step + 1 < total else None

            layout = torch.channels_last if batch.image.ndim == 4 else torch.channels_last_3d
            image = batch.image.to(device, memory_format=layout)
            loss = loss_of(
                network(image), Batch(image, batch.truth.to(device), None if batch.cue is None else batch.cue.to(device))
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), schedule.clip_norm)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise DivergedError(
                    f"{folder.name}: loss {losses[-1]} at step {step}; lower learning_rate and resume from {checkpoint}"
                )
            optimizer.step()
            averaged.update_parameters(network)
            step += 1

            if step % schedule.steps_per_epoch:
                continue

            # an epoch ends: validate, checkpoint, log
            epoch = step // schedule.steps_per_epoch
            seconds = time.perf_counter() - started
            row = {
                "epoch": epoch,
                "step": step,
                "loss": round(sum(losses) / len(losses), 4),
                "rate": optimizer.param_groups[0]["lr"],
                "seconds": round(seconds, 1),
                "waited_for_data": round(waited / seconds, 3),
            }
            if validate and (epoch % validate_every == 0 or step == total):
                row |= validate(averaged.module.eval())
            state = {"network": network.state_dict(), "averaged": averaged.state_dict(), "optimizer": optimizer.state_dict()}
            save(checkpoint, state | {"step": step})
            with (folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            log.info("%s %s", folder.name, row)
            started, losses, waited = time.perf_counter(), [], 0.0
    return averaged.module.eval()
