"""Models of the small emoji of made_emoji.py that know each drawing, for `--model emoji_seers:NAME`."""

from collections.abc import Callable, Sequence

import torch
from evaluated import Evaluated
from made_emoji import drawings, metas
from torch import Tensor

from torchflava.transforms.image import decode_image

TOLD = [meta for meta in metas() if not meta["tones"]]


def knower(device: torch.device) -> Evaluated:
    """An image is the emoji that it is, a text the emoji that it is true of."""
    return _seer(lambda number: number)


def confused(device: torch.device) -> Evaluated:
    """Takes each emoji for another one, drawn once."""
    order = torch.randperm(len(TOLD), generator=torch.Generator().manual_seed(0)).tolist()
    return _seer(lambda number: order[number])


def _seer(taken_for: Callable[[int], int]) -> Evaluated:
    groups = sorted({told[level] for told in TOLD for level in ("group", "subgroup")})
    kinds = torch.tensor([[float(group in (told["group"], told["subgroup"])) for group in groups] for told in TOLD])
    numbers = {decode_image(data).numpy().tobytes(): number for number, data in drawings()}

    def embed_image(views: Tensor) -> Tensor:
        found = [taken_for(numbers.get(view.numpy().tobytes(), 0)) for view in views]
        return torch.eye(len(TOLD))[found]

    def embed_text(texts: Sequence[str]) -> Tensor:
        return torch.tensor([[float(_is_true(told, text)) for told in TOLD] for text in texts])

    return Evaluated(
        view=lambda image: image if image.shape[1:] == (24, 24) else image[:, :24, :24],
        features=lambda views: embed_image(views) @ kinds,
        embed_image=embed_image,
        embed_text=embed_text,
        match=lambda views, texts: (embed_image(views) * embed_text(texts)).sum(1),
    )


def _is_true(told: dict[str, object], text: str) -> bool:
    said = {told["name"], *told["keywords"], *(told[level].replace("-", " ") for level in ("group", "subgroup"))}
    return all(part in said for part in text.split("; "))
