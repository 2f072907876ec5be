"""The models of docs/variants.md, read off the page; batches that fit them; and the page's own step."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchflava.batch import Batch, ImageBatch, PairBatch, TextBatch
from torchflava.losses import LOSSES
from torchflava.models import VERBS, FlavaForPreTraining
from torchflava.training import adamw, mesh_of, shard

PAGE = Path(__file__).parents[2] / "docs" / "variants.md"
CLS, SEP, MASK = 101, 102, 103
ROUNDS = 2  # of a batch of each kind
WEIGHTS = dict.fromkeys((*LOSSES, "rotation"), 1.0)


class Variant(NamedTuple):
    """A section of the page, and what its model is trained with."""

    title: str
    block: int = 0
    """Which of the section's blocks."""
    image_size: int = 224
    patches: int = 196
    kinds: tuple[str, ...] = ("image", "text", "pair")
    needs: str = "torch"
    """A package beside this project's own."""
    spared: str = r"$^"
    """Weights that get no gradient, by a pattern, though they learn: no loss of these batches reads them."""


NO_MASKS = r"flava\.image_encoder\.embed\.mask_token"
TO_FUSION = r"flava\.(fusion_encoder\..*|image_to_fusion\..*|text_to_fusion\..*)"
VARIANTS = {
    "timm": Variant("An image tower of timm", needs="timm"),
    "bert": Variant("BERT as the text tower", needs="transformers"),
    "siglip": Variant("SigLIP's loss"),
    "own objective": Variant("An objective of your own"),
    "clip": Variant("Without fusion: CLIP", kinds=("pair",), spared=NO_MASKS),
    "no fusion": Variant("Without fusion: CLIP", block=1, spared=TO_FUSION),
    "three widths": Variant("Three towers of three widths", image_size=96, patches=36),
    "other patches": Variant("Other patches, another grid of codes", image_size=98, patches=49),
    "lit": Variant("A frozen tower (LiT)", kinds=("pair",)),
    "lora": Variant("LoRA on the encoders", needs="peft"),
}


def sections() -> dict[str, list[str]]:
    """The page's blocks of Python by the title that they stand under; the step's under ''."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(), flags=re.M)
    texts = {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))
    return {title: re.findall(r"^```python\n(.*?)^```", text, re.S | re.M) for title, text in texts.items()}


def source_of(name: str) -> str:
    """A variant's block."""
    return sections()[VARIANTS[name].title][VARIANTS[name].block]


def names_of(name: str) -> dict[str, Any]:
    """What a variant's block defines; the same weights each time."""
    names: dict[str, Any] = {"__name__": "page"}
    torch.manual_seed(0)
    exec(compile(source_of(name), f"docs/variants.md: {VARIANTS[name].title}", "exec"), names)
    return names


def step_of_the_page() -> Any:
    """The function `step`."""
    names: dict[str, Any] = {}
    exec(sections()[""][0], names)
    return names["step"]


def model_of(name: str) -> FlavaForPreTraining:
    """The block's `model`."""
    model = names_of(name)["model"]
    assert isinstance(model, FlavaForPreTraining)
    return model


def batches_for(variant: Variant, model: FlavaForPreTraining, rows: int = 4) -> dict[str, Batch]:
    """A batch of each kind that the variant learns from; two patches and one word of each row are hidden."""
    generator = torch.Generator().manual_seed(1)

    def below(end: int, *shape: int) -> Tensor:
        return torch.randint(0, end, shape, generator=generator)

    num_codes = 8 if model.mim is None else model.mim.num_codes
    pixels = torch.randn(rows, 3, variant.image_size, variant.image_size, generator=generator)
    positions = torch.stack([torch.randperm(variant.patches, generator=generator)[:2] for _ in range(rows)])
    masked = torch.zeros(rows, variant.patches, dtype=torch.bool).scatter_(1, positions, True)
    codes = below(num_codes, rows, 2)
    ids = torch.cat([torch.full((rows, 1), CLS), 1000 + below(999, rows, 5), torch.full((rows, 1), SEP)], 1)
    ids[1::2, 5:] = torch.tensor([SEP, 0])  # every other row is shorter
    keep, at = ids != 0, 1 + below(4, rows, 1)
    masked_ids, words = ids.scatter(1, at, MASK), ids.gather(1, at)
    matched = torch.arange(rows) % 4 != 1
    pair = PairBatch(pixels, masked, positions, codes, ids, keep, masked_ids, keep, at, words, matched, matched.roll(1))
    made = {"image": ImageBatch(pixels, masked, positions, codes), "text": TextBatch(masked_ids, keep, at, words)}
    return {kind: batch for kind, batch in (made | {"pair": pair}).items() if kind in variant.kinds}


def trained(name: str, model: FlavaForPreTraining, rows: int = 4, mine: slice = slice(None)) -> list[dict[str, float]]:
    """The means of the losses in each of some steps, on these of the batches' rows."""
    batches = batches_for(VARIANTS[name], model, rows)
    step, optimizer = step_of_the_page(), adamw(model, 1e-3, 0.1)
    return [
        step(model, optimizer, type(batch)(*(part[mine] for part in batch)), WEIGHTS)
        for _ in range(ROUNDS)
        for batch in batches.values()
    ]


def sharded(name: str) -> FlavaForPreTraining:
    """The block's model on all ranks."""
    model = model_of(name)
    shard(model, mesh_of(torch.device("cpu")), verbs=VERBS)
    return model


def gradients(model: nn.Module, batches: dict[str, Batch]) -> None:
    """Add those of all batches to the model's."""
    for batch in batches.values():
        torch.stack([loss.mean for loss in model(batch).values()]).sum().backward()
