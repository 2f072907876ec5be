"""Batches: plain tuples of tensors, one type for each kind, none of it optional."""

import inspect
from typing import get_args, get_type_hints

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from torchflava import batch as module
from torchflava.batch import (
    IGNORE,
    Batch,
    CachedPairBatch,
    ImageBatch,
    PairBatch,
    RawBatch,
    RawImageBatch,
    RawPairBatch,
    RawTextBatch,
)

KINDS = [kind for kind in (*get_args(RawBatch), *get_args(Batch)) if kind is not CachedPairBatch]


def test_the_label_to_ignore_is_pytorchs() -> None:
    assert nn.CrossEntropyLoss().ignore_index == IGNORE == -100


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_a_tensor_with_its_shape_told(kind: type) -> None:
    assert set(get_type_hints(kind).values()) == {Tensor}, "no optional field: the type says what runs"
    source = inspect.getsource(kind).splitlines()
    for field in kind._fields:
        told = source[source.index(f"    {field}: Tensor") + 1]
        assert told.startswith('    """(B'), f"{kind.__name__}.{field} is documented by {told!r}"
    assert not kind._field_defaults


def test_a_raw_batch_has_targets_where_the_models_has_labels() -> None:
    assert [name.replace("targets", "labels") for name in RawImageBatch._fields] == [
        "pixels", "labels", "masked", "positions",
    ]  # fmt: skip
    assert set(ImageBatch._fields) == {"pixels", "labels", "masked", "positions"}
    assert set(PairBatch._fields) - set(RawPairBatch._fields) == {"patch_labels"}
    assert set(RawPairBatch._fields) - set(PairBatch._fields) == {"targets"}
    assert RawTextBatch._fields == module.TextBatch._fields


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_batches_stay_what_they_are_when_moved(kind: str) -> None:
    batch = tiny.batch_of(kind)
    moved = pytree.tree_map(lambda tensor: tensor.to("meta"), batch)
    assert type(moved) is type(batch)
    assert all(tensor.is_meta for tensor in moved)
    assert torch.utils.data.default_collate([batch])._fields == batch._fields
