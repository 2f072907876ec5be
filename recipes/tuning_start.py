"""The beginning of fine-tuning: the task's examples, the pretrained model with a new head, an optimizer, and where it goes on."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from evaluated import whole_model
from evaluation_settings import kind_of
from results import name_of
from start import find_run, go_on
from tuning_settings import Tuning, as_json, shaping

from torchflava.models import (
    Clip,
    Flava,
    depths,
    embeddings_for_classification,
    flava_for_classification,
    freeze,
    from_pretrained,
)
from torchflava.models.hub import find_or_fetch
from torchflava.models.tuning import Classification
from torchflava.tasks import tuning_task
from torchflava.tasks.examples import TuningTask
from torchflava.tasks.feeding import Feed
from torchflava.tasks.own_labels import own_task
from torchflava.training import (
    Run,
    Scaler,
    adamw,
    adamw_by_depth,
    initialise,
    recompute,
    shard,
)
from torchflava.transforms import TextTokenizer, save_tokenizer
from torchflava.transforms.tokenizer import tokenizer_beside


class Started(NamedTuple):
    """What a loop needs."""

    config: Tuning
    """With the numbers in place that the task decides."""
    folder: Path
    task: TuningTask
    feed: Feed
    model: Classification
    optimizer: torch.optim.Optimizer
    scaler: Scaler
    kept: Mapping[str, Any]
    """What must be the same when it goes on."""
    state: Mapping[str, Any]
    """What the checkpoint says that it goes on from; empty if it begins."""
    done: int
    """Steps that it has behind it."""


def start(config: Tuning, run: Run) -> Started:
    """Everything up to the first step; called by every rank."""
    task = open_task(config)
    config = settled(config, task)
    kept = told_of(config, task)
    found = find_run(config, run, {"config": kept})
    model, tokenizer = build(config, task)
    feed = _feed(config, task, model, tokenizer)
    levels = depths(model)
    freeze(model, config.freeze)
    recompute(model.units(), config.recompute)
    model.to(run.device)
    shard(model, run.mesh, precision=config.precision)
    adam = {"betas": config.betas, "eps": config.eps}
    if config.layer_decay < 1:
        by_level = {"depths": levels, "layer_decay": config.layer_decay}
        optimizer = adamw_by_depth(model, config.lr, config.weight_decay, **by_level, **adam)
    else:
        optimizer = adamw(model, config.lr, config.weight_decay, **adam)
    scaler, state = go_on(found, config, run, model=model, optimizer=optimizer)
    if run.leads and not state:
        _open_folder(found.folder, config, task, tokenizer)
    done = state.get("step", 0)
    return Started(config, found.folder, task, feed, model, optimizer, scaler, kept, state, done)


def open_task(config: Tuning) -> TuningTask:
    """The task with its examples."""
    if config.task != "own":
        return tuning_task(config.task, config.data, with_val=config.with_val)
    files = (Path(config.train), Path(config.dev), Path(config.test) if config.test else None)
    return own_task(*files, images=Path(config.images) if config.images else None)


def settled(config: Tuning, task: TuningTask) -> Tuning:
    """The settings with the numbers that the examples decide.

    Raises:
        ValueError: for a reading to select by that is not measured on the way, and a warm-up that is no shorter than the run.
    """
    an_epoch = max(1, round(len(task.train) / config.batch_size))
    steps = config.steps or max(1, round(config.epochs * len(task.train) / config.batch_size))
    every = config.measure_every or min(steps, max(1, steps // 10) if config.steps else an_epoch)
    select = task.chosen_by if config.select == "auto" else config.select
    first = next(iter(task.measured))
    if select and select not in (names := [task.reading(metric, first) for metric in task.metrics]):
        raise ValueError(f"--select {select!r} is not measured on the way; there are {', '.join(names)}")
    warmup = round(config.warmup * steps) if config.warmup < 1 else round(config.warmup)
    if warmup >= steps:
        raise ValueError(
            f"--warmup {config.warmup:g} must be shorter than the run of {steps} steps; below 1 it is the share of them"
        )
    return replace(config, steps=steps, warmup=warmup, measure_every=every, select=select)


def told_of(config: Tuning, task: TuningTask) -> dict[str, Any]:
    """What must be the same when a run goes on: settings that shape it, and the examples."""
    learnt = {"examples": len(task.train), "fingerprint": task.fingerprint()}
    return shaping(config) | {"pretrained": name_of(Path(config.model))} | learnt


def build(config: Tuning, task: TuningTask) -> tuple[Classification, TextTokenizer | None]:
    """The pretrained encoders with a new head, on the CPU, and their vocabulary.

    Raises:
        ValueError: for weights or a vocabulary that do not fit what is asked for.
        FileNotFoundError: if there are no weights.
    """
    path = find_or_fetch(config.model)
    config = replace(config, model=str(path))
    if path.is_dir() and [*path.glob("step-*")] and not (path / "model.safetensors").exists():
        how = (
            "let it run to its end"
            if kind_of(path) == "fine-tuning"
            else f"write them by: python recipes/export.py {path}"
        )
        raise ValueError(f"{path} has checkpoints and no weights yet; {how}")
    whole: Any = whole_model(from_pretrained(path), str(path))
    flava = whole if isinstance(whole, Flava | Clip) else whole.flava
    tokenizer = None if task.reads == "image" else _tokenizer(config, flava)
    if task.reads != "text" and config.image_size:
        flava.resize(config.image_size)
    of_head = {"hidden": config.hidden, "dropout": config.dropout}
    if config.head == "embeddings" or (config.head == "auto" and isinstance(flava, Clip)):
        model: Classification = embeddings_for_classification(len(task.classes), flava, task.reads, **of_head)
    elif isinstance(flava, Clip):
        raise ValueError(f"--head class-token, but {path} is CLIP, which is read by its embeddings; leave it out")
    else:
        model = flava_for_classification(len(task.classes), flava, task.reads, **of_head)
    initialise(model.classifier, config.seed, prefix="classifier")
    return model.train(), tokenizer


def _tokenizer(config: Tuning, flava: Flava | Clip) -> TextTokenizer:
    path = Path(config.model)
    tokenizer = tokenizer_beside(config.model, config.vocab)
    if tokenizer is None:
        raise ValueError(
            f"{path if path.is_dir() else path.parent} has no vocabulary; name the model's vocab.txt by --vocab"
        )
    if tokenizer.vocab_size != flava.text_encoder.vocab_size:
        raise ValueError(
            f"the vocabulary has {tokenizer.vocab_size} words, the model in {path} knows {flava.text_encoder.vocab_size}; "
            "name its own by --vocab"
        )
    return tokenizer


def _feed(config: Tuning, task: TuningTask, model: Classification, tokenizer: TextTokenizer | None) -> Feed:
    longest = int(getattr(model.flava.text_encoder, "max_length", config.max_length or 512))
    if config.max_length > longest:
        raise ValueError(f"--max-length {config.max_length} is more than the {longest} tokens that the model takes")
    side = 0 if task.reads == "text" else int(config.image_size or model.flava.image_encoder.image_size)
    return Feed(task, tokenizer, max_length=config.max_length or longest, image_size=side, crop=config.crop)


def _open_folder(folder: Path, config: Tuning, task: TuningTask, tokenizer: TextTokenizer | None) -> None:
    """Keep what whoever uses the model needs: settings, vocabulary, and what its outputs are called."""
    (folder / "config.json").write_text(json.dumps(as_json(config), indent=1))
    told = {"task": task.name, "reads": task.reads, "kind": task.kind, "classes": task.classes}
    (folder / "data.json").write_text(json.dumps(told | told_of(config, task), indent=1))
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
