"""Train a codebook, a discrete VAE, on any images: `torchx run -s local_cwd recipes/codebook.py -- --steps 400`.

What it leaves, `codebook.safetensors`, is what `recipes/pretrain.py --codebook` reads in place of DALL-E's. See docs/codebook.md.

This file is a TorchX component and the script that the component's job runs. What it imports at the top must be there on a
login node, so torch waits until the script starts.
"""

import sys

from torchx.specs import AppDef

from torchflava.launch.ddp import Nodes, torchrun_job
from torchflava.launch.worker import run_main


def codebook(
    *args: str,
    nodes: str = "1",
    procs: int = 0,
    gpus: int = 0,
    cpus: int = 0,
    mem_gb: int = 0,
    retries: int = 0,
    image: str = "",
) -> AppDef:
    """Trains a codebook of images; `torchx run FILE.py` offers a few arguments more.

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
    return torchrun_job("recipes/codebook.py", args, where, retries=retries, image=image)


def check(words: list[str], *, here: bool, ranks: list[int]) -> None:
    """Refuse words that cannot be meant before a job is made of them.

    Args:
        words: of the command line.
        here: whether the job sees this machine's files, which are looked at then.
        ranks: how many processes the job may have; each number must share the batch.
    """
    from codebook_settings import parse

    parse(words, places=here, ranks=ranks)


def main(words: list[str]) -> None:
    """Train as the command line says, then measure how well codes stand for images."""
    from codebook_settings import parse

    config = parse(words)  # before the imports that take seconds, so that a wrong flag is told at once

    from codebook_steps import learn

    from torchflava.training import StopSignals, session

    with session(config.seed, config.device) as run, StopSignals() as stop:
        learn(config, run, stop)


if __name__ == "__main__":
    run_main(main, sys.argv[1:])
