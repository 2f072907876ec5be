"""What is evaluated: a run's model, weights of others, or a user's own model, all as the same few functions.

A model of one's own is a function that takes a device and returns an `Evaluated`, named by `--model module:function`; the module
lies in the working directory or is installed. docs/tasks.md has an example with open_clip.

Letters: B batch, H, W, S sides in pixels, D width, E embedding width, P texts.
"""

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from evaluation_settings import Subject, kind_of
from export import model_of, read_config
from kept import where_checkpoints_lie
from torch import Tensor

from torchflava.files import save_tensors
from torchflava.layers import cast_products
from torchflava.models import Clip, Flava, from_pretrained, metadata_of
from torchflava.models.hub import find_or_fetch
from torchflava.training import best_checkpoint, full_weights, last_checkpoint, load_checkpoint
from torchflava.transforms.collate import Collate
from torchflava.transforms.image import EvalView, normalise
from torchflava.transforms.tokenizer import TextTokenizer, tokenizer_beside

_MAX_LENGTH = 77  # tokens of a text, as the paper's


class Evaluated(NamedTuple):
    """A model as evaluations see it; what it cannot do is None."""

    view: Callable[[Tensor], Tensor]
    """An image, (3, H, W) uint8, upright, RGB -> (3, S, S), any type: what the other functions take, stacked, on the device."""
    features: Callable[[Tensor], Tensor] | None = None
    """(B, 3, S, S) -> (B, D): the image encoder's final layer, for linear probes."""
    embed_image: Callable[[Tensor], Tensor] | None = None
    """(B, 3, S, S) -> (B, E), for zero-shot classification and retrieval; any length."""
    embed_text: Callable[[Sequence[str]], Tensor] | None = None
    """P texts -> (P, E)."""
    match: Callable[[Tensor, Sequence[str]], Tensor] | None = None
    """(B, 3, S, S) and a text for each -> (B,): the higher, the better they go together; for re-ranking."""
    without: str = ""
    """Why a function is None."""


def open_evaluated(subject: Subject, device: torch.device) -> Evaluated:
    """The model that `--model` names, on `device`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or a user's function returns something else.
    """
    if subject.is_code:
        return _by_code(subject.model, device)
    if not Path(subject.model).exists():
        subject = replace(subject, model=str(find_or_fetch(subject.model)))
    return of_model(loaded_model(subject), device, tokenizer=tokenizer_of(subject), subject=subject)


def of_model(
    model: torch.nn.Module, device: torch.device, *, tokenizer: TextTokenizer | None, subject: Subject
) -> Evaluated:
    """A model of this project's as evaluations see it; for bf16 its weights are cast, and only they can call it then.

    Raises:
        ValueError: if the vocabulary, or the length of texts, is not one that the model is built for.
    """
    own = _Own(model.to(device).eval(), device, subject)
    seen = Evaluated(EvalView(own.encoders.image_encoder.image_size), own.features, own.embed_image)
    if tokenizer is None:
        return seen._replace(without="the model has no vocabulary beside it; give it by --vocab")
    own.texts = _Texts(tokenizer, own.encoders.text_encoder, device, subject=subject)
    if getattr(model, "itm", None) is None:
        return seen._replace(embed_text=own.embed_text, without="the model has no matching head")
    return seen._replace(embed_text=own.embed_text, match=own.match)


class _Own:
    """The functions of a model of this project's; none keeps a graph."""

    def __init__(self, model: Any, device: torch.device, subject: Subject) -> None:
        self.model = model
        self.encoders = model if isinstance(model, Flava | Clip) else model.flava
        self.texts: _Texts | None = None
        self._device, self._low = device, subject.precision == "bf16"
        if self._low:
            cast_products(model, torch.bfloat16)

    def features(self, pixels: Tensor) -> Tensor:
        with self._computing():
            return self.encoders.image_encoder(normalise(pixels)).normed[:, 0].float()

    def embed_image(self, pixels: Tensor) -> Tensor:
        with self._computing():
            return self.encoders.embed_image(normalise(pixels)).float()

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        assert self.texts is not None
        with self._computing():
            return self.encoders.embed_text(*self.texts(texts)).float()

    def match(self, pixels: Tensor, texts: Sequence[str]) -> Tensor:
        assert self.texts is not None
        with self._computing():
            logits = self.model.itm(self.encoders(normalise(pixels), *self.texts(texts)).fused.cls).float()
        return logits[:, 1] - logits[:, 0]

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._low):
            yield


