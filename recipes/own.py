"""What a user's own data is: where its pairs, images and texts lie, and how they are drawn. For `--corpus own`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class Own:
    """Your own samples, for `--corpus own`; a place may be called by a name of your choice, NAME=PLACE."""

    pairs: tuple[str, ...] = ()
    """Captioned images: folders of tars (`data/coco`), patterns or URLs of tars (`s3://bucket/cc/{00000..01241}.tar`), folders of
    images with a .txt beside each, captions files (.csv, .tsv, .jsonl, .json), or hub:USER/NAME?split=train&caption=text."""
    images: tuple[str, ...] = ()
    """Images, captioned or not: folders, tars or hub:NAME, as for pairs; the same places may be given."""
    texts: tuple[str, ...] = ()
    """Texts: .txt files with a text a line, tars with a .txt a sample, or hub:NAME?text=COLUMN."""
    pair_weights: dict[str, float] = field(default_factory=dict)
    """How often each of several places is drawn from (coco 1 cc12m 3); by their sizes unless given."""
    image_weights: dict[str, float] = field(default_factory=dict)
    """The same of images."""
    text_weights: dict[str, float] = field(default_factory=dict)
    """The same of texts."""
    held_out: tuple[str, ...] = ()
    """Pairs to measure on, which must not be among those to train on."""
    window: int = 0
    """Shards that are drawn from at a time, for object stores; 0 means all. What is not in shards is drawn as a whole; beside it,
    and with weights, each place has its own window, and an epoch of the whole sees each sample once only on average."""
    cache: str = ""
    """A folder of this machine's disk for shards fetched from URLs; without it every sample is a request of its own."""
    cache_gb: float = 100.0
    """The most that the cache may hold."""
    codes: Literal["auto", "cached", "online"] = "auto"
    """Where the codes of images come from: from beside the shards if recipes/data/codes.py has put them there for all of a
    kind, always from there, or always computed in the step."""


class Named(NamedTuple):
    """A place and what it is called."""

    name: str
    """Empty if it is not given one."""
    place: str


def named(word: str) -> Named:
    """`NAME=PLACE`, or a place alone."""
    match = re.fullmatch(r"([\w-]+)=(.+)", word)
    return Named(match[1], match[2]) if match else Named("", word)


def complaints_of_own(own: Own, *, asked: bool, shares: dict[str, float], measures: bool) -> Iterator[str]:
    """What cannot be, before anything is opened.

    Args:
        own: the settings.
        asked: whether they are what is trained on.
        shares: of pairs, images and texts.
        measures: whether something is to be measured during the run.
    """
    if not asked:
        if given := [name for name, value in vars(own).items() if value != getattr(Own(), name)]:
            yield f"--{given[0].replace('_', '-')} is for your own data; say --corpus own too"
        return
    for kind, share in shares.items():
        given = getattr(own, f"{kind}s")
        if share and not given:
            yield f"--shares.{kind} is {share}, but --{kind}s names no place; give one or more, or set the share to 0"
        if given and not share:
            yield f"--{kind}s are given, but --shares.{kind} is 0; leave them out or raise it"
        if getattr(own, f"{kind}_weights") and len(given) < 2:
            yield f"--{kind}-weights are of several places, but --{kind}s names {len(given)}; leave them out"
    if own.window < 0:
        yield f"--window {own.window} must be 0 or more shards"
    if own.cache and not own.window:
        yield "with --cache, --window must say how many shards are drawn from at a time, such as 64"
    if own.cache_gb <= 0:
        yield f"--cache-gb {own.cache_gb} must be above 0"
    if own.cache_gb != Own().cache_gb and not own.cache:
        yield f"--cache-gb {own.cache_gb} is the room of a cache, and there is none; name its folder by --cache"
    if own.cache and not any("://" in place for place in (*own.pairs, *own.images, *own.texts, *own.held_out)):
        yield f"--cache {own.cache} is for shards fetched from URLs, and no place is one; leave it out"
    if measures and not own.held_out:
        yield "--measure-every has nothing to measure on; name pairs by --held-out, or leave it out"
