"""The loop: schedule by hand, a kill in the middle of an epoch, NaN, and a network that really learns."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from l2s import engine
from l2s.errors import InputError
from training import loop
from training.loop import Machine, learning_rate, train
from training.losses import bce_dice
from training.processes import Process
from training.recipe import Schedule, whole_epochs
from training.sampling import Batch

SCHEDULE = Schedule(
    epochs=3,
    steps_per_epoch=4,
    batch=2,
    optimizer="adamw",
    learning_rate=0.05,
    momentum=0.9,
    weight_decay=1e-4,
    poly_power=0.9,
    warmup_steps=0,
    clip_norm=5.0,
    average=0.9,
    freeze_norms=False,
)


MACHINE = Machine(engine.choose("cpu"))


def make_batch(step) -> Batch:
    rng = np.random.default_rng([4, step])
    image = torch.from_numpy(rng.normal(size=(2, 1, 8, 8)).astype(np.float32))
    return Batch(image, (image > 0.5).float(), None)


def make_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 1, 1)
    )


def loss_of(logits, batch):
    return bce_dice(logits, batch.truth)


def run(folder, schedule=SCHEDULE, batches=make_batch):
    return train(make_network(), schedule, batches, loss_of, folder, MACHINE)


def test_the_average_s_norms_are_settled_by_training_batches(tmp_path):
    averaged = run(tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    total = SCHEDULE.epochs * SCHEDULE.steps_per_epoch
    # the literal twin: the mean of the statistics of so many batches behind the run's own, as the averaged weights see them
    with torch.no_grad():
        seen = [averaged[0](make_batch(total + k).image) for k in range(loop.SETTLING_BATCHES)]
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in seen]).mean(0)
    torch.testing.assert_close(averaged[1].running_mean, mean)
    torch.testing.assert_close(averaged[1].running_var, variance)
    assert (state["network"]["1.running_var"] - variance).abs().max() > 0.01  # which the network's own are not
    assert torch.equal(state["averaged"]["module.1.running_var"], averaged[1].running_var)
    assert not averaged.training


def test_a_run_resumed_behind_a_look_ends_with_the_same_weights(tmp_path):
    """Settled norms lie in the checkpoint and are no part of what goes on from it."""

    def look(network):
        return [("held_out_dice", float(network[1].running_var.mean()))]

    def looked_at(folder, batches=make_batch):
        return train(make_network(), SCHEDULE, batches, loss_of, folder, MACHINE, look, validate_every=1).state_dict()

    def killed_at_6(step):
        if step == 6:
            raise KeyboardInterrupt
        return make_batch(step)

    whole = looked_at(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        looked_at(tmp_path / "cut", killed_at_6)
    resumed = looked_at(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    figures = [
        [json.loads(line)["held_out_dice"] for line in (tmp_path / name / "log.jsonl").open()] for name in ("whole", "cut")
    ]
    assert figures[0] == figures[1]


def test_a_run_that_a_shorter_schedule_ends_is_settled(tmp_path):
    def killed_at_9(step):
        if step == 9:
            raise KeyboardInterrupt
        return make_batch(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, batches=killed_at_9)
    before = torch.load(tmp_path / "last.pt", weights_only=True)
    assert not before["settled"]
    assert torch.equal(before["averaged"]["module.1.running_var"], before["network"]["1.running_var"])
    ended = run(tmp_path, dataclasses.replace(SCHEDULE, epochs=2))
    after = torch.load(tmp_path / "last.pt", weights_only=True)
    assert after["settled"]
    assert torch.equal(after["averaged"]["module.1.running_var"], ended[1].running_var)
    assert not torch.equal(after["averaged"]["module.1.running_var"], before["averaged"]["module.1.running_var"])
    assert torch.equal(after["averaged"]["module.0.weight"], before["averaged"]["module.0.weight"])


def test_norms_that_are_frozen_or_of_the_last_weights_are_not_settled(tmp_path):
    frozen = run(tmp_path / "frozen", dataclasses.replace(SCHEDULE, freeze_norms=True))
    assert torch.equal(frozen[1].running_var, torch.ones(4))
    last = run(tmp_path / "last", dataclasses.replace(SCHEDULE, average=0.0))
    network = torch.load(tmp_path / "last/last.pt", weights_only=True)["network"]
    assert torch.equal(last[1].running_var, network["1.running_var"])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_learns(tmp_path, optimizer):
    schedule = dataclasses.replace(SCHEDULE, epochs=15, optimizer=optimizer)
    run(tmp_path, schedule)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 15
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


def test_a_run_killed_in_an_epoch_ends_with_the_same_weights(tmp_path):
    whole = run(tmp_path / "whole").state_dict()

    def killed_at_6(step):
        if step == 6:
            raise KeyboardInterrupt
        return make_batch(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", batches=killed_at_6)
    resumed = run(tmp_path / "cut").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_run_is_left_alone(tmp_path):
    first = run(tmp_path).state_dict()
    again = run(tmp_path, batches=lambda step: pytest.fail("nothing is left to do")).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_nan_stops_with_a_message_and_keeps_the_checkpoint(tmp_path):
    def poisoned(step):
        batch = make_batch(step)
        return dataclasses.replace(batch, image=batch.image * float("nan")) if step == 5 else batch

    with pytest.raises(InputError, match="step 5.*learning_rate"):
        run(tmp_path, batches=poisoned)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 4


def test_a_nan_gradient_of_a_finite_loss_reaches_no_checkpoint(tmp_path):
    def loss_at(logits, batch):
        # the square root's slope at 0 is infinite, times 0 it is NaN
        return bce_dice(logits, batch.truth) + (0.0 * logits).abs().sum().sqrt()

    with pytest.raises(InputError, match="gradient nan at step 0"):
        train(make_network(), SCHEDULE, make_batch, loss_at, tmp_path, MACHINE)
    assert not (tmp_path / "last.pt").exists()


def test_a_nan_that_fp16_cannot_step_over_stops_as_well(tmp_path):
    """An overflow goes when the loss is scaled less; this gradient stays NaN."""

    def loss_at(logits, batch):
        return bce_dice(logits, batch.truth) + (0.0 * logits).abs().sum().sqrt()

    half = dataclasses.replace(MACHINE, plan=dataclasses.replace(MACHINE.plan, precision="fp16"))
    schedule = dataclasses.replace(SCHEDULE, epochs=30)
    with pytest.raises(InputError, match="gradient nan at step 16"):  # from a scale of 65536 by halves to 1
        train(make_network(), schedule, make_batch, loss_at, tmp_path, half)


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_fp16_steps_over_a_gradient_that_overflows_once(tmp_path, average):
    steps = []

    def loss_at(logits, batch):
        steps.append(0)
        broken = (0.0 * logits).abs().sum().sqrt() if len(steps) == 6 else 0.0
        return bce_dice(logits, batch.truth) + broken

    half = dataclasses.replace(MACHINE, plan=dataclasses.replace(MACHINE.plan, precision="fp16"))
    train(make_network(), dataclasses.replace(SCHEDULE, average=average), make_batch, loss_at, tmp_path, half)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 12
    assert all(tensor.isfinite().all() for tensor in loop.trained_state(tmp_path / "last.pt").values())
    assert all(np.isfinite(json.loads(line)["loss"]) for line in (tmp_path / "log.jsonl").open())


def test_fp16_stops_at_a_loss_that_overflows(tmp_path):
    """The forward pass has put it into the norms' statistics by then."""

    def overflowing(step):
        batch = make_batch(step)
        return dataclasses.replace(batch, image=batch.image * 1e30) if step == 5 else batch

    half = dataclasses.replace(MACHINE, plan=dataclasses.replace(MACHINE.plan, precision="fp16"))
    with pytest.raises(InputError, match="at step 5"):
        train(make_network(), SCHEDULE, overflowing, loss_of, tmp_path, half)


