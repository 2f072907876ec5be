"""Weights for transformers (5.24, models/flava): a folder that `FlavaForPreTraining.from_pretrained` loads."""

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchflava.codebooks import DalleCodebook, PatchCodebook
from torchflava.codebooks.dalle_names import TRANSFORMERS_PREFIX, dalle_to_transformers
from torchflava.files import save_tensors
from torchflava.models.architecture import Whole, settings_of
from torchflava.models.clip import Clip
from torchflava.models.clip_written import clip_to_transformers
from torchflava.models.flava import Flava
from torchflava.models.layout import renamed, to_theirs
from torchflava.models.layouts_transformers import MODEL, PRETRAINING
from torchflava.models.pretraining import FlavaForPreTraining
from torchflava.models.settings import Settings, as_metadata
from torchflava.models.written import (
    Sizes,
    Written,
    check_words,
    codes_of,
    flava_in,
    heads_that_lack,
    is_clip,
    poolers,
    sizes_of,
    write_json,
)
from torchflava.models.written_together import together
from torchflava.transforms.image import MEAN, STD
from torchflava.transforms.tokenizer import TextTokenizer
from torchflava.transforms.wordpiece import WordPiece

Codebook = DalleCodebook | PatchCodebook
_MADE_FOR = {"mim": "image", "mmm_image": "image", "mlm": "text", "mmm_text": "text", "itm": "fusion"}
"""By which encoder's width transformers makes each head."""
_ON = {"mim": "image", "mmm_image": "fusion", "mlm": "text", "mmm_text": "fusion", "itm": "fusion"}
"""On whose states each head is."""
_ORDER = ("image", "text", "fusion")


def to_transformers(
    model: Whole | DalleCodebook,
    directory: str | os.PathLike[str],
    *,
    codebook: Codebook | None = None,
    tokenizer: TextTokenizer | None = None,
) -> Written:
    """Write a folder that transformers' `from_pretrained` loads, with equal outputs, and report what it cannot be told.

    A `FlavaForPreTraining` becomes transformers' `FlavaForPreTraining`, a `Flava` its `FlavaModel`, a `DalleCodebook` its
    `FlavaImageCodebook`, CLIP its `CLIPModel` (see `clip_to_transformers`). Heads that were taken out, and the encoders' poolers,
    which this project has not, are written as they begin and listed.

    Args:
        model: not sharded, of this project's own encoders.
        directory: made if it is not there; files of the same names are replaced, all or none as far as a reader sees.
        codebook: written into it, so that transformers makes the codes itself; without one it must be given labels.
        tokenizer: its vocabulary, so that `FlavaProcessor.from_pretrained`, or `CLIPProcessor`'s, loads too.

    Raises:
        ValueError: for a model that transformers' FLAVA cannot be: BEiT's blocks, encoders or heads of one's own,
            classifiers, and heads of MMM on a fusion encoder of another width than its input's.
    """
    folder = Path(directory)
    if isinstance(model, DalleCodebook):
        return _write_codebook(model, folder)
    if is_clip(model):
        return _write_clip(model, folder, codebook, tokenizer=tokenizer)
    if tokenizer is not None and not isinstance(tokenizer, WordPiece):
        raise ValueError(
            f"FLAVA's texts are of a WordPiece, this is a {type(tokenizer).__name__}; give the model's own"
        )
    flava = flava_in(model, "transformers' FLAVA")
    if not isinstance(model, Flava | FlavaForPreTraining):
        raise ValueError("transformers' FLAVA has no classifier; write the encoders: to_transformers(model.flava, ...)")
    sizes = sizes_of(flava, settings_of(model))
    if tokenizer is not None and tokenizer.vocab_size != sizes.vocab_size:
        raise ValueError(
            f"the vocabulary has {tokenizer.vocab_size} words, the model knows {sizes.vocab_size}; give its own"
        )
    config = _config(sizes)
    if isinstance(model, Flava):
        tensors, made = _headless(model, codebook)
    else:
        tensors, made = _with_heads(model, sizes, codebook, config)
    prefix, cls = ("", "FlavaModel") if isinstance(model, Flava) else ("flava.", "FlavaForPreTraining")
    towers = zip(("image", "text", "multimodal"), sizes.widths, strict=True)
    own = poolers({f"{prefix}{tower}_model": width for tower, width in towers})
    made |= dict.fromkeys(own, "an encoder's pooler, which this project has not and no loss reads")
    config |= {"architectures": [cls], "dtype": str(next(flava.parameters()).dtype).removeprefix("torch.")}
    beside = partial(_write_processor, sizes=sizes, tokenizer=tokenizer)
    files = _write(folder, config, tensors | own, said=as_metadata(sizes.settings), beside=beside)
    load = f"model = transformers.{cls}.from_pretrained({str(folder)!r})"
    return Written(f"transformers' {cls}", files, made, _differences(model, sizes.settings), load)


