"""The loop of a codebook's training: batches in an order that seed and step decide, steps, checkpoints, measurements."""

from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from codebook_data import Pictures, kind_of_batch, pixels_of
from codebook_report import Health, measure, report
from codebook_settings import Dvae
from codebook_start import Started, start
from kept import beside, where_checkpoints_lie
from start import keep_order, leave
from torch import Tensor
from watch import Watch

from torchflava.codebooks import DvaeBatch, gumbel_noise, save_codebook
from torchflava.data.mixture import Mixture, Planned
from torchflava.data.order import key, numbers_of
from torchflava.losses import mean_losses, weighted_sum
from torchflava.training import (
    Checkpoints,
    Meter,
    Run,
    StopSignals,
    accumulate,
    averaged,
    clip_gradients,
    full_weights,
    half_cosine,
    set_learning_rate,
    update_average,
    warmup_cosine,
)

_VALUES = 3 * 8 * 8  # of pixels, to a code: the paper divides the sum over both by the number of values


def learn(config: Dvae, run: Run, stop: StopSignals) -> None:
    """Train to the end, measure, and write the codebook. Called by every rank."""
    with ExitStack() as at_the_end:
        started = start(config, run, stop)
        kinds = {"image": kind_of_batch(started.images, config)}
        mixture = Mixture(kinds, config.batch_size, config.seed, max_corrupt_fraction=config.max_corrupt_fraction)
        keep_order(mixture, started.folder, run, started.done)
        of_run = {"start": started.done, "device": run.device, "wandb": config.wandb}
        meter = Meter(started.folder if run.leads else None, config.steps, config.log_every, **of_run)
        at_the_end.callback(meter.close)
        where = where_checkpoints_lie(config, started.folder)
        near = beside(config, started.folder)
        checkpoints = Checkpoints(where, keep=config.keep, keep_every=config.keep_every, beside=near)
        watch = Watch(config, started, run, mixture=mixture, meter=meter, checkpoints=checkpoints)
        pixels = pixels_of(started.images.held_out, config, config.measured)
        for planned in watch.batches():
            step = planned.step + 1
            stop.begins(step, planned.kind)
            _learn_from(planned, config, started, run=run, watch=watch)
            stopping = stop.asked(step)
            if watch.went_back(step, leaving=stopping):
                continue
            meter.step(step, partial(_told, watch, config, step))
            if config.measure_every and step % config.measure_every == 0 and step < config.steps:
                with meter.paused():
                    _measured(step, config, started, pixels, run=run, meter=meter)
            if step % config.save_every == 0 or step == config.steps or stopping:
                checkpoints.save(step, started.model, started.optimizer, state=watch.state())
            if stopping:
                leave(checkpoints, meter, stop, f"stopped after step {step} of {config.steps}, saved in {where}")
        checkpoints.wait()
        with _of_average(config, started):
            weights = full_weights(started.model)  # on the CPU they are the weights themselves, which change back
            if run.leads:
                save_codebook(weights, started.folder, config.code_size)
        health = _measured(config.steps, config, started, pixels, run=run, meter=meter)
        if run.leads:
            report(config, health, started)


def _learn_from(planned: Planned, config: Dvae, started: Started, *, run: Run, watch: Watch) -> None:
    """One step."""
    step, (_, _, model, optimizer, scaler, _, _) = planned.step, started
    means = _gradients_of(planned, config, started, run)
    scaler.unscale(optimizer)
    norm = clip_gradients(model, config.clip)
    fine = watch.looked(planned, means, norm)
    lr = _learning_rate(config, step)
    set_learning_rate(optimizer, lr)
    taken = scaler.step(optimizer, wanted=step + 1 not in watch.left_out)
    optimizer.zero_grad()
    if config.average:
        update_average(optimizer, config.average)
    told = {"samples": config.batch_size, "waited": watch.waited, "lr": lr, "fine": fine}
    watch.meter.add(planned.kind, means, norm=norm if taken else None, **told)


def _gradients_of(planned: Planned, config: Dvae, started: Started, run: Run) -> dict[str, Tensor]:
    """Add a batch's gradients to the model's; the means of its losses: over values of pixels, and over codes."""
    pixels, side = planned.batch.pixels, config.code_size // 8
    # A row has its noise whoever computes it.
    mine = numbers_of(planned.step, config.batch_size, rank=run.rank, world_size=run.world_size)
    keys = [key(config.seed, "gumbel", number) for number in mine]
    rows = config.micro_batch or len(pixels)
    parts = [(Pictures(part), keys[at * rows :][:rows]) for at, part in enumerate(pixels.split(rows))]
    counts = {"reconstruction": pixels.numel(), "kl": len(pixels) * side * side}
    num_rows = {name: torch.tensor(float(count), device=run.device) for name, count in counts.items()}

    def make(part: tuple[Pictures, list[int]]) -> DvaeBatch:
        noise = gumbel_noise(part[1], (config.num_codes, side, side), run.device)
        return DvaeBatch(part[0].pixels.to(run.device, non_blocking=True), noise, _temperature(config, planned.step))

    def objective(means: dict[str, Tensor]) -> Tensor:
        weights = {"reconstruction": 1.0, "kl": _kl_weight(config, planned.step) / _VALUES}
        return started.scaler.scale(weighted_sum(means, weights))

    means_of = partial(mean_losses, num_rows=num_rows)
    return accumulate(started.model, parts, means_of, objective=objective, make=make)


def _learning_rate(config: Dvae, step: int) -> float:
    steps = round(config.lr_share * config.steps)
    return warmup_cosine(step, steps=steps, warmup_steps=config.warmup_steps, lr=config.lr, final_lr=config.final_lr)


def _temperature(config: Dvae, step: int) -> float:
    return half_cosine(step, steps=round(config.temperature_share * config.steps), first=1.0, last=config.temperature)


def _kl_weight(config: Dvae, step: int) -> float:
    return half_cosine(step, steps=round(config.kl_share * config.steps), first=0.0, last=config.kl_weight)


def _told(watch: Watch, config: Dvae, step: int) -> dict[str, float]:
    annealed = {"step/temperature": _temperature(config, step - 1), "step/kl_weight": _kl_weight(config, step - 1)}
    return watch.readings() | annealed


def _of_average(config: Dvae, started: Started) -> Any:
    """Within, the weights are their running average, if one is kept."""
    return averaged(started.optimizer) if config.average else nullcontext()


def _measured(step: int, config: Dvae, started: Started, pixels: Tensor, *, run: Run, meter: Meter) -> Health:
    """What codes are worth by now, into the log, with a picture."""
    with _of_average(config, started):
        health = measure(started.model, pixels, config, run)
    meter.write(step, {f"measured/{reading.name}": reading.value for reading in health.readings})
    meter.picture(step, "reconstructions", health.sheet())
    return health
