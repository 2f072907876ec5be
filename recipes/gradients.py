"""A batch's gradients: at once, or in parts of `--micro-batch` rows a rank, which give the same."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from presets import Config
from torch import Tensor

from torchflava.batch import IGNORE, CachedPairBatch, RawBatch, RawPairBatch, RawTextBatch, split
from torchflava.codebooks import Codebook, codes_at
from torchflava.data.prepare import Encode, prepare
from torchflava.losses import mean_losses, weighted_sum
from torchflava.models import FlavaForPreTraining
from torchflava.models.labelled import labelled_rows
from torchflava.training import Across, accumulate
from torchflava.transforms.image import normalise

Means = dict[str, Tensor]


def gradients_of(
    raw: RawBatch,
    model: FlavaForPreTraining,
    codebook: Codebook | None,
    *,
    config: Config,
    device: torch.device,
    scale: Callable[[Tensor], Tensor],
) -> Means:
    """Add a batch's gradients to the model's; the means of its losses, without gradient.

    Args:
        raw: this rank's rows.
        model: may be sharded.
        codebook: gives the labels of patches, where `raw` does not have them; None where no loss asks for any.
        config: weights of the losses, kind of mean, rows of a part.
        device: this rank's.
        scale: of a loss, as float16 needs it.
    """

    def objective(means: Means) -> Tensor:
        return scale(weighted_sum(means, vars(config.weights)))

    raw = unlabelled(raw) if codebook is None else raw
    rows = config.micro_batch or len(raw[0])
    if rows >= len(raw[0]):
        means = mean_losses(model(prepare(raw, device, normalise, encode_by(codebook))), config.loss_mean)
        objective(means).backward()
        return {name: value.detach() for name, value in means.items()}
    parts = [_with_codes(part, device, codebook) for part in split(raw, rows)]
    make = partial(prepare, device=device, normalise=normalise, encode=encode_by(codebook))
    count = partial(prepare, device=device, normalise=_as_they_are, encode=encode_by(codebook))
    counts = [labelled_rows(count(part)) for part in parts]
    num_rows = {name: torch.stack([count[name] for count in counts]).sum() for name in counts[0]}
    across = _contrastive(model, device) if isinstance(raw, RawPairBatch) and model.contrastive is not None else None
    means_of = partial(mean_losses, over=config.loss_mean, num_rows=num_rows)
    return accumulate(model, parts, means_of, objective=objective, make=make, across=across)


def _as_they_are(pixels: Tensor) -> Tensor:
    """In place of normalising, where labels alone are looked at."""
    return pixels


def encode_by(codebook: Codebook | None) -> Encode:
    """A codebook's codes, as `prepare` asks for them; batches of texts, and those that are `unlabelled`, ask for none."""
    if codebook is not None:
        return partial(codes_at, codebook)

    def none(pixels: Tensor, positions: Tensor, *, num_patches: int) -> Tensor:
        raise ValueError("images need a codebook, and this run has none")

    return none


def unlabelled(raw: RawBatch) -> RawBatch:
    """The batch of a run without a codebook: no patch is asked for."""
    if isinstance(raw, RawTextBatch):
        return raw
    return raw._replace(targets=torch.full_like(raw.masked, IGNORE, dtype=torch.int64))


def _with_codes(raw: RawBatch, device: torch.device, codebook: Codebook | None) -> RawBatch:
    """The batch with codes in place of the codebook's views: a part is prepared more than once, and encoded once."""
    if isinstance(raw, RawTextBatch) or raw.targets.ndim == 2 or codebook is None:
        return raw  # without a codebook, preparing tells
    return raw._replace(targets=codebook.encode(raw.targets.to(device)))


def _contrastive(model: FlavaForPreTraining, device: torch.device) -> Across:
    def loss(image: Tensor, text: Tensor, parts: Sequence[Any]) -> Any:
        return model.contrast(image, text, torch.cat([part.contrast for part in parts]).to(device))

    return Across("contrastive", model.embed_pair, loss, CachedPairBatch)
