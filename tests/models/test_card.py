"""A model's page: its lines of Python run, and of the places where data lie it tells the last names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import clip, clip_pretraining, flava, pretraining
from torch import nn

from torchflava.models import embeddings_for_classification, flava_for_classification, model_card, save_pretrained
from torchflava.models.card import without_places


@pytest.mark.parametrize(
    ("make", "computed"),
    [
        (flava, ("image", "text")),
        (pretraining, ("image", "text")),
        (clip_pretraining, ("image", "text")),
        (lambda: clip(end_id=5), ("image", "text")),
        (lambda: flava_for_classification(3, flava(), "pair", hidden=7), ("logits",)),
        (lambda: embeddings_for_classification(3, clip(end_id=5), "text", hidden=7), ("logits",)),
        (lambda: flava().image_encoder, ("states",)),
        (lambda: flava().text_encoder, ("states",)),
        (lambda: flava().fusion_encoder, ()),
    ],
)  # fmt: skip
def test_what_a_page_tells_to_do_it_does(
    make: Callable[[], nn.Module], computed: tuple[str, ...], tmp_path: Path
) -> None:
    save_pretrained(make(), tmp_path)
    page = model_card(make(), "me/small")
    names: dict[str, object] = {}
    code = page.partition("```python\n")[2].partition("```")[0]
    assert 'from_pretrained("me/small")' in code
    exec(code.replace("me/small", str(tmp_path)), names)
    for name in computed:
        found = names[name]
        assert isinstance(found, torch.Tensor)
        assert found.isfinite().all()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("/home/alice/pairs", "pairs"),
        ("/home/alice/pairs/", "pairs"),
        ("pairs=/home/alice/a,/home/alice/b", "pairs=a,b"),
        ("'/home/alice/a b'", "'a b'"),
        ('["/home/alice/a"]', '["a"]'),
        ("(/home/alice/a)", "(a)"),
        ("/home/alice/a;/home/alice/b", "a;b"),
        ("alice@host:/home/alice/a", "a"),
        ("~alice/a", "a"),
        ("$HOME/a", "a"),
        ("../alice/a", "a"),
        ("work/alice/shards-{000..009}.tar", "shards-{000..009}.tar"),
        ("s3://alice-bucket/key/a", "a"),
        ("https://alice:secret@host/a", "a"),
        ("pipe:cat /home/alice/a", "pipe:cat a"),
        ("C:\\Users\\alice\\a", "a"),
        ("facebook/flava-full", "facebook/flava-full"),
        ("image/text", "image/text"),
        ("1e-3", "1e-3"),
    ],
)
def test_where_data_lie_is_not_told(setting: str, told: str) -> None:
    assert without_places({"data": [setting]}) == {"data": [told]}
