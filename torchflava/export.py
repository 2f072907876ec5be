"""A trained model as files that need no torchflava: `python -m torchflava.export runs/first out --format onnx`.

(The weights of a run's checkpoint as one file are another thing: recipes/export.py.)
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:  # what takes seconds to import waits until the flags are known to be right
    from torchflava.models.architecture import Whole


@dataclass(frozen=True)
class Export:
    """Write a model's parts as ONNX or as torch.export's programs, with what it takes to use them."""

    source: Annotated[str, tyro.conf.Positional]
    """A run's folder, a file or folder of weights, or the name of a model on the Hugging Face Hub."""
    dest: Annotated[Path, tyro.conf.Positional]
    """The folder to write."""
    format: Literal["onnx", "pt2"] = "onnx"
    """onnx, for onnxruntime and others; pt2, for torch.export.load."""
    parts: tuple[Literal["image", "text", "pair", "classes"], ...] = ()
    """Which: embeddings of images, of texts, both with the fused states, or a fine-tuned model's classes. By default image
    and text, and of a fine-tuned model its classes."""
    revision: str = ""
    """Branch, tag or commit of a source on the Hub."""
    vocab: str = ""
    """Its vocabulary; by default the one beside the weights."""
    image_size: int = 0
    """Side of the images, to which the positions are resized; 0 leaves them."""
    check: bool = True
    """Run what was written beside the model, and refuse it if they differ."""
    overwrite: bool = False
    """Write into a folder that has files in it."""


def main(words: Sequence[str]) -> None:
    """Export, and say what was written."""
    asked = tyro.cli(Export, args=list(words), prog="python -m torchflava.export")
    try:
        print(export(asked))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"torchflava.export: {error}")


def export(asked: Export) -> str:
    """Write the files; what was written, in lines.

    Raises:
        ValueError: for a source that is no whole model, parts that it does not have, a vocabulary that is not its own, a
            destination that is not empty, and a program that does not compute what the model does.
        OSError: if something cannot be read or written.
        ModuleNotFoundError: if a package of the extra `export` is missing.
    """
    if asked.dest.is_file() or (asked.dest.is_dir() and any(asked.dest.iterdir()) and not asked.overwrite):
        raise ValueError(f"{asked.dest} is there and not empty; name another, or say --overwrite")
    from torchflava.models import write_exported
    from torchflava.models.hub import find_or_fetch
    from torchflava.transforms.tokenizer import tokenizer_beside

    source = find_or_fetch(asked.source, asked.revision or None)
    model, layout = _model(asked, source)
    tokenizer = tokenizer_beside(source, asked.vocab)
    parts = asked.parts or (("classes",) if hasattr(model, "classifier") else ("image", "text"))
    written = write_exported(model, asked.dest, parts, format=asked.format, tokenizer=tokenizer, check=asked.check)
    lines = [f"{asked.source} is {layout}", ""]
    for one in written:
        apart = "not checked" if one.worst is None else f"within {one.worst:.1e} of the model"
        lines.append(f"{one.file}: {one.part}, {apart}")
    lines.append(f"{asked.dest / 'export.json'}: inputs, outputs, and how images and texts become inputs")
    if tokenizer is not None:
        lines.append(f"{asked.dest / 'tokenizer.json'}: the vocabulary, for the package tokenizers")
    elif set(parts) - {"image"}:
        lines.append(f"no vocabulary lies beside {asked.source}: whoever uses it needs it; name it by --vocab")
    return "\n".join(lines)


def _model(asked: Export, source: Path) -> "tuple[Whole, str]":
    from torchflava.models import (
        Clip,
        EmbeddingsForClassification,
        Flava,
        FlavaForClassification,
        FlavaForPreTraining,
        load_pretrained,
    )

    loaded = load_pretrained(source, image_size=asked.image_size or None)
    whole = (Flava, Clip, FlavaForPreTraining, FlavaForClassification, EmbeddingsForClassification)
    if not isinstance(loaded.model, whole):
        raise ValueError(
            f"{asked.source} is {loaded.layout}; a whole model is due, with its image and its text encoder"
        )
    return loaded.model, loaded.layout


if __name__ == "__main__":
    main(sys.argv[1:])
