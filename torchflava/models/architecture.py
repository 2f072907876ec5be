"""A model built to fit tensors: every size is read off them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from torchflava.encoders import CausalTextEncoder, FusionEncoder, ImageEncoder, TextEncoder
from torchflava.heads import MaskedPredictionHead, MatchHead, MlpClassifier
from torchflava.layers import (
    Attention,
    CausalAttention,
    LayerNorm,
    Mlp,
    PatchEmbedding,
    QuickMlp,
    RelativeAttention,
    TokenEmbedding,
    Transformer,
    beit_transformer,
    transformer,
)
from torchflava.losses import ContrastiveLoss
from torchflava.models.classification import EmbeddingsForClassification, FlavaForClassification
from torchflava.models.clip import Clip
from torchflava.models.clip_built import clip_of
from torchflava.models.flava import Flava
from torchflava.models.layout import listed
from torchflava.models.pretraining import FlavaForPreTraining
from torchflava.models.settings import Settings, Towers, TowerSize
from torchflava.models.shapes import State as State  # which other modules take from here
from torchflava.models.shapes import patches_of, shape_of

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Whole = Flava | Clip | FlavaForPreTraining | FlavaForClassification | EmbeddingsForClassification
TOWERS = ("image_encoder", "text_encoder", "fusion_encoder")
"""In the order in which settings name them; CLIP has the first two."""

YOURSELF = "save the model's state_dict(), and build it yourself before you load it"
"""What remains where a file would not bring a model back."""


def tower_sizes(state: State) -> Towers:
    """The sizes of the encoders in a state of ours: image, text and, in FLAVA, fusion; or of the one that is there."""
    prefix = _prefix(state)
    there = [name for name in TOWERS if any(key.startswith(f"{prefix}{name}.") for key in state)]
    return tuple(_tower_size(state, f"{prefix}{name}.trunk.blocks.") for name in there)


def build(state: State, settings: Settings) -> Whole:
    """The model that a state of ours belongs to, with these very tensors as its float32 weights.

    Raises:
        ValueError: naming the tensors whose shapes do not go together.
    """
    return filled(lambda: _whole(state, settings), state)


def filled(make: Callable[[], ModuleT], state: State) -> ModuleT:
    """The module that `make` makes, with these very tensors as its float32 weights.

    Raises:
        ValueError: naming the tensors whose shapes do not go together.
    """
    with torch.device("meta"), _Undrawn():
        model = make()
    wanted = model.state_dict()
    assert wanted.keys() == state.keys(), f"the layouts and the model differ in {wanted.keys() ^ state.keys()}"
    wrong = [
        f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}" for k, v in wanted.items() if state[k].shape != v.shape
    ]
    if wrong:
        raise ValueError(f"shapes do not go together: {listed(wrong)}; give a whole file")
    # A copy, so that tensors which share memory in the file are not tied in the model.
    copies = {name: tensor.detach().to(torch.float32, copy=True).contiguous() for name, tensor in state.items()}
    model.load_state_dict(copies, assign=True)
    return model


def settings_of(model: Whole | ImageEncoder | TextEncoder | FusionEncoder) -> Settings:
    """What a model's tensors do not say.

    Raises:
        ValueError: if a part is not this project's own, so that weights alone do not bring it back.
    """
    if isinstance(model, ImageEncoder | TextEncoder | FusionEncoder):
        return _of_towers([model])
    flava = model if isinstance(model, Flava | Clip) else model.flava
    towers: list[Any] = [flava.get_submodule(name) for name in (TOWERS[:2] if isinstance(flava, Clip) else TOWERS)]
    own = (ImageEncoder, CausalTextEncoder) if isinstance(flava, Clip) else (ImageEncoder, TextEncoder, FusionEncoder)
    if not all(isinstance(tower, kind) for tower, kind in zip(towers, own, strict=True)):
        kinds = listed(type(tower).__name__ for tower in towers)
        raise ValueError(f"{kinds}: of these only this project's own encoders are built again from a file; {YOURSELF}")
    settings = _of_towers(towers)
    if isinstance(flava, Clip):
        settings = settings._replace(quick_gelu=_is_quick(*(tower.trunk for tower in towers)))
    if isinstance(model, FlavaForClassification | EmbeddingsForClassification):
        settings = settings._replace(embeddings=isinstance(model, EmbeddingsForClassification))
        dropouts = [part.p for part in model.classifier.modules() if isinstance(part, nn.Dropout)]
        return settings._replace(reads=model.reads, dropout=dropouts[0] if dropouts else 0.0)
    if isinstance(model, FlavaForPreTraining):
        _check_own_losses(model)
        return _of_pretraining(model, settings)
    return settings


def _check_own_losses(model: FlavaForPreTraining) -> None:
    if names := listed(f"objectives.{name}" for name in model.objectives):
        raise ValueError(
            f"{names}: only the six losses are built again from a file; take it out of `objectives`, or {YOURSELF}"
        )


def _of_towers(towers: Sequence[Any]) -> Settings:
    settings = Settings(
        tuple(_num_heads(tower.trunk) for tower in towers),
        tuple(float(getattr(tower.norm, "eps", 0)) for tower in towers),
    )
    for tower in towers:
        seen = list(settings.attend_to_padding)
        match tower:
            case ImageEncoder():
                settings = settings._replace(interpolate=tower.embed.interpolate)
            case TextEncoder():
                settings = settings._replace(pad_id=tower.pad_id, attend_to_padding=(tower.attend_to_padding, seen[1]))
            case FusionEncoder():
                settings = settings._replace(attend_to_padding=(seen[0], tower.attend_to_padding))
            case CausalTextEncoder() if tower.end_id == 0:
                raise ValueError("texts end with the id 0, which a file takes for none; let another id end them")
            case CausalTextEncoder():
                end_id = 0 if tower.end_id is None else tower.end_id
                settings = settings._replace(pad_id=tower.pad_id, end_id=end_id)
    return settings


def _num_heads(trunk: nn.Module) -> int:
    attention = trunk.blocks[0].attention if isinstance(trunk, Transformer) else None
    if not isinstance(attention, Attention | CausalAttention | RelativeAttention):
        raise ValueError(f"a {type(trunk).__name__} with {type(attention).__name__} is another's trunk; {YOURSELF}")
    return attention.num_heads


def _is_quick(*trunks: nn.Module) -> bool:
    """Whether the blocks have OpenAI's GELU; all of them, or none."""
    blocks: list[Any] = [block for trunk in trunks for block in trunk.get_submodule("blocks").children()]
    kinds = {type(block.mlp) for block in blocks}
    if kinds not in ({Mlp}, {QuickMlp}):
        raise ValueError(f"MLPs of {listed(kind.__name__ for kind in kinds)}: a file brings back one kind; {YOURSELF}")
    return kinds == {QuickMlp}


