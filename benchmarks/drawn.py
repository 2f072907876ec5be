"""The samples of `step.py`, and how each side is fed with them.

The same for all: random images and codes, captions of 8 to 24 tokens, texts that fill their rows, as `recipes/data/packing.py`
packs documents; 75 of 196 patches and 15 % of the words hidden; every caption is its image's own. What peers' loaders do is
done before: their pixels are floats already. Ours are bytes, and become floats within the step, as in training.

Letters: B batch, N patches, T tokens, S side of an image and s of the codebook's view in pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from torchflava.batch import RawBatch
from torchflava.codebooks import map_pixels
from torchflava.transforms.collate import Collate, ImageRow, PairRow, TextRow
from torchflava.transforms.image import normalise

VOCAB_SIZE, NUM_CODES = 30_522, 8_192
"""BERT's words and DALL-E's codes, whatever the size: TorchMultimodal's losses are made for them."""
PADDED = 77
"""Tokens of a caption as the peers' users pad it (facebookresearch/multimodal@3c2a85a, examples/flava/data/transforms.py)."""
SHORTEST, LONGEST = 8, 24
_CLS, _SEP, _MASK, _FIRST_WORD = 101, 102, 103, 1000


class Shape(NamedTuple):
    """What is measured."""

    size: str = "base"
    image_size: int = 224
    patch_size: int = 16
    batch_size: int = 8
    text_length: int = 128
    """Tokens of a text without an image; the paper's are 512 (table C.1), which take four times as long."""
    codebook_width: int = 256
    """Of the dVAE's first group."""

    @property
    def side(self) -> int:
        """Patches in a row."""
        return self.image_size // self.patch_size

    @property
    def num_masked(self) -> int:
        """Of N patches, in the paper's proportion."""
        return max(1, round(self.side**2 * 75 / 196))


class Case(NamedTuple):
    """One thing that is timed."""

    kind: str
    """A step of pair, image, text; or embed_image, embed_text, classify, which only read."""
    codes: str = "-"
    """Of a step with images: online, where the dVAE runs in it, or given."""
    padded: bool = False
    """As the peers' users feed them; else all sides get the batch's longest caption."""
    precision: str = "fp32"


class Drawn(NamedTuple):
    """A batch of samples."""

    pixels: Tensor
    """(B, 3, S, S) uint8."""
    view: Tensor
    """(B, 3, s, s) uint8: what the codebook sees."""
    codes: Tensor
    """(B, N)."""
    masked: Tensor
    """(B, N) bool."""
    ids: Tensor
    """(B, 77)."""
    keep: Tensor
    """(B, 77) bool."""
    hidden: Tensor
    """(B, 77) bool: words to predict."""
    texts: Tensor
    """(B, T)."""
    texts_hidden: Tensor
    """(B, T) bool."""

    @property
    def longest(self) -> int:
        """Tokens of the longest caption."""
        return int(self.keep.sum(1).max())


