"""Pretrain FLAVA with its six losses: `torchx run -s local_cwd recipes/pretrain.py -- --model small --steps 200`.

This file is a TorchX component and the script that the component's job runs. What it imports at the top must be there on a
login node, so torch waits until the script starts.
"""

import sys
from contextlib import ExitStack

from torchx.specs import AppDef

from torchflava.launch.ddp import Nodes, torchrun_job
from torchflava.launch.worker import run_main


def pretrain(
    *args: str,
    nodes: str = "1",
    procs: int = 0,
    gpus: int = 0,
    cpus: int = 0,
    mem_gb: int = 0,
    retries: int = 0,
    image: str = "",
) -> AppDef:
    """Pretrains FLAVA; `torchx run FILE.py` offers a few arguments more.

    Args:
        args: the recipe's own arguments, after --
        nodes: machines; MIN:MAX for a job that goes on with fewer, down to MIN, when it loses some
        procs: processes a node; 0 means one for each of --gpus, or one
        gpus: GPUs to ask for, a node
        cpus: CPU cores to ask for, a node
        mem_gb: main memory to ask for, in GB a node
        retries: times that the scheduler starts the job again after it failed
        image: container image with torchflava in it; none means this Python
    """
    where = Nodes(nodes, procs, gpus, cpus, mem_gb)
    return torchrun_job("recipes/pretrain.py", args, where, retries=retries, image=image)


def check(words: list[str], *, here: bool, ranks: list[int]) -> None:
    """Refuse words that cannot be meant before a job is made of them.

    Args:
        words: of the command line.
        here: whether the job sees this machine's files, which are looked at then.
        ranks: how many processes the job may have; each number must share the batch.
    """
    from presets import parse

    parse(words, places=here, ranks=ranks)


def main(words: list[str]) -> None:
    """Train as the command line says, then measure what was learnt."""
    from presets import parse

    config = parse(words)  # before the imports that take seconds, so that a wrong flag is told at once

    from best import Selection
    from corpora import kinds
    from gradients import gradients_of
    from kept import beside, where_checkpoints_lie
    from measure import Measured
    from measure_emoji import measure_emoji
    from measure_own import measure_own
    from measure_scenes import measure_scenes
    from report import report
    from start import export, keep_order, leave, start
    from watch import Watch

    from torchflava.data.mixture import Mixture
    from torchflava.models import step_flops
    from torchflava.training import (
        Checkpoints,
        Meter,
        StopSignals,
        clip_gradients,
        peak_flops,
        session,
        set_learning_rate,
        warmup_cosine,
        warmup_linear,
    )

    with (
        session(config.seed, config.device) as run,
        StopSignals() as stop,
        ExitStack() as at_the_end,
    ):
        folder, corpus, model, optimizer, scaler, _, done = started = start(config, run)
        mixture = Mixture(
            kinds(corpus, config), config.batch_size, config.seed, max_corrupt_fraction=config.max_corrupt_fraction
        )
        keep_order(mixture, folder, run, done)
        peak = peak_flops(run.device, config.precision, tflops=config.peak_tflops)
        of_run = {"start": done, "device": run.device, "peak_flops": peak, "wandb": config.wandb}
        meter = Meter(folder if run.leads else None, config.steps, config.log_every, **of_run)
        at_the_end.callback(meter.close)
        where = where_checkpoints_lie(config, folder)
        checkpoints = Checkpoints(where, keep=config.keep, keep_every=config.keep_every, beside=beside(config, folder))
        watch = Watch(config, started, run, mixture=mixture, meter=meter, checkpoints=checkpoints)
        measure = {"scenes": measure_scenes, "emoji": measure_emoji, "own": measure_own}[config.corpus]
        measured, selection = Measured(config, corpus, model, run), Selection(config, where, run)
        if config.select and selection.value is None:
            selection.read(measure(measured)[0])  # a name that is not measured is told at once
        for planned in watch.batches():
            stop.begins(planned.step + 1, planned.kind)
            means = gradients_of(
                planned.batch, model, corpus.codebook, config=config, device=run.device, scale=scaler.scale
            )
            scaler.unscale(optimizer)
            norm = clip_gradients(model, config.clip)
            fine = watch.looked(planned, means, norm)
            schedule = warmup_cosine if config.schedule == "cosine" else warmup_linear
            lr = schedule(planned.step, steps=config.steps, warmup_steps=config.warmup_steps, lr=config.lr)
            set_learning_rate(optimizer, lr)
            taken = scaler.step(optimizer, wanted=planned.step + 1 not in watch.left_out)
            optimizer.zero_grad()
            model.clamp_temperature()

            step = planned.step + 1
            flops = step_flops(model, planned.batch, world_size=run.world_size)
            told = {"samples": config.batch_size, "waited": watch.waited, "lr": lr, "flops": flops, "fine": fine}
            meter.add(planned.kind, means, norm=norm if taken else None, **told)
            stopping = stop.asked(step)
            if watch.went_back(step, leaving=stopping):
                continue
            meter.step(step, watch.readings)
            best = False
            if selection.due(step):
                with meter.paused():
                    readings = measure(measured)[0]
                meter.write(step, {f"measured/{r.name}": r.value for r in readings})
                best = selection.better(readings)
            if best or step % config.save_every == 0 or step == config.steps or stopping:
                checkpoints.save(step, model, optimizer, state=watch.state() | selection.state(), best=best)
            if stopping:
                leave(checkpoints, meter, stop, f"stopped after step {step} of {config.steps}, saved in {where}")
        checkpoints.wait()
        done_but = f"stopped after the last step, saved in {where}; the same command makes what is left"
        if stop.asked(config.steps):
            leave(checkpoints, meter, stop, done_but)
        selection.settle(model)
        export(model, folder, run)
        if stop.asked(config.steps):
            leave(checkpoints, meter, stop, done_but)
        readings, shown = measure(measured)
        if not config.select:
            meter.write(config.steps, {f"measured/{r.name}": r.value for r in readings})
        if run.leads:
            report(config, readings, shown, folder)


if __name__ == "__main__":
    run_main(main, sys.argv[1:])
