"""The page of a model on the Hugging Face Hub: what it is, how large, how it was trained, and how to load it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torchflava.codebooks import DalleCodebook, PatchCodebook
from torchflava.encoders import TextEncoder
from torchflava.models.alone import Encoder
from torchflava.models.architecture import Whole, settings_of, tower_sizes
from torchflava.models.classification import EmbeddingsForClassification, FlavaForClassification
from torchflava.models.clip import Clip
from torchflava.models.flava import Flava
from torchflava.models.pretraining import FlavaForPreTraining

_LOSSES = {
    "mim": "masked image modelling",
    "mlm": "masked language modelling",
    "mmm_image": "masked multimodal modelling, image codes",
    "mmm_text": "masked multimodal modelling, words",
    "itm": "image-text matching",
    "contrastive": "global contrastive loss",
}
_PLACE = re.compile(r"""[^\s=,;'"()\[\]]*[/\\][^\s=,;'"()\[\]]*""")
_ON_HUB = re.compile(r"\w[\w.-]*/[\w.-]+")
"""OWNER/NAME, and whatever else has one slash in its middle."""
_MOST_SETTINGS = 80  # of a run, so that a page stays a page


Book = DalleCodebook | PatchCodebook
"""A codebook by itself."""


class Facts(NamedTuple):
    """What a user says of a model that its tensors do not."""

    license: str | None = None
    """Its name as the Hub spells it, such as `bsd-3-clause`."""
    datasets: tuple[str, ...] = ()
    """That it was trained on, by their names on the Hub."""
    languages: tuple[str, ...] = ()
    """Of its texts, as the Hub spells them, such as `en`."""


def model_card(
    model: Whole | Encoder | Book, name: str, *, facts: Facts | None = None, run: str | Path | None = None
) -> str:
    """The text of README.md for a model, or a codebook, on the Hub, front matter first.

    Args:
        model: that is described.
        name: OWNER/NAME, under which it will be loaded.
        facts: what its tensors do not say; a licence that is not given is left to the user to state.
        run: the folder of the run that trained it, whose settings and results are told.

    Raises:
        ValueError: for a run's folder with a damaged config.json.
    """
    facts = facts or Facts()
    blocks = [
        _front_matter(model, facts),
        f"# {name.rpartition('/')[2]}",
        _what_it_is(model),
        f"## Use\n\n```python\n{_use(model, name)}\n```",
        f"## Sizes\n\n{_sizes_of_codebook(model) if isinstance(model, Book) else _sizes(model)}",
    ]
    if not isinstance(model, Book):
        blocks.append(f"## Settings\n\n{_table(('setting', 'value'), _settings(model))}")
    if isinstance(model, FlavaForPreTraining):
        there = [(f"`{key}`", told) for key, told in _LOSSES.items() if getattr(model, key) is not None]
        blocks.append(f"## Losses that it has heads for\n\n{_table(('loss', 'is'), there)}")
    if run is not None:
        blocks.append(_training(Path(run)))
    if facts.license is None:
        blocks.append("## Licence\n\nNot stated yet: add `license:` to the lines at the top of this page.")
    return "\n\n".join(blocks) + "\n"


def _front_matter(model: Whole | Encoder | Book, facts: Facts) -> str:
    lines = ["---", "library_name: torchflava"]
    lines += [f"license: {json.dumps(facts.license)}"] * (facts.license is not None)
    lines += [f"pipeline_tag: {_pipeline(model)}"]
    for key, values in (("language", facts.languages), ("datasets", facts.datasets), ("tags", tuple(_tags(model)))):
        lines += [f"{key}:", *(f"- {json.dumps(value)}" for value in values)] if values else []
    return "\n".join([*lines, "---"])


def _tags(model: Whole | Encoder | Book) -> list[str]:
    if isinstance(model, Book):
        return ["torchflava", "codebook", "dvae" if isinstance(model, DalleCodebook) else "k-means"]
    flava = model if isinstance(model, Flava | Clip) else getattr(model, "flava", None)
    own = "clip" if isinstance(flava, Clip) else "flava"
    return ["torchflava", own, *(["vision-language", "multimodal"] if flava is not None else [])]


