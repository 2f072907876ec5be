"""Codes of a shard set's images, computed once: `torchx run -s local_cwd recipes/data/codes.py -- data/coco --codebook dvae.pkl`.

A dVAE costs more than the image encoder. The codes go into a folder beside the shards, a file for each shard; recipes/pretrain.py
reads them from there when its codebook and crops are the same. Any number of ranks share the shards; a job that was stopped goes
on with those that are missing, or could not be read. This file is a TorchX component and the script that its job runs.
"""

import sys

from torchx.specs import AppDef

from torchflava.launch.ddp import Nodes, torchrun_job
from torchflava.launch.worker import run_main


def codes(
    *args: str,
    nodes: str = "1",
    procs: int = 0,
    gpus: int = 0,
    cpus: int = 0,
    mem_gb: int = 0,
    retries: int = 0,
    image: str = "",
) -> AppDef:
    """Computes the codes of a shard set's images; `torchx run FILE.py` offers a few arguments more.

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
    return torchrun_job("recipes/data/codes.py", args, where, retries=retries, image=image)


def check(words: list[str], *, here: bool) -> None:
    """Refuse words that cannot be meant before a job is made of them; files are looked at where the job sees them from `here`."""
    from codes_settings import parse

    parse(words, places=here)


def main(words: list[str]) -> None:
    """Compute what is missing, then say what there is."""
    from codes_settings import parse

    config = parse(words)  # before the imports that take seconds

    from encode_shards import run

    run(config)


if __name__ == "__main__":
    run_main(main, sys.argv[1:])
