"""The loop of fine-tuning: batches in an order that seed and step decide, steps, checkpoints, the best on dev, results."""

from contextlib import ExitStack
from typing import Any

import torch
from best import Selection
from kept import beside, where_checkpoints_lie
from start import leave
from torch import Tensor
from tuning_batches import Planned, batches
from tuning_measure import readings_of, write_all
from tuning_settings import Tuning
from tuning_start import Started, start

from torchflava.evaluation import Reading, table
from torchflava.files import save_tensors
from torchflava.models import metadata_of
from torchflava.tasks.feeding import TuningBatch
from torchflava.training import (
    Checkpoints,
    Meter,
    Run,
    StopSignals,
    clip_gradients,
    full_weights,
    set_learning_rate,
    update_average,
    warmup_cosine,
    warmup_linear,
)


def tune(config: Tuning, run: Run, stop: StopSignals) -> list[Reading]:
    """Train to the end, keep the best, measure it; what was measured. Called by every rank."""
    with ExitStack() as at_the_end:
        started = start(config, run)
        config, folder, task, done = started.config, started.folder, started.task, started.done
        meter = Meter(folder if run.leads else None, config.steps, config.log_every, start=done, device=run.device)
        at_the_end.callback(meter.close)
        meter.load(started.state.get("meter", {}))
        if run.leads:
            print(_greeting(started), flush=True)
        where = where_checkpoints_lie(config, folder)
        checkpoints = Checkpoints(where, keep=config.keep, beside=beside(config, folder))
        selection = Selection(config, where, run)
        for planned in batches(started, run):
            step = planned.step + 1
            stop.begins(step, task.reads)
            learn(planned, started, run, meter=meter)
            stopping, best = stop.asked(step), False
            meter.step(step, started.scaler.readings)
            if selection.due(step):
                with meter.paused():
                    readings = readings_of(started, run, [next(iter(task.measured))])
                if step < config.steps:  # the last record of a run is of what it ends with
                    meter.write(step, {f"measured/{r.name}": r.value for r in readings})
                best = selection.better(readings)
            if best or step % config.save_every == 0 or step == config.steps or stopping:
                state = kept_state(started, meter) | selection.state()
                checkpoints.save(step, started.model, started.optimizer, state=state, best=best)
            if stopping:
                leave(checkpoints, meter, stop, f"stopped after step {step} of {config.steps}, saved in {where}")
        checkpoints.wait()
        return finish(started, run, selection, meter=meter)


def learn(planned: Planned, started: Started, run: Run, *, meter: Meter) -> None:
    """One step of the weights, and of their average."""
    config, model, optimizer, scaler = started.config, started.model, started.optimizer, started.scaler
    loss, lr = gradients(planned.batch, started, run.device), rate(config, planned.step)
    scaler.unscale(optimizer)
    norm = clip_gradients(model, config.clip)
    set_learning_rate(optimizer, lr)
    taken = scaler.step(optimizer)
    optimizer.zero_grad()
    if config.ema and taken:
        update_average(optimizer, config.ema)
    told = {"samples": config.batch_size, "waited": planned.waited, "lr": lr}
    meter.add(started.task.reads, {"loss": loss}, norm=norm if taken else None, **told)


def kept_state(started: Started, meter: Meter) -> dict[str, Any]:
    """What a run that goes on needs beside tensors."""
    told = {"config": started.kept, "scaler": started.scaler.state()}
    return told | {"meter": meter.state()}


def gradients(batch: TuningBatch, started: Started, device: torch.device) -> Tensor:
    """Add a batch's gradients to the model's, in parts of --micro-batch rows; this rank's mean loss, without gradient."""
    rows, total = len(batch.targets), torch.zeros((), device=device)
    for part in batch.split(started.config.micro_batch or rows):
        loss = started.feed.loss(started.model(*part.inputs(device)), part.targets.to(device))
        share = loss.total / rows
        started.scaler.scale(share).backward()
        total += share.detach()
    return total


def rate(config: Tuning, step: int) -> float:
    """The learning rate of a step."""
    schedule = warmup_cosine if config.schedule == "cosine" else warmup_linear
    return schedule(step, steps=config.steps, warmup_steps=int(config.warmup), lr=config.lr)


def finish(started: Started, run: Run, selection: Selection, *, meter: Meter) -> list[Reading]:
    """Give the model the best weights, write them as a file, measure all splits with them and write what comes out."""
    config, folder = started.config, started.folder
    selection.settle(started.model, started.optimizer)
    readings = write_all(started, run, lambda: export(started, run))
    meter.write(config.steps, {f"measured/{r.name}": r.value for r in readings})
    if run.leads:
        print(f"{started.task.name}\n{table(readings)}\nin {folder}", flush=True)
    return readings


def export(started: Started, run: Run) -> None:
    """The model's weights as one file, which `from_pretrained` reads."""
    weights = full_weights(started.model)
    if run.leads:
        save_tensors(started.folder / "model.safetensors", weights, metadata_of(started.model))


def _greeting(started: Started) -> str:
    config, task = started.config, started.task
    splits = ", ".join(f"{len(rows)} {name}" for name, rows in {**task.measured, **task.asked}.items())
    return f"{task.name}: {len(task.train)} train, {splits}; {config.steps} steps of {config.batch_size}"
