"""A trace of a few steps, for Chrome's or Perfetto's viewer: what the processor and the GPU did, and for how long."""

from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, supported_activities

_STEPS = 3


class Profile:
    """Records three steps of a run and writes `trace-STEP.json`.

    Args:
        folder: receives the trace; None records nothing.
        at: the first of the steps, counting from 1; 0 records nothing.

    Raises:
        ValueError: for a step below 0.
    """

    def __init__(self, folder: Path | None, at: int) -> None:
        if at < 0:
            raise ValueError(f"no step has the number {at}; steps count from 1, and 0 records nothing")
        self.folder, self.at = folder, at
        self._running: Any = None

    def before(self, step: int) -> None:
        """Step number `step` is about to begin."""
        if self.folder is not None and self.at and step == self.at and self._running is None:
            wanted = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & supported_activities()  # type: ignore[no-untyped-call]
            self._running = profile(activities=wanted)
            self._running.start()
        elif step == self.at + _STEPS:
            self.close()

    def close(self) -> None:
        """End and write, if it is recording."""
        running, self._running = self._running, None
        if running is not None and self.folder is not None:
            running.stop()
            running.export_chrome_trace(str(self.folder / f"trace-{self.at}.json"))
