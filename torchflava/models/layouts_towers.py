"""The names of one of FLAVA's encoders in a file of its own: transformers' `FlavaImageModel` and its like, and ours."""

from torchflava.models.layout import Layout, Rows, as_ours
from torchflava.models.layouts_own import BEIT
from torchflava.models.layouts_shared import encoder_rows, unused
from torchflava.models.layouts_transformers import LEAVES

_CLASSES = {
    "image_encoder": ("FlavaImageModel", "ImageEncoder"),
    "text_encoder": ("FlavaTextModel", "TextEncoder"),
    "fusion_encoder": ("FlavaMultimodalModel", "FusionEncoder"),
}


def _within(rows: Rows, ours: str, theirs: str) -> Rows:
    """The rows of one encoder, whose names there begin after `theirs`."""
    return tuple(
        row._replace(theirs=tuple(tuple(name.removeprefix(theirs) for name in names) for names in row.theirs))
        for row in rows
        if row.ours.startswith(f"{ours}.")
    )


def _transformers(name: str) -> Layout:
    tower = LEAVES.towers[name]
    pooler = (r"pooler\.dense\.(weight|bias)", "an encoder's pooler, which no objective reads")
    constants = tuple((pattern.replace(rf"{tower}\.", ""), why) for pattern, why in unused(LEAVES)[1:2])
    rows = _within(encoder_rows(LEAVES, "", ""), name, f"{tower}.")
    mask = tuple(row for row in rows if row.ours.endswith("mask_token"))  # which a config can leave out
    rows, parts = tuple(row for row in rows if row not in mask), (mask,) if mask else ()
    return Layout(
        f"transformers' {_CLASSES[name][0]}", rows, parts, unused=(pooler, *constants), attend_to_padding=(False, True)
    )


def _own(name: str) -> Layout:
    rows = _within(as_ours(encoder_rows(LEAVES, "", "")), name, f"{name}.")
    parts = (_within(BEIT, name, f"{name}."),) if name == "image_encoder" else ()
    return Layout(f"torchflava's {_CLASSES[name][1]}", rows, parts)


TRANSFORMERS = tuple(map(_transformers, _CLASSES))
"""What transformers writes."""
OWN = tuple(map(_own, _CLASSES))
"""What this project writes."""
LAYOUTS = (*TRANSFORMERS, *OWN)
"""All."""
