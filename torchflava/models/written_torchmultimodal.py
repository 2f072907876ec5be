"""Weights for TorchMultimodal (facebookresearch/multimodal@3c2a85a, models/flava/model.py): a state dict for its FLAVAs."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from torchflava.codebooks import DalleCodebook, PatchCodebook
from torchflava.codebooks.dalle_names import dalle_to_torchmultimodal
from torchflava.files import save_tensors
from torchflava.heads import MlpClassifier
from torchflava.models.architecture import Whole, settings_of
from torchflava.models.classification import FlavaForClassification
from torchflava.models.flava import Flava
from torchflava.models.layout import Layout, renamed, to_theirs
from torchflava.models.layouts_torchmultimodal import (
    CLASSIFICATION,
    CLASSIFICATION_UNDROPPED,
    MODEL,
    NORMED,
    NORMED_UNDROPPED,
    PRETRAINING,
)
from torchflava.models.pretraining import FlavaForPreTraining
from torchflava.models.settings import as_metadata
from torchflava.models.written import (
    Sizes,
    Written,
    check_words,
    codes_of,
    flava_in,
    heads_that_lack,
    poolers,
    sizes_of,
)

Codebook = DalleCodebook | PatchCodebook
_ON = {"mim": 0, "mlm": 1, "mmm_image": 2, "mmm_text": 2, "itm": 2}
"""On which encoder's states each head is."""
_HEAD_EPS = 1e-5
_PARTS = ("image", "text", "multimodal")


def to_torchmultimodal(
    model: Whole | DalleCodebook, file: str | os.PathLike[str], *, codebook: Codebook | None = None
) -> Written:
    """Write a state dict that TorchMultimodal's `load_state_dict` takes, with equal outputs, and report what it cannot be told.

    A `FlavaForPreTraining` becomes the state of `flava_model_for_pretraining`, a `Flava` that of `flava_model`, a
    `FlavaForClassification` that of `flava_model_for_classification`, a `DalleCodebook` that of `DalleVAEEncoder`. Heads that
    were taken out, and the encoders' poolers, which this project has not, are written as they begin and listed. `load` in the
    report has the builder with the arguments that fit.

    Args:
        model: not sharded, of this project's own encoders.
        file: safetensors if its name ends so, else what torch.save writes.
        codebook: of a model for pretraining, which there holds one.

    Raises:
        ValueError: for a model that TorchMultimodal's FLAVA cannot be: CLIP, BEiT's blocks, encoders, heads or classifiers of
            one's own, and heads on encoders of different widths.
    """
    file = Path(file)
    if isinstance(model, DalleCodebook):
        _save(file, dalle_to_torchmultimodal(model.state_dict(), "encoder."), {"image_size": str(model.image_size)})
        return Written(
            "TorchMultimodal's DalleVAEEncoder", (file,), {}, {}, _loading("DalleVAEEncoder(pretrained=False)", file)
        )
    flava = flava_in(model, "TorchMultimodal's FLAVA")
    if codebook is not None and not isinstance(model, FlavaForPreTraining):
        raise ValueError(f"a {type(model).__name__} has no use for a codebook; leave it out")
    sizes = sizes_of(flava, settings_of(model))
    layout, lacking, builder = _layout_of(model, sizes, codebook)
    tensors = to_theirs(layout, dict(model.state_dict()) | lacking)
    made = dict.fromkeys(renamed(layout, lacking), "a head that was taken out of this model; it begins anew")
    prefix = "" if isinstance(model, Flava) else "model."
    own = poolers(
        {f"{prefix}{t}_encoder": width for t, width in zip(("image", "text", "mm"), sizes.widths, strict=True)}
    )
    made |= dict.fromkeys(own, "an encoder's pooler, which this project has not and no loss reads")
    tensors |= own | {
        name.replace(".cls.decoder.", ".cls."): t for name, t in tensors.items() if name.endswith("cls.decoder.bias")
    }
    if isinstance(codebook, DalleCodebook):
        tensors |= dalle_to_torchmultimodal(codebook.state_dict())
    _save(file, tensors, as_metadata(sizes.settings))
    return Written(layout.name, (file,), made, _differences(model, sizes), _loading(builder, file))


def _layout_of(model: Whole, sizes: Sizes, codebook: Codebook | None) -> tuple[Layout, dict[str, Tensor], str]:
    """What the model is there, the heads that it lacks, and the builder."""
    arguments = _arguments(sizes)
    if isinstance(model, Flava):
        return MODEL, {}, f"flava_model({arguments})"
    if isinstance(model, FlavaForClassification):
        layout, options = _classifier(model.classifier)
        return layout, {}, f"flava_model_for_classification({options}, pretrained=False, {arguments})"
    assert isinstance(model, FlavaForPreTraining), "flava_in lets nothing else through"
    if isinstance(codebook, PatchCodebook):
        raise ValueError("TorchMultimodal's FLAVA has DALL-E's dVAE, no codebook of patches; leave it out")
    width = sizes.widths[2]
    for name, on in _ON.items():
        if getattr(model, name) is not None and sizes.widths[on] != width:
            raise ValueError(
                f"TorchMultimodal makes all heads {width} wide, as the fusion encoder, here {name}'s states are of "
                f"{sizes.widths[on]}; write model.flava, or take the head out: model.{name} = None"
            )
    check_words(model, sizes.vocab_size, "TorchMultimodal's FLAVA")
    num_codes = codes_of(model, None if codebook is None else codebook.num_codes, "TorchMultimodal's FLAVA")
    lacking = heads_that_lack(model, dict.fromkeys(_ON, width), num_codes=num_codes, vocab_size=sizes.vocab_size)
    loss = (
        f"FLAVAPretrainingLoss(hidden_size={width}, text_vocab_size={sizes.vocab_size}, image_vocab_size={num_codes})"
    )
    tokens = "torch.nn.Identity()"  # to which codes can be given; the builder would fetch DALL-E's
    if codebook is not None:
        grid = sizes.image_size // sizes.patch_size  # which need not be the one that this codebook was made for
        tokens = f"DalleVAEEncoder(image_size={8 * grid}, pretrained=False)"
    return PRETRAINING, lacking, f"FLAVAForPreTraining(flava_model({arguments}), {tokens}, {loss})"