def _of_pretraining(model: FlavaForPreTraining, settings: Settings) -> Settings:
    over_codes, over_words = (
        next((head.norm.eps for head in heads if isinstance(head, MaskedPredictionHead)), usual)
        for heads, usual in zip(
            ((model.mim, model.mmm_image), (model.mlm, model.mmm_text)), settings.head_eps, strict=True
        )
    )
    settings = settings._replace(head_eps=(over_codes, over_words), itm_input=model.itm_input)
    if isinstance(model.contrastive, ContrastiveLoss):
        loss = model.contrastive
        return settings._replace(gradients=loss.gradients, max_scale=loss.max_scale)
    return settings


class _Undrawn(TorchFunctionMode):
    """Leaves `normal_` out: on the meta device there is nothing to draw, and to pretend it torch imports for 3 seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return kwargs["tensor"] if kwargs and func is nn.init.normal_ else func(*args, **(kwargs or {}))


def _prefix(state: State) -> str:
    return "flava." if any(name.startswith("flava.") for name in state) else ""


def _is_clip(state: State) -> bool:
    return f"{_prefix(state)}fusion_encoder.cls_token" not in state


def _tower_size(state: State, prefix: str) -> TowerSize:
    hidden, width = shape_of(state, f"{prefix}0.mlp.up.weight", 2)
    return TowerSize(width, len({n.removeprefix(prefix).split(".")[0] for n in state if n.startswith(prefix)}), hidden)


def _trunk(size: TowerSize, num_heads: int, eps: float) -> Transformer:
    return transformer(size.width, size.depth, num_heads, hidden=size.hidden, eps=eps)


def _whole(state: State, settings: Settings) -> Whole:
    if _is_clip(state):
        flava: Flava | Clip = clip_of(state, settings, prefix=_prefix(state), sizes=tower_sizes(state))
    else:
        flava = _flava(state, settings)
    if not _prefix(state):
        return flava
    if any(name.startswith("classifier.") for name in state):
        head = _classifier(state, settings.dropout)
        if settings.embeddings or isinstance(flava, Clip):
            return EmbeddingsForClassification(flava, head, settings.reads)
        return FlavaForClassification(flava, head, settings.reads)
    return _pretraining(flava, state, settings)


def _flava(state: State, settings: Settings) -> Flava:
    prefix = _prefix(state)
    embed_dim, _ = shape_of(state, f"{prefix}image_projection.weight", 2)
    parts = image_part(state, settings), text_part(state, settings, 1), fusion_part(state, settings, 2)
    return Flava(*parts, embed_dim=embed_dim)


def image_part(state: State, settings: Settings, i: int = 0) -> ImageEncoder:
    """FLAVA's image encoder in a state of ours, whose settings are the `i`-th."""
    prefix, size, heads, eps = _part(state, "image_encoder", settings, i)
    patches = _patch_embedding(state, f"{prefix}embed.", settings.interpolate)
    trunk = _trunk(size, heads, eps)
    if f"{prefix}trunk.blocks.0.attention_scale" in state:
        side = patches.image_size // patches.patch_size
        trunk = beit_transformer(size.width, size.depth, heads, side=side, hidden=size.hidden, eps=eps)
    return ImageEncoder(patches, trunk, LayerNorm(size.width, eps))


