"""The batches of a run: the same samples and the same randomness whatever the ranks, threads and starting point."""

import json
import random
import threading
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from torchflava.batch import RawTextBatch
from torchflava.data import mixture as mixture_module
from torchflava.data.blend import Blend, Chosen
from torchflava.data.mixture import Kind, Mixture, Planned
from torchflava.data.replacing import Failure, Replaced, Replacements, read_row
from torchflava.data.rows import ImageRows, PairRows, TextRows
from torchflava.data.samples import PairSample, TextSample
from torchflava.transforms.collate import Collate
from torchflava.transforms.image import CorruptSample


class Words(NamedTuple):
    """A tokenised text."""

    ids: list[int]
    word_ids: list[int | None]


class Letters:
    """Each letter is a token."""

    def encode(self, text: str, max_length: int) -> Words:
        ids = [1, *[3 + ord(c) % 60 for c in text[: max_length - 2]], 2]
        return Words(ids, [None, *range(len(ids) - 2), None])


class Texts:
    name = "texts"

    def __init__(self, n: int, broken: set[int] | None = None) -> None:
        self.n = n
        self.broken = broken or set()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> TextSample:
        if index in self.broken:
            raise CorruptSample(f"sample {index} is broken")
        return TextSample(f"text {index}", str(index))


class Pairs:
    name = "pairs"

    def __init__(self, captions: list[str]) -> None:
        self.captions = captions

    def __len__(self) -> int:
        return len(self.captions)

    def caption(self, index: int) -> str:
        return self.captions[index]

    def __getitem__(self, index: int) -> PairSample:
        return PairSample(torch.full((3, 4, 4), index % 200, dtype=torch.uint8), self.captions[index], str(index))


