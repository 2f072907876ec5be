"""What a fine-tuned model is worth on splits of its task, and the files that are written of it."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from results import Measured, name_of, write_results
from torch import Tensor
from tuning_batches import made_ahead
from tuning_settings import Tuning, as_json
from tuning_start import Started

from torchflava.evaluation import Reading, embed_over_ranks
from torchflava.tasks import score_outputs
from torchflava.tasks.examples import Example, TuningTask
from torchflava.tasks.pairs import write_memes
from torchflava.tasks.tuning import is_whole, reduce_outputs
from torchflava.tasks.vqa import submission
from torchflava.training import Run, averaged

MEASURED = "measured.json"


def readings_of(started: Started, run: Run, splits: Sequence[str]) -> list[Reading]:
    """What all metrics say on these splits, the same on every rank, and what the best constant answer gets."""
    task, found = started.task, []
    for split in splits:
        found += _readings(task, split, outputs_of(started, run, task.measured[split]))
    return found


def outputs_of(started: Started, run: Run, examples: Sequence[Example]) -> Tensor:
    """N examples -> what the model, or its average, says of them, as `reduce_outputs` makes it, on the CPU of every rank."""
    task, feed, model, size = started.task, started.feed, started.model, started.config.measure_batch

    def of_own(own: Sequence[Example]) -> Tensor:
        def make(number: int) -> object:
            return feed.batch([feed.row(one) for one in own[number * size : (number + 1) * size]])

        parts = made_ahead(make, range(-(-len(own) // size)), started.config.threads)
        return torch.cat([reduce_outputs(task, model(*batch.inputs(run.device))) for _, batch in parts])

    model.eval()
    with torch.no_grad(), averaged(started.optimizer) if started.config.ema else nullcontext():
        outputs = embed_over_ranks(examples, of_own).cpu()
    model.train()
    return outputs


def write_all(started: Started, run: Run, export: Callable[[], None]) -> list[Reading]:
    """Write the weights, measure all splits, and write results and predictions. Called by every rank."""
    task, folder, found = started.task, started.folder, []
    with averaged(started.optimizer) if started.config.ema else nullcontext():
        export()
    for split, examples in {**task.measured, **task.asked}.items():
        outputs = outputs_of(started, run, examples)
        if split in task.measured:
            found += _readings(task, split, outputs)
        if run.leads:
            _write_predictions(task, split, outputs, folder=folder)
    if run.leads:
        (folder / MEASURED).write_text(json.dumps([r._asdict() for r in found], indent=1))
        if not started.config.within_search:
            write_rows(started.config, task, found, folder)
    return found


def write_rows(config: Tuning, task: TuningTask, readings: Sequence[Reading], folder: Path) -> None:
    """The readings for the scorecard, with the settings that gave them."""
    settings = as_json(config) | {"whole": is_whole(task)}
    rows = [Measured(config.called or task.name, reading.name, reading.value) for reading in readings]
    model = config.label or name_of(Path(config.model))
    write_results(folder, rows, model=model, made_by="recipes/finetune.py", settings=settings)


def _readings(task: TuningTask, split: str, outputs: Tensor) -> list[Reading]:
    examples = task.measured[split]
    values, chance = (
        score_outputs(task, examples, outputs),
        score_outputs(task, examples, _constant(task, len(examples))),
    )
    return [Reading(task.reading(metric, split), value, chance[metric]) for metric, value in values.items()]


def _constant(task: TuningTask, num: int) -> Tensor:
    """N times what one would say who has seen the training targets and nothing else."""
    if task.kind == "score":
        return torch.zeros(num)
    if task.kind == "answers":
        return torch.zeros(num, dtype=torch.int64)  # they are numbered by how often they are given
    most, _ = Counter(one.target for one in task.train).most_common(1)[0]
    outputs = torch.zeros(num, len(task.classes))
    outputs[:, most] = 1
    return outputs


def _write_predictions(task: TuningTask, split: str, outputs: Tensor, *, folder: Path) -> None:
    """Where a test server or a person wants to see each answer."""
    examples = {**task.measured, **task.asked}[split]
    if task.name == "hateful_memes":
        write_memes(folder / f"predictions_{split}.csv", examples, outputs.softmax(1)[:, 1].tolist())
    elif task.kind == "answers":
        told = submission(examples, [task.classes[number] for number in outputs.tolist()])
        (folder / f"answers_{split}.json").write_text(json.dumps(told))
    elif task.name == "own":
        shares = outputs.softmax(1)
        rows = [
            {"row": one.key, "label": task.classes[int(share.argmax())], "share": round(float(share.max()), 6)}
            for one, share in zip(examples, shares, strict=True)
        ]
        (folder / f"predictions_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
