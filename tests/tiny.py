"""A FLAVA in which every dimension is another prime (or twice one, for two heads), and batches for it.

Letters: B batch, N patches, T tokens, K rows asked for.
"""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from torchflava.batch import IGNORE, Batch, ImageBatch, PairBatch, TextBatch
from torchflava.encoders import (
    FusionEncoder,
    ImageEncoder,
    TextEncoder,
    clip_image_encoder,
    clip_text_encoder,
    flava_fusion_encoder,
    flava_image_encoder,
    flava_text_encoder,
)
from torchflava.losses import mean_losses
from torchflava.models import Clip, Flava, FlavaForPreTraining, clip_for_pretraining, flava_for_pretraining

IMAGE_WIDTH, TEXT_WIDTH, FUSION_WIDTH, EMBED_DIM = 22, 26, 34, 19
IMAGE_SIZE, PATCH_SIZE, NUM_PATCHES = 15, 5, 9
VOCAB_SIZE, NUM_CODES, MAX_LENGTH = 41, 37, 13
CLS, SEP, MASK = 1, 2, 3
KINDS = ("image", "text", "pair")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def image_encoder(**options: Any) -> ImageEncoder:
    """Width 22, two blocks, 3 x 3 patches of 5 px, unless told otherwise."""
    sizes = {"width": IMAGE_WIDTH, "depth": 2, "num_heads": 2, "hidden": 23}
    return flava_image_encoder(**sizes | {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE} | options)


def text_encoder(**options: Any) -> TextEncoder:
    """Width 26, two blocks, 41 words, at most 13 tokens, unless told otherwise."""
    sizes = {"width": TEXT_WIDTH, "depth": 2, "num_heads": 2, "hidden": 29}
    return flava_text_encoder(**sizes | {"vocab_size": VOCAB_SIZE, "max_length": MAX_LENGTH} | options)


def fusion_encoder(**options: Any) -> FusionEncoder:
    """Width 34, one block, unless told otherwise."""
    return flava_fusion_encoder(**{"width": FUSION_WIDTH, "depth": 1, "num_heads": 2, "hidden": 31} | options)


def flava(seed: int = 0, **parts: nn.Module) -> Flava:
    """The three encoders; `image`, `text` or `fusion` replace one."""
    torch.manual_seed(seed)
    made = {"image": image_encoder(), "text": text_encoder(), "fusion": fusion_encoder()} | parts
    return stirred(Flava(**made, embed_dim=EMBED_DIM))


def pretraining(seed: int = 0, *, parts: dict[str, nn.Module] | None = None, **options: Any) -> FlavaForPreTraining:
    """All six losses over `flava(seed, **parts)`."""
    model = flava_for_pretraining(flava(seed, **(parts or {})), num_codes=NUM_CODES, **options)
    return stirred(model)


def one_width(seed: int = 0, **options: Any) -> FlavaForPreTraining:
    """As `pretraining`, with three encoders of width 24, as other libraries' heads ask for."""
    makers = {"image": image_encoder, "text": text_encoder, "fusion": fusion_encoder}
    return pretraining(seed, parts={name: make(width=24) for name, make in makers.items()}, **options)


def clip(seed: int = 0, **text: Any) -> Clip:
    """CLIP's two encoders, of the widths of `flava`'s; options of the text encoder."""
    torch.manual_seed(seed)
    image = clip_image_encoder(
        width=IMAGE_WIDTH, depth=2, num_heads=2, hidden=23, image_size=IMAGE_SIZE, patch_size=PATCH_SIZE
    )
    sizes = {"width": TEXT_WIDTH, "depth": 3, "num_heads": 2, "hidden": 29, "vocab_size": VOCAB_SIZE}
    return stirred(Clip(image, clip_text_encoder(**sizes | {"max_length": MAX_LENGTH} | text), embed_dim=EMBED_DIM))


def clip_pretraining(seed: int = 0) -> FlavaForPreTraining:
    """The contrastive loss over `clip(seed)`."""
    return clip_for_pretraining(clip(seed))