class _Texts:
    """Texts to padded ids for a text encoder."""

    def __init__(self, tokenizer: TextTokenizer, encoder: Any, device: torch.device, *, subject: Subject) -> None:
        if tokenizer.vocab_size > encoder.vocab_size:
            raise ValueError(
                f"the vocabulary has {tokenizer.vocab_size} tokens and the model knows {encoder.vocab_size}; give the one that "
                "it was trained with by --vocab"
            )
        if subject.max_length > encoder.max_length:
            raise ValueError(f"--max-length {subject.max_length}: the model reads {encoder.max_length} tokens at most")
        self.max_length = subject.max_length or length_of_run(subject) or min(_MAX_LENGTH, encoder.max_length)
        self._tokenizer, self._device = tokenizer, device
        self._pad = Collate(encoder.vocab_size, 0, pad_id=tokenizer.pad_id).pad

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """P texts -> ids (P, T) int64, keep (P, T) bool."""
        ids, keep = self._pad([self._tokenizer.encode(text, self.max_length).ids for text in texts])
        return ids.to(self._device), keep.to(self._device)


def _by_code(named: str, device: torch.device) -> Evaluated:
    module, _, function = named.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--model {named}: there is no module {error.name!r}; start in its folder or install it"
        ) from error
    if make is None:
        raise ValueError(f"--model {named}: {module} has no {function}; name a function of it")
    made = make(device)
    if not isinstance(made, Evaluated):
        raise ValueError(
            f"--model {named} returned a {type(made).__name__}; an Evaluated of recipes/evaluated.py is due"
        )
    return made


def loaded_model(subject: Subject) -> torch.nn.Module:
    """A run's model, or weights by themselves."""
    size = subject.image_size or None
    folder = Path(subject.model)
    if kind_of(folder) == "fine-tuning" and not (folder / "model.safetensors").is_file():
        raise ValueError(f"{folder} has no model.safetensors yet; let the fine-tuning run to its end")
    if kind_of(folder) != "pretraining" or (folder / "model.safetensors").is_file():
        return whole_model(from_pretrained(subject.model, image_size=size), subject.model)
    config = read_config(folder / "config.json")
    where = where_checkpoints_lie(config, folder)
    checkpoint = best_checkpoint(where) or last_checkpoint(where)
    if checkpoint is None:
        raise ValueError(f"{folder} has neither model.safetensors nor a checkpoint yet; let it run until it saves")
    model = model_of(config, folder).to_empty(device="cpu")
    load_checkpoint(checkpoint, model)
    with tempfile.TemporaryDirectory() as made:  # so that it is read as any other file is
        file = Path(made) / "model.safetensors"
        save_tensors(file, full_weights(model), metadata_of(model))
        return whole_model(from_pretrained(file, image_size=size), subject.model)


def whole_model(model: Any, named: str) -> torch.nn.Module:
    """The model, if it is a FLAVA or a CLIP.

    Raises:
        ValueError: for an encoder or a codebook by itself.
    """
    if not isinstance(model, Flava | Clip) and not hasattr(model, "flava"):
        kind = type(model).__name__
        raise ValueError(
            f"{named} holds one part by itself, {kind}; a whole FLAVA or CLIP is due; a run begins with an encoder's "
            "weights by pretrain.py's --init-image or --init-text"
        )
    return model


def tokenizer_of(subject: Subject) -> TextTokenizer | None:
    """The vocabulary that is named, or lies in the model's folder."""
    return tokenizer_beside(subject.model, subject.vocab)


def length_of_run(subject: Subject) -> int:
    """The longest text of a pretraining run in tokens; 0 for anything else."""
    folder = Path(subject.model)
    return read_config(folder / "config.json").max_length if kind_of(folder) == "pretraining" else 0
