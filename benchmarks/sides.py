"""The sides of `step.py`: ours, transformers' and TorchMultimodal's FLAVA, of the same sizes, each built as its users build it.

Nothing is downloaded: TorchMultimodal's builder for pretraining would fetch DALL-E's weights, so its parts are put together as
that builder does, with random ones.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple, cast

import torch
from drawn import (
    NUM_CODES,
    VOCAB_SIZE,
    Case,
    Shape,
    captions,
    drawn,
    our_batch,
    torchmultimodal_inputs,
    transformers_inputs,
)
from torch import Tensor, nn

from torchflava.codebooks import DalleCodebook, codes_at
from torchflava.codebooks.dalle import Precision
from torchflava.codebooks.dalle_names import dalle_layout
from torchflava.data.prepare import prepare
from torchflava.heads import MlpClassifier
from torchflava.layers import cast_products
from torchflava.losses import LOSSES, mean_losses, weighted_sum
from torchflava.models import (
    SIZES,
    VERBS,
    FlavaForClassification,
    FlavaForPreTraining,
    flava_for_pretraining,
    flava_model,
)
from torchflava.training import Recompute, compile_units, recompute, session, shard
from torchflava.training.allocator import keep_freed_memory
from torchflava.transforms.image import normalise

NUM_CLASSES, CLASSIFIER = 1000, 1536
"""Of the classification forward: the paper's MLP (§4.2)."""


class Side(NamedTuple):
    """A model, and what it does of a case."""

    model: nn.Module
    run: Callable[[Case], Tensor]
    """The loss of a step, or what is read; forward only."""
    codebook: nn.Module | None = None
    """Where it is no part of the model."""


@contextmanager
def ours(
    shape: Shape,
    precision: str,
    *,
    device: str = "cpu",
    compiled: bool = False,
    sharded: bool = True,
    again: Recompute = "none",
) -> Iterator[Side]:
    """For steps, as `recipes/pretrain.py` has it: a raw batch, `prepare` within the step, `shard` for the precision."""
    s = drawn(shape)
    with session(0, device) as run:
        model = our_model(shape).to(run.device)
        codebook = our_codebook(shape, precision).to(run.device)
        recompute(model.units(), again)
        if compiled:
            compile_units(model.units())
        if sharded:
            shard(model, run.mesh, precision=precision, verbs=VERBS, whole=[model.contrastive])
        low = precision == "bf16" and not sharded
        batch = cache(partial(our_batch, s))

        def loss(case: Case) -> Tensor:
            _same(precision, case.precision)
            made = prepare(batch(case), run.device, normalise, partial(codes_at, codebook))
            with torch.autocast(device, torch.bfloat16, enabled=low):
                return weighted_sum(mean_losses(model(made)), dict.fromkeys(LOSSES, 1.0))

        yield Side(model, loss, codebook)


@contextmanager
def our_reader(shape: Shape, precision: str, *, device: str = "cpu", compiled: bool = False) -> Iterator[Side]:
    """For reading, as `recipes/evaluated.py` has it: not sharded, under autocast, weights cast once."""
    torch.manual_seed(0)
    s = drawn(shape)
    flava = our_flava(shape)
    model = (
        FlavaForClassification(flava, MlpClassifier(SIZES[shape.size].width, NUM_CLASSES, CLASSIFIER)).eval().to(device)
    )
    pixels = normalise(s.pixels).to(device)
    ids, keep = (x.to(device) for x in captions(s, Case("embed_text")))
    if precision == "bf16":
        cast_products(model, torch.bfloat16)
    if device == "cpu":
        keep_freed_memory()
    verbs = {
        "embed_image": lambda: flava.embed_image(pixels),
        "embed_text": lambda: flava.embed_text(ids, keep),
        "classify": lambda: model(pixels, ids, keep),
    }
    if compiled:
        compile_units(flava.units())
    yield Side(model, _reading(verbs, device))


