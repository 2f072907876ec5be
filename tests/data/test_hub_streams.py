"""Streams of Hugging Face datasets: what resuming keeps, what it loses, and how ranks share them."""

import io
import json
import logging
import pickle
from itertools import islice

import pytest
from PIL import Image

datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'torchflava[hub]'")

from torchflava.data import hub_streams  # noqa: E402
from torchflava.data.hub_streams import ApproximateHubImages, ApproximateHubPairs, ApproximateHubTexts  # noqa: E402
from torchflava.data.samples import ImageSample, PairSample, TextSample  # noqa: E402


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def numbers(n: int, num_shards: int = 1):
    return datasets.Dataset.from_dict({"text": [str(i) for i in range(n)]}).to_iterable_dataset(num_shards)


def take(stream, n: int) -> list[int]:
    return [int(sample.text) for sample in islice(stream, n)]


@pytest.fixture
def as_rank(monkeypatch):
    def become(rank: int, world_size: int) -> None:
        monkeypatch.setattr(hub_streams, "rank", lambda: rank)
        monkeypatch.setattr(hub_streams, "world_size", lambda: world_size)

    return become


def test_samples_are_what_the_rows_hold():
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    columns = {"image": [png(0), None, png(2)], "caption": ["one", "two", " three "]}
    rows = datasets.Dataset.from_dict(columns, features=features).to_iterable_dataset()
    pairs, images = ApproximateHubPairs(rows), ApproximateHubImages(rows)
    first, third = PairSample(png(0), "one", "pairs/0/0"), PairSample(png(2), "three", "pairs/0/2")
    assert list(islice(pairs, 3)) == [first, third, first._replace(key="pairs/1/0")]
    assert (pairs.num_skipped, pairs.resume) == (1, "approximate")
    assert list(islice(images, 2)) == [ImageSample(png(0), "images/0/0"), ImageSample(png(2), "images/0/2")]
    assert next(ApproximateHubTexts(rows, "caption")) == TextSample("one", "texts/0/0")


def test_each_text_of_a_list_is_a_sample():
    rows = datasets.Dataset.from_dict({"text": [["1", "", "2"], [], ["3"]]}).to_iterable_dataset()
    texts = ApproximateHubTexts(rows)
    assert (take(texts, 3), texts.num_skipped) == ([1, 2, 3], 1)


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("stop", [0, 1, 5, 11, 12, 17])
def test_without_a_buffer_nothing_is_lost(num_shards, stop):
    whole = take(ApproximateHubTexts(numbers(11, num_shards)), 30)
    assert sorted(whole[:11]) == list(range(11)) == sorted(whole[11:22])
    stream = ApproximateHubTexts(numbers(11, num_shards))
    before = take(stream, stop)
    state = json.loads(json.dumps(stream.state_dict()))
    resumed = ApproximateHubTexts(numbers(11, num_shards))
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert before + take(resumed, 30 - stop) == whole
    assert take(pickle.loads(pickle.dumps(stream)), 30 - stop) == whole[stop:]


def test_of_a_shuffle_buffer_rows_are_lost_or_come_twice():
    """The limit that makes it approximate: of an epoch at most a buffer's rows are missing, and at most as many repeated."""
    stream = ApproximateHubTexts(numbers(100).shuffle(seed=3, buffer_size=20))
    seen = take(stream, 50)
    resumed = ApproximateHubTexts(numbers(100).shuffle(seed=3, buffer_size=20))
    resumed.load_state_dict(stream.state_dict())
    while resumed.state_dict()["epoch"] == 0:
        seen += take(resumed, 1)
    del seen[-1]  # the next epoch's first
    assert 0 < 100 - len(set(seen)) <= 20
    assert len(seen) - len(set(seen)) <= 20