def test_weights_whose_norms_are_not_settled_are_not_taken(tmp_path):
    run(tmp_path)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    assert set(loop.trained_state(tmp_path / "last.pt")) == set(make_network().state_dict())
    torch.save(state | {"settled": False}, tmp_path / "last.pt")
    with pytest.raises(InputError, match="not settled: run the training command again"):
        loop.trained_state(tmp_path / "last.pt")
    run(tmp_path)
    loop.trained_state(tmp_path / "last.pt")


def test_only_one_process_mends_the_log(tmp_path):
    run(tmp_path)
    path = tmp_path / "log.jsonl"
    whole = path.read_text()
    path.write_text(whole[: whole.rindex("{")] + '{"epo')
    cut = path.read_text()
    for rank, expected in ((1, cut), (0, whole)):
        step = loop.resume(tmp_path / "last.pt", {}, dataclasses.replace(MACHINE, process=Process(rank, 2)))
        assert (step, path.read_text()) == (12, expected)


def test_a_kill_between_checkpoint_and_log_loses_no_row(tmp_path):
    run(tmp_path)
    path = tmp_path / "log.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    for left in (lines[:-1], [*lines[:-1], lines[-1][:20]]):
        path.write_text("".join(left))
        run(tmp_path)
        assert path.read_text() == whole