@contextmanager
def transformers_side(shape: Shape, precision: str, *, device: str = "cpu", compiled: bool = False) -> Iterator[Side]:
    """Its `FlavaForPreTraining`; given codes are its `mim_labels`, and its codebook does not run then."""
    s, model = drawn(shape), transformers_model(shape).to(device)
    called = torch.compile(model) if compiled else model
    inputs = cache(lambda case: _on(device, transformers_inputs(s, case)))

    def loss(case: Case) -> Tensor:
        # Its forward writes into mim_labels, so each call gets its own.
        given = {name: x.clone() if name == "mim_labels" else x for name, x in inputs(case).items()}
        with torch.autocast(device, torch.bfloat16, enabled=case.precision == "bf16"):
            return called(**given, return_loss=True).loss

    yield Side(model, loss)


@contextmanager
def transformers_reader(shape: Shape, precision: str, *, device: str = "cpu", compiled: bool = False) -> Iterator[Side]:
    """Its `FlavaModel`: the class token of its projected states, of length 1; it has no classifier, so it gets ours."""
    s = drawn(shape)
    flava = transformers_model(shape).flava.eval().to(device)
    head = MlpClassifier(SIZES[shape.size].width, NUM_CLASSES, CLASSIFIER).eval().to(device)
    if compiled:
        flava.compile()
    pixels = normalise(s.pixels).to(device)
    ids, keep = captions(s, Case("embed_text"))
    text = {"input_ids": ids.to(device), "attention_mask": keep.long().to(device)}
    verbs = {
        "embed_image": lambda: _embedding(flava.get_image_features(pixel_values=pixels).pooler_output),
        "embed_text": lambda: _embedding(flava.get_text_features(**text).pooler_output),
        "classify": lambda: head(flava(pixel_values=pixels, **text).multimodal_embeddings[:, 0]),
    }
    yield Side(nn.ModuleList([flava, head]), _reading(verbs, device))


@contextmanager
def torchmultimodal_side(
    shape: Shape, precision: str, *, device: str = "cpu", compiled: bool = False
) -> Iterator[Side]:
    """Its `FLAVAForPreTraining`; it takes no codes, so where they are given, its codebook is one that hands them on."""
    s, model = drawn(shape), torchmultimodal_model(shape).to(device)
    model.image_codebook = _Given(model.image_codebook)
    called = torch.compile(model) if compiled else model
    inputs = cache(lambda case: _on(device, torchmultimodal_inputs(s, case)))

    def loss(case: Case) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=case.precision == "bf16"):
            losses = called(**inputs(case)).losses
            return torch.stack([x for x in losses.values() if x is not None]).sum()

    yield Side(model, loss)


@contextmanager
def torchmultimodal_reader(
    shape: Shape, precision: str, *, device: str = "cpu", compiled: bool = False
) -> Iterator[Side]:
    """Its `encode_image` and `encode_text`, made of length 1, and its `FLAVAForClassification`, which wants labels."""
    from torchmultimodal.models.flava import model as tmm

    s, pretraining = drawn(shape), torchmultimodal_model(shape)
    classifier = tmm.MLP(SIZES[shape.size].width, NUM_CLASSES, CLASSIFIER, dropout=0.0)
    model = tmm.FLAVAForClassification(pretraining.model, classifier, nn.CrossEntropyLoss()).eval().to(device)
    if compiled:
        pretraining.model.compile()
    pixels, ids = normalise(s.pixels).to(device), captions(s, Case("embed_text"))[0].to(device)
    labels = torch.zeros(len(ids), dtype=torch.long, device=device)
    verbs = {
        "embed_image": lambda: nn.functional.normalize(pretraining.encode_image(pixels), dim=-1),
        "embed_text": lambda: nn.functional.normalize(pretraining.encode_text(ids), dim=-1),
        "classify": lambda: model(pixels, ids, labels=labels).logits,
    }
    yield Side(model, _reading(verbs, device))


def our_flava(shape: Shape) -> Any:
    """Our encoders."""
    return flava_model(shape.size, image_size=shape.image_size, patch_size=shape.patch_size, vocab_size=VOCAB_SIZE)


