"""The ways from a shard to a batch that benchmarks/data.py compares, and the time of each stage of ours."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as old

from torchflava.batch import RawPairBatch
from torchflava.data.coded import CodedRows, CodedShards
from torchflava.data.codes import HEAD, CodesOf, KeptList, codes_path, kept_in, list_path, shard_mark, write_codes
from torchflava.data.mixture import Kind, Mixture
from torchflava.data.order import keyed_rng
from torchflava.data.rows import ImageRows, PairRows, Rng, TextRows, Tokens
from torchflava.data.samples import PairSource
from torchflava.data.shards import ShardPairs
from torchflava.data.tars import write_whole
from torchflava.transforms.collate import Collate, ImageRow, PairRow
from torchflava.transforms.image import MEAN, STD, TrainViews, decode_image, normalise
from torchflava.transforms.masking import block_mask, mask_whole_words
from torchflava.transforms.wordpiece import WordPiece

IMAGE_SIZE, CODE_SIZE, GRID, NUM_MASKED = 224, 112, (14, 14), 75
"""FLAVA's (paper table A.1; torchmultimodal@3c2a85a, flava_transform.py)."""
MAX_LENGTH, NUM_CODES = 77, 8192
Make = Callable[[int], Any]
"""A step -> its batch."""


class Parts(NamedTuple):
    """What all ways share."""

    source: Any
    """Captioned images, in one shard."""
    tokenizer: WordPiece
    views: TrainViews
    texts: TextRows
    collate: Collate

    @classmethod
    def of(cls, shards: list[Path], vocabulary: str) -> "Parts":
        """Over shards, with a vocabulary's file or, of none, a vocabulary of the captions."""
        source = ShardPairs(shards)
        if vocabulary:
            tokenizer = WordPiece.from_file(vocabulary)
        else:
            tokenizer = WordPiece.train([source.caption(i) for i in range(len(source))], 30_522)
        mask = partial(
            mask_words, vocab_size=tokenizer.vocab_size, mask_id=tokenizer.mask_id, special_ids=tokenizer.special_ids
        )
        views = TrainViews(IMAGE_SIZE, CODE_SIZE)
        collate = Collate(tokenizer.vocab_size, NUM_MASKED, pad_id=tokenizer.pad_id)
        return cls(source, tokenizer, views, TextRows(tokenizer, mask, MAX_LENGTH), collate)


def mask_words(
    tokens: Tokens, rng: Rng, *, vocab_size: int, mask_id: int, special_ids: frozenset[int]
) -> tuple[list[int], list[int]]:
    """Whole words of a text."""
    return mask_whole_words(
        tokens.ids, rng, word_ids=tokens.word_ids, vocab_size=vocab_size, mask_id=mask_id, special_ids=special_ids
    )


def mask_patches(rng: Rng) -> np.ndarray:
    """75 of 196 patches."""
    return block_mask(GRID, rng, num_masked=NUM_MASKED)


def mixture(parts: Parts, batch_size: int, row: Callable[..., Any] | None = None, collate: Any = None) -> Mixture:
    """Batches of captioned images alone; a recipe's rows, unless others are given."""
    row = row or PairRows(ImageRows(parts.views, mask_patches), parts.texts)
    return Mixture({"pair": Kind(parts.source, row, collate or parts.collate.pairs, 1.0)}, batch_size, seed=0)


def ways(parts: Parts, batch_size: int) -> dict[str, Make]:
    """The ways, by name, each a function of the step. Their files' bytes are read anew but for decoding alone."""
    files = [parts.source[i].image for i in range(len(parts.source))]
    whole = mixture(parts, batch_size)
    coded_rows = PairRows(CodedRows(parts.views, mask_patches), parts.texts)
    coded = mixture(parts._replace(source=with_codes(parts)), batch_size, coded_rows)
    pillow = mixture(parts, batch_size, PillowRows(parts.texts), partial(stack_floats, parts.collate))
    return {
        "decode": lambda step: [decode_image(files[i % len(files)]).shape for i in range(batch_size)],
        "row": whole.__getitem__,
        "coded": coded.__getitem__,
        "normalised": lambda step: normalise(whole[step].batch.pixels),
        "pillow": pillow.__getitem__,
    }


