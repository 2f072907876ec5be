"""A CLIP built to fit tensors."""

from torchflava.encoders import CausalTextEncoder, ImageEncoder
from torchflava.layers import (
    LayerNorm,
    Mlp,
    NormedPatchEmbedding,
    PlainTokenEmbedding,
    QuickMlp,
    causal_transformer,
    transformer,
)
from torchflava.models.clip import Clip
from torchflava.models.settings import Settings, Towers
from torchflava.models.shapes import State, patches_of, shape_of


def clip_of(state: State, settings: Settings, *, prefix: str, sizes: Towers) -> Clip:
    """CLIP of a state of ours.

    Args:
        state: tensors by our names.
        settings: what they do not say.
        prefix: of the names of its encoders.
        sizes: of its encoders.
    """
    (image, text), (image_eps, text_eps) = sizes, settings.eps
    width, side, patch_size = patches_of(state, f"{prefix}image_encoder.embed.")
    patches = NormedPatchEmbedding(
        width, side * patch_size, patch_size, interpolate=settings.interpolate, eps=image_eps
    )
    vocab_size, _ = shape_of(state, f"{prefix}text_encoder.embed.words.weight", 2)
    max_length, _ = shape_of(state, f"{prefix}text_encoder.embed.positions.weight", 2)
    words = PlainTokenEmbedding(vocab_size, text.width, max_length)
    mlp = QuickMlp if settings.quick_gelu else Mlp
    image_heads, text_heads = settings.num_heads
    trunk = transformer(image.width, image.depth, image_heads, hidden=image.hidden, eps=image_eps, mlp=mlp)
    causal = causal_transformer(text.width, text.depth, text_heads, hidden=text.hidden, eps=text_eps, mlp=mlp)
    embed_dim, _ = shape_of(state, f"{prefix}image_projection.weight", 2)
    end_id = settings.end_id or None
    return Clip(
        ImageEncoder(patches, trunk, LayerNorm(image.width, image_eps)),
        CausalTextEncoder(words, causal, LayerNorm(text.width, text_eps), pad_id=settings.pad_id, end_id=end_id),
        embed_dim=embed_dim,
    )
