"""Name maps as data: which tensor of ours is which of another library's, to be read in both directions.

A row says under what names another library keeps one tensor of ours; `{i}` stands for the number of a block. The fused
query, key and value are one tensor here and three elsewhere; the temperature has one dimension here and none elsewhere.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = re.compile(r"((?:.*\.)?(?:blocks|layers?|resblocks)\.)([0-9]{1,4})(\..*)")


class Row(NamedTuple):
    """One tensor of ours."""

    ours: str
    """Its name here."""
    theirs: tuple[tuple[str, ...], ...]
    """Its pieces there, joined along the first dimension; of each its names, the one to write first."""
    scalar: bool = False
    """Whether it is () there and (1,) here."""
    transposed: bool = False
    """Whether rows are columns there."""
    leading: int = 0
    """Dimensions of 1 that it has here in front, and not there."""


Rows = tuple[Row, ...]


class Layout(NamedTuple):
    """The names in one kind of weight file, and what its tensors do not say."""

    name: str
    """What the file holds, in words."""
    rows: Rows
    """What it must have."""
    parts: tuple[Rows, ...] = ()
    """What it may lack, part by part."""
    unused: tuple[tuple[str, str], ...] = ()
    """Patterns of names that this model has no use for, each with the reason."""
    eps: float = 1e-12
    """Of the encoders' layer norms, unless a config says otherwise."""
    head_eps: float = 1e-5
    """Of the layer norms in the heads of masked prediction, unless a config says otherwise."""
    attend_to_padding: tuple[bool, bool] = (False, False)
    """Whether the text encoder, and the fusion encoder, see padding."""
    dropout: float = 0.0
    """In the classifier."""


def layer(ours: str, *theirs: str) -> Rows:
    """The weight and the bias of one layer, which goes by any of these names there."""
    return fused(ours, theirs)


def fused(ours: str, *pieces: tuple[str, ...]) -> Rows:
    """The weight and the bias of one layer that is several layers there, each of which goes by any of its names."""
    return tuple(
        Row(f"{ours}.{kind}", tuple(tuple(f"{name}.{kind}" for name in names) for names in pieces))
        for kind in ("weight", "bias")
    )


def as_ours(rows: Rows) -> Rows:
    """The same tensors under our own names."""
    return tuple(Row(row.ours, ((row.ours,),)) for row in rows)


def recognise(layouts: tuple[Layout, ...], names: Iterable[str]) -> Layout:
    """The layout that accounts for the most of these names, and among equals the one that lacks the fewest.

    Raises:
        ValueError: if none has at least half of its names there.
    """
    names = sorted(names)
    there = {_templated(name) for name in names}
    best, score = None, (0, 0)
    for layout in layouts:
        needed = [piece for row in layout.rows for piece in row.theirs]
        optional = [piece for part in layout.parts for row in part for piece in row.theirs]
        missing = sum(there.isdisjoint(piece) for piece in needed)
        known = {name for piece in needed + optional for name in piece}
        accounted = sum(_templated(name) in known or _reason(layout, name) is not None for name in names)
        if 2 * missing <= len(needed) and (accounted, -missing) > score:
            best, score = layout, (accounted, -missing)
    if best is None:
        all_known = ", ".join(layout.name for layout in layouts)
        raise ValueError(f"unknown layout: there is {listed(names) or 'no tensor'}; known are {all_known}")
    return best