@pytest.mark.parametrize(("num_shards", "ranks"), [(4, 2), (3, 2), (2, 4), (1, 3)])
def test_ranks_share_the_rows(as_rank, caplog, num_shards, ranks):
    parts = []
    for rank in range(ranks):
        as_rank(rank, ranks)
        with caplog.at_level(logging.WARNING):
            stream = ApproximateHubTexts(numbers(12, num_shards))
        parts.append(take(stream, 12 // ranks - 1))
        state = stream.state_dict()
        resumed = ApproximateHubTexts(numbers(12, num_shards))
        resumed.load_state_dict(state)
        parts[-1] += take(resumed, 1)
    assert sorted(number for part in parts for number in part) == list(range(12))
    assert ("every rank reads all rows" in caplog.text) == bool(num_shards % ranks)


def test_a_state_of_other_ranks_is_refused(as_rank):
    stream = ApproximateHubTexts(numbers(12))
    state = stream.state_dict()
    as_rank(1, 2)
    with pytest.raises(ValueError, match="state is that of rank 0 of 1, this is rank 1 of 2"):
        stream.load_state_dict(state)
    state = stream.state_dict()  # of rank 1 of 2
    for other in ((0, 2), (1, 3)):
        as_rank(*other)
        with pytest.raises(ValueError, match=f"this is rank {other[0]} of {other[1]}"):
            stream.load_state_dict(state)


def test_a_rank_without_rows_and_rows_without_samples(as_rank, monkeypatch):
    as_rank(2, 3)
    with pytest.raises(ValueError, match="an epoch of rank 2 has no sample"):
        next(ApproximateHubTexts(numbers(2)))
    as_rank(0, 1)
    monkeypatch.setattr(hub_streams, "_MOST_BAD", 5)
    with pytest.raises(ValueError, match="5 rows in a row have no sample, the last texts/0/5"):
        take(ApproximateHubTexts(datasets.Dataset.from_dict({"text": ["1", *" " * 5, "2"]}).to_iterable_dataset()), 2)
    few = datasets.Dataset.from_dict({"text": ["1", *" " * 4, "2", *" " * 4, "3"]}).to_iterable_dataset()
    assert take(ApproximateHubTexts(few), 3) == [1, 2, 3]  # never so many in a row


@pytest.mark.timeout(200)
def test_a_stream_that_dries_up_after_it_was_resumed_says_so():
    dry = []
    rows = numbers(4)
    drying = rows.map(lambda row: {"text": " " if dry else row["text"]}, features=rows.features)
    stream = ApproximateHubTexts(drying)
    assert take(stream, 2) == [0, 1]
    dry.append(True)
    stream.load_state_dict(stream.state_dict())  # the rest of this epoch may be empty, the next may not
    with pytest.raises(ValueError, match="an epoch of rank 0 has no sample"):
        next(stream)


def test_formatted_streams_are_read_as_plain_ones():
    plain = take(ApproximateHubTexts(numbers(3)), 3)
    for form in ("arrow", "torch"):
        assert take(ApproximateHubTexts(numbers(3).with_format(form)), 3) == plain


def test_an_error_of_the_reader_does_not_end_the_stream():
    failed = []

    def fail_once(row):
        if row["text"] == "3" and not failed:
            failed.append(row)
            raise OSError("the network is gone")
        return row

    rows = numbers(6)
    stream = ApproximateHubTexts(rows.map(fail_once, features=rows.features))
    assert take(stream, 3) == [0, 1, 2]
    with pytest.raises(OSError, match="the network is gone"):
        next(stream)
    assert take(stream, 1)[0] in (3, 4)


def test_what_is_no_stream():
    with pytest.raises(ValueError, match="a Dataset is no stream"):
        ApproximateHubTexts(datasets.Dataset.from_dict({"text": ["1"]}))
    with pytest.raises(ValueError, match="no column 'caption'; its columns are text"):
        ApproximateHubTexts(numbers(3), "caption")
    with pytest.raises(ValueError, match="pass one of them: train"):
        ApproximateHubTexts(datasets.IterableDatasetDict({"train": numbers(3)}))
    labels = datasets.Dataset.from_dict({"text": [1]}).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"column 'text' holds .*; strings or lists of strings are due"):
        ApproximateHubTexts(labels)
    with pytest.raises(ValueError, match="does not know its columns"):
        ApproximateHubTexts(datasets.IterableDataset.from_generator(lambda: iter([{"text": "1"}])))
