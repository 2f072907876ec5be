"""Two texts as one row of ids: [CLS] first [SEP] second [SEP] (Devlin et al. 2019, §3.1). FLAVA knows segment 0 alone."""

from torchflava.transforms.wordpiece import WordPiece


def encode_joined(tokenizer: WordPiece, first: str, second: str | None, *, max_length: int) -> list[int]:
    """One text or two -> at most `max_length` ids. Of two that are too long together, the longer one loses its end first.

    Raises:
        ValueError: for what is no text, or a `max_length` that leaves no room for the special tokens.
    """
    if second is None:
        return tokenizer.encode(first, max_length).ids
    if max_length < 3:
        raise ValueError(f"max_length is {max_length}: [CLS] and two [SEP] alone need 3")
    room = max_length - 3
    # The inner ids of each, of which no more than all the room can be needed.
    left, right = (tokenizer.encode(text, room + 2).ids[1:-1] for text in (first, second))
    if len(left) + len(right) > room:
        kept = room // 2
        if len(left) <= room - kept:
            right = right[: room - len(left)]
        elif len(right) <= kept:
            left = left[: room - len(right)]
        else:
            left, right = left[: room - kept], right[:kept]
    return [tokenizer.cls_id, *left, tokenizer.sep_id, *right, tokenizer.sep_id]