def text_part(state: State, settings: Settings, i: int = 0) -> TextEncoder:
    """FLAVA's text encoder in a state of ours, whose settings are the `i`-th."""
    prefix, size, heads, eps = _part(state, "text_encoder", settings, i)
    vocab_size, _ = shape_of(state, f"{prefix}embed.words.weight", 2)
    max_length, _ = shape_of(state, f"{prefix}embed.positions.weight", 2)
    num_segments, _ = shape_of(state, f"{prefix}embed.segments.weight", 2)
    embed = TokenEmbedding(vocab_size, size.width, max_length, num_segments=num_segments, eps=eps)
    trunk, norm, (seen, _) = _trunk(size, heads, eps), LayerNorm(size.width, eps), settings.attend_to_padding
    return TextEncoder(embed, trunk, norm, pad_id=settings.pad_id, attend_to_padding=seen)


def fusion_part(state: State, settings: Settings, i: int = 0) -> FusionEncoder:
    """FLAVA's fusion encoder in a state of ours, whose settings are the `i`-th."""
    _, size, heads, eps = _part(state, "fusion_encoder", settings, i)
    trunk, norm, (_, seen) = _trunk(size, heads, eps), LayerNorm(size.width, eps), settings.attend_to_padding
    return FusionEncoder(size.width, trunk, norm, attend_to_padding=seen)


def _part(state: State, name: str, settings: Settings, i: int) -> tuple[str, TowerSize, int, float]:
    prefix = f"{_prefix(state)}{name}."
    return prefix, _tower_size(state, f"{prefix}trunk.blocks."), settings.num_heads[i], settings.eps[i]


def _patch_embedding(state: State, prefix: str, interpolate: bool) -> PatchEmbedding:
    width, side, patch_size = patches_of(state, prefix)
    return PatchEmbedding(width, side * patch_size, patch_size, interpolate=interpolate)


def _pretraining(flava: Flava | Clip, state: State, settings: Settings) -> FlavaForPreTraining:
    over_codes, over_words = settings.head_eps
    contrastive = ContrastiveLoss(settings.gradients, max_scale=settings.max_scale)
    return FlavaForPreTraining(
        flava,
        mim=_masked_head(state, "mim", over_codes),
        mlm=_masked_head(state, "mlm", over_words),
        mmm_image=_masked_head(state, "mmm_image", over_codes),
        mmm_text=_masked_head(state, "mmm_text", over_words),
        itm=MatchHead(shape_of(state, "itm.dense.weight", 2)[1]) if "itm.dense.weight" in state else None,
        contrastive=contrastive if "contrastive.log_scale" in state else None,
        itm_input=settings.itm_input,
    )


def _masked_head(state: State, name: str, eps: float) -> MaskedPredictionHead | None:
    if f"{name}.decoder.weight" not in state:
        return None
    num_codes, width = shape_of(state, f"{name}.decoder.weight", 2)
    return MaskedPredictionHead(width, num_codes, eps)


def _classifier(state: State, dropout: float) -> nn.Module:
    """This project's classifier, or without its norm TorchMultimodal's: linear, ReLU, dropout, linear."""
    num_classes, hidden = shape_of(state, "classifier.decoder.weight", 2)
    _, width = shape_of(state, "classifier.dense.weight", 2)
    if "classifier.norm.weight" in state:
        return MlpClassifier(width, num_classes, hidden, dropout=dropout)
    layers = {"dense": nn.Linear(width, hidden), "activation": nn.ReLU(), "dropout": nn.Dropout(dropout)}
    return nn.Sequential(OrderedDict(layers | {"decoder": nn.Linear(hidden, num_classes)}))
