"""The names of the checkpoint that FLAVA's authors trained (MMF's FLAVA), one set of heads for each kind of data.

Known from two programs that convert it: transformers 4, models/flava/convert_flava_original_pytorch_to_hf.py, and
facebookresearch/multimodal@28f4952, examples/flava/tools/convert_weights.py. `cmd` is PMD, `fairseq_mlm` CCNews and
BookCorpus, `imagenet` ImageNet. The blocks are transformers'; the embeddings stand there twice.
"""

from collections.abc import Mapping

from torchflava.models.layout import Layout, Row, Rows, layer
from torchflava.models.layouts_shared import encoder_rows, unused
from torchflava.models.layouts_transformers import LEAVES

_LEAVES = LEAVES._replace(
    towers={
        "image_encoder": "image_encoder.module",
        "text_encoder": "text_encoder.module",
        "fusion_encoder": "mm_encoder.module",
    }
)
_MOVED = {
    "mm_encoder.module.cls_token": "mm_encoder.module.encoder.cls_token",
    "image_to_mm_projection.": "mm_image_projection.",
    "text_to_mm_projection.": "mm_text_projection.",
}
_HEADS = {
    "mim": "imagenet.mim_head",
    "mlm": "fairseq_mlm",
    "mmm_image": "cmd.mim_head",
    "mmm_text": "cmd.mlm_head",
}


def _moved(rows: Rows, moved: Mapping[str, str]) -> Rows:
    """Rows under the names that this checkpoint has instead of transformers'."""

    def there(name: str) -> str:
        for old, new in moved.items():
            name = name.replace(old, new)
        return name

    return tuple(row._replace(theirs=tuple(tuple(map(there, names)) for names in row.theirs)) for row in rows)


def _masked(ours: str, theirs: str) -> Rows:
    stem = f"{theirs}.cls.predictions"
    return (
        *layer(f"{ours}.dense", f"{stem}.transform.dense"),
        *layer(f"{ours}.norm", f"{stem}.transform.LayerNorm"),
        Row(f"{ours}.decoder.weight", ((f"{stem}.decoder.weight",),)),
        Row(f"{ours}.decoder.bias", ((f"{stem}.decoder.bias", f"{stem}.bias"),)),
    )


def _layout(prefix: str) -> Layout:
    heads = f"{prefix}heads"
    rows = _moved(encoder_rows(_LEAVES, "flava.", prefix), _MOVED)
    for ours, theirs in _HEADS.items():
        rows += _masked(ours, f"{heads}.{theirs}")
    rows += layer("itm.dense", f"{heads}.cmd.itm_head.pooler.dense")
    rows += layer("itm.decoder", f"{heads}.cmd.itm_head.cls.seq_relationship")
    rows += (Row("contrastive.log_scale", ((f"{heads}.cmd.clip_head.logit_scale",),), scalar=True),)
    inside = prefix.replace(".", r"\.")
    twice = (rf"{inside}(image|text)_encoder\.embeddings\..*", "another name of the encoder's own embeddings")
    return Layout(
        f"FLAVA's original checkpoint{' of a trainer' if prefix else ''}",
        rows,
        unused=(twice, *unused(_LEAVES, inside)),
        head_eps=1e-12,
        attend_to_padding=(False, True),
    )


LAYOUTS = tuple(map(_layout, ("", "model.")))
"""As it was saved, and within the model that its trainer saved."""
