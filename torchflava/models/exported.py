"""A model as programs that need no torchflava: traced by `torch.export`, and as ONNX through it.

Letters: B batch, S side in pixels, N patches, T tokens, D width, E embedding width, C classes.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from torchflava.models.architecture import Whole
from torchflava.models.classification import EmbeddingsForClassification, FlavaForClassification
from torchflava.models.clip import Clip
from torchflava.models.flava import Flava

Part = Literal["image", "text", "pair", "classes"]
PARTS: tuple[Part, ...] = get_args(Part)
"""What can be exported: the two embeddings, both with the fused states, and the logits of a fine-tuned model."""

_PIXELS, _IDS, _KEEP = "pixels", "ids", "keep"


class Exported(NamedTuple):
    """A traced part of a model."""

    part: Part
    program: ExportedProgram
    inputs: tuple[str, ...]
    """Names, in their order: `pixels` (B, 3, S, S) float32, `ids` (B, T) int64, `keep` (B, T) bool, True for a token."""
    outputs: tuple[str, ...]
    """Names, in their order; all float32, with the batch first."""


def export_part(model: Whole, part: Part) -> Exported:
    """Trace one part of a model, with any batch size and any length of texts up to the longest.

    - `image`: pixels -> image_embedding (B, E), of length 1.
    - `text`: ids, keep -> text_embedding (B, E), of length 1.
    - `pair`: pixels, ids, keep -> both embeddings and, of FLAVA, fused_cls (B, D), fused_image (B, N, D) and fused_text
      (B, T, D) with, where it has a head for matching, match_logits (B, 2), whose second says that they go together.
    - `classes`: what a fine-tuned model reads -> class_logits (B, C).

    The values of ids and masks are not checked in a traced program: an id beyond the vocabulary is the runtime's error, and
    padding goes behind a text.

    Args:
        model: not sharded; on any device, where the program will run. It is traced as in evaluation.
        part: one of `PARTS`.

    Raises:
        ValueError: for a part that this model does not have.
    """
    if part not in PARTS:
        raise ValueError(f"no part is called {part!r}; there are {', '.join(PARTS)}")
    traced, inputs = _module(model, part)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = tuple(traced(*_example(model, inputs)))
            shapes = _dynamic(model, inputs)
            program = torch.export.export(traced, _example(model, inputs), dynamic_shapes=(shapes,))
    finally:
        model.train(training)
    return Exported(part, program, inputs, outputs)


def parts_of(model: Whole) -> tuple[Part, ...]:
    """The parts that a model has."""
    if isinstance(model, FlavaForClassification | EmbeddingsForClassification):
        return ("image", "text", "pair", "classes")
    return ("image", "text", "pair")


def to_onnx(exported: Exported) -> Any:
    """An `onnx_program` of torch's, whose `save(file)` writes it.

    Raises:
        ModuleNotFoundError: if onnx and onnxscript are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error.name} is not installed: pip install 'torchflava[export]'") from error
    # With gradients another kernel of attention is chosen when torch looks at the shapes anew; and it tells of each step.
    with torch.no_grad(), redirect_stdout(io.StringIO()):
        return torch.onnx.export(
            exported.program,
            dynamo=True,
            input_names=list(exported.inputs),
            output_names=list(exported.outputs),
            verbose=False,
        )


def inputs_for(model: Whole, exported: Exported, *, size: int, length: int, seed: int = 0) -> dict[str, Tensor]:
    """Made-up inputs by name, for a comparison: texts of several lengths, padded behind their ends.

    Args:
        model: what was exported.
        exported: which part.
        size: B.
        length: T, of the longest text.
        seed: of the random numbers.
    """
    return dict(zip(exported.inputs, _example(model, exported.inputs, size, length, seed=seed), strict=True))


