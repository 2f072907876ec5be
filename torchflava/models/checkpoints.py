"""The tensors in a file of weights, without what a training keeps around them: two networks, an optimizer, a wrapper's prefix.

DINO's training (facebookresearch/dino@04c0ad9, main_dino.py) saves `student`, `teacher`, `optimizer`, `epoch`, `args` and
`dino_loss`, in fp16 also `fp16_scaler`. Each network is a backbone and a head; the teacher, a running average of the student, is
what its authors evaluate and released.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from torchflava.codebooks.dalle_names import OPENAI_CLASSES
from torchflava.files import held_in, load_tensors, read_state
from torchflava.models.clip_files import check_not_scripted

_BESIDE_DINO = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
)
"""What stands in DINO's pickle beside tensors: its flags, and learning rates of numpy's type. It is parsed, not run."""


def tensors_in(path: Path, part: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in a file by name, and what else it holds that is left out, each with the reason.

    Args:
        path: of a file, or of a folder with one.
        part: which of several state dicts; of DINO's two networks the teacher, unless given.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds no such part or several, or more than tensors.
    """
    check_not_scripted(path)
    held = held_in(path, _BESIDE_DINO)
    if held.get("student") and held.get("teacher"):
        chosen = part or "teacher"
        tensors = read_state(path, _BESIDE_DINO, part=chosen)
        return unwrapped(tensors), {name: _why(name) for name in held if name != chosen}
    try:
        return unwrapped(load_tensors(path, part=part)), {}
    except ValueError as error:
        if "dall_e." not in str(error):
            raise
        return read_state(path, OPENAI_CLASSES, part=part), {}


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what wrappers put before all names of open_clip's CLIP and DINO's networks: `module.`, `_orig_mod.`."""
    found = dict(tensors)
    for wrapper in ("module.", "_orig_mod."):
        known = any(wrapper + name in found for name in ("logit_scale", "backbone.cls_token"))
        if known and all(name.startswith(wrapper) for name in found):
            found = {name.removeprefix(wrapper): tensor for name, tensor in found.items()}
    return found


def _why(name: str) -> str:
    if name in ("student", "teacher"):
        return f"the other network of DINO's training; part={name!r} reads it"
    return "what DINO's training goes on with"
