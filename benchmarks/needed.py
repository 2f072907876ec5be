"""How many operations a step cannot do without, in closed form, whatever a model computes beyond them.

Counted are matrix products and convolutions, 2 m k n for (m, k) times (k, n), and as much again backward for each operand
that has a gradient. Not counted: padding; states that no loss reads, such as all but the class token in the last layer of a
clean pass; codes of patches that are not asked for; what is no product. `torchflava.models.step_flops` counts what our model
computes instead.

Letters: L length, D width, F width inside an MLP, B batch, N patches.
"""

from collections.abc import Sequence
from typing import NamedTuple

from drawn import NUM_CODES, VOCAB_SIZE, Case, Drawn, Shape
from torch import Tensor

from torchflava.codebooks.dalle_names import dalle_layout
from torchflava.models import SIZES


class Text(NamedTuple):
    """A text, as far as it matters here."""

    length: int
    """Tokens."""
    asked: int
    """Of them, to be predicted."""


def needed_flops(shape: Shape, s: Drawn, case: Case) -> int:
    """Of forward and backward of that step."""
    if case.kind == "image":
        total = shape.batch_size * image_step(shape)
    elif case.kind == "text":
        total = sum(text_step(shape, text) for text in of_texts(s.texts, s.texts_hidden))
    else:
        total = pairs_step(shape, of_texts(s.ids, s.hidden))
    return total + (shape.batch_size * codebook(shape) if case.codes == "online" else 0)


def of_texts(ids: Tensor, hidden: Tensor) -> list[Text]:
    """(B, T) ids and (B, T) bool -> each row's text."""
    return [Text(int((row != 0).sum()), int(asked.sum())) for row, asked in zip(ids, hidden, strict=True)]


def image_step(shape: Shape, *, spared: bool = True) -> int:
    """Masked image modelling of one image; unless `spared`, with all states of the last layer."""
    masked = shape.num_masked
    return _image(shape, masked if spared else None) + 3 * _head(shape, masked, NUM_CODES)


def text_step(shape: Shape, text: Text, *, spared: bool = True) -> int:
    """Masked language modelling of one text."""
    return 3 * (_text(shape, text.length, text.asked if spared else None) + _head(shape, text.asked, VOCAB_SIZE))


def pairs_step(shape: Shape, texts: Sequence[Text], *, spared: bool = True) -> int:
    """All four losses of a batch of pairs; the contrastive one compares each row with all, both ways."""
    width, _, _, _, fusion_depth, embed_dim = SIZES[shape.size]
    patches, clean, total = shape.side**2, 1 if spared else None, 0
    for text in texts:
        total += _image(shape, clean) + 3 * _text(shape, text.length, clean)
        total += 3 * 2 * 2 * width * embed_dim + 3 * 2 * 2 * len(texts) * embed_dim
        total += _image(shape, None) + 3 * _text(shape, text.length, None)
        length = 2 + patches + text.length
        asked = 1 + shape.num_masked + text.asked
        fused = 2 * (length - 1) * width**2 + trunk(shape, length, asked if spared else None, depth=fusion_depth)
        heads = _head(shape, shape.num_masked, NUM_CODES) + _head(shape, text.asked, VOCAB_SIZE)
        total += 3 * (fused + heads + 2 * width**2 + 2 * width * 2)
    return total


def codebook(shape: Shape, *, spared: bool = True) -> int:
    """Forward of the dVAE over one view; its last convolution, 1 x 1, at the hidden patches alone if `spared`."""
    total = 0
    for name, of in dalle_layout(shape.codebook_width, 2, NUM_CODES).items():
        if name.endswith(".w"):
            total += 2 * of[0] * of[1] * of[2] * of[3] * _places(shape, name, spared=spared)
    return total


def trunk(shape: Shape, length: int, asked: int | None, *, depth: int) -> int:
    """Forward of `depth` blocks over L states, of which the last block makes `asked`, or all."""
    width, _, _, hidden, _, _ = SIZES[shape.size]
    rows = length if asked is None else asked

    def block(made: int) -> int:
        keys_and_values, rest = 2 * length * 2 * width**2, 2 * made * (2 * width**2 + 2 * width * hidden)
        return keys_and_values + rest + 2 * 2 * made * length * width

    return (depth - 1) * block(length) + block(rows)


def _image(shape: Shape, asked: int | None) -> int:
    """Forward and backward; pixels have no gradient, so the patches' projection goes back once."""
    width, depth, *_ = SIZES[shape.size]
    patches = shape.side**2
    return 2 * 2 * patches * 3 * shape.patch_size**2 * width + 3 * trunk(shape, 1 + patches, asked, depth=depth)


def _text(shape: Shape, length: int, asked: int | None) -> int:
    return trunk(shape, length, asked, depth=SIZES[shape.size].depth)


def _head(shape: Shape, rows: int, classes: int) -> int:
    width = SIZES[shape.size].width
    return 2 * rows * width * (width + classes)


def _places(shape: Shape, name: str, *, spared: bool) -> int:
    """Where a convolution of the dVAE is computed: groups halve the side after the first, second and third."""
    if name == "blocks.output.conv.w":
        return shape.num_masked if spared else shape.side**2
    halved = int(name.split("group_")[1][0]) - 1 if "group_" in name else 0
    return (8 * shape.side // 2**halved) ** 2
