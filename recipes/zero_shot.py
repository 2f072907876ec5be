"""Zero-shot classification and retrieval: `torchx run -s local_cwd recipes/zero_shot.py -- --model runs/first --task imagenet`.

    python recipes/zero_shot.py --model runs/first --images DIR [--names FILE] [--templates FILE]
    python recipes/zero_shot.py --model runs/first --retrieval dataset_coco.json --images DIR [--rerank 128]
    python recipes/zero_shot.py --model runs/first --pairs FILE [--images DIR]

Images and texts are shared over ranks; the numbers go into results.json. docs/tasks.md says where the data come from.

This file is a TorchX component and the script that the component's job runs. What it imports at the top must be there on a
login node, so torch waits until the script starts.
"""

import sys

from torchx.specs import AppDef

from torchflava.launch.ddp import Nodes, torchrun_job
from torchflava.launch.worker import run_main


def zero_shot(
    *args: str,
    nodes: str = "1",
    procs: int = 0,
    gpus: int = 0,
    cpus: int = 0,
    mem_gb: int = 0,
    retries: int = 0,
    image: str = "",
) -> AppDef:
    """Classifies and retrieves by what texts say, without training; `torchx run FILE.py` offers a few arguments more.

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
    return torchrun_job("recipes/zero_shot.py", args, where, retries=retries, image=image)


def check(words: list[str], *, here: bool) -> None:
    """Refuse words that cannot be meant before a job is made of them; files are looked at where the job sees them from `here`."""
    from evaluation_settings import parse_zero_shot

    parse_zero_shot(words, places=here)


def main(words: list[str]) -> None:
    """Evaluate as the command line says."""
    from evaluation_settings import parse_zero_shot

    config = parse_zero_shot(words)  # before the imports that take seconds, so that a wrong flag is told at once

    from classifying import classified
    from evaluated import open_evaluated
    from features import Feeder
    from pairing import told_apart
    from results import write_results
    from retrieving import retrieved

    from torchflava.training import session

    subject = config.subject
    with session(0, subject.device) as run:
        feeder = Feeder(open_evaluated(subject, run.device), subject, run)
        evaluate = retrieved if config.retrieval else told_apart if config.pairs else classified
        for measured, settings in evaluate(config, feeder):
            if run.leads:
                for task, metric, value in measured:
                    print(f"{task}: {metric} {value:.4f}", flush=True)
                told = {"weights": subject.model, "image_size": subject.image_size, **settings}
                write_results(
                    subject.place, measured, model=subject.shown, made_by="recipes/zero_shot.py", settings=told
                )


if __name__ == "__main__":
    run_main(main, sys.argv[1:])
