"""What a model makes of one image and one caption: where CLS_M looks, and what is predicted in masked places (paper §3.2).

Letters: B batch, N patches, T tokens, K patches or words that are hidden, V words, S side in pixels.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchflava.codebooks import Codebook
from torchflava.data.order import keyed_rng
from torchflava.layers import attention_rollout, watched_attention
from torchflava.models import Flava
from torchflava.transforms.image import EvalView, normalise
from torchflava.transforms.masking import block_mask
from torchflava.transforms.wordpiece import TokenizedText, WordPiece

_GUESSES = 5
_MASK_RATE = 0.15  # of the words, as in training; one at least


class Pair(NamedTuple):
    """What is looked at."""

    image: Tensor
    """(3, H, W) uint8."""
    caption: str
    words: tuple[str, ...] = ()
    """To hide; none for a draw of 15 % of them."""
    num_patches: int | None = None
    """To hide, in blocks; None for the paper's 75 of 196, or the same share of another grid."""
    seed: int = 0
    """Of the draws, with the caption."""
    max_length: int = 0
    """Tokens of the caption, beyond which it is cut; 0 for as many as the model can read."""


class Attended(NamedTuple):
    """How CLS_M's attention is spread; all of it is 1 in sum."""

    own: float
    """To itself."""
    image_token: float
    """To the image's class token."""
    patches: Tensor
    """(N,) float32."""
    words: Tensor
    """(T,) float32, [CLS] and [SEP] among them."""


class Guess(NamedTuple):
    """A word that may stand in a masked place."""

    token: str
    probability: float


class HiddenWord(NamedTuple):
    """A masked token and what the model would put there."""

    place: int
    true: str
    guesses: list[Guess]
    """The likeliest first."""
    rank: int
    """Of the true one, from 1."""
    probability: float
    """Of the true one."""


class HiddenPatches(NamedTuple):
    """The masked patches, and codes for them."""

    masked: Tensor
    """(N,) bool."""
    predicted: Tensor
    """(K,) int64; empty without a head for them."""
    true: Tensor
    """(K,) int64; empty without a codebook."""
    among: Tensor
    """(K,) bool: whether the true code is among the five likeliest; empty without a codebook."""
    num_codes: int
    drawn: tuple[Tensor, Tensor] | None
    """(3, s, s) uint8 twice, if the codebook can decode: of the true codes, and with the predicted ones in the masked places."""


class Look(NamedTuple):
    """All that is shown of a pair."""

    view: Tensor
    """(3, S, S) uint8: what the model sees."""
    side: int
    """Patches a side; its square is N."""
    tokens: list[str]
    """T tokens."""
    matched: float | None
    """The matching head's probability that they belong together; None without it."""
    cosine: float
    """Of the embeddings of image and text."""
    last: Attended
    """In the last fusion layer, heads averaged."""
    rollout: Attended
    """Rolled out over all fusion layers."""
    words: list[HiddenWord] | None
    """None without a head for them."""
    patches: HiddenPatches | None
    """None where none is hidden."""


@torch.no_grad()
def look(model: nn.Module, tokenizer: WordPiece, pair: Pair, *, codebook: Codebook | None = None) -> Look:
    """Look at a pair, on the model's device.

    Raises:
        ValueError: for a model without a fusion encoder, a word that the caption lacks, or a codebook of another grid.
    """
    flava = model if isinstance(model, Flava) else getattr(model, "flava", None)
    if not isinstance(flava, Flava):
        raise ValueError("this model has no fusion encoder to look at (CLIP has none); give a FLAVA")
    device = next(flava.parameters()).device
    view = EvalView(flava.image_encoder.image_size)(pair.image)
    pixels = normalise(view[None].to(device))
    text = tokenizer.encode(pair.caption, pair.max_length or flava.text_encoder.max_length)
    ids = torch.tensor([text.ids], device=device)
    with watched_attention(flava.fusion_encoder) as weights:
        seen = flava(pixels, ids, torch.ones_like(ids, dtype=torch.bool))
    num_patches = seen.fused.image.shape[1] - 1
    side = math.isqrt(num_patches)
    itm = getattr(model, "itm", None)
    given = {"pair": pair, "text": text, "pixels": pixels, "side": side, "codebook": codebook}
    words, patches = _masked(model, flava, tokenizer, **given)
    return Look(
        view=view,
        side=side,
        tokens=[tokenizer.tokens[id] for id in text.ids],
        matched=None if itm is None else float(itm(seen.fused.cls).float().softmax(-1)[0, 1]),
        cosine=float(flava.project_image(seen.image.normed[0, 0]) @ flava.project_text(seen.text.normed[0, 0])),
        last=_attended(weights[-1].mean(1), num_patches),
        rollout=_attended(attention_rollout(weights), num_patches),
        words=words,
        patches=patches,
    )


