"""CLIP for other libraries: the files that open_clip and transformers load, with equal outputs.

Sources: open_clip 3.3, open_clip/factory.py; transformers 5.24, models/clip.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from torchflava.files import save_tensors
from torchflava.losses import ContrastiveLoss
from torchflava.models.architecture import settings_of
from torchflava.models.clip import Clip
from torchflava.models.clip_files import OPEN_CLIP_CONFIG
from torchflava.models.layout import to_theirs
from torchflava.models.layouts_clip_others import OPEN_CLIP, TRANSFORMERS
from torchflava.models.pretraining import FlavaForPreTraining
from torchflava.models.settings import Settings, as_metadata
from torchflava.models.written import Written, write_json
from torchflava.models.written_together import together
from torchflava.transforms.bpe import BytePair
from torchflava.transforms.image import MEAN, STD
from torchflava.transforms.tokenizer import TextTokenizer


class Sizes(NamedTuple):
    """A CLIP's sizes, as others' configurations ask for them: of the image encoder first, then of the text encoder."""

    widths: tuple[int, int]
    depths: tuple[int, int]
    hidden: tuple[int, int]
    image_size: int
    patch_size: int
    vocab_size: int
    max_length: int
    embed_dim: int
    end_id: int
    settings: Settings


def clip_to_open_clip(
    model: Clip | FlavaForPreTraining, path: str | os.PathLike[str], *, end_id: int | None = None
) -> Written:
    """Write what open_clip loads, with equal outputs, and report it.

    A `.safetensors` file holds the weights alone, for an open_clip model of these sizes; a folder gets the weights and
    `open_clip_config.json`, which `open_clip.create_model("local-dir:FOLDER")` builds the model from.

    Args:
        model: CLIP, or CLIP for pretraining, which has the temperature; CLIP alone gets the one that training begins with.
        path: a file or a folder, which is made if it is not there.
        end_id: the id that ends a text, for a model that does not say: [SEP]'s, where it was trained over WordPiece.

    Raises:
        ValueError: for another model, parts of one's own, and a file of another kind.
    """
    path = Path(path)
    if path.suffix in (".pt", ".pth", ".bin", ".pkl", ".ckpt") and not path.is_dir():
        raise ValueError(f"{path}: open_clip's weights are written as .safetensors, or into a folder")
    sizes, state = _told(model, end_id)
    tensors = to_theirs(OPEN_CLIP, state)
    if path.suffix == ".safetensors":
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, tensors, as_metadata(sizes.settings) | {"format": "pt"})
        load = f"open_clip.load_checkpoint(model, {str(path)!r})"
        return Written(OPEN_CLIP.name, (path,), _made(model), _words(sizes), f"import open_clip\n{load}")
    weights, config = "open_clip_model.safetensors", OPEN_CLIP_CONFIG
    with together(path, weights) as made:
        save_tensors(made / weights, tensors, as_metadata(sizes.settings) | {"format": "pt"})
        write_json(made / config, _open_clip_config(sizes))
    load = f"import open_clip\nmodel = open_clip.create_model({f'local-dir:{path}'!r})"
    return Written(OPEN_CLIP.name, (path / weights, path / config), _made(model), _words(sizes), load)


def clip_to_transformers(
    model: Clip | FlavaForPreTraining,
    directory: str | os.PathLike[str],
    *,
    tokenizer: TextTokenizer | None = None,
    end_id: int | None = None,
) -> Written:
    """Write a directory that `transformers.CLIPModel.from_pretrained` loads, with equal outputs, and report it.

    With the tokenizer, `CLIPProcessor` loads it too (of a WordPiece, `BertTokenizerFast` with `CLIPImageProcessor`).

    Args:
        model: CLIP, or CLIP for pretraining, which has the temperature; CLIP alone gets the one that training begins with.
        directory: made if it is not there.
        tokenizer: the model's own.
        end_id: the id that ends a text, for a model that does not say; the tokenizer's, unless given.

    Raises:
        ValueError: for another model, parts of one's own, a tokenizer of another vocabulary, and texts that end with the id 2.
    """
    if tokenizer is not None and end_id is None:
        end_id = tokenizer.sep_id
    sizes, state = _told(model, end_id)
    if tokenizer is not None and tokenizer.vocab_size > sizes.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model knows {sizes.vocab_size}; give its own"
        )
    if sizes.end_id == 2 != sizes.vocab_size - 1:
        raise ValueError(
            "this model's texts end with the id 2, which transformers' CLIPModel takes for a text's greatest id: it would read "
            "texts elsewhere; write it by clip_to_open_clip, or train over a vocabulary that ends texts otherwise"
        )
    folder = Path(directory)
    written = {"config.json": _transformers_config(sizes, tokenizer), "preprocessor_config.json": _preprocessor(sizes)}
    with together(folder, "model.safetensors") as made:
        said = as_metadata(sizes.settings) | {"format": "pt"}
        save_tensors(made / "model.safetensors", to_theirs(TRANSFORMERS, state), said)
        if tokenizer is not None:
            tokenizer.save(made / "tokenizer.json")
            written["tokenizer_config.json"] = _tokenizer_config(tokenizer, sizes)
        for name, content in written.items():
            write_json(made / name, content)
    files = [folder / name for name in ("model.safetensors", *written)]
    files += [folder / "tokenizer.json"] if tokenizer is not None else []
    load = f"import transformers\nmodel = transformers.CLIPModel.from_pretrained({str(folder)!r})"
    return Written(TRANSFORMERS.name, tuple(files), _made(model), {}, load)


def _made(model: nn.Module) -> dict[str, str]:
    has_one = isinstance(getattr(model, "contrastive", None), ContrastiveLoss)
    return {} if has_one else {"logit_scale": "ln(1 / 0.07), where training begins: this model has no temperature"}


def _words(sizes: Sizes) -> dict[str, str]:
    """What open_clip cannot be told of a vocabulary: it brings its own."""
    if sizes.vocab_size == 49408:
        return {}
    told = f"has {sizes.vocab_size} tokens, open_clip's tokenizer 49408 of its own; give ids by this model's tokenizer"
    return {"vocabulary": told}


def _told(model: Clip | FlavaForPreTraining, end_id: int | None) -> tuple[Sizes, dict[str, Tensor]]:
    """The sizes, and the tensors by our names as CLIP for pretraining has them."""
    clip = model.flava if isinstance(model, FlavaForPreTraining) else model
    if not isinstance(clip, Clip):
        raise ValueError(f"this is a {type(model).__name__} with FLAVA in it; CLIP is due: see docs/clip.md")
    settings = settings_of(model)
    own = settings.end_id or None
    if own is not None and end_id not in (None, own):
        raise ValueError(
            f"the model's texts end with the id {own}, not {end_id}; give its own tokenizer, or leave end_id out"
        )
    if own is None and end_id is None:
        raise ValueError("this model finds a text's end by its padding, others by an id; give end_id, such as [SEP]'s")
    state = {f"flava.{name}": tensor for name, tensor in clip.state_dict().items()}
    contrastive = model.contrastive if isinstance(model, FlavaForPreTraining) else None
    if not isinstance(contrastive, ContrastiveLoss):
        contrastive = ContrastiveLoss()
    state["contrastive.log_scale"] = contrastive.log_scale.detach()
    return _sizes(clip, settings, own if own is not None else end_id or 0), state


def _sizes(clip: Clip, settings: Settings, end_id: int) -> Sizes:
    state = clip.state_dict()
    towers = ("image_encoder", "text_encoder")
    ups = [state[f"{name}.trunk.blocks.0.mlp.up.weight"] for name in towers]
    depths = [len(list(clip.get_submodule(f"{name}.trunk.blocks").children())) for name in towers]
    patch_size = state["image_encoder.embed.projection.weight"].shape[-1]
    side = round((state["image_encoder.embed.positions"].shape[1] - 1) ** 0.5)
    words = state["text_encoder.embed.words.weight"]
    if not 0 <= end_id < len(words):
        raise ValueError(f"end_id is {end_id}, and there are {len(words)} words; give the id that ends a text")
    return Sizes(
        (ups[0].shape[1], ups[1].shape[1]),
        (depths[0], depths[1]),
        (ups[0].shape[0], ups[1].shape[0]),
        image_size=side * patch_size,
        patch_size=patch_size,
        vocab_size=len(words),
        max_length=len(state["text_encoder.embed.positions.weight"]),
        embed_dim=clip.embed_dim,
        end_id=end_id,
        settings=settings,
    )


def _open_clip_config(sizes: Sizes) -> dict[str, Any]:
    ratios = [_ratio(*each) for each in zip(sizes.hidden, sizes.widths, strict=True)]
    image: dict[str, Any] = {"layers": sizes.depths[0], "width": sizes.widths[0], "mlp_ratio": ratios[0]}
    text: dict[str, Any] = {"layers": sizes.depths[1], "width": sizes.widths[1], "mlp_ratio": ratios[1]}
    heads, eps = sizes.settings.num_heads, sizes.settings.eps
    image |= {"head_width": sizes.widths[0] // heads[0], "patch_size": sizes.patch_size, "image_size": sizes.image_size}
    text |= {"context_length": sizes.max_length, "vocab_size": sizes.vocab_size, "heads": heads[1]}
    for part, value in ((image, eps[0]), (text, eps[1])):
        if value != 1e-5:
            part["norm_kwargs"] = {"eps": value}
    if sizes.end_id != sizes.vocab_size - 1:
        text |= {"pool_type": "eos", "eos_id": sizes.end_id}
    model: dict[str, Any] = {"embed_dim": sizes.embed_dim, "vision_cfg": image, "text_cfg": text}
    model["quick_gelu"] = sizes.settings.quick_gelu
    looks = {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "shortest"}
    return {"model_cfg": model, "preprocess_cfg": looks}


def _ratio(hidden: int, width: int) -> float:
    """What open_clip multiplies the width with before it drops the fraction."""
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width


def _transformers_config(sizes: Sizes, tokenizer: TextTokenizer | None) -> dict[str, Any]:
    image, text = (
        {
            "hidden_size": sizes.widths[at],
            "num_hidden_layers": sizes.depths[at],
            "intermediate_size": sizes.hidden[at],
            "num_attention_heads": sizes.settings.num_heads[at],
            "layer_norm_eps": sizes.settings.eps[at],
            "hidden_act": "quick_gelu" if sizes.settings.quick_gelu else "gelu",
            "projection_dim": sizes.embed_dim,
            "model_type": f"clip_{('vision', 'text')[at]}_model",
        }
        for at in (0, 1)
    )
    image |= {"image_size": sizes.image_size, "patch_size": sizes.patch_size, "num_channels": 3}
    start = sizes.end_id - 1 if tokenizer is None else tokenizer.cls_id
    text |= {"vocab_size": sizes.vocab_size, "max_position_embeddings": sizes.max_length, "eos_token_id": sizes.end_id}
    text |= {"bos_token_id": max(start, 0), "pad_token_id": sizes.settings.pad_id}
    whole = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": sizes.embed_dim}
    return whole | {"vision_config": image, "text_config": text}


def _preprocessor(sizes: Sizes) -> dict[str, Any]:
    """As `transforms.image.EvalView` and `normalise` do it, but for the order of resizing and cutting."""
    side = sizes.image_size
    crop = {"do_center_crop": True, "crop_size": {"height": side, "width": side}}
    resize = {"do_resize": True, "size": {"shortest_edge": side}, "resample": 3, "do_convert_rgb": True}
    numbers = {"do_rescale": True, "do_normalize": True, "image_mean": list(MEAN), "image_std": list(STD)}
    return {"image_processor_type": "CLIPImageProcessor"} | resize | crop | numbers


def _tokenizer_config(tokenizer: TextTokenizer, sizes: Sizes) -> dict[str, Any]:
    if isinstance(tokenizer, BytePair):
        start, end = tokenizer.tokens[tokenizer.start_id], tokenizer.tokens[tokenizer.end_id]
        # Padding is the end again, as in the released models: were it "!", id 0, each "!" of a text would become it.
        names = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
        return {"tokenizer_class": "CLIPTokenizer", "model_max_length": sizes.max_length} | names
    return {"tokenizer_class": "BertTokenizerFast", "model_max_length": sizes.max_length}
