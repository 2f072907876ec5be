"""Bytes, pictures and strings in, rows and raw batches out, on the CPU; randomness comes in as a generator.

The modules with torchtext's names stand in `transforms.text`.
"""

from torchflava.transforms.augment import Augment, OnWhite, Relight
from torchflava.transforms.bpe import BytePair
from torchflava.transforms.collate import Collate, ImageRow, PairRow, TextRow
from torchflava.transforms.image import CorruptSample, EvalView, TrainViews, WholeView, decode_image, decoded, normalise
from torchflava.transforms.joined import encode_joined
from torchflava.transforms.masking import block_mask, mask_tokens, mask_whole_words
from torchflava.transforms.tokenizer import TextTokenizer, load_tokenizer, save_tokenizer
from torchflava.transforms.warp import Warp
from torchflava.transforms.wordpiece import TokenizedText, WordPiece

__all__ = [
    "Augment",
    "BytePair",
    "Collate",
    "CorruptSample",
    "EvalView",
    "ImageRow",
    "OnWhite",
    "PairRow",
    "Relight",
    "TextRow",
    "TextTokenizer",
    "TokenizedText",
    "TrainViews",
    "Warp",
    "WholeView",
    "WordPiece",
    "block_mask",
    "decode_image",
    "decoded",
    "encode_joined",
    "load_tokenizer",
    "mask_tokens",
    "mask_whole_words",
    "normalise",
    "save_tokenizer",
]