def _classifier(classifier: nn.Module) -> tuple[Layout, str]:
    """The layout of a classifier, and the builder's arguments for it.

    Raises:
        ValueError: for one that TorchMultimodal's MLP cannot be.
    """
    parts = dict(classifier.named_children())
    dropout = float(getattr(parts.get("dropout"), "p", 0.0))
    dense, decoder = parts.get("dense"), parts.get("decoder")
    plain = isinstance(classifier, nn.Sequential) and isinstance(parts.get("activation"), nn.ReLU) and len(parts) == 4
    if (
        not (plain or isinstance(classifier, MlpClassifier))
        or not isinstance(dense, nn.Linear)
        or not isinstance(decoder, nn.Linear)
    ):
        raise ValueError(f"a {type(classifier).__name__} is another's classifier; write the encoders: model.flava")
    options = (
        f"num_classes={decoder.out_features}, classifier_in_dim={dense.in_features}, "
        f"classifier_hidden_sizes={dense.out_features}, classifier_dropout={dropout}"
    )
    if plain:
        return (CLASSIFICATION if dropout else CLASSIFICATION_UNDROPPED), options
    options += ", classifier_activation=torch.nn.GELU, classifier_normalization=torch.nn.LayerNorm"
    return (NORMED if dropout else NORMED_UNDROPPED), options


def _arguments(sizes: Sizes) -> str:
    """The builder's arguments that are not its defaults."""
    usual = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "layer_norm_eps": 1e-12}
    found: dict[str, object] = {}
    for i, part in enumerate(_PARTS):
        said = (sizes.widths[i], sizes.settings.num_heads[i], sizes.hidden[i], sizes.settings.eps[i])
        found |= {
            f"{part}_{key}": value
            for (key, default), value in zip(usual.items(), said, strict=True)
            if value != default
        }
        if sizes.depths[i] != (6 if part == "multimodal" else 12):
            found[f"{part}_num_hidden_layers"] = sizes.depths[i]
    found |= {
        key: value
        for key, value, default in (
            ("image_size", sizes.image_size, 224),
            ("patch_size", sizes.patch_size, 16),
            ("vocab_size", sizes.vocab_size, 30522),
            ("max_position_embeddings", sizes.max_length, 512),
            ("type_vocab_size", sizes.num_segments, 2),
            ("pad_token_id", sizes.settings.pad_id, 0),
            ("text_and_image_proj_size", sizes.embed_dim, 768),
        )
        if value != default
    }
    return ", ".join(f"{key}={value}" for key, value in found.items())


def _differences(model: Whole, sizes: Sizes) -> dict[str, str]:
    """Settings that no argument of the builders is for."""
    found, settings = {}, sizes.settings
    if settings.attend_to_padding != (False, True):
        found["attend_to_padding"] = (
            f"is {settings.attend_to_padding}: TorchMultimodal hides padding from the text encoder and shows it to the fusion "
            "encoder; where nothing is padded all are the same"
        )
    if settings.interpolate:
        found["interpolate"] = "is True: TorchMultimodal's model takes images of its own size only"
    if isinstance(model, FlavaForClassification):
        which = {"pair": "mm"}.get(model.reads, model.reads)
        found["reads"] = f'is {model.reads!r}: call it there with required_embedding="{which}"'
    if not isinstance(model, FlavaForPreTraining):
        return found
    heads = {"mim": settings.head_eps[0], "mlm": settings.head_eps[1]}
    if wrong := {name: eps for name, eps in heads.items() if eps != _HEAD_EPS}:
        found["head_eps"] = f"is {wrong}, there {_HEAD_EPS}; after loading set `layer_norm.eps` of `model.loss`'s heads"
    if model.itm is not None and settings.itm_input == "clean":
        found["itm_input"] = "is 'clean', TorchMultimodal matches the masked pair"
    if model.contrastive is not None and settings.gradients != "global":
        found["gradients"] = f"is {settings.gradients!r}, there all ranks'"
    if model.contrastive is not None and settings.max_scale != 100.0:
        found["max_scale"] = f"is {settings.max_scale}, TorchMultimodal keeps the scale below 100"
    return found


def _save(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".safetensors":
        save_tensors(file, tensors, metadata)
        return
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        torch.save({name: tensor.detach().to("cpu").clone() for name, tensor in tensors.items()}, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _loading(builder: str, file: Path) -> str:
    read = "safetensors.torch.load_file" if file.suffix == ".safetensors" else "torch.load"
    return f"model = {builder}\nmodel.load_state_dict({read}({str(file)!r}))"