def drawn(shape: Shape, seed: int = 0) -> Drawn:
    """Samples of that shape, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    n, patches = shape.batch_size, shape.side**2
    lengths = torch.randint(SHORTEST, LONGEST + 1, (n,), generator=draw)
    captions, hidden = _texts(lengths, PADDED, draw)
    texts, texts_hidden = _texts(torch.full((n,), shape.text_length), shape.text_length, draw)
    return Drawn(
        pixels=torch.randint(0, 256, (n, 3, shape.image_size, shape.image_size), generator=draw, dtype=torch.uint8),
        view=torch.randint(0, 256, (n, 3, 8 * shape.side, 8 * shape.side), generator=draw, dtype=torch.uint8),
        codes=torch.randint(NUM_CODES, (n, patches), generator=draw),
        masked=torch.rand(n, patches, generator=draw).argsort(1) < shape.num_masked,
        ids=captions,
        keep=captions != 0,
        hidden=hidden,
        texts=texts,
        texts_hidden=texts_hidden,
    )


def _texts(lengths: Tensor, most: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """[CLS] words [SEP] padded with 0 to `most`, and which words are hidden: 15 %, one at least."""
    at = torch.arange(most)
    ids = torch.randint(_FIRST_WORD, VOCAB_SIZE, (len(lengths), most), generator=draw)
    ids[:, 0] = _CLS
    ids = torch.where(at == lengths[:, None] - 1, _SEP, ids).masked_fill(at >= lengths[:, None], 0)
    hidden = (torch.rand(ids.shape, generator=draw) < 0.15) & (ids >= _FIRST_WORD)
    hidden[:, 1] = True
    return ids, hidden


def our_batch(s: Drawn, case: Case) -> RawBatch:
    """As our loader emits it, by its own `Collate`: trimmed, labels as positions."""
    collate = Collate(VOCAB_SIZE, int(s.masked.sum(1).max()))
    targets = s.view if case.codes == "online" else s.codes
    images = [ImageRow(*row) for row in zip(s.pixels, targets, s.masked.numpy(), strict=True)]
    if case.kind == "image":
        return collate.images(images)
    if case.kind == "text":
        return collate.texts(_rows(s.texts, s.texts_hidden))
    texts = _rows(s.ids, s.hidden)
    pairs = zip(images, s.ids, texts, strict=True)
    return collate.pairs([PairRow(image, ids[ids != 0].tolist(), text, True) for image, ids, text in pairs])


def _rows(ids: Tensor, hidden: Tensor) -> list[TextRow]:
    rows = []
    for row, asked in zip(ids, hidden, strict=True):
        masked = row.masked_fill(asked, _MASK)[row != 0]
        rows.append(TextRow(masked.tolist(), asked.nonzero().flatten().tolist(), row[asked].tolist()))
    return rows


def captions(s: Drawn, case: Case) -> tuple[Tensor, Tensor]:
    """ids and keep (B, T) of the captions, trimmed or padded."""
    longest = PADDED if case.padded else s.longest
    return s.ids[:, :longest], s.keep[:, :longest]


def transformers_inputs(s: Drawn, case: Case) -> dict[str, Tensor]:
    """As its processor gives them: a label for every place, -100 where nothing is asked."""
    image = {"pixel_values": normalise(s.pixels), "bool_masked_pos": s.masked}
    image |= {"codebook_pixel_values": map_pixels(s.view)} if case.codes == "online" else {"mim_labels": s.codes}
    if case.kind == "image":
        return image
    ids, keep = (s.texts, s.texts != 0) if case.kind == "text" else captions(s, case)
    hidden = s.texts_hidden if case.kind == "text" else s.hidden[:, : ids.shape[1]]
    text = {
        "input_ids_masked": ids.masked_fill(hidden, _MASK),
        "attention_mask": keep.long(),
        "mlm_labels": ids.masked_fill(~hidden, -100),
    }
    if case.kind == "text":  # the clean text has no loss: its users' processor gives it all the same, and it is encoded
        return text | ({"input_ids": ids} if case.padded else {})
    return image | text | {"input_ids": ids, "itm_labels": torch.ones(len(ids), dtype=torch.long)}


def torchmultimodal_inputs(s: Drawn, case: Case) -> dict[str, Tensor]:
    """As its `FLAVAForPreTraining` takes them; given codes go in where its codebook would read pixels."""
    codes = map_pixels(s.view) if case.codes == "online" else s.codes
    image = {"image": normalise(s.pixels), "image_patches_mask": s.masked, "image_for_codebook": codes}
    if case.kind == "image":
        return image
    ids = s.texts if case.kind == "text" else captions(s, case)[0]
    hidden = s.texts_hidden if case.kind == "text" else s.hidden[:, : ids.shape[1]]
    text = {"text_masked": ids.masked_fill(hidden, _MASK), "mlm_labels": ids.masked_fill(~hidden, -1)}
    if case.kind == "text":
        return text
    return image | text | {"text": ids, "itm_labels": torch.ones(len(ids), dtype=torch.long)}
