"""CLIP's two towers: a ViT with a norm before its blocks, and a text encoder that reads from left to right.

Source: Radford et al. 2021, CLIP, §2.4; openai/CLIP@main, clip/model.py. GELU is exact, unless the trunk has `QuickMlp`
(docs/decisions/0017).
Letters: B batch, T tokens, K rows asked for, D width.
"""

import torch
from torch import Tensor, nn

from torchflava.encoders.image import ImageEncoder
from torchflava.encoders.states import Encoded
from torchflava.encoders.text import keep_tokens
from torchflava.encoders.views import trunk_at
from torchflava.layers import LayerNorm, NormedPatchEmbedding, PlainTokenEmbedding, causal_transformer, transformer


class CausalTextEncoder(nn.Module):
    """Token embedding, causal trunk, last norm: the state of a token knows the tokens before it, that of the last one all.

    Padding follows the tokens, so none of them sees it and the trunk needs no mask.

    Args:
        embed: ids to states.
        trunk: states to states, each of which sees those before it.
        norm: the last norm.
        pad_id: the id that stands for padding where no `keep` is given.
        end_id: the id that ends each text: where no `keep` is given, what follows the first one is padding, whatever its id.
            CLIP's own vocabulary asks for it, 49,407, as its padding is a token too. None leaves it to `pad_id`.
    """

    def __init__(
        self,
        embed: PlainTokenEmbedding,
        trunk: nn.Module,
        norm: nn.Module,
        *,
        pad_id: int = 0,
        end_id: int | None = None,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.trunk = trunk
        self.norm = norm
        self.pad_id = pad_id
        self.end_id = end_id
        self.width = int(embed.words.weight.shape[-1])
        self.vocab_size = embed.vocab_size

    @property
    def max_length(self) -> int:
        """The longest text, in tokens."""
        return self.embed.max_length

    def units(self) -> list[nn.Module]:
        """The parts to shard one by one."""
        return list(getattr(self.trunk, "blocks", []))

    def kept(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T) ids -> (B, T) bool, True for a token; by the end, or without one by the padding id, unless given.

        Raises:
            ValueError: for a mask of another shape or type, and (on the CPU, where looking costs nothing) for padding that
                stands before a token, and for a text that has no end.
        """
        if keep is None and self.end_id is not None:
            keep = _up_to_first(ids == self.end_id)
        keep = keep_tokens(ids, keep, self.pad_id)
        _check_padding(keep)
        return keep

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Encoded:
        """(B, T) int64, keep (B, T) bool (by default: as `kept` finds it) -> `Encoded` of (B, T, D).

        Raises:
            ValueError: as `kept`.
        """
        self.kept(ids, keep)
        hidden = self.trunk(self.embed(ids))
        return Encoded(hidden, self.norm(hidden))

    def at(self, ids: Tensor, keep: Tensor | None = None, *, rows: Tensor) -> Tensor:
        """As `forward`, rows (B, K) int64 -> (B, K, D): the normed states at these rows, for less than all cost."""
        self.kept(ids, keep)
        states: Tensor = self.norm(trunk_at(self.trunk, self.embed(ids), rows))
        return states


def last_kept(keep: Tensor) -> Tensor:
    """(B, T) bool -> (B,) int64: where the last token of each text stands; 0 where there is none."""
    places = torch.arange(keep.shape[1], device=keep.device)
    return torch.where(keep, places, 0).amax(1)


def clip_image_encoder(
    *,
    width: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    hidden: int | None = None,
    image_size: int = 224,
    patch_size: int = 16,
    interpolate: bool = False,
    eps: float = 1e-5,
) -> ImageEncoder:
    """CLIP's ViT-B/16 at 224 px, unless told otherwise; the arguments are those of `flava_image_encoder`."""
    return ImageEncoder(
        embed=NormedPatchEmbedding(width, image_size, patch_size, interpolate=interpolate, eps=eps),
        trunk=transformer(width, depth, num_heads, hidden=hidden, eps=eps),
        norm=LayerNorm(width, eps),
    )


def clip_text_encoder(
    *,
    width: int = 512,
    depth: int = 12,
    num_heads: int = 8,
    hidden: int | None = None,
    vocab_size: int = 30522,
    max_length: int = 77,
    eps: float = 1e-5,
    end_id: int | None = None,
) -> CausalTextEncoder:
    """CLIP's text encoder of 77 tokens, over BERT's vocabulary unless told otherwise.

    CLIP's own has 49,408 ids, and its texts end with 49,407: `vocab_size=49408, end_id=49407`.
    """
    return CausalTextEncoder(
        embed=PlainTokenEmbedding(vocab_size, width, max_length),
        trunk=causal_transformer(width, depth, num_heads, hidden=hidden, eps=eps),
        norm=LayerNorm(width, eps),
        end_id=end_id,
    )


def _up_to_first(ends: Tensor) -> Tensor:
    """(B, T) bool, True for each end -> (B, T) bool, True up to the first one."""
    if ends.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(ends.any(1).all()):
        raise ValueError("a text has no end; encode texts with the model's own vocabulary, or give `keep`")
    return ends.int().cumsum(1) - ends.int() == 0


def _check_padding(keep: Tensor) -> None:
    if keep.device.type == "cpu" and not torch.compiler.is_compiling() and bool((keep[:, 1:] & ~keep[:, :-1]).any()):
        raise ValueError(
            "padding stands before a token; a causal text encoder takes texts that are padded at their end"
        )
