"""A run that is watched: its batches, a look at each step's losses, and what is done about those that are no numbers or spike."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from codebook_settings import Dvae
from presets import Config, shaping
from start import Started

from torchflava.data.mixture import Mixture, Planned
from torchflava.training import (
    Checkpoints,
    Meter,
    Profile,
    Run,
    Spike,
    Spikes,
    drop_gradients,
    last_checkpoint,
    load_checkpoint,
)

_MOST = 10  # times that a run goes back to one checkpoint
_TOLD = 8  # samples of a source that a message names


class Watch:
    """What stands round a training loop. All ranks see the same and do the same.

    Args:
        config: `on_spike`, `spike`, `profile_at` and how the data is read.
        started: the run's folder, model, optimizer and scaler.
        run: its processes.
        mixture: of its batches.
        meter: goes back where the run does.
        checkpoints: to one of which it goes back.
    """

    def __init__(
        self,
        config: Config | Dvae,
        started: Started,
        run: Run,
        *,
        mixture: Mixture,
        meter: Meter,
        checkpoints: Checkpoints[Path | str],
    ) -> None:
        self.config, self.started, self.run = config, started, run
        self.mixture, self.meter, self.checkpoints = mixture, meter, checkpoints
        self.spikes = Spikes(config.spike)
        self.left_out: set[int] = set()
        """Steps, counted from 1, whose batches the weights do not learn from."""
        self.waited = 0.0
        """Seconds for the batch of the moment."""
        self._next = started.done
        self._tries: dict[int, int] = defaultdict(int)
        if started.state:
            self._load_state(started.state)

    def batches(self) -> Iterator[Planned]:
        """Those of all steps to come, from an earlier one again after the run has gone back."""
        config = self.config
        profile = Profile(self.started.folder if self.run.leads else None, config.profile_at)
        while (begun := self._next) < config.steps:
            made = self.mixture.batches(begun, config.steps, num_threads=config.threads, debug=config.debug)
            asked = time.perf_counter()
            with closing(made):
                for planned in made:
                    self.waited = time.perf_counter() - asked
                    self._next = planned.step + 1
                    profile.before(self._next)
                    yield planned
                    asked = time.perf_counter()
                    if self._next <= planned.step:
                        break
        profile.close()

    def looked(self, planned: Planned, means: Mapping[str, torch.Tensor], norm: torch.Tensor) -> torch.Tensor:
        """() bool: whether the step is fine; where not, its gradients are zero now."""
        step, scaled = planned.step + 1, self.config.precision == "fp16"
        if step in self.left_out:
            return torch.zeros((), dtype=torch.bool, device=self.run.device)
        fine = self.spikes.look(step, planned.kind, means, norm=None if scaled else norm)
        drop_gradients(self.started.model.parameters(), fine)
        return fine

    def went_back(self, step: int, *, leaving: bool) -> bool:
        """Whether, after `step`, the run has gone back to its last checkpoint. Looks when the log or a checkpoint is due, as it
        is where the run is `leaving`.

        Raises:
            FloatingPointError: if a step was not fine and the run shall stop, or has no checkpoint to go back to.
        """
        config = self.config
        logs = step % config.log_every == 0 or self._measured(step)
        saves = step % config.save_every == 0 or step == config.steps or leaving
        spikes = self.spikes.read() if logs or saves else []
        if not spikes:
            return False
        told = self._told(spikes)
        if config.on_spike == "skip":
            self.left_out |= {spike.step for spike in spikes}
            if self.run.leads:
                print(f"{told}; left out", flush=True)
            return False
        if config.on_spike == "stop":
            raise FloatingPointError(
                f"{told}; go on from the last checkpoint with --on-spike skip or rollback, or look at these samples"
            )
        self._go_back(spikes, told)
        return True

    def readings(self) -> dict[str, float]:
        """What to log."""
        left_out = {} if self.config.on_spike == "stop" else {"step/left_out": float(len(self.left_out))}
        return self.started.scaler.readings() | left_out

    def state(self) -> dict[str, Any]:
        """For a checkpoint: what the run needs to go on from it."""
        watched = {"spikes": self.spikes.state(), "left_out": sorted(self.left_out)}
        told = {"config": shaping(self.config), "scaler": self.started.scaler.state(), "watched": watched}
        return told | {"meter": self.meter.state()}

    def _load_state(self, state: Mapping[str, Any]) -> None:
        watched = state.get("watched", {"spikes": {}, "left_out": []})
        self.spikes.load(watched["spikes"], self.run.device)
        self.left_out |= set(watched["left_out"])
        self.meter.load(state.get("meter", {}))

    def _measured(self, step: int) -> bool:
        return bool(self.config.measure_every) and step % self.config.measure_every == 0

    def _go_back(self, spikes: list[Spike], told: str) -> None:
        self.checkpoints.wait()
        started = self.started
        found = self.run.agree(last_checkpoint(self.checkpoints.folder) if self.run.leads else None)
        if found is None:
            raise FloatingPointError(f"{told}; there is no checkpoint yet to go back to: lower --save-every or --lr")
        of_run = {"config": shaping(self.config), "defaults": shaping(type(self.config)())}  # a codebook's has others
        state = load_checkpoint(found, started.model, started.optimizer, **of_run)
        self._next = state["step"]
        self._tries[self._next] += 1
        if self._tries[self._next] > _MOST:
            raise FloatingPointError(f"{told}; the run has gone back to {found} {_MOST} times: lower --lr")
        started.scaler.load(state["scaler"])
        self.meter.rewind(self._next)
        self._load_state(state)
        self.left_out |= {spike.step for spike in spikes}
        if self.run.leads:
            print(f"{told}; going back to step {self._next}, without the batches of what was not fine", flush=True)

    def _told(self, spikes: list[Spike]) -> str:
        """The first of them in a sentence; all go to `spikes.jsonl` in the run's folder, with their samples."""
        rows = [spike._asdict() | {"value": str(spike.value), "samples": self._samples(spike)} for spike in spikes]
        if self.run.leads:
            with (self.started.folder / "spikes.jsonl").open("a") as file:
                file.writelines(f"{json.dumps(row)}\n" for row in rows)
        first, more = spikes[0], len(spikes) - 1
        sources = "; ".join(f"{name} {_first(keys)}" for name, keys in rows[0]["samples"].items())
        also = f", and {more} more" if more else ""
        return f"{first}{also}, on rank {', '.join(map(str, first.ranks))}, from {sources} (all in spikes.jsonl)"

    def _samples(self, spike: Spike) -> dict[str, list[tuple[int, int]]]:
        """By source, (epoch, index) of each sample that the ranks had whose losses were not fine."""
        found = defaultdict(list)
        for rank in spike.ranks:
            for one in self.mixture.chosen(spike.step - 1, rank=rank, world_size=self.run.world_size):
                found[one.source.name].append((one.epoch, one.at))
        return dict(found)


def _first(keys: list[tuple[int, int]]) -> str:
    told = ", ".join(str(at) for _, at in keys[:_TOLD])
    return told + (f" and {len(keys) - _TOLD} more" if len(keys) > _TOLD else "")