def _headless(model: Flava, codebook: Codebook | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors under transformers' names, and what of them was made."""
    if codebook is not None:
        raise ValueError("a Flava without heads has no use for a codebook; leave it out")
    scale = {"logit_scale": torch.tensor(math.log(1 / 0.07))}
    return to_theirs(MODEL, model.state_dict()) | scale, {
        "logit_scale": "a temperature, which this model does not have"
    }


def _with_heads(
    model: FlavaForPreTraining, sizes: Sizes, codebook: Codebook | None, config: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors under transformers' names, and what of them was made; the config is told of codes."""
    if isinstance(codebook, PatchCodebook):
        raise ValueError(
            "transformers' FLAVA has DALL-E's dVAE, no codebook of patches; leave it out and give it labels"
        )
    widths = {name: sizes.widths[_ORDER.index(of)] for name, of in _MADE_FOR.items()}
    for name, on in _ON.items():
        width = sizes.widths[_ORDER.index(on)]
        if getattr(model, name) is not None and width != widths[name]:
            raise ValueError(
                f"transformers makes {name}'s head as wide as the {_MADE_FOR[name]} encoder, {widths[name]}, here its states are "
                f"of {width}; write model.flava, or take the head out: model.{name} = None"
            )
    check_words(model, sizes.vocab_size, "transformers' FLAVA")
    num_codes = codes_of(model, None if codebook is None else codebook.num_codes, "transformers' FLAVA")
    config["image_config"]["vocab_size"] = num_codes
    lacking = heads_that_lack(model, widths, num_codes=num_codes, vocab_size=sizes.vocab_size)
    made = dict.fromkeys(renamed(PRETRAINING, lacking), "a head that was taken out of this model; it begins anew")
    tensors = to_theirs(PRETRAINING, dict(model.state_dict()) | lacking)
    if codebook is not None:
        config |= {"init_codebook": True, "image_codebook_config": _codebook_config(codebook)}
        tensors |= dalle_to_transformers(codebook.state_dict(), TRANSFORMERS_PREFIX)
    return tensors, made


def _config(sizes: Sizes) -> dict[str, Any]:
    """A `config.json` without what depends on the heads."""
    parts = {}
    for i, name in enumerate(("image", "text", "multimodal")):
        parts[f"{name}_config"] = {
            "model_type": f"flava_{name}_model",
            "hidden_size": sizes.widths[i],
            "num_hidden_layers": sizes.depths[i],
            "num_attention_heads": sizes.settings.num_heads[i],
            "intermediate_size": sizes.hidden[i],
            "layer_norm_eps": sizes.settings.eps[i],
        }
    parts["image_config"] |= {"image_size": sizes.image_size, "patch_size": sizes.patch_size}
    parts["text_config"] |= {
        "vocab_size": sizes.vocab_size,
        "max_position_embeddings": sizes.max_length,
        "type_vocab_size": sizes.num_segments,
        "pad_token_id": sizes.settings.pad_id,
    }
    return {
        "model_type": "flava",
        "hidden_size": sizes.widths[2],
        "projection_dim": sizes.embed_dim,
        "layer_norm_eps": sizes.settings.eps[2],
        "init_codebook": False,
        "global_backprop_contrastive": sizes.settings.gradients == "global",
        **parts,
    }


def _differences(model: Flava | FlavaForPreTraining, settings: Settings) -> dict[str, str]:
    """Settings that transformers' config has no word for."""
    seen = settings.attend_to_padding
    found = {}
    if seen[0] != seen[1]:
        found["attend_to_padding"] = (
            f"is {seen}: transformers hides padding from both encoders with an attention_mask, from "
            "neither without one; where nothing is padded all are the same"
        )
    elif any(seen):
        found["attend_to_padding"] = "is (True, True): call it there without an attention_mask"
    if settings.interpolate:
        found["interpolate"] = "is True: for images of another size call it there with interpolate_pos_encoding=True"
    if isinstance(model, Flava):
        return found
    for eps, of_encoder, heads in zip(
        settings.head_eps, settings.eps[:2], (("mim", "mmm_image"), ("mlm", "mmm_text")), strict=True
    ):
        there = [f"model.{name}_head.transform.LayerNorm.eps" for name in heads if getattr(model, name) is not None]
        if eps != of_encoder and there:
            found[f"head_eps of {' and '.join(heads)}"] = (
                f"is {eps}, transformers gives the heads their encoder's {of_encoder}; "
                f"after loading say {' = '.join(there)} = {eps}"
            )
    if model.itm is not None and settings.itm_input == "clean":
        found["itm_input"] = "is 'clean', transformers matches the masked pair"
    if model.contrastive is not None and settings.gradients == "local":
        found["gradients"] = "is 'local', transformers knows all ranks' or none"
    if model.contrastive is not None and settings.max_scale != 100.0:
        found["max_scale"] = f"is {settings.max_scale}, transformers keeps the scale below 100"
    return found


def _codebook_config(codebook: DalleCodebook) -> dict[str, Any]:
    names = codebook.state_dict()
    blocks = sum(name.startswith("blocks.group_1.") and name.endswith(".conv_1.w") for name in names)
    width = len(names["blocks.input.w"])
    kind = {"model_type": "flava_image_codebook"}
    return {**kind, "hidden_size": width, "num_blocks_per_group": blocks, "vocab_size": codebook.num_codes}


def _write_clip(model: Whole, folder: Path, codebook: Codebook | None, *, tokenizer: TextTokenizer | None) -> Written:
    if codebook is not None:
        raise ValueError("CLIP has no use for a codebook; leave it out")
    if not isinstance(model, Clip | FlavaForPreTraining):
        raise ValueError(
            "transformers' CLIPModel has no classifier; write the encoders: to_transformers(model.flava, ...)"
        )
    return clip_to_transformers(model, folder, tokenizer=tokenizer)


def _write_codebook(codebook: DalleCodebook, folder: Path) -> Written:
    config = _codebook_config(codebook) | {"architectures": ["FlavaImageCodebook"], "dtype": "float32"}
    said = {"image_size": str(codebook.image_size)}
    files = _write(folder, config, dalle_to_transformers(codebook.state_dict()), said=said)
    load = f"codebook = transformers.FlavaImageCodebook.from_pretrained({str(folder)!r})"
    return Written("transformers' FlavaImageCodebook", files, {}, {}, load)


def _write(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    said: Mapping[str, str],
    beside: Callable[[Path], tuple[Path, ...]] = lambda _: (),
) -> tuple[Path, ...]:
    """Weights, their configuration and what `beside` writes into a folder, together; the files."""
    with together(folder, "model.safetensors") as made:
        save_tensors(made / "model.safetensors", tensors, {"format": "pt", **said})
        files = (made / "model.safetensors", write_json(made / "config.json", config), *beside(made))
    return tuple(folder / file.name for file in files)


def _write_processor(folder: Path, sizes: Sizes, tokenizer: WordPiece | None) -> tuple[Path, ...]:
    """What transformers' image processor and tokenizer are made of, as FLAVA's: images are squeezed into a square."""
    side = sizes.image_size // sizes.patch_size
    views = {"size": sizes.image_size, "crop_size": sizes.image_size}
    views |= {"codebook_size": 8 * side, "codebook_crop_size": 8 * side}  # a code of the dVAE's for each patch
    image: dict[str, Any] = {name: {"height": value, "width": value} for name, value in views.items()}
    image |= {"image_processor_type": "FlavaImageProcessor", "processor_class": "FlavaProcessor"}
    image |= {"image_mean": list(MEAN), "image_std": list(STD), "input_size_patches": side}
    image |= {
        "total_mask_patches": round(75 / 196 * side**2),
        "mask_group_min_patches": max(1, round(16 / 196 * side**2)),
    }
    files = (write_json(folder / "preprocessor_config.json", image),)
    if tokenizer is None:
        return files
    tokenizer.save(folder / "tokenizer.json")
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "processor_class": "FlavaProcessor"}
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return (
        *files,
        folder / "tokenizer.json",
        write_json(folder / "tokenizer_config.json", said | special | {"model_max_length": sizes.max_length}),
    )
