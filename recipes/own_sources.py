"""A user's own places as the sources of a run: blended, drawn near each other, and with the codes that were kept beside them."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from own import Own, named
from torch import nn

from torchflava.codebooks import fingerprint
from torchflava.data.blend import Blend, Nearby
from torchflava.data.coded import CodedShards
from torchflava.data.codes import CodesOf
from torchflava.data.opening import name_of, open_images, open_pairs, open_texts, shards_at
from torchflava.data.remote import DiskCache
from torchflava.data.samples import TextSample
from torchflava.data.shards import ShardImages, ShardPairs
from torchflava.transforms.image import TrainViews

log = logging.getLogger(__name__)


class Captions:
    """The captions of pairs as texts."""

    def __init__(self, pairs: Any) -> None:
        self.name = f"{pairs.name}' captions"
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> TextSample:
        """The caption at `index`."""
        return TextSample(self.pairs.caption(index), f"{self.name} {index}")


def own_pairs(own: Own) -> Any:
    """All of --pairs as one source, or None."""
    return _together("pairs", open_pairs, own.pairs, weights=own.pair_weights, own=own)


def own_images(own: Own) -> Any:
    """All of --images as one source, or None."""
    return _together("images", open_images, own.images, weights=own.image_weights, own=own)


def own_texts(own: Own) -> Any:
    """All of --texts as one source, or None."""
    return _together("texts", open_texts, own.texts, weights=own.text_weights, own=own)


def held_out_pairs(own: Own) -> Any:
    """All of --held-out as one source, or None."""
    return _together("held out", open_pairs, own.held_out, weights={}, own=own)


def held_out_images(own: Own) -> Any:
    """The same for whoever needs no captions."""
    return _together("held out", open_images, own.held_out, weights={}, own=own)


def _together(
    kind: str, open_one: Callable[..., Any], places: Sequence[str], *, weights: Mapping[str, float], own: Own
) -> Any:
    if not places:
        return None
    storage = DiskCache(own.cache, round(own.cache_gb * 1e9)) if own.cache else None
    short = [name or name_of(place) for name, place in map(named, places)]
    if twice := [name for name, num in Counter(short).items() if num > 1]:
        raise ValueError(
            f"more than one place of {kind} is called {twice[0]}; call them by names of your own, NAME=PLACE"
        )
    if weights and set(weights) != set(short):
        raise ValueError(f"the weights are of {sorted(weights)}, the {kind} of {sorted(short)}; give each one weight")
    # A place may be given for several kinds.
    called = short if kind == "pairs" else [f"{name} {kind}" for name in short]
    sources = [open_one(named(word).place, name, storage=storage) for word, name in zip(places, called, strict=True)]
    window = 0 if kind == "held out" else own.window
    if len(sources) == 1:
        return _near(sources[0], window)
    if not weights:
        return _by_size(kind, sources, window)
    shares = {long: weights[name] for name, long in zip(short, called, strict=True)}
    return Blend(kind, [_near(source, window) for source in sources], shares)


def _near(source: Any, window: int) -> Any:
    """Drawn from a few shards at a time; what is not in shards lies at hand, and is drawn from as a whole."""
    return Nearby(source, window) if window and hasattr(source, "starts") else source


def _by_size(kind: str, sources: Sequence[Any], window: int) -> Any:
    """Shards drawn near each other, all together; beside what is not in shards, each source in its own order, by weights that
    are the sizes."""
    near = [source for source in sources if window and hasattr(source, "starts")]
    if not near:
        return Blend(kind, sources)
    if len(near) == len(sources):
        return Nearby(Blend(kind, sources), window)
    return Blend(kind, [_near(source, window) for source in sources], {one.name: len(one) for one in sources})


def check_window(own: Own, sources: Sequence[Any]) -> None:
    """Refuse a window that nothing is drawn by, and a cache that cannot hold the shards that are open at a time.

    Args:
        own: the settings.
        sources: of all kinds; None where there are none.

    Raises:
        ValueError: naming --window, and --cache-gb where that is too small.
    """
    if not own.window:
        return
    drawn = [near for source in sources if source is not None for near in _nearby(source)]
    if not drawn:
        raise ValueError(f"--window {own.window} is of shards, and no place is in shards; leave it out")
    sizes = [size for near in drawn if (size := _largest(near))]
    needed = sum(largest * min(own.window, num) for largest, num in sizes)
    if own.cache and needed > own.cache_gb * 1e9:
        raise ValueError(
            f"--cache-gb {own.cache_gb} is too small for --window {own.window}: the shards open at a time take up to "
            f"{needed / 1e9:.3g} GB; raise the one or lower the other"
        )


def _nearby(source: Any) -> Iterator[Nearby]:
    """What of a source is drawn from a few shards at a time."""
    if isinstance(source, Nearby):
        yield source
    elif isinstance(source, Blend):
        for one in source.sources:
            yield from _nearby(one)


def _largest(near: Nearby) -> tuple[int, int] | None:
    """The bytes of the largest shard that is fetched, and how many shards are; None if none is."""
    found = [
        part.catalog.num_bytes(shard) for part in _parts(near) for shard, path in enumerate(part.paths) if "://" in path
    ]
    return (max(found), len(found)) if found else None


def check_held_out(own: Own) -> None:
    """Refuse to measure on what is trained on.

    Raises:
        ValueError: if a place of --held-out has the files of one of --pairs.
    """
    _refuse_shared(own, "pairs", own.pairs)


def check_images_held_out(own: Own) -> None:
    """As `check_held_out`, where images are what is trained on."""
    _refuse_shared(own, "images", own.images)


def _refuse_shared(own: Own, kind: str, places: Sequence[str]) -> None:
    trained = {file: word for word in places for file in _files(word)} if own.held_out else {}
    for word in own.held_out:
        if file := next((file for file in _files(word) if file in trained), None):
            raise ValueError(
                f"--held-out {word} and --{kind} {trained[file]} both have {file}; hold out {kind} of their own"
            )


def _files(word: str) -> list[str]:
    """What a place reads: its shards, its folder, its file, or a split of the hub."""
    place = named(word).place
    if not place.startswith("hub:"):
        return [path if "://" in path else os.path.realpath(path) for path in shards_at(place) or [place]]
    name, _, asked = place.removeprefix("hub:").partition("?")
    told = dict(parse_qsl(asked))
    where = os.path.realpath(name) if os.path.exists(name) else name
    return [f"hub:{where}?split={told.get('split', 'train')}&config={told.get('config', 'default')}"]


def with_codes(source: Any, own: Own, views: TrainViews, codebook: nn.Module) -> Any:
    """The same source, with codes where `--codes` asks for them or, by default, where they are there for all of it.

    Raises:
        FileNotFoundError: for `--codes cached`, where some of it has none.
        ValueError: if they are damaged, or not of its shards.
    """
    if source is None or own.codes == "online":
        return source
    of = CodesOf(fingerprint(codebook), codebook.num_codes, codebook.grid, views.told())
    found, missing = {}, []
    for part in _parts(source):
        try:
            found[part.name] = _coded(part, of)
        except FileNotFoundError as error:
            missing.append(f"{part.name} ({f'no {error.filename}' if error.filename else error})")
    if missing and own.codes == "cached":
        told = f"--codes is cached, but there are none beside {', '.join(missing)}"
        raise FileNotFoundError(f"{told}; make them by recipes/data/codes.py, with this codebook")
    if missing and found:
        log.warning("codes are computed in every step: there are some, but none beside %s", ", ".join(missing))
    return source if missing else _in_place(source, found)


def is_coded(source: Any) -> bool:
    """Whether a source has its codes; all of it or none."""
    return source is not None and all(isinstance(part, CodedShards) for part in _parts(source))


def _parts(source: Any) -> list[Any]:
    """What a source is blended of."""
    if isinstance(source, Nearby):
        return _parts(source.source)
    return [part for one in source.sources for part in _parts(one)] if isinstance(source, Blend) else [source]


def _in_place(source: Any, parts: Mapping[str, Any]) -> Any:
    """The same blend of other parts."""
    if isinstance(source, Nearby):
        return Nearby(_in_place(source.source, parts), source.window)
    if isinstance(source, Blend):
        return Blend(source.name, [_in_place(one, parts) for one in source.sources], source.weights)
    return parts[source.name]


def _coded(source: Any, of: CodesOf) -> CodedShards:
    if not isinstance(source, ShardPairs | ShardImages):
        raise FileNotFoundError("it is not in shards")
    return CodedShards(source, of)