def our_model(shape: Shape) -> FlavaForPreTraining:
    """All six losses."""
    torch.manual_seed(0)
    return flava_for_pretraining(our_flava(shape), num_codes=NUM_CODES)


def our_codebook(shape: Shape, precision: str = "fp32") -> DalleCodebook:
    """The dVAE's encoder with random weights, in the precision in which the peers', within their autocast, is too."""
    draw = torch.Generator().manual_seed(0)
    layout = dalle_layout(shape.codebook_width, 2, NUM_CODES)
    weights = {name: torch.randn(of, generator=draw) / max(1, of[1:].numel()) ** 0.5 for name, of in _sizes(layout)}
    return DalleCodebook(weights, image_size=8 * shape.side, precision=cast(Precision, precision))


def transformers_model(shape: Shape) -> nn.Module:
    """transformers' model of the same sizes."""
    from transformers import FlavaConfig, FlavaForPreTraining

    width, depth, num_heads, hidden, fusion_depth, embed_dim = SIZES[shape.size]
    tower = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": num_heads}
    tower |= {"intermediate_size": hidden}
    config = FlavaConfig(
        image_config=tower | {"image_size": shape.image_size, "patch_size": shape.patch_size},
        text_config=tower,
        multimodal_config=tower | {"num_hidden_layers": fusion_depth},
        image_codebook_config={"hidden_size": shape.codebook_width},
        hidden_size=width,
        projection_dim=embed_dim,
    )
    torch.manual_seed(0)
    return FlavaForPreTraining(config)


def torchmultimodal_model(shape: Shape) -> nn.Module:
    """TorchMultimodal's model of the same sizes, put together as `flava_model_for_pretraining` does."""
    from torchmultimodal.models.flava import model as tmm
    from torchmultimodal.modules.losses.flava import FLAVAPretrainingLoss

    width, depth, num_heads, hidden, fusion_depth, embed_dim = SIZES[shape.size]
    numbers = {"hidden_size": width, "num_attention_heads": num_heads, "intermediate_size": hidden}
    depths = {"image": depth, "text": depth, "multimodal": fusion_depth}
    towers = {f"{tower}_{name}": value for tower in depths for name, value in numbers.items()}
    towers |= {f"{tower}_num_hidden_layers": value for tower, value in depths.items()}
    torch.manual_seed(0)
    flava = tmm.flava_model(
        **towers, image_size=shape.image_size, patch_size=shape.patch_size, text_and_image_proj_size=embed_dim
    )
    codebook = tmm.DalleVAEEncoder(image_size=8 * shape.side, pretrained=False)
    if shape.codebook_width != 256:
        codebook.encoder = tmm.DalleEncoder(n_hid=shape.codebook_width)
    return tmm.FLAVAForPreTraining(flava, codebook, FLAVAPretrainingLoss(hidden_size=width))


SIDES = {
    "ours": (ours, our_reader),
    "transformers": (transformers_side, transformers_reader),
    "TorchMultimodal": (torchmultimodal_side, torchmultimodal_reader),
}
"""By name: what makes the side for steps, and for reading."""


class _Given(nn.Module):
    """TorchMultimodal's codebook, which hands on codes where it is given some."""

    def __init__(self, codebook: nn.Module) -> None:
        super().__init__()
        self.codebook = codebook

    def forward(self, pixels: Tensor) -> Tensor:
        return self.codebook(pixels) if pixels.is_floating_point() else pixels.clone()


def _reading(verbs: dict[str, Callable[[], Tensor]], device: str) -> Callable[[Case], Tensor]:
    def read(case: Case) -> Tensor:
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=case.precision == "bf16"):
            return verbs[case.kind]()

    return read


def _embedding(states: Tensor) -> Tensor:
    return nn.functional.normalize(states[:, 0], dim=-1)


def _on(device: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.to(device) for name, x in inputs.items()}


def _same(precision: str, asked: str) -> None:
    if asked != precision:
        raise ValueError(f"this model computes in {precision}, the case asks for {asked}")


def _sizes(layout: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.Size]]:
    return ((name, torch.Size(of)) for name, of in layout.items())
