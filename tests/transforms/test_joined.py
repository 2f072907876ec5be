"""Two texts as one row, against the Rust tokenizer's own joining and cutting."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from torchflava.transforms import WordPiece, encode_joined

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "e", "##e"]
OURS = WordPiece.from_tokens(TOKENS)


def rust(max_length: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({t: n for n, t in enumerate(TOKENS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(max_length, strategy="longest_first")
    return tokenizer


@pytest.mark.parametrize("first", ["a", "a b c d e", "a a a a a a a a", "ae b"])
@pytest.mark.parametrize("second", ["b", "e d c b a", "b b b b b b b b b", ""])
@pytest.mark.parametrize("max_length", [5, 6, 7, 9, 10, 40])
def test_as_the_rust_tokenizer(first: str, second: str, max_length: int) -> None:
    assert encode_joined(OURS, first, second, max_length=max_length) == rust(max_length).encode(first, second).ids


def test_one_text_is_itself() -> None:
    assert encode_joined(OURS, "a b c", None, max_length=4) == OURS.encode("a b c", 4).ids == [2, 5, 6, 3]
    with pytest.raises(ValueError, match=r"max_length is 2: .* need 3"):
        encode_joined(OURS, "a", "b", max_length=2)