def stirred(model: ModuleT) -> ModuleT:
    """The model with weights large enough that nothing is nearly linear, and no bias or norm at its first value."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def pixels(size: int, generator: torch.Generator, image_size: int = IMAGE_SIZE) -> Tensor:
    """(B, 3, S, S)."""
    return torch.randn(size, 3, image_size, image_size, generator=generator)


def patch_mask(size: int, generator: torch.Generator, *, most: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """masked (B, N), positions (B, most), labels (B, most): at most `most` patches a row, fewer in every other row."""
    masked = torch.zeros(size, NUM_PATCHES, dtype=torch.bool)
    positions = torch.zeros(size, most, dtype=torch.int64)
    labels = torch.full((size, most), IGNORE)
    for row in range(size):
        chosen = torch.randperm(NUM_PATCHES, generator=generator)[: max(0, most - 2 * (row % 2))].sort().values
        masked[row, chosen] = True
        positions[row, : len(chosen)] = chosen
        labels[row, : len(chosen)] = torch.randint(0, NUM_CODES, (len(chosen),), generator=generator)
    return masked, positions, labels


def caption(size: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """ids (B, T), keep (B, T): [CLS] words [SEP], the first row of full length, the others shorter, padded with 0."""
    ids = torch.zeros(size, length, dtype=torch.int64)
    for row in range(size):
        end = max(2, length - row % 4)
        ids[row, :end] = torch.randint(MASK + 1, VOCAB_SIZE, (end,), generator=generator)
        ids[row, 0], ids[row, end - 1] = CLS, SEP
    return ids, ids != 0


def hide_words(ids: Tensor, generator: torch.Generator, *, most: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """ids -> masked ids, positions (B, most), labels (B, most): `most` words of the first row, fewer in the others."""
    masked_ids = ids.clone()
    positions = torch.zeros(len(ids), most, dtype=torch.int64)
    labels = torch.full((len(ids), most), IGNORE)
    for row in range(len(ids)):
        words = (ids[row] > MASK).nonzero().flatten()
        chosen = words[torch.randperm(len(words), generator=generator)[: max(1, most - row)]].sort().values
        positions[row, : len(chosen)] = chosen
        labels[row, : len(chosen)] = ids[row, chosen]
        masked_ids[row, chosen] = MASK
    return masked_ids, positions, labels


def image_batch(size: int = 3, seed: int = 0) -> ImageBatch:
    """B images with up to 5 of 9 patches hidden."""
    generator = torch.Generator().manual_seed(seed)
    return ImageBatch(pixels(size, generator), *patch_mask(size, generator))


def text_batch(size: int = 3, seed: int = 0, *, length: int = 11) -> TextBatch:
    """B texts of up to `length` tokens with up to 2 hidden."""
    generator = torch.Generator().manual_seed(seed)
    ids, keep = caption(size, length, generator)
    masked_ids, positions, labels = hide_words(ids, generator)
    return TextBatch(masked_ids, keep, positions, labels)


def pair_batch(size: int = 3, seed: int = 0, *, length: int = 7, masked_length: int = 11) -> PairBatch:
    """B pairs; the second one's masked text is another's, the last one's clean text too."""
    generator = torch.Generator().manual_seed(seed)
    masked, patch_positions, patch_labels = patch_mask(size, generator)
    ids, keep = caption(size, length, generator)
    other, masked_keep = caption(size, masked_length, generator)
    masked_ids, token_positions, token_labels = hide_words(other, generator)
    return PairBatch(
        pixels=pixels(size, generator),
        masked=masked,
        patch_positions=patch_positions,
        patch_labels=patch_labels,
        ids=ids,
        keep=keep,
        masked_ids=masked_ids,
        masked_keep=masked_keep,
        token_positions=token_positions,
        token_labels=token_labels,
        matched=torch.arange(size) != 1,
        contrast=torch.arange(size) != max(1, size - 1),
    )


def batch_of(kind: str, size: int = 3, seed: int = 0) -> Batch:
    """A batch of one of `KINDS`."""
    return {"image": image_batch, "text": text_batch, "pair": pair_batch}[kind](size, seed)


def shallow() -> dict[str, nn.Module]:
    """One block in each encoder, for tests that compile."""
    return {
        "image": image_encoder(depth=1),
        "text": text_encoder(depth=1),
        "fusion": fusion_encoder(depth=1),
    }


def part(batch: Batch, rows: slice) -> Batch:
    """Those rows of a batch."""
    return type(batch)(*(tensor[rows] for tensor in batch))


def total(model: nn.Module, batch: Batch) -> Tensor:
    """The sum of the means of all losses."""
    return torch.stack(list(mean_losses(model(batch)).values())).sum()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients that are there, by name."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