def test_the_rate_falls_by_epochs_after_a_warm_up():
    paper = dataclasses.replace(SCHEDULE, epochs=200, steps_per_epoch=10, learning_rate=1e-3, warmup_steps=0)
    assert learning_rate(paper, 0) == learning_rate(paper, 9) == 1e-3
    assert learning_rate(paper, 1000) == pytest.approx(1e-3 * 0.5**0.9)
    assert learning_rate(paper, 1999) == pytest.approx(1e-3 * (1 / 200) ** 0.9)
    warm = dataclasses.replace(paper, warmup_steps=4)
    assert [learning_rate(warm, k) for k in range(4)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])


def test_workers_make_the_same_batches_in_the_same_order(tmp_path):
    alone = run(tmp_path / "alone").state_dict()
    machine = dataclasses.replace(MACHINE, workers=2)
    helped = train(make_network(), SCHEDULE, make_batch, loss_of, tmp_path / "helped", machine).state_dict()
    assert all(torch.equal(alone[name], helped[name]) for name in alone)


def test_frozen_norms_keep_their_statistics_and_the_rest_learns(tmp_path):
    before = {k: v.clone() for k, v in make_network().state_dict().items()}
    after = run(tmp_path, dataclasses.replace(SCHEDULE, freeze_norms=True)).state_dict()
    assert torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert not torch.equal(before["0.weight"], after["0.weight"])
    moved = run(tmp_path / "moving").state_dict()
    assert not torch.equal(before["1.running_mean"], moved["1.running_mean"])


def test_mixed_precision_learns_the_same_thing(tmp_path):
    schedule = dataclasses.replace(SCHEDULE, epochs=15)
    machine = Machine(engine.choose("cpu", "bf16"))
    train(make_network(), schedule, make_batch, loss_of, tmp_path, machine)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]


def test_another_precision_is_said_when_a_run_goes_on(tmp_path, caplog):
    run(tmp_path, dataclasses.replace(SCHEDULE, epochs=1))
    run(tmp_path, dataclasses.replace(SCHEDULE, epochs=2))
    assert "was trained in" not in caplog.text
    train(make_network(), SCHEDULE, make_batch, loss_of, tmp_path, Machine(engine.choose("cpu", "bf16")))
    assert "was trained in fp32 so far, this run is in bf16" in caplog.text


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    machine = dataclasses.replace(MACHINE, process=Process(0, 3))
    with pytest.raises(InputError, match="batch of 2 cannot be shared by 3"):
        train(make_network(), SCHEDULE, make_batch, loss_of, tmp_path, machine)


def test_tensorboard_gets_curves_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(
        make_network(),
        SCHEDULE,
        make_batch,
        loss_of,
        tmp_path,
        MACHINE,
        lambda network: [("held_out_dice_sts", 0.5), ("held_out_dice_sts", float("nan"))],
    )
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert {"loss", "rate", "held_out_dice_sts"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("loss")] == [4, 8, 12]
    assert events.Scalars("held_out_dice_sts")[-1].value == 0.5
    train(make_network(), dataclasses.replace(SCHEDULE, epochs=5), make_batch, loss_of, tmp_path, MACHINE)
    resumed = EventAccumulator(str(tmp_path / "tensorboard"))
    resumed.Reload()
    assert [e.step for e in resumed.Scalars("loss")] == [4, 8, 12, 16, 20]
    picture = events.Images(events.Tags()["images"][0])[-1]
    assert (picture.height, picture.width) == (2 * 8, 3 * 8)  # two samples; input, truth, probability


def test_an_epoch_of_0_steps_shows_the_data_once():
    assert whole_epochs(dataclasses.replace(SCHEDULE, steps_per_epoch=0), 101).steps_per_epoch == 50
    assert whole_epochs(SCHEDULE, 101).steps_per_epoch == 4
