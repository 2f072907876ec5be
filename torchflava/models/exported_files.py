"""The folder of an exported model: a program for each part, its vocabulary, and `export.json`, which says how they are used."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from torchflava.losses import ContrastiveLoss
from torchflava.models.architecture import Whole
from torchflava.models.clip import Clip
from torchflava.models.exported import Exported, Part, eager, export_part, inputs_for, max_length_of, to_onnx
from torchflava.models.flava import Flava
from torchflava.models.written import write_json
from torchflava.transforms.bpe import BytePair
from torchflava.transforms.image import MEAN, STD
from torchflava.transforms.tokenizer import TextTokenizer

Format = Literal["onnx", "pt2"]
FORMATS: tuple[Format, ...] = get_args(Format)
CLOSE = 1e-4
"""The greatest difference, to the greatest output, between a written program and the model that counts as none."""

_TYPES = {"pixels": "float32", "ids": "int64", "keep": "bool"}


class Checked(NamedTuple):
    """A program that was written, and how far it is from the model."""

    part: Part
    file: Path
    worst: float | None
    """The greatest difference between its outputs and the model's, of several batch sizes and lengths; None: not looked at."""


def write_exported(
    model: Whole,
    directory: str | Path,
    parts: Sequence[Part],
    *,
    format: Format = "onnx",
    tokenizer: TextTokenizer | None = None,
    check: bool = True,
) -> list[Checked]:
    """Write the parts of a model into a folder, with `export.json` and, if given, the vocabulary as `tokenizer.json`.

    Args:
        model: not sharded.
        directory: made if it is not there; files of the same names are replaced.
        parts: which; see `export_part`.
        format: `onnx`, for onnxruntime and others, or `pt2`, for `torch.export.load`.
        tokenizer: the model's own.
        check: run what was written, in onnxruntime or in torch, beside the model.

    Raises:
        ModuleNotFoundError: if a package of the extra `export` is missing.
        ValueError: for parts that the model does not have, a tokenizer of another vocabulary, and if what was written does
            not compute what the model does.
    """
    encoders: Any = model if isinstance(model, Flava | Clip) else model.flava
    if format not in FORMATS or not parts:
        raise ValueError(
            f"format is {format!r} and parts are {list(parts)}; one of {', '.join(FORMATS)}, and parts, are due"
        )
    if tokenizer is not None and tokenizer.vocab_size > encoders.text_encoder.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model knows {encoders.text_encoder.vocab_size}; give its own"
        )
    folder = Path(directory)
    traced = [export_part(model, part) for part in parts]
    folder.mkdir(parents=True, exist_ok=True)
    written = [_write(model, one, folder / f"{one.part}.{format}", check=check) for one in traced]
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer.json")
    told = _told(model, traced, format, tokenizer=tokenizer)
    write_json(folder / "export.json", told)
    return written


def _write(model: Whole, exported: Exported, file: Path, *, check: bool) -> Checked:
    if file.suffix == ".onnx":
        to_onnx(exported).save(str(file))
    else:
        torch.export.save(exported.program, file)
    if not check:
        return Checked(exported.part, file, None)
    try:
        return Checked(exported.part, file, _worst(model, exported, file))
    except (ValueError, ModuleNotFoundError):
        file.unlink()
        raise


def _worst(model: Whole, exported: Exported, file: Path) -> float:
    """The greatest difference between a written program and the model.

    Raises:
        ValueError: if it is one.
        ModuleNotFoundError: if onnxruntime is missing.
    """
    longest = max_length_of(model)
    lengths = sorted({1, min(4, longest), longest}) if "ids" in exported.inputs else [1]
    worst = 0.0
    run = _onnx(file) if file.suffix == ".onnx" else _pt2(file)
    for size in (1, 3):
        for length in lengths:
            given = inputs_for(model, exported, size=size, length=length, seed=size)
            found = run(given)
            for name, due in eager(model, exported, given).items():
                apart = float((found[name] - due.to("cpu")).abs().max())
                worst = max(worst, apart)
                if not apart <= CLOSE * max(1.0, float(due.abs().max())):
                    raise ValueError(
                        f"{file.name}: {name} of {size} rows and {length} tokens differs by {apart:.2g} from the model's; "
                        "it was not kept"
                    )
    return worst


def _onnx(file: Path) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "onnxruntime is not installed: pip install 'torchflava[export]', or leave the check out"
        ) from error
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = session.run(names, {name: np.asarray(tensor.to("cpu")) for name, tensor in given.items()})
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    return run


def _pt2(file: Path) -> Any:
    program = torch.export.load(file).module()

    def run(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return {name: tensor.to("cpu") for name, tensor in program(*given.values()).items()}

    return run


def _told(
    model: Whole, traced: Sequence[Exported], format: Format, *, tokenizer: TextTokenizer | None
) -> dict[str, Any]:
    from torchflava import __version__

    encoders: Any = model if isinstance(model, Flava | Clip) else model.flava
    reads_texts = any("ids" in one.inputs for one in traced)
    side = encoders.image_encoder.image_size
    contrastive = getattr(model, "contrastive", None)
    scale = float(contrastive.log_scale.detach().exp()) if isinstance(contrastive, ContrastiveLoss) else None
    texts = ["batch", 1 if reads_texts and max_length_of(model) == 1 else "length"]
    shapes = {"pixels": ["batch", 3, side, side], "ids": texts, "keep": texts}
    parts = {
        one.part: {
            "file": f"{one.part}.{format}",
            "inputs": [{"name": name, "shape": shapes[name], "type": _TYPES[name]} for name in one.inputs],
            "outputs": list(one.outputs),
        }
        for one in traced
    }
    return {
        "made_by": f"torchflava {__version__}",
        "model": type(encoders).__name__,
        "format": format,
        "parts": parts,
        "image": _of_images(side) if any("pixels" in one.inputs for one in traced) else None,
        "text": _of_texts(model, tokenizer) if reads_texts else None,
        "logit_scale": scale,
    }


def _of_images(side: int) -> dict[str, Any]:
    """How an image becomes `pixels`, as `transforms.image.EvalView` and `normalise` do it."""
    return {
        "size": side,
        "crop": "the largest square in the middle",
        "resize": "that square to size, bicubic with antialiasing",
        "channels": "RGB",
        "rescale": 1 / 255,
        "mean": list(MEAN),
        "std": list(STD),
    }


def _of_texts(model: Whole, tokenizer: TextTokenizer | None) -> dict[str, Any]:
    """How a text becomes `ids` and `keep`."""
    encoders: Any = model if isinstance(model, Flava | Clip) else model.flava
    told = {
        "max_length": max_length_of(model),
        "vocab_size": encoders.text_encoder.vocab_size,
        "pad_id": getattr(encoders.text_encoder, "pad_id", 0),
        "padding": "behind the text; keep is true for tokens and false for padding",
        "tokenizer": None,
    }
    if tokenizer is None:
        return told
    kind = "byte-level BPE, CLIP's" if isinstance(tokenizer, BytePair) else "WordPiece, BERT's"
    named = {"start_id": tokenizer.cls_id, "end_id": tokenizer.sep_id}
    return told | {"tokenizer": "tokenizer.json", "kind": kind, "pad_id": tokenizer.pad_id} | named