def with_codes(parts: Parts) -> CodedShards:
    """The same samples with random codes of one crop each beside their shard, as recipes/data/codes.py would keep them."""
    of = CodesOf("random", NUM_CODES, GRID, parts.views.told())
    (shard,), num_photos = parts.source.paths, len(parts.source)
    codes = np.random.default_rng(0).integers(0, NUM_CODES, (num_photos, 1, of.num_patches))
    mark = shard_mark(parts.source.catalog.part(0))
    path = Path(codes_path(shard, of, 1))
    path.parent.mkdir(parents=True)
    write_whole(path, lambda file: write_codes(file, codes, of, mark=mark))
    kept = kept_in(path.read_bytes()[:HEAD], path.stat().st_size, of, crops=1)
    Path(list_path(str(Path(shard).parent), of)).write_bytes(KeptList(1, {Path(shard).name: kept}).as_json(of))
    return CodedShards(parts.source, of)


class PillowRows:
    """Rows whose pictures go through Pillow and torchvision's first transforms, as torchmultimodal's example has them."""

    def __init__(self, texts: TextRows) -> None:
        self.texts = texts

    def __call__(self, source: PairSource, index: int, rng: Rng) -> PairRow:
        """The row of sample `index`, with float pictures."""
        sample = source[index]
        tokens = self.texts.tokenizer.encode(sample.caption, MAX_LENGTH)
        image = Image.open(BytesIO(sample.image)).convert("RGB")
        top, left, height, width = RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3])
        crop = old.crop(image, top, left, height, width)
        view = crop.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        pixels = old.normalize(old.to_tensor(view), list(MEAN), list(STD))
        target = old.to_tensor(crop.resize((CODE_SIZE, CODE_SIZE), Image.Resampling.LANCZOS))
        row = ImageRow(pixels, target, mask_patches(rng))
        return PairRow(row, tokens.ids, self.texts.masked(tokens, rng), matched=True)


def stack_floats(collate: Collate, rows: list[PairRow]) -> RawPairBatch:
    """As `Collate.pairs`, which takes uint8 alone."""
    nothing = torch.empty(0, dtype=torch.uint8)
    batch = collate.pairs([row._replace(image=ImageRow(nothing, nothing, row.image.masked)) for row in rows])
    pixels, targets = (torch.stack([getattr(row.image, name) for row in rows]) for name in ("pixels", "target"))
    return batch._replace(pixels=pixels, targets=targets)


class Clock:
    """Seconds by stage, from one call to the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        """What went on since the last call was `stage`."""
        self.seconds.setdefault(stage, []).append(time.perf_counter() - self.last)
        self.last = time.perf_counter()


def stages(parts: Parts, num_batches: int, batch_size: int) -> Mapping[str, list[float]]:
    """Seconds of each stage of a row, where it stands: alone and again and again each is up to three times as fast."""
    clock, rows = Clock(), []
    for number in range(num_batches * batch_size):
        index = number % len(parts.source)
        clock.last = time.perf_counter()
        rng = keyed_rng(0, parts.source.name, 0, index)
        clock("generator")
        sample = parts.source[index]
        clock("read")
        tokens = parts.tokenizer.encode(sample.caption, MAX_LENGTH)
        clock("tokenise")
        image = decode_image(sample.image)
        clock("decode")
        crop = parts.views.crop(image, rng)
        clock("crop")
        view = parts.views.view(crop, rng)
        clock("encoder's view, bicubic")
        target = parts.views.target(crop)
        clock("codebook's view, Lanczos")
        masked = mask_patches(rng)
        clock("mask patches")
        rows.append(PairRow(ImageRow(view, target, masked), tokens.ids, parts.texts.masked(tokens, rng), matched=True))
        clock("mask words")
        if len(rows) == batch_size:
            parts.collate.pairs(rows)
            clock("collate")
            clock.seconds["collate"][-1] /= batch_size
            rows = []
    return clock.seconds
