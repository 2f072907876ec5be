"""How many floating-point operations a pretraining step needs, counted from the model's parts and the batch's shape.

A product of (m, k) and (k, n) is 2 m k n operations, and twice as many again backward; norms, activations and look-ups are left
out, as is what is computed twice to save memory, and the codebook, which is no part of the model. Padding is counted, for it is
computed, and so is what causal attention hides. Of a part that is not this project's, `nn.Linear` layers are counted, and
attention only if it is of `torchflava.layers`.
Letters: B batch, N patches, T tokens, K rows asked for, W ranks, E embedding width.
"""

from torch import nn

from torchflava.batch import Batch, CachedPairBatch, ImageBatch, PairBatch, RawBatch, RawImageBatch, RawPairBatch
from torchflava.layers import Attention, CausalAttention, RelativeAttention
from torchflava.models.pretraining import FlavaForPreTraining


def step_flops(model: FlavaForPreTraining, batch: Batch | RawBatch, *, world_size: int = 1) -> int:
    """The operations of one rank for forward and backward of a batch, of this rank's rows.

    Args:
        model: may be sharded.
        batch: before or after `data.prepare`; only its shape is looked at, so the device does not stop.
        world_size: W, whose rows the contrastive loss compares.
    """
    match batch:
        case CachedPairBatch():
            return step_flops(model, batch.pair, world_size=world_size)
        case ImageBatch() | RawImageBatch():
            seen = _image(model, *batch.masked.shape, rows=batch.positions.shape[1])
            return 0 if model.mim is None else seen + 3 * _dense(model.mim, batch.positions.numel())
        case PairBatch() | RawPairBatch():
            return _clean(model, batch, world_size) + _masked(model, batch)
    needed = _text(model, *batch.keep.shape, rows=batch.positions.shape[1]) + _dense(model.mlm, batch.positions.numel())
    return 0 if model.mlm is None else 3 * needed


def _clean(model: FlavaForPreTraining, batch: PairBatch | RawPairBatch, world_size: int) -> int:
    """The clean image, the clean text, their projections, and each row against all ranks' columns, both ways."""
    if model.contrastive is None:
        return 0
    flava, (size, length), patches = model.flava, batch.keep.shape, batch.masked.shape[1]
    projected = _dense(flava.image_projection, size) + _dense(flava.text_projection, size)
    compared = 4 * size * size * world_size * flava.embed_dim
    if (
        model.looks_at_masked
    ):  # both views in one pass: patches are projected once, texts are as long as the longer view's
        image = 3 * _trunk(flava.get_submodule("image_encoder"), size, 1 + patches, rows=1)
        length = max(length, batch.masked_keep.shape[1])
    else:
        image = _image(model, size, patches, rows=1)
    return image + 3 * (_text(model, size, length, rows=1) + projected + compared)


def _masked(model: FlavaForPreTraining, batch: PairBatch | RawPairBatch) -> int:
    """The fusion encoder over the masked pair, over the clean one too where matching looks at it, and the heads."""
    size, length = batch.masked_keep.shape
    heads = _dense(model.mmm_image, batch.patch_positions.numel()) + _dense(
        model.mmm_text, batch.token_positions.numel()
    )
    needed = 3 * (heads + _dense(model.itm, size))
    if model.looks_at_masked:
        rows = 1 + batch.patch_positions.shape[1] + batch.token_positions.shape[1]
        together = 0 if model.contrastive is None else batch.keep.shape[1]
        needed += _encoded(model, batch, max(length, together)) + _fused(model, batch, rows)
    if model.itm is not None and model.itm_input == "clean":
        needed += _encoded(model, batch, length) + _fused(model, batch)
    return needed


def _encoded(model: FlavaForPreTraining, batch: PairBatch | RawPairBatch, length: int) -> int:
    return _image(model, *batch.masked.shape) + 3 * _text(model, len(batch.masked), length)


def _fused(model: FlavaForPreTraining, batch: PairBatch | RawPairBatch, rows: int | None = None) -> int:
    flava, (size, patches), length = model.flava, batch.masked.shape, batch.masked_keep.shape[1]
    to_fusion = _dense(flava.get_submodule("image_to_fusion"), size * (1 + patches))
    to_fusion += _dense(flava.get_submodule("text_to_fusion"), size * length)
    return 3 * (to_fusion + _trunk(flava.get_submodule("fusion_encoder"), size, 2 + patches + length, rows=rows))


def _image(model: FlavaForPreTraining, size: int, patches: int, *, rows: int | None = None) -> int:
    """Forward and backward of the image encoder; pixels need no gradient, so the patches' projection goes back only once."""
    encoder = model.flava.get_submodule("image_encoder")
    pixels = sum(2 * part.weight.numel() for part in encoder.modules() if isinstance(part, nn.Conv2d))
    return 2 * size * patches * pixels + 3 * _trunk(encoder, size, 1 + patches, rows=rows)


def _text(model: FlavaForPreTraining, size: int, length: int, *, rows: int | None = None) -> int:
    """Forward of the text encoder; its embedding is a look-up."""
    return _trunk(model.flava.get_submodule("text_encoder"), size, length, rows=rows)


def _trunk(encoder: nn.Module, size: int, length: int, *, rows: int | None = None) -> int:
    """Forward of the blocks: linear layers, the two products of attention, each 2 L L D a row; the last MLP for K rows alone."""
    attentions = [
        part for part in encoder.modules() if isinstance(part, Attention | CausalAttention | RelativeAttention)
    ]
    scored = sum(4 * length * length * part.out.in_features for part in attentions)
    last = [*getattr(getattr(encoder, "trunk", None), "blocks", [None])][-1]
    spared = length - rows if rows is not None and getattr(last, "takes_rows", False) else 0
    return _dense(encoder, size * length) + size * scored - _dense(getattr(last, "mlp", None), size * spared)


def _dense(part: nn.Module | None, rows: int) -> int:
    """Forward of all linear layers of a part on so many rows; a part taken out needs none."""
    layers = [] if part is None else [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
    return sum(2 * rows * layer.in_features * layer.out_features for layer in layers)
