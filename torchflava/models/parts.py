"""What a model asks of the encoders that it was given, whoever wrote them."""

from collections.abc import Mapping

from torch import nn


def check_widths(parts: Mapping[str, object]) -> None:
    """See that each part, by name, says how wide its states are.

    Raises:
        ValueError: for one that does not.
    """
    for name, part in parts.items():
        if not isinstance(getattr(part, "width", None), int):
            raise ValueError(f"the {name} part, a {type(part).__name__}, has no `width`; set it to the states' width")


def resize_encoder(encoder: object, image_size: int) -> None:
    """Resize an image encoder's positions, for good, to images of another size.

    Raises:
        ValueError: for one that offers no `resize`.
    """
    resize = getattr(encoder, "resize", None)
    if resize is None:
        raise ValueError(f"a {type(encoder).__name__} has no `resize`; build it for {image_size} px")
    resize(image_size)


def units_of(encoder: nn.Module) -> list[nn.Module]:
    """The parts of an encoder to shard one by one: its `units()`, or the encoder itself where it offers none."""
    offered = getattr(encoder, "units", None)
    return [encoder] if offered is None else list(offered())