def places_of(words: Sequence[str], text: TokenizedText, tokenizer: WordPiece) -> list[int]:
    """The tokens of `words` in a text, wherever they stand in it, ascending.

    Raises:
        ValueError: for one that the text has not.
    """
    places: set[int] = set()
    starts = [at for at, word in enumerate(text.word_ids) if word is not None and word != text.word_ids[at - 1]]
    for word in words:
        pieces = tokenizer.encode(word, len(word) + 2).ids[1:-1]
        found = [
            at
            for at in starts
            if pieces and text.ids[at : at + len(pieces)] == pieces and _ends(text, at + len(pieces))
        ]
        if not found:
            told = " ".join(tokenizer.tokens[id] for id in text.ids[1:-1])
            raise ValueError(f"--mask {word!r} does not stand in the caption, whose tokens are: {told}")
        places |= {place for at in found for place in range(at, at + len(pieces))}
    return sorted(places)


def _ends(text: TokenizedText, at: int) -> bool:
    """Whether no word goes on over a place."""
    return text.word_ids[at] is None or text.word_ids[at] != text.word_ids[at - 1]


def _drawn_words(text: TokenizedText, tokenizer: WordPiece, rng: Any) -> list[int]:
    """The tokens of 15 % of the words, one at least; punctuation is left alone where there is anything else."""
    words = sorted({word for word in text.word_ids if word is not None})
    if not words:
        raise ValueError("the caption has no word; give one that has")
    spelt = {
        word for id, word in zip(text.ids, text.word_ids, strict=True) if tokenizer.tokens[id].strip("#").isalnum()
    }
    words = [word for word in words if word in spelt] or words
    hidden = set(rng.permutation(words)[: max(1, round(_MASK_RATE * len(words)))].tolist())
    return [at for at, word in enumerate(text.word_ids) if word in hidden]


def _attended(weights: Tensor, num_patches: int) -> Attended:
    """(1, L, L) -> CLS_M's row, cut as the fusion encoder joins its sequence."""
    row = weights[0, 0].float().cpu()
    return Attended(float(row[0]), float(row[1]), row[2 : 2 + num_patches], row[2 + num_patches :])


def _masked(
    model: Any,
    flava: Flava,
    tokenizer: WordPiece,
    *,
    pair: Pair,
    text: TokenizedText,
    pixels: Tensor,
    side: int,
    codebook: Codebook | None,
) -> tuple[list[HiddenWord] | None, HiddenPatches | None]:
    """One pass with words and patches hidden, as in training, but that each hidden word becomes [MASK]."""
    rng = keyed_rng("look", pair.seed, pair.caption)
    places = places_of(pair.words, text, tokenizer) if pair.words else _drawn_words(text, tokenizer, rng)
    ids = torch.tensor([text.ids], device=pixels.device)
    hidden = ids.clone()
    hidden[0, places] = tokenizer.mask_id
    mask = None
    if pair.num_patches != 0:
        mask = torch.from_numpy(block_mask((side, side), rng, num_masked=pair.num_patches)).view(1, -1).to(ids.device)
    keep = torch.ones_like(ids, dtype=torch.bool)
    fused = flava.fuse(flava.image_encoder(pixels, mask), flava.text_encoder(hidden, keep), keep)
    words = None
    if getattr(model, "mmm_text", None) is not None:
        shares = model.mmm_text(fused.text[0, places]).float().softmax(-1).cpu()
        words = [_word(text.ids[at], at, row, tokenizer) for at, row in zip(places, shares, strict=True)]
    if mask is None:
        return words, None
    head = getattr(model, "mmm_image", None)
    logits = None if head is None else head(fused.image[0, 1:][mask[0]]).float().cpu()
    return words, _patches(pair.image, mask[0].cpu(), logits, codebook=codebook)


def _word(true: int, place: int, shares: Tensor, tokenizer: WordPiece) -> HiddenWord:
    likeliest = shares[: tokenizer.vocab_size].topk(_GUESSES)
    guesses = [
        Guess(tokenizer.tokens[id], share)
        for share, id in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
    ]
    rank = 1 + int((shares > shares[true]).sum())
    return HiddenWord(place, tokenizer.tokens[true], guesses, rank, float(shares[true]))


def _patches(image: Tensor, masked: Tensor, logits: Tensor | None, *, codebook: Any) -> HiddenPatches:
    none = torch.zeros(0, dtype=torch.int64)
    if logits is None:
        return HiddenPatches(masked, none, none, none.bool(), 0, None)
    predicted = logits.argmax(1)
    if codebook is None:
        return HiddenPatches(masked, predicted, none, none.bool(), logits.shape[1], None)
    if math.prod(codebook.grid) != len(masked) or codebook.num_codes != logits.shape[1]:
        raise ValueError(
            f"the codebook has {codebook.num_codes} codes on a grid of {math.prod(codebook.grid)}, the model {logits.shape[1]} "
            f"on {len(masked)}; give the one that it was trained with by --codebook"
        )
    codes = codebook.encode(EvalView(codebook.image_size)(image)[None])
    true = codes[0, masked]
    among = (logits.topk(min(_GUESSES, logits.shape[1]), dim=1).indices == true[:, None]).any(1)
    drawn = None
    if hasattr(codebook, "decode"):
        guessed = codes.clone()
        guessed[0, masked] = predicted
        drawn = codebook.decode(codes)[0], codebook.decode(guessed)[0]
    return HiddenPatches(masked, predicted, true, among, logits.shape[1], drawn)