def mask(tokens: Any, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    at = int(rng.integers(1, len(tokens.ids) - 1))
    return [0 if i == at else x for i, x in enumerate(tokens.ids)], [at]


def views(image: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.from_numpy(rng.integers(0, 9, image.shape, dtype=np.uint8))
    return image + noise, image


TEXTS = TextRows(Letters(), mask, 32)
PAIRS = PairRows(ImageRows(views, lambda rng: rng.random((2, 2)) < 0.5), TEXTS, 0.5)
COLLATE = Collate(64, 4)


def mixture(batch_size: int = 8, texts: Texts | None = None, pairs: Pairs | None = None) -> Mixture:
    kinds = {
        "text": Kind(Texts(29) if texts is None else texts, TEXTS, COLLATE.texts, 0.3),
        "pair": Kind(pairs or Pairs([f"caption {i}" for i in range(31)]), PAIRS, COLLATE.pairs, 0.7),
    }
    return Mixture(kinds, batch_size, seed=5)


def rows(planned: Planned) -> list[Any]:
    """The rows of a batch, less padding, in an order of their own."""
    parts = [[tuple(x.flatten().tolist()) for x in part] for part in planned.batch]
    trimmed = [
        tuple(tuple(v for v in value if v not in (-100, 0)) for value in row) for row in zip(*parts, strict=True)
    ]
    return sorted(trimmed)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_sees(world_size: int) -> None:
    alone = [mixture()[step] for step in range(12)]
    for step in range(12):
        parts = [mixture().part(step, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert {part.kind for part in parts} == {alone[step].kind}
        assert sorted(row for part in parts for row in rows(part)) == rows(alone[step])


def test_threads_prefetch_and_start_change_nothing() -> None:
    whole = list(mixture().batches(0, 12, num_threads=1, prefetch=1))
    late = list(mixture().batches(5, 12, num_threads=3, prefetch=4))
    assert [p.step for p in whole] == list(range(12))
    for one, other in zip(whole[5:], late, strict=True):
        assert (one.step, one.kind) == (other.step, other.kind)
        assert all(a.equal(b) for a, b in zip(one.batch, other.batch, strict=True))


def test_no_global_generator_is_touched() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    list(mixture().batches(0, 6))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.get_rng_state().equal(before[2])


def test_mismatched_rows_carry_another_caption_and_their_share_is_the_rate() -> None:
    source = Pairs([f"caption {i}" for i in range(400)])
    batch = mixture(batch_size=400, pairs=source)
    planned = next(batch[step] for step in range(10) if batch[step].kind == "pair")
    matched = planned.batch.matched
    assert 0.4 < float(matched.float().mean()) < 0.6
    restored = planned.batch.masked_ids.scatter(
        1, planned.batch.token_positions[:, :1], planned.batch.token_labels[:, :1]
    )
    width = min(restored.shape[1], planned.batch.ids.shape[1])
    same = (restored[:, :width] == planned.batch.ids[:, :width]).all(1)
    assert same[matched].all()
    assert not same[~matched].any()


def test_equal_captions_are_never_called_a_mismatch() -> None:
    batch = mixture(pairs=Pairs(["The Same ", "the same"]))
    for step in range(10):
        if batch[step].kind == "pair":
            assert batch[step].batch.matched.all()


def test_a_corrupt_sample_is_replaced_counted_and_listed(caplog: pytest.LogCaptureFixture) -> None:
    batch = mixture(texts=Texts(29, broken={3, 7}))
    whole = list(batch.batches(0, 40, num_threads=3))
    assert {len(p.batch[0]) for p in whole} == {8}
    texts = 8 * sum(p.kind == "text" for p in whole)
    assert batch.replacements.num_seen == {"texts": texts + batch.num_replaced, "pairs": 320 - texts}
    assert batch.num_replaced == len(batch.replaced) > 2
    assert {(r.source, r.at, r.reason) for r in batch.replaced} == {
        ("texts", at, f"sample {at} is broken") for at in (3, 7)
    }
    assert "texts, sample 3 is replaced: sample 3 is broken" in caplog.text
    again = mixture(texts=Texts(29, broken={3, 7})).batches(0, 40)
    assert all(a.equal(b) for x, y in zip(whole, again, strict=True) for a, b in zip(x.batch, y.batch, strict=True))


@pytest.mark.timeout(200)
def test_too_many_corrupt_samples_stop_the_run_with_the_list() -> None:
    made = mixture(batch_size=100, texts=Texts(1000, broken=set(range(0, 1000, 40))))
    with pytest.raises(CorruptSample) as caught:
        list(made.batches(0, 60, num_threads=3))
    told = str(caught.value)
    replaced, seen = made.replacements.num_replaced["texts"], made.replacements.num_seen["texts"]
    assert seen >= 500
    assert replaced > 0.01 * seen
    assert "samples of texts could not be read, more than max_corrupt_fraction 0.01" in told
    assert "x sample # is broken" in told
    assert told.count("\n  texts ") == min(20, int(told.split()[0]))
    generous = Mixture(made.kinds, 100, 5, max_corrupt_fraction=0.04)
    assert len(list(generous.batches(0, 30))) == 30


def test_counts_of_threads_that_write_at_once_add_up() -> None:
    counted = Replacements(1.0)
    one = Failure(Replaced("s", 1, "no"), "no")
    threads = [
        threading.Thread(target=lambda: [counted.add({"s": 3}, [one, one]) for _ in range(400)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (counted.num_seen["s"], counted.num_replaced["s"]) == (4800 + 3200, 3200)
    assert counted.reasons == {("s", "no"): 3200}


def test_as_many_as_are_allowed_are_not_too_many() -> None:
    counted, one = Replacements(0.01), Failure(Replaced("s", 1, "no"), "no")
    counted.add({"s": 494}, [one] * 5)  # with those in their place 499, too few to judge
    counted.add({"s": 100}, [one])  # 6 of 600
    with pytest.raises(CorruptSample, match=r"7 of 602 samples of s could not be read"):
        counted.add({"s": 1}, [one])


class Failing(Texts):
    """Raises what no source may."""

    def __getitem__(self, index: int) -> TextSample:
        if index == 11:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "error", [OSError("the disk is gone"), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), SystemExit(3)]
)
def test_whatever_a_source_raises_reaches_the_consumer_and_leaves_no_thread(error: BaseException) -> None:
    before = set(threading.enumerate())
    source = Failing(29)
    source.error = error
    with pytest.raises(type(error)) as caught:
        list(mixture(texts=source).batches(0, 40, num_threads=2))
    assert caught.value is error
    if isinstance(error, Exception):
        assert "at sample 11 of texts, epoch 0" in error.__notes__
    assert not [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]


def test_a_share_of_corrupt_samples_lies_between_none_and_all() -> None:
    with pytest.raises(ValueError, match=r"max_corrupt_fraction 1\.5 must lie between 0 and 1"):
        Mixture(mixture().kinds, 8, 5, max_corrupt_fraction=1.5)


def test_a_sources_samples_are_the_same_inside_a_blend() -> None:
    """Rows are made from the source that holds the sample, so that another's caption comes from there too."""
    seen = []

    def row(source: Any, index: int, rng: np.random.Generator) -> tuple[str, int, float]:
        seen.append((source.name, index, float(rng.random())))
        return seen[-1]

    parts = [Texts(9), Pairs([f"c{i}" for i in range(7)])]
    for source in (parts[0], parts[1], Blend("both", parts)):
        kind = Kind(source, row, lambda rows: rows, 1.0)
        alone = Mixture({"all": kind}, len(source), 5)
        assert sorted(s[:2] for s in alone[0].batch) == sorted(
            (p.name, i) for p in parts if source in (p,) or isinstance(source, Blend) for i in range(len(p))
        )
    inside, outside = seen[16:], seen[:16]
    assert sorted(inside) == sorted(outside)


def test_the_state_is_the_same_on_all_ranks_and_names_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    state = json.loads(json.dumps(mixture().state(17)))
    assert mixture().check_state(state) == 17
    monkeypatch.setattr(mixture_module, "world_size", lambda: 4)
    monkeypatch.setattr(mixture_module, "rank", lambda: 3)
    assert mixture().state(17) == state
    with pytest.raises(ValueError, match="batch_size was 8, is 16"):
        mixture(batch_size=16).check_state(state)
    with pytest.raises(ValueError, match=r"sources.text.length was 29, is 30; use the same"):
        mixture(texts=Texts(30)).check_state(state)
    monkeypatch.setattr(mixture_module, "world_size", lambda: 3)
    with pytest.raises(ValueError, match="a global batch of 8 cannot be shared evenly by 3 ranks"):
        mixture()


def test_ranks_compare_their_places_in_the_first_steps_and_always_in_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(mixture_module, "agree", told.append)
    list(mixture().batches(5, 30))
    assert len(told) == 20
    assert told[0].startswith("step 5, ")
    first = told[:]
    told.clear()
    list(mixture().batches(5, 30, debug=True))
    assert len(told) == 25
    assert told[:20] == first
    told.clear()
    list(mixture(texts=Texts(30)).batches(5, 6))
    assert told[0] != first[0]


def test_when_all_is_corrupt_the_run_stops_with_the_reason() -> None:
    batch = mixture(texts=Texts(5, broken=set(range(5))))
    with pytest.raises(CorruptSample, match="10 samples of texts in a row are corrupt"):
        list(batch.batches(0, 40))


def test_the_share_of_corrupt_samples_is_judged_as_it_is() -> None:
    """Those that were looked at in place of others count too: where half fail, half of the looks fail, not as many as rows."""
    broken = {i for i in range(1000) if np.random.default_rng(i).random() < 0.5}
    kinds = {"text": Kind(Texts(1000, broken=broken), TEXTS, COLLATE.texts, 1.0)}
    counted = Replacements(1.0)
    for index in range(1000):
        _, failed = read_row(TEXTS, Chosen(kinds["text"].source, 0, index), 5, tries=1000)
        counted.add({"texts": 1}, failed)
    assert counted.num_replaced["texts"] / counted.num_seen["texts"] == pytest.approx(0.5, abs=0.04)
    assert len(list(Mixture(kinds, 8, seed=5, max_corrupt_fraction=1.0).batches(0, 100))) == 100
    with pytest.raises(CorruptSample, match=r"more than max_corrupt_fraction 0\.4|in a row"):
        list(Mixture(kinds, 8, seed=5, max_corrupt_fraction=0.4).batches(0, 100))


def test_an_empty_source_is_an_error() -> None:
    with pytest.raises(ValueError, match="the source of text batches, texts, is empty"):
        mixture(texts=Texts(0))


def test_kind_of_batch_follows_its_collate() -> None:
    planned = next(p for p in mixture().batches(0, 10) if p.kind == "text")
    assert isinstance(planned.batch, RawTextBatch)


def test_captions_are_told_as_vary_says_in_both_views() -> None:
    def shout(caption: str, rng: np.random.Generator) -> str:
        return f"{caption.upper()} {int(rng.integers(10))}"

    rows = PairRows(PAIRS.images, TEXTS, 0.5, vary=shout)
    source = Pairs([f"caption {i}" for i in range(31)])
    for index in range(31):
        row = rows(source, index, np.random.default_rng(index))
        told = row.ids[1:-1]
        assert told[:-1] == Letters().encode(f"CAPTION {index} ", 32).ids[1:-1]
        masked = [row.text.labels[0] if at == row.text.positions[0] else x for at, x in enumerate(row.text.masked_ids)]
        assert (masked == list(row.ids)) == row.matched
        assert masked[1:8] == Letters().encode("CAPTION", 32).ids[1:-1]


def test_a_loader_that_is_left_early_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    batches = mixture().batches(0, 1000, num_threads=3, prefetch=2)
    next(batches)
    assert set(threading.enumerate()) - before
    batches.close()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]


def test_the_masked_text_is_the_text_rows_own_and_a_caption_is_tokenised_once() -> None:
    class Counting(Letters):
        def encode(self, text: str, max_length: int) -> Words:
            seen.append(text)
            return super().encode(text, max_length)

    def bare(image: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return image, image

    texts = TextRows(Counting(), mask, 32)
    pairs = PairRows(ImageRows(bare, lambda rng: np.zeros((2, 2), bool)), texts, 0.4)
    source = Pairs([f"caption {i}" for i in range(31)])
    for index in range(31):
        seen: list[str] = []
        row = pairs(source, index, np.random.default_rng(index))
        assert len(seen) == (1 if row.matched else 2)
        rng = np.random.default_rng(index)
        if rng.random() < 0.4:
            rng.integers(31)
        assert row.text == texts.of(seen[-1], rng)
        assert row.ids == Letters().encode(source.caption(index), 32).ids