def to_ours(
    layout: Layout, tensors: Mapping[str, Tensor], *, remedy: str = "give a whole one"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Their tensors -> ours by name, and the names that this model has no use for, each with the reason; `remedy` is for errors.

    Raises:
        ValueError: naming the keys that are missing, not to be there, no weights, or unlike what they should equal.
    """
    state: dict[str, Tensor] = {}
    unused: dict[str, str] = {}
    missing: list[str] = []
    for row in _rows(layout, tensors):
        there = [[name for name in names if name in tensors] for names in row.theirs]
        missing += [names[0] for names, found in zip(row.theirs, there, strict=True) if not found]
        if all(there):
            state[row.ours] = _join({found[0]: tensors[found[0]] for found in there}, row)
        for first, *others in filter(None, there):
            unused |= dict.fromkeys(_aliases(first, others, tensors), f"another name of {first}")
    used = {name for row in _rows(layout, tensors) for names in row.theirs for name in names}
    for name in tensors.keys() - used:
        if (reason := _reason(layout, name)) is not None:
            unused[name] = reason
    unexpected = sorted(tensors.keys() - used - unused.keys())
    complaints = [f"lacks {listed(missing)}"] * bool(missing) + [f"has unknown {listed(unexpected)}"] * bool(unexpected)
    if complaints:
        raise ValueError(f"a file of {layout.name} that {' and '.join(complaints)}; {remedy}")
    return state, unused


def to_theirs(layout: Layout, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors -> theirs, under the names to write; what `to_ours` found no use for is not made up.

    Raises:
        ValueError: naming the tensors of ours that the layout has and `state` lacks, or the other way round.
    """
    to_ours(Layout(f"{layout.name}, in our names", as_ours(layout.rows), tuple(map(as_ours, layout.parts))), state)
    return renamed(layout, state)


def renamed(layout: Layout, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As `to_theirs`, for some of the tensors that the layout has."""
    row_of = {row.ours: row for rows in (layout.rows, *layout.parts) for row in rows}
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        row, number = row_of[_templated(name)], _BLOCK.fullmatch(name)
        tensor = tensor.reshape(()) if row.scalar else tensor[(0,) * row.leading]
        tensor = tensor.T if row.transposed else tensor
        pieces = (tensor,) if len(row.theirs) == 1 else tensor.chunk(len(row.theirs))
        for names, piece in zip(row.theirs, pieces, strict=True):
            tensors[names[0].replace("{i}", number[2] if number else "")] = piece
    return tensors


def listed(names: Iterable[str], most: int = 12) -> str:
    """The first `most` names in a row, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _templated(name: str) -> str:
    return _BLOCK.sub(r"\1{i}\3", name)


def _reason(layout: Layout, name: str) -> str | None:
    return next((reason for pattern, reason in layout.unused if re.fullmatch(pattern, name)), None)


def _rows(layout: Layout, tensors: Mapping[str, Tensor]) -> Iterator[Row]:
    """What a file of these tensors must have, block by block; a gap in the numbers shows as a block missing."""
    there = {_templated(name) for name in tensors}
    numbers: dict[str, set[str]] = {}
    for name in tensors:
        if block := _BLOCK.fullmatch(name):
            numbers.setdefault(block[1], set()).add(block[2])
    parts = [part for part in layout.parts if any(not there.isdisjoint(piece) for row in part for piece in row.theirs)]
    for row in (row for rows in (layout.rows, *parts) for row in rows):
        stems = [name.partition("{i}")[0] for name in row.theirs[0] if "{i}" in name]
        for i in range(max((len(numbers.get(stem, "0")) for stem in stems), default=1)):
            theirs = tuple(tuple(name.replace("{i}", str(i)) for name in names) for names in row.theirs)
            yield row._replace(ours=row.ours.replace("{i}", str(i)), theirs=theirs)


def _join(pieces: dict[str, Tensor], row: Row) -> Tensor:
    wrong = {name: piece.dtype for name, piece in pieces.items() if not piece.is_floating_point()}
    if wrong:
        raise ValueError(f"{listed(wrong)} is {listed(map(str, wrong.values()))}; weights in floating point are due")
    first, *others = pieces.values()
    if any(piece.shape != first.shape for piece in others) or (others and first.ndim == 0):
        raise ValueError(
            f"{listed(pieces)} are {[tuple(piece.shape) for piece in pieces.values()]}; equal shapes are due"
        )
    if row.scalar:
        return first.reshape(-1)
    if row.transposed and first.ndim != 2:
        raise ValueError(f"{listed(pieces)} is {tuple(first.shape)}; two dimensions are due")
    whole = first
    if others:
        alike = all(piece.dtype == first.dtype for piece in others)  # torch joins not every two types
        whole = torch.cat([piece if alike else piece.float() for piece in pieces.values()])
    whole = whole.T if row.transposed else whole
    return whole.reshape((1,) * row.leading + tuple(whole.shape))


def _aliases(first: str, others: list[str], tensors: Mapping[str, Tensor]) -> list[str]:
    for other in others:
        if tensors[first].dtype != tensors[other].dtype or not torch.equal(tensors[first], tensors[other]):
            raise ValueError(f"{first} and {other} are two names of one tensor, but they differ; give a whole file")
    return others
