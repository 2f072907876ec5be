"""Pretrain FLAVA with its six losses: `torchx run -s local_cwd recipes/pretrain.py -- --model small --steps 200`.

This file is a TorchX component and the script that the component's job runs. What it imports at the top must be there on a
login node, so torch waits until the script starts.
"""

import sys
import time
from functools import partial

from torchx.specs import AppDef

from torchflava.launch.ddp import Nodes, torchrun_job


def pretrain(
    *args: str,
    nodes: int = 1,
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
        nodes: machines
        procs: processes a node; 0 means one for each of --gpus, or one
        gpus: GPUs to ask for, a node
        cpus: CPU cores to ask for, a node
        mem_gb: main memory to ask for, in GB a node
        retries: times that the scheduler starts the job again after it failed
        image: container image with torchflava in it; none means this Python
    """
    where = Nodes(nodes, procs, gpus, cpus, mem_gb)
    return torchrun_job("recipes/pretrain.py", args, where, retries=retries, image=image)


def main(words: list[str]) -> None:
    """Train as the command line says, then measure what was learnt."""
    from presets import parse, shaping

    config = parse(words)  # before the imports that take seconds, so that a wrong flag is told at once

    from corpora import kinds
    from gradients import gradients_of
    from measure import Measured
    from measure_emoji import measure_emoji
    from measure_own import measure_own
    from measure_scenes import measure_scenes
    from report import report
    from start import export, keep_order, leave, start

    from torchflava.data.mixture import Mixture
    from torchflava.training import (
        Checkpoints,
        Meter,
        StopSignals,
        attention_kernels,
        clip_gradients,
        session,
        set_learning_rate,
        warmup_cosine,
    )

    num_tokens = (config.image_size // config.patch_size) ** 2 + 2 + config.max_length
    kernels = partial(attention_kernels, precision=config.precision, num_tokens=num_tokens)
    with session(config.seed, config.device) as run, kernels(run.device), StopSignals() as stop:
        folder, corpus, model, optimizer, scaler, done, unwritten = start(config, run)
        mixture = Mixture(
            kinds(corpus, config), config.batch_size, config.seed, max_corrupt_fraction=config.max_corrupt_fraction
        )
        keep_order(mixture, folder, run, done)
        meter = Meter(folder if run.leads else None, config.steps, config.log_every, start=done)
        meter.load(unwritten, run.device)
        checkpoints = Checkpoints(folder, keep=config.keep)
        measure = {"scenes": measure_scenes, "emoji": measure_emoji, "own": measure_own}[config.corpus]
        measured = Measured(config, corpus, model, run)
        asked = time.perf_counter()
        for planned in mixture.batches(done, config.steps, num_threads=config.threads, debug=config.debug):
            waited = time.perf_counter() - asked
            means = gradients_of(
                planned.batch, model, corpus.codebook, config=config, device=run.device, scale=scaler.scale
            )
            scaler.unscale(optimizer)
            norm = clip_gradients(model, config.clip)
            lr = warmup_cosine(planned.step, steps=config.steps, warmup_steps=config.warmup_steps, lr=config.lr)
            set_learning_rate(optimizer, lr)
            taken = scaler.step(optimizer)
            optimizer.zero_grad()
            model.clamp_temperature()

            step = planned.step + 1
            meter.add(
                planned.kind, means, samples=config.batch_size, waited=waited, lr=lr, norm=norm if taken else None
            )
            meter.step(step, scaler.readings)
            if config.measure_every and step % config.measure_every == 0 and step < config.steps:
                with meter.paused():
                    meter.write(step, {f"measured/{r.name}": r.value for r in measure(measured)[0]})
            stopping = stop.asked(step)
            if step % config.save_every == 0 or step == config.steps or stopping:
                kept = {"config": shaping(config), "scaler": scaler.state(), "meter": meter.state()}
                checkpoints.save(step, model, optimizer, state=kept)
            if stopping:
                leave(checkpoints, meter, stop, f"stopped after step {step} of {config.steps}, saved in {folder}")
            asked = time.perf_counter()
        checkpoints.wait()
        export(model, folder, run)
        readings, shown = measure(measured)
        meter.write(config.steps, {f"measured/{r.name}": r.value for r in readings})
        meter.close()
        if run.leads:
            report(config, readings, shown, folder)


if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.errors import record

    record(main)(sys.argv[1:])
