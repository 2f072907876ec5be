"""Two texts as one row of ids: [CLS] first [SEP] second [SEP] (Devlin et al. 2019, §3.1). FLAVA knows segment 0 alone."""

from torchflava.transforms.tokenizer import TextTokenizer

_WHOLE = 1 << 24  # ids of a text, of which there are fewer


def encode_joined(tokenizer: TextTokenizer, first: str, second: str | None, *, max_length: int) -> list[int]:
    """One text or two -> at most `max_length` ids. Of two that are too long together, the longer one loses its end first.

    Raises:
        ValueError: for what is no text, or a `max_length` that leaves no room for the special tokens.
    """
    if second is None:
        return tokenizer.encode(first, max_length).ids
    if max_length < 3:
        raise ValueError(f"max_length is {max_length}: [CLS] and two [SEP] alone need 3")
    room = max_length - 3
    left, right = (tokenizer.encode(text, _WHOLE).ids[1:-1] for text in (first, second))
    if len(left) + len(right) > room:
        # What the shorter one leaves, else half each; an odd one goes to the longer, as the Rust tokenizer does it.
        short = min(len(left), len(right), room // 2)
        num_left = short if len(left) <= len(right) else room - short
        left, right = left[:num_left], right[: room - num_left]
    return [tokenizer.cls_id, *left, tokenizer.sep_id, *right, tokenizer.sep_id]
