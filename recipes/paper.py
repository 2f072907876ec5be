"""The runs of the paper by name: both stages, each column of table 4, its comparisons, CLIP, and TorchMultimodal's larger sizes.

What the paper leaves open and how it is read here: docs/decisions/0020. Data and weights are looked for under `data/` and
`weights/`, as docs/presets.md says; any flag names others.
"""

from collections.abc import Callable
from dataclasses import replace

from own import Own
from presets import Config, Shares, Weights

_PMD = ("coco", "sbu", "localized-narratives", "visual-genome", "wit", "cc12m", "redcaps", "yfcc100m", "cc3m")
"""PMD's nine sources (table 2)."""
_PAIRS = tuple(f"data/pmd/{name}" for name in _PMD)
_IMAGES = ("data/imagenet",)
_TEXTS = ("data/ccnews", "data/bookcorpus")
_NONE = Weights(mim=0, mlm=0, mmm_image=0, mmm_text=0, itm=0, contrastive=0)


def flava() -> Config:
    """The full FLAVA: all losses, PMD, ImageNet-1K, CC-News and BookCorpus, from DINO and stage one (§4.1, table C.1)."""
    return replace(
        flava_no_init(),
        preset="flava",
        init_image="weights/dino_vitbase16_pretrain.pth",
        init_text="weights/text_stage1",
    )


def flava_no_init() -> Config:
    """The same from random weights: FLAVA without unimodal initialisation (table 4)."""
    return Config(
        preset="flava_no_init", corpus="own", own=Own(pairs=_PAIRS, images=_IMAGES, texts=_TEXTS),
        vocab="weights/vocab.txt", codebook="weights/encoder.pkl",
        model="base", image_size=224, patch_size=16, code_size=112, num_codes=8192, vocab_size=30522, max_length=77,
        text_length=512,
        steps=150_000, batch_size=8192, lr=1e-3, weight_decay=0.1, warmup_steps=10_000, betas=(0.9, 0.999),
        schedule="cosine", shares=Shares(0.70, 0.15, 0.15), weights=Weights(), gradients="global",
        mismatch_rate=0.1, mask_rate=0.15, patch_mask_rate=75 / 196, precision="bf16",
        threads=8, log_every=50, save_every=2_000,
    )  # fmt: skip


def text_stage1() -> Config:
    """Stage one of the text encoder: MLM alone on CC-News and BookCorpus (§4.1), otherwise as RoBERTa-base is trained.

    Source of the rest: facebookresearch/fairseq, examples/roberta/README.pretraining.md, which has the paper's very numbers.
    """
    return replace(
        flava_no_init(), preset="text_stage1", own=Own(texts=_TEXTS),
        shares=Shares(0, 0, 1), weights=replace(_NONE, mlm=1), codebook="",
        steps=125_000, batch_size=2048, lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, clip=0,
        warmup_steps=10_000, schedule="linear",
    )  # fmt: skip


def mim_only() -> Config:
    """Masked image modelling alone, on PMD's images (table 4)."""
    own, shares = Own(images=_PAIRS), Shares(0, 1, 0)
    return replace(flava_no_init(), preset="mim_only", own=own, shares=shares, weights=replace(_NONE, mim=1))


def mlm_only() -> Config:
    """Masked language modelling alone, on PMD's captions (table 4)."""
    return replace(
        flava_no_init(), preset="mlm_only", own=Own(texts=_PAIRS), shares=Shares(0, 0, 1),
        weights=replace(_NONE, mlm=1), codebook="", text_length=0,
    )  # fmt: skip


def flava_c() -> Config:
    """The contrastive loss alone, on PMD (table 4)."""
    return replace(flava_mm(), preset="flava_c", weights=replace(_NONE, contrastive=1), codebook="")


def clip() -> Config:
    """CLIP's ViT-B/16 on PMD (table 4's baseline), trained as FLAVA_C is: only the model and its vocabulary differ."""
    vocab = "weights/bpe_simple_vocab_16e6.txt.gz"
    return replace(flava_c(), preset="clip", architecture="clip", vocab=vocab, tokenizer="bpe", vocab_size=49408)


def clip_flava_arch() -> Config:
    """FLAVA's image and text encoder by CLIP's optimizer (Radford et al. 2021, tables 18 and 20): only the training differs."""
    return replace(
        flava_c(), preset="clip_flava_arch",
        lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, warmup_steps=2_000, clip=0,
    )  # fmt: skip


def flava_mm() -> Config:
    """The multimodal losses alone, on PMD: contrastive, masked multimodal modelling and matching (table 4)."""
    weights = Weights(mim=0, mlm=0)
    return replace(flava_no_init(), preset="flava_mm", own=Own(pairs=_PAIRS), shares=Shares(1, 0, 0), weights=weights)


def flava_local_contrastive() -> Config:
    """The full FLAVA, whose contrastive loss differentiates through a rank's own embeddings alone (§4.2)."""
    return replace(flava(), preset="flava_local_contrastive", gradients="local")


def flava_beit_init() -> Config:
    """The full FLAVA from BEiT in place of DINO: its blocks, with biases by relative position and scaled branches."""
    return replace(flava(), preset="flava_beit_init", image_encoder="beit", init_image="weights/beit_base_patch16_224")


def flava_900m() -> Config:
    """900 million weights, a copy on each rank (facebookresearch/multimodal@3c2a85a, examples/flava/native/configs)."""
    return replace(_larger("900m"), spread="copies")


def flava_1_8b() -> Config:
    """1.8 billion weights, in shards as the two that follow (same source)."""
    return _larger("1.8b")


def flava_2_7b() -> Config:
    """2.7 billion weights."""
    return _larger("2.7b")


def flava_4_8b() -> Config:
    """4.8 billion weights."""
    return _larger("4.8b")


def flava_10b() -> Config:
    """10 billion weights."""
    return _larger("10b")


def _larger(size: str) -> Config:
    """From random weights: there are no others of this size. Inner states are computed again in backward, as there."""
    return replace(flava_no_init(), preset=f"flava_{size.replace('.', '_')}", model=size, recompute="full")


_ALL = (
    text_stage1,
    mim_only,
    mlm_only,
    flava_c,
    clip,
    clip_flava_arch,
    flava_mm,
    flava_no_init,
    flava,
    flava_local_contrastive,
    flava_beit_init,
)
_LARGER = (flava_900m, flava_1_8b, flava_2_7b, flava_4_8b, flava_10b)
ROWS: dict[str, Callable[[], Config]] = {row.__name__: row for row in (*_ALL, *_LARGER)}
"""By name."""