def eager(model: Whole, exported: Exported, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the model itself gives for these inputs, by the names of the outputs."""
    with torch.no_grad():
        return dict(_module(model.eval(), exported.part)[0](*(inputs[name] for name in exported.inputs)))


class _Traced(nn.Module):
    """A part of a model by itself: tensors in by position, tensors out by name."""

    def __init__(self, model: nn.Module, compute: Callable[..., dict[str, Tensor]]) -> None:
        super().__init__()
        self.model = model
        self.compute = compute

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Inputs in the order of their names -> outputs by name."""
        return self.compute(*inputs)


def _module(model: Whole, part: Part) -> tuple[_Traced, tuple[str, ...]]:
    encoders: Flava | Clip = model if isinstance(model, Flava | Clip) else model.flava
    if part == "classes":
        if not isinstance(model, FlavaForClassification | EmbeddingsForClassification):
            raise ValueError(f"a {type(model).__name__} has no classifier; its parts are {', '.join(parts_of(model))}")
        inputs = {"image": (_PIXELS,), "text": (_IDS, _KEEP), "pair": (_PIXELS, _IDS, _KEEP)}[model.reads]
        return _Traced(model, lambda *given: {"class_logits": model(**dict(zip(inputs, given, strict=True)))}), inputs
    if part == "image":
        return _Traced(model, lambda pixels: {"image_embedding": encoders.embed_image(pixels)}), (_PIXELS,)
    if part == "text":
        return _Traced(model, lambda ids, keep: {"text_embedding": encoders.embed_text(ids, keep)}), (_IDS, _KEEP)
    return _Traced(model, lambda *given: _pair(model, *given)), (_PIXELS, _IDS, _KEEP)


def _pair(model: Whole, pixels: Tensor, ids: Tensor, keep: Tensor) -> dict[str, Tensor]:
    encoders: Flava | Clip = model if isinstance(model, Flava | Clip) else model.flava
    found = encoders(pixels, ids, keep)
    if isinstance(encoders, Clip):
        return {"image_embedding": found.image, "text_embedding": found.text}
    outputs = {
        "image_embedding": encoders.project_image(found.image.normed[:, 0]),
        "text_embedding": encoders.project_text(found.text.normed[:, 0]),
        "fused_cls": found.fused.cls,
        "fused_image": found.fused.image[:, 1:],
        "fused_text": found.fused.text,
    }
    itm = getattr(model, "itm", None)
    return outputs if itm is None else outputs | {"match_logits": itm(found.fused.cls)}


def _example(
    model: Whole, inputs: Sequence[str], size: int = 3, length: int | None = None, *, seed: int = 0
) -> tuple[Tensor, ...]:
    encoders: Any = model if isinstance(model, Flava | Clip) else model.flava
    image, text = encoders.image_encoder, encoders.text_encoder
    generator = torch.Generator().manual_seed(seed)
    longest = max_length_of(model)
    length = min(5, longest) if length is None else length
    ids = torch.randint(1, text.vocab_size, (size, length), generator=generator)
    ends = torch.arange(length, length - size, -1).clamp(min=min(2, length))
    keep = torch.arange(length) < ends[:, None]
    side = image.image_size
    made = {
        _PIXELS: torch.randn(size, 3, side, side, generator=generator),
        _IDS: ids.masked_fill(~keep, getattr(text, "pad_id", 0)),
        _KEEP: keep,
    }
    device = next(model.parameters()).device
    return tuple(made[name].to(device) for name in inputs)


def _dynamic(model: Whole, inputs: Sequence[str]) -> tuple[dict[int, Any], ...]:
    batch, longest = Dim("batch"), max_length_of(model)
    of_texts = (
        {0: batch} if longest == 1 else {0: batch, 1: Dim("length", max=longest)}
    )  # a single length is a constant
    return tuple({0: batch} if name == _PIXELS else of_texts for name in inputs)


def max_length_of(model: Whole) -> int:
    """The longest text that a model reads, in tokens.

    Raises:
        ValueError: for a text encoder of one's own that does not say it.
    """
    encoders: Any = model if isinstance(model, Flava | Clip) else model.flava
    longest = getattr(encoders.text_encoder, "max_length", None)
    if not isinstance(longest, int):
        raise ValueError(f"a {type(encoders.text_encoder).__name__} has no `max_length`; set it to its longest text")
    return longest
