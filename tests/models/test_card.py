"""What a model's page tells of the places where its data lie: their last names."""

import pytest

from torchflava.models.card import without_places


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