def _pipeline(model: Whole | Encoder | Book) -> str:
    """What the Hub calls what it is for."""
    if isinstance(model, Book):
        return "image-feature-extraction"
    if isinstance(model, FlavaForClassification | EmbeddingsForClassification):
        usual = {"image": "image-classification", "text": "text-classification"}
        return usual.get(model.reads, "visual-question-answering")
    contrastive = isinstance(model, Clip) or getattr(model, "contrastive", None) is not None
    return "zero-shot-image-classification" if contrastive else "feature-extraction"


def _what_it_is(model: Whole | Encoder | Book) -> str:
    if isinstance(model, Book):
        kinds = {
            DalleCodebook: "the encoder of a discrete VAE as [DALL-E's](https://arxiv.org/abs/2102.12092)",
            PatchCodebook: "patches of images, found by k-means",
        }
        does = f"It tells which of {model.num_codes:,} codes each patch of an image has"
        learns = "[FLAVA](https://arxiv.org/abs/2112.04482) learns to predict the codes of hidden patches"
        return f"A codebook, torchflava's `{type(model).__name__}`: {kinds[type(model)]}. {does}; {learns}."
    flava = model if isinstance(model, Flava | Clip) else getattr(model, "flava", None)
    count = sum(parameter.numel() for parameter in model.parameters())
    kind = type(model).__name__
    if flava is None:
        told = f"One encoder of [FLAVA](https://arxiv.org/abs/2112.04482) by itself, torchflava's `{kind}`"
    elif isinstance(flava, Clip):
        told = f"A CLIP, the baseline of the [FLAVA paper](https://arxiv.org/abs/2112.04482), a `{kind}` of torchflava"
    else:
        told = f"A [FLAVA](https://arxiv.org/abs/2112.04482), a `{kind}` of torchflava"
    return f"{told}: {f'{count / 1e6:,.1f} million' if count >= 1e6 else f'{count:,}'} weights."


def _use(model: Whole | Encoder | Book, name: str) -> str:
    if isinstance(model, Book):
        return _use_of_codebook(model, name)
    lines = ["import torch", "from torchflava import from_pretrained", "", f'model = from_pretrained("{name}")']
    flava: Any = model if isinstance(model, Flava | Clip) else getattr(model, "flava", model)
    image = getattr(flava, "image_encoder", flava)
    size, ids = getattr(image, "image_size", None), _ids(getattr(flava, "text_encoder", flava))
    pixels = f"torch.zeros(1, 3, {size}, {size})"
    if isinstance(model, FlavaForClassification | EmbeddingsForClassification):
        given = {"image": pixels, "text": f"ids={ids}"}.get(model.reads, f"{pixels}, {ids}")
        lines.append(f"logits = model({given})")
    elif flava is not model or isinstance(model, Flava | Clip):
        lines.append(f"image = model.embed_image({pixels})  # normalised; of length 1")
        lines.append(f"text = model.embed_text({ids})")
    elif size is not None:
        lines.append(f"states = model({pixels}).normed")
    elif isinstance(model, TextEncoder):
        lines.append(f"states = model({ids}).normed")
    return "\n".join(lines)


def _ids(text: object) -> str:
    """A text of three tokens, of which the last one ends it where the encoder asks for that."""
    tokens = [id for id in range(1, 5) if id != getattr(text, "pad_id", 0)][:3]
    end = getattr(text, "end_id", None)
    return f"torch.tensor([{tokens if end is None else [*tokens[:2], end]}])"


def _sizes(model: Whole | Encoder) -> str:
    state = dict(model.state_dict())
    names = [name for name in ("image", "text", "fusion") if any(f"{name}_encoder." in key for key in state)]
    if not names:
        state, names = {f"image_encoder.{key}": value for key, value in state.items()}, [type(model).__name__]
    heads = settings_of(model).num_heads
    rows = [
        (name, str(size.width), str(size.depth), str(num_heads), str(size.hidden))
        for name, size, num_heads in zip(names, tower_sizes(state), heads, strict=True)
    ]
    return _table(("encoder", "width", "blocks", "heads", "inside the MLPs"), rows)


