"""Pixels to codes, frozen, outside the model (paper §3.2): OpenAI's dVAE, one fitted on the spot, codes from a cache.

A third one needs only what `Codebook` names.
"""

import os

from torchflava.codebooks.cached import CachedCodes, encode_all, fingerprint
from torchflava.codebooks.codebook import Codebook, CodeUsage, check_pixels, code_usage, codes_at
from torchflava.codebooks.dalle import DalleCodebook, map_pixels
from torchflava.codebooks.patches import PatchCodebook, fit_patches
from torchflava.files import load_metadata

__all__ = [
    "CachedCodes",
    "CodeUsage",
    "Codebook",
    "DalleCodebook",
    "PatchCodebook",
    "check_pixels",
    "code_usage",
    "codes_at",
    "encode_all",
    "fingerprint",
    "fit_patches",
    "load_codebook",
    "map_pixels",
]


def load_codebook(path: str | os.PathLike[str]) -> DalleCodebook | PatchCodebook:
    """The codebook in a file, of whichever kind: a run folder's `codebook.safetensors`, or the weights of a dVAE.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or holds no codebook.
    """
    if load_metadata(path).get("codebook") == "patches":
        return PatchCodebook.from_file(path)
    return DalleCodebook.from_file(path)
