"""Pixels to codes, frozen, outside the model (paper §3.2): OpenAI's dVAE, one fitted on the spot, codes from a cache.

A third one needs only what `Codebook` names. `DiscreteVae` is the dVAE as it is trained, whose encoder then is a codebook.
"""

import os

from torchflava.codebooks.cached import CachedCodes, encode_all, fingerprint
from torchflava.codebooks.codebook import Codebook, CodeUsage, check_pixels, code_usage, codes_at
from torchflava.codebooks.dalle import DalleCodebook
from torchflava.codebooks.dalle_decoder import DalleDecoder
from torchflava.codebooks.dalle_pixels import map_pixels, unmap_pixels
from torchflava.codebooks.dvae import (
    DiscreteVae,
    DvaeBatch,
    Reconstructed,
    clustered_logits,
    discrete_vae,
    gumbel_noise,
    relaxed_codes,
    save_codebook,
)
from torchflava.codebooks.patches import PatchCodebook, fit_patches
from torchflava.files import load_metadata

__all__ = [
    "CachedCodes",
    "CodeUsage",
    "Codebook",
    "DalleCodebook",
    "DalleDecoder",
    "DiscreteVae",
    "DvaeBatch",
    "PatchCodebook",
    "Reconstructed",
    "check_pixels",
    "clustered_logits",
    "code_usage",
    "codes_at",
    "discrete_vae",
    "encode_all",
    "fingerprint",
    "fit_patches",
    "gumbel_noise",
    "load_codebook",
    "map_pixels",
    "relaxed_codes",
    "save_codebook",
    "unmap_pixels",
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
