"""The first samples of each kind in the order of training, as the mixture makes them: views, masks, codes and texts.

Letters: N patches, S side of the encoder's view and s of the codebook's in pixels.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from math import isqrt
from typing import Any, NamedTuple

from browse_drawing import code_map, data_uri, mask_path, thumbnail
from browse_measures import Unread, reason_of
from browse_plan import Plan
from browse_sources import key_of, text_in, uncoded

from torchflava.batch import IGNORE, RawImageBatch, RawPairBatch, RawTextBatch
from torchflava.data.mixture import Kind, Mixture
from torchflava.transforms.image import CorruptSample, decoded
from torchflava.transforms.tokenizer import TextTokenizer
from torchflava.transforms.vocabulary import MASK

_CHARACTERS = 600  # of a caption that are shown
_META = 2_000  # characters of a .json that are shown


class Word(NamedTuple):
    """A word of a masked text."""

    true: str
    """What stood there."""
    seen: str
    """What the model sees there."""
    masked: bool
    """Whether the model is asked for it; it may see it all the same, as in BERT (a tenth of the time)."""

    @property
    def is_hidden(self) -> bool:
        """Whether the model sees nothing but [MASK]."""
        return self.masked and set(self.seen.split()) == {MASK}


class View(NamedTuple):
    """A picture of a sample."""

    label: str
    uri: str
    mask: str
    """The path of an SVG with a unit a patch; empty without a mask."""
    side: int
    """Patches a side, where there is a mask."""


class Shown(NamedTuple):
    """A sample as training sees it."""

    key: str
    source: str
    step: int
    failed: list[Unread]
    """The samples that it replaces."""
    caption: str = ""
    """As it is stored."""
    words: Sequence[Word] = ()
    """The masked text without [CLS] and [SEP]."""
    told: str = ""
    """The clean text of an image whose masked text is another's."""
    size: tuple[int, int] | None = None
    """Width and height of the stored image, in pixels."""
    views: Sequence[View] = ()
    meta: str = ""
    """What the sample's .json holds."""


def samples_of(plan: Plan, num: int, first_step: int) -> dict[str, list[Shown]]:
    """The first `num` samples of each kind from a step on, fewer if the run ends before; of shards, each sample once."""
    rows = {name: _Noted(kind) for name, kind in plan.mixture.kinds.items()}
    kinds = {name: kind._replace(row=rows[name]) for name, kind in plan.mixture.kinds.items()}
    mixture = Mixture(kinds, plan.mixture.batch_size, plan.mixture.seed, max_corrupt_fraction=1.0)
    wanted = {name: num if plan.steps else min(num, len(kind.source)) for name, kind in kinds.items()}
    found: dict[str, list[Shown]] = {name: [] for name in kinds}
    steps: Iterable[int] = range(first_step, plan.steps) if plan.steps else count()
    for step in steps:
        name = mixture.order(step).kind
        missing = wanted[name] - len(found[name])
        for place in range(min(missing, mixture.batch_size)):
            found[name].append(_shown(plan, mixture, rows[name], step=step, place=place))
        if all(len(found[name]) == wanted[name] for name in found):
            break
    return found


class _Noted:
    """Makes rows as a kind does, and notes of which sample the last was made and which could not be read before it."""

    def __init__(self, kind: Kind) -> None:
        self._row = kind.row
        self.failed: list[Unread] = []
        self.last: tuple[Any, int] = (kind.source, 0)

    def __call__(self, source: Any, at: int, rng: Any) -> Any:
        self.last = source, at
        try:
            return self._row(source, at, rng)
        except CorruptSample as error:
            name = key_of(source, at)
            self.failed.append(Unread(name, reason_of(error, name), ""))
            raise


def _shown(plan: Plan, mixture: Mixture, row: _Noted, *, step: int, place: int) -> Shown:
    """The sample at one place of a step's batch: what one of as many ranks as the batch has places would get."""
    row.failed = []
    try:
        raw = mixture.part(step, rank=place, world_size=mixture.batch_size).batch
    except CorruptSample:  # ten in a row: training would stop here
        return Shown(row.failed[0].key, row.last[0].name, step, row.failed)
    source, at = row.last
    sample = source[at]
    caption = _short(text_in(sample) or "", _CHARACTERS)
    shown = Shown(sample.key, source.name, step, row.failed, caption=caption, meta=_meta(source, at))
    if not isinstance(raw, RawImageBatch):
        assert plan.tokenizer is not None, "there are texts"
        shown = shown._replace(words=list(words_of(raw, plan.tokenizer)))
        if isinstance(raw, RawPairBatch) and not raw.matched[0]:
            shown = shown._replace(told=plan.tokenizer.decode(raw.ids[0][raw.keep[0]].tolist()))
    if isinstance(raw, RawTextBatch):
        return shown
    image = decoded(sample.image)
    views = [View("stored image", thumbnail(image), "", 0)] if isinstance(sample.image, bytes) else []
    size = image.shape[2], image.shape[1]
    return shown._replace(size=size, views=[*views, *_views(raw, plan.codebook)])


def _views(raw: Any, codebook: Any) -> Iterator[View]:
    """The encoder's view with its mask, and if there is a codebook its view and what its codes stand for."""
    masked, side = raw.masked[0], isqrt(raw.masked.shape[1])
    yield View("encoder's view", data_uri(raw.pixels[0]), mask_path(masked, side), side)
    if codebook is None:
        return
    if raw.targets.ndim == 4:
        yield View("codebook's view", data_uri(raw.targets[0]), "", 0)
    codes = codebook.encode(raw.targets) if raw.targets.ndim == 4 else raw.targets
    if hasattr(codebook, "decode"):
        yield View("what the codes draw", data_uri(codebook.decode(codes)[0]), "", 0)
    else:
        yield View("codes, a colour each", code_map(codes[0], side), "", 0)


def words_of(raw: RawTextBatch | RawPairBatch, tokenizer: TextTokenizer) -> Iterator[Word]:
    """The words of the first masked text in a batch of texts or pairs, special tokens at its ends left out."""
    if isinstance(raw, RawPairBatch):
        raw = RawTextBatch(raw.masked_ids, raw.masked_keep, raw.token_positions, raw.token_labels)
    seen = raw.masked_ids[0][raw.keep[0]].tolist()
    asked = {
        at: label
        for at, label in zip(raw.positions[0].tolist(), raw.labels[0].tolist(), strict=True)
        if label != IGNORE
    }
    word: list[int] = []
    for at in range(1, len(seen) - 1):
        if word and not tokenizer.tokens[asked.get(at, seen[at])].startswith("##"):
            yield _word(word, seen, asked, tokenizer)
            word = []
        word.append(at)
    if word:
        yield _word(word, seen, asked, tokenizer)


def _word(places: list[int], seen: list[int], asked: dict[int, int], tokenizer: TextTokenizer) -> Word:
    true = [tokenizer.tokens[asked.get(at, seen[at])] for at in places]
    instead = [tokenizer.tokens[seen[at]] for at in places]
    joined = "".join(token.removeprefix("##") if i else token for i, token in enumerate(true))
    masked = any(at in asked for at in places)
    return Word(joined, " ".join(instead) if masked else joined, masked)


def _meta(source: Any, at: int) -> str:
    source = uncoded(source)
    if not hasattr(source, "meta"):
        return ""
    try:
        found = source.meta(at)
    except CorruptSample as error:
        return str(error)
    return _short(json.dumps(found, ensure_ascii=False, indent=1), _META) if found else ""


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
