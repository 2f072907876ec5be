"""What a Slurm job needs to go on when it loses nodes: no one's end is another's, and the first node's tells how it ended.

srun's code is the worst of all tasks', that of a lost node too, so it cannot tell. The first node's task holds torchrun's meeting
point, and the job's script runs beside it: it leaves its code in a file, and where it is lost the job is too
(docs/decisions/0041).
"""

import os
import shlex
from pathlib import Path

from torchx.specs import Role

_PATIENCE = 30  # seconds that torchrun gives its workers between a signal and SIGKILL, unless told so

JOB = {"no-kill": ""}
"""Options of sbatch."""
# one task on each node that there is; the rest against a cluster's defaults
STEP = (
    '--nodes="$SLURM_JOB_NUM_NODES"',
    '--ntasks="$SLURM_JOB_NUM_NODES"',
    "--no-kill",
    "--kill-on-bad-exit=0",
    "--wait=0",
)
"""Options of srun."""

AFTER_STEP = r"""[ -s "$TORCHFLAVA_ENDED" ] && read -r code < "$TORCHFLAVA_ENDED"
rm -f "$TORCHFLAVA_ENDED"
kill $watch"""
"""Shell lines that set `code`, which is srun's before, to that of the first node's task."""

# what the first node's end leaves behind is ended a minute later, as srun would do by --wait, which begins with a lost node
_WATCH = r"""rm -f "$TORCHFLAVA_ENDED"
while sleep 2; do
    [ -s "$TORCHFLAVA_ENDED" ] && sleep 60 && scancel --signal=KILL "$SLURM_JOB_ID.0" && break
done &
watch=$!"""
# bash stands over each torchrun, and outlives what Slurm sends both. Slurm takes a lost node out of such a job, and
# the first one's script with it: the job would do nothing to its end, so whoever has failed then has it start again.
# Where torchrun was killed Slurm is to end its workers, and does so only once the task has ended
_TASK = r"""trap : TERM USR1
"$@"
code=$?
[ "$SLURM_NODEID" -eq 0 ] && echo "$code" > "$TORCHFLAVA_ENDED"
trap - TERM USR1
pause=1
until [ "$code" -eq 0 ] || [ "$code" -ge 128 ] || [ -s "$TORCHFLAVA_ENDED" ]; do
    about=$(scontrol --oneliner show job "$SLURM_JOB_ID")
    if [[ $about =~ \ NodeList=([^ ]+).*\ BatchHost=([^ ]+) ]]; then
        mapfile -t there < <(scontrol show hostnames "${BASH_REMATCH[1]}")
        if [[ " ${there[*]} " != *" ${BASH_REMATCH[2]} "* ]]; then
            echo "the first node, ${BASH_REMATCH[2]}, is lost: the job is to start again" >&2
            scontrol requeue "$SLURM_JOB_ID" && break
        fi
    fi
    sleep "$pause"
    pause=$((pause < 60 ? 2 * pause : 60))
done
exit $code"""


def fewest(role: Role) -> int:
    """The nodes without which it cannot run."""
    return int(role.min_replicas or role.num_replicas)


def is_elastic(role: Role) -> bool:
    """Whether it goes on when it loses nodes."""
    return fewest(role) < int(role.num_replicas)


def before_step(logs: Path, lead: int) -> list[str]:
    """Shell lines that name the file of the first node's code, and watch for it.

    Args:
        logs: the folder of the job's logs.
        lead: seconds before its time limit at which the job is signalled; 0 if it is not.
    """
    lines = [
        f'export TORCHFLAVA_ENDED={shlex.quote(f"{logs}{os.sep}slurm-")}"$SLURM_JOB_ID".ended-"${{SLURM_RESTART_COUNT:-0}}"'
    ]
    if lead > _PATIENCE:  # torchrun handles the signal here, and need not kill a save before the time is up
        lines += [f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${{TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-{lead}}}"]
    return [*lines, _WATCH]


def noted(command: str) -> str:
    """A task's shell command, as one whose code is noted on the first node, and which looks after that node on the others."""
    return f"bash -c {shlex.quote(_TASK)} bash {command}"
