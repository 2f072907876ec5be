"""The text encoder: BERT's embeddings, then the same pre-norm trunk as the image encoder's (paper §3.1).

Letters: B batch, T tokens, K rows asked for, V views, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.encoders.states import Encoded
from torchflava.encoders.views import View, trunk_at, trunk_both
from torchflava.layers import LayerNorm, TokenEmbedding, transformer


def keep_tokens(ids: Tensor, keep: Tensor | None, pad_id: int) -> Tensor:
    """(B, T) ids, (B, T) bool or None -> (B, T) bool: True for a token; the first one always, so no row is empty.

    Raises:
        ValueError: for a mask of another shape or type than the ids ask for.
    """
    if keep is None:
        keep = ids != pad_id
    elif keep.shape != ids.shape or keep.dtype != torch.bool:
        raise ValueError(f"keep is {tuple(keep.shape)} {keep.dtype}; a bool for each of {tuple(ids.shape)} ids is due")
    return keep | (torch.arange(keep.shape[1], device=keep.device) == 0)


class TextEncoder(nn.Module):
    """Token embedding, trunk, last norm.

    Anything with a `width` that maps (ids, keep) to `Encoded` may stand in for it in `models.Flava`.

    Args:
        embed: ids to states.
        trunk: states to states.
        norm: the last norm.
        pad_id: the id that stands for padding where no `keep` is given.
        attend_to_padding: let tokens see padding, as transformers' FLAVA does without an attention mask.
    """

    def __init__(
        self,
        embed: TokenEmbedding,
        trunk: nn.Module,
        norm: nn.Module,
        *,
        pad_id: int = 0,
        attend_to_padding: bool = False,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.trunk = trunk
        self.norm = norm
        self.pad_id = pad_id
        self.attend_to_padding = attend_to_padding
        self.width = int(embed.words.weight.shape[-1])
        self.vocab_size = embed.vocab_size

    @property
    def max_length(self) -> int:
        """The longest text, in tokens."""
        return self.embed.max_length

    def units(self) -> list[nn.Module]:
        """The parts to shard one by one."""
        return list(getattr(self.trunk, "blocks", []))

    def forward(self, ids: Tensor, keep: Tensor | None = None, segments: Tensor | None = None) -> Encoded:
        """(B, T) int64, keep (B, T) bool (by default: all but `pad_id`), segments (B, T) int64 -> `Encoded` of (B, T, D)."""
        keep = keep_tokens(ids, keep, self.pad_id)
        hidden = self.trunk(self.embed(ids, segments), None if self.attend_to_padding else keep)
        return Encoded(hidden, self.norm(hidden))

    def at(self, ids: Tensor, keep: Tensor | None = None, *, rows: Tensor) -> Tensor:
        """As `forward`, rows (B, K) int64 -> (B, K, D): the normed states at these rows, for less than all cost."""
        keep = keep_tokens(ids, keep, self.pad_id)
        states: Tensor = self.norm(
            trunk_at(self.trunk, self.embed(ids), rows, keep=None if self.attend_to_padding else keep)
        )
        return states

    def both(self, clean: View, masked: View, *, rows: Tensor) -> tuple[Tensor, Encoded]:
        """(ids, keep) twice, of any two lengths, rows (B, K) -> `at` of the first and `forward` of the second, in one pass."""
        length = masked[0].shape[1]
        if self.attend_to_padding and clean[0].shape[1] != length:  # what is filled up would be seen
            return self.at(*clean, rows=rows), self(*masked)
        ids, keep = _joined((clean, masked), self.pad_id)
        first, hidden = trunk_both(self.trunk, self.embed(ids), rows, keep=None if self.attend_to_padding else keep)
        hidden = hidden[:, :length]
        return self.norm(first), Encoded(hidden, self.norm(hidden))


def _joined(views: tuple[View, ...], pad_id: int) -> tuple[Tensor, Tensor]:
    """V of ids (B, T) and keep (B, T) -> (V * B, T) ids and keep, filled up to the greatest length."""
    longest = max(ids.shape[1] for ids, _ in views)
    short = [longest - ids.shape[1] for ids, _ in views]
    filled = [F.pad(ids, (0, more), value=pad_id) for (ids, _), more in zip(views, short, strict=True)]
    kept = [F.pad(keep_tokens(*view, pad_id), (0, more)) for view, more in zip(views, short, strict=True)]
    return torch.cat(filled), torch.cat(kept)


def flava_text_encoder(
    *,
    width: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    hidden: int | None = None,
    vocab_size: int = 30522,
    max_length: int = 512,
    attend_to_padding: bool = False,
) -> TextEncoder:
    """A text encoder of BERT-base's size and vocabulary, unless told otherwise."""
    return TextEncoder(
        embed=TokenEmbedding(vocab_size, width, max_length),
        trunk=transformer(width, depth, num_heads, hidden=hidden),
        norm=LayerNorm(width),
        attend_to_padding=attend_to_padding,
    )
