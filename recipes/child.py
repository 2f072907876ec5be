"""A program that runs another and can be asked to stop meanwhile, as the other can."""

import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from torchflava.launch.torchrun import REQUEUE


def run(words: Sequence[str]) -> int:
    """The code that a command leaves with. SIGTERM and SIGUSR1 are handed on to it, so that it saves."""
    asked: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        if child is not None:
            child.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        with subprocess.Popen(words) as child:
            if asked:  # while it began
                child.send_signal(asked[0])
            code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == 0 and asked:
        return REQUEUE  # the run was done; what comes after it is not
    return 128 - code if code < 0 else code