def _use_of_codebook(codebook: Book, name: str) -> str:
    size, (rows, columns) = codebook.image_size, codebook.grid
    return "\n".join(
        (
            "import torch",
            "from torchflava import from_pretrained",
            "",
            f'codebook = from_pretrained("{name}")',
            f"pixels = torch.zeros(1, 3, {size}, {size}, dtype=torch.uint8)  # from 0 to 255",
            f"codes = codebook.encode(pixels)  # (1, {rows * columns}), row by row",
            f"# A run learns to predict them by: recipes/pretrain.py --codebook {name} --code-size {size}",
        )
    )


def _sizes_of_codebook(codebook: Book) -> str:
    (rows, columns), size = codebook.grid, codebook.image_size
    read = f"{size} px" if isinstance(codebook, PatchCodebook) else f"{size} px, or another multiple of 8"
    return _table(
        ("codes", "images", "patches"),
        [(f"{codebook.num_codes:,}", read, f"{rows} x {columns}, each of {size // rows} px")],
    )


def _settings(model: Whole | Encoder) -> list[tuple[str, str]]:
    flava: Any = getattr(model, "flava", model)
    found = [
        ("image size, patch size", _pixels(getattr(flava, "image_encoder", flava))),
        ("words", _number(getattr(flava, "text_encoder", flava), "vocab_size")),
        ("longest text, in tokens", _number(getattr(flava, "text_encoder", flava), "max_length")),
        ("embedding", _number(flava, "embed_dim")),
        ("codes", _number(getattr(model, "mim", None) or getattr(model, "mmm_image", None), "num_codes")),
    ]
    return [(name, value) for name, value in found if value] + [
        (f"`{name}`", f"`{value}`") for name, value in settings_of(model)._asdict().items() if name != "num_heads"
    ]


def _pixels(image: object) -> str:
    embed = getattr(image, "embed", None)
    size = getattr(embed, "image_size", None)
    return f"{size} px, {getattr(embed, 'patch_size', '?')} px" if size else ""


def _number(part: object, name: str) -> str:
    value = getattr(part, name, None)
    return f"{value:,}" if isinstance(value, int) else ""


def _training(run: Path) -> str:
    """What a run's folder says of how the model was trained."""
    told = [f"## Training\n\nBy a recipe of torchflava, in the run `{run.resolve().name}`."]
    settings = _read(run / "config.json")
    if settings:
        rows = [(f"`{key}`", f"`{value}`") for key, value in _flat(without_places(settings))][:_MOST_SETTINGS]
        told.append(f"### Settings\n\n{_table(('setting', 'value'), rows)}")
    readings = _read(run / "result.json").get("readings")
    if isinstance(readings, Mapping):
        measured = [
            (str(name), _rounded(found, "value"), _rounded(found, "chance")) for name, found in readings.items()
        ]
        told.append(f"### Measured on data that were held out\n\n{_table(('what', 'value', 'by chance'), measured)}")
    return "\n\n".join(told)


def _read(file: Path) -> dict[str, Any]:
    """The settings in a file; none where it is not."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); leave the run out, or repair it") from error
    return content if isinstance(content, dict) else {}


def _rounded(found: object, key: str) -> str:
    value = found.get(key) if isinstance(found, Mapping) else None
    return f"{value:.4g}" if isinstance(value, int | float) else ""


def without_places(content: Any) -> Any:
    """Settings in which a folder, file or bucket is called by its last name only: where it lies is the user's own affair."""
    if isinstance(content, Mapping):
        return {key: without_places(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_places(value) for value in content]
    return _PLACE.sub(_last_name, content) if isinstance(content, str) else content


def _last_name(place: re.Match[str]) -> str:
    return place[0] if _ON_HUB.fullmatch(place[0]) else re.split(r"[/\\]", place[0].rstrip("/\\"))[-1]


def _flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as one list of names with dots."""
    if not isinstance(content, Mapping):
        return [(prefix, json.dumps(content))]
    return [pair for key, value in content.items() for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )
