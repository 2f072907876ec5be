"""The TorchX component that launches any recipe: `torchx run FILE.py` means this one with `--script FILE.py`.

TorchX 0.7 executes this file's text among its own names, so nothing but the component and its imports stands here, and
the annotations are types, not strings.
"""

from torchx.specs import AppDef

from torchflava.launch.ddp import Nodes, torchrun_job


def recipe(
    *args: str,
    script: str,
    nodes: str = "1",
    procs: int = 0,
    gpus: int = 0,
    cpus: int = 0,
    mem_gb: int = 0,
    retries: int = 0,
    image: str = "",
    env: str = "",
    mounts: str = "",
    name: str = "",
    port: int = 0,
) -> AppDef:
    """Runs a recipe in one process here, or in many on a cluster; -s SCHEDULER says where.

    Args:
        args: the recipe's own arguments, after --
        script: the recipe, a Python file
        nodes: machines; MIN:MAX for a job that goes on with fewer, down to MIN, when it loses some
        procs: processes a node; 0 means one for each of --gpus, or one
        gpus: GPUs to ask for, a node; with 0 a process takes the GPU that it finds, else the CPU
        cpus: CPU cores to ask for, a node; its processes share them. 0 asks for none, and gets what is there: on Slurm often one
        mem_gb: main memory to ask for, in GB a node; 0 asks for none
        retries: times that the scheduler starts the job again after it failed; being preempted is no failure on Slurm
        image: container image with torchflava in it; none means this Python
        env: variables of the job, NAME=VALUE,NAME=VALUE
        mounts: of a container, type=bind,src=/here,dst=/there,readonly
        name: of the job; the recipe's by default
        port: where several nodes meet, on the first of them; 0 means 29500, on Slurm one by the job's number
    """
    where = Nodes(nodes, procs, gpus, cpus, mem_gb, port)
    return torchrun_job(script, args, where, retries=retries, image=image, env=env, mounts=mounts, name=name)
