"""Linear probes as CLIP's (appendix A.3): `torchx run -s local_cwd recipes/linear_probe.py -- --model runs/first --task food101`.

    python recipes/linear_probe.py --model runs/first --train shelf/train --test shelf/test    # images of your own

The features of the image encoder's last layer (CLS) are computed once, shared over ranks, and kept on disk; then the first rank
alone searches λ on the validation split, fits to training and validation split together and tests once. The number goes into
results.json. docs/tasks.md says where the tasks' data come from.

This file is a TorchX component and the script that the component's job runs. What it imports at the top must be there on a
login node, so torch waits until the script starts.
"""

import sys

from torchx.specs import AppDef

from torchflava.launch.ddp import Nodes, torchrun_job
from torchflava.launch.worker import run_main


def linear_probe(
    *args: str,
    nodes: str = "1",
    procs: int = 0,
    gpus: int = 0,
    cpus: int = 0,
    mem_gb: int = 0,
    retries: int = 0,
    image: str = "",
) -> AppDef:
    """Probes a model's image features by logistic regression; `torchx run FILE.py` offers a few arguments more.

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
    return torchrun_job("recipes/linear_probe.py", args, where, retries=retries, image=image)


def check(words: list[str], *, here: bool) -> None:
    """Refuse words that cannot be meant before a job is made of them; files are looked at where the job sees them from `here`."""
    from evaluation_settings import parse_probe

    parse_probe(words, places=here)


def main(words: list[str]) -> None:
    """Probe the tasks that the command line names."""
    from evaluation_settings import parse_probe

    config = parse_probe(words)  # before the imports that take seconds, so that a wrong flag is told at once

    from pathlib import Path

    from evaluated import open_evaluated
    from features import Feeder, keep_features
    from probing import chosen_tasks, own_task, probe

    from torchflava.training import session

    subject = config.subject
    with session(0, subject.device) as run:
        tasks = [own_task(config)] if config.train else chosen_tasks(config.task, Path(config.root), say=run.leads)
        feeder = Feeder(open_evaluated(subject, run.device), subject, run)
        folder = Path(config.features) if config.features else subject.place / "features"
        files = [keep_features(task, feeder, folder) for task in tasks]
        leads, device = run.leads, run.device
    # Fits take minutes to hours on one rank: the others have left, so that none waits in a collective until it gives up.
    if leads:
        for task, file in zip(tasks, files, strict=True):
            probe(task, file, config, device)


if __name__ == "__main__":
    run_main(main, sys.argv[1:])
