"""Loops over a finite source beside loops that are written out; going on in the middle; what breaks, breaks aloud."""

import gc
import json
import logging
import multiprocessing
import os
import random
import re
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.sampler import StatefulDistributedSampler

import torchflava.data.ahead as ahead_module
import torchflava.data.loops as loops_module
from torchflava.data import Blend, Epochs, Evaluation, Samples, keyed_rng, permute
from torchflava.data.loops import EpochBatch
from torchflava.data.order import key
from torchflava.transforms.image import CorruptSample


@pytest.fixture(autouse=True, scope="module")
def _preloaded() -> None:
    """Workers are forked from a server that has imported torch once: tenths of a second each, else three."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["torchflava.data.loops", "torch._dynamo"])


class Numbers:
    """Samples that are their own numbers; some are broken, one raises what no source may, one kills its process."""

    def __init__(self, n: int, name: str = "numbers", *, broken: Sequence[int] = (), raises: Any = None) -> None:
        self.n, self.name, self.broken, self.raises = n, name, frozenset(broken), raises

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> int:
        if index in self.broken:
            raise CorruptSample(f"sample {index} is broken")
        if self.raises is not None and index == 11:
            raises, *arguments = self.raises
            raise raises(*arguments)
        return index


class Stacked(NamedTuple):
    values: torch.Tensor
    noise: torch.Tensor
    names: tuple[str, ...]


def row(source: Numbers, index: int, rng: np.random.Generator) -> tuple[int, list[float], str]:
    return source[index], rng.random(2).tolist(), source.name


def stack(rows: Sequence[Any]) -> Stacked:
    values, noise, names = zip(*rows, strict=True)
    return Stacked(torch.tensor(values), torch.tensor(noise, dtype=torch.float64), names)


def evaluation(n: int = 23, batch_size: int = 4, **options: Any) -> Evaluation:
    broken = options.pop("broken", ())
    return Evaluation(Samples(Numbers(n, broken=broken), row, stack), batch_size, **options)


def epochs(source: Any = None, batch_size: int = 4, seed: int = 7, **options: Any) -> Epochs:
    return Epochs(Samples(Numbers(23) if source is None else source, row, stack), batch_size, seed, **options)


def told(batches: Iterator[EpochBatch]) -> list[tuple[Any, ...]]:
    return [
        (b.epoch, b.step, b.real.tolist(), b.batch.values.tolist(), b.batch.noise.tolist(), b.batch.names)
        for b in batches
    ]


def written_out(num_epochs: int, n: int = 23, batch_size: int = 4, seed: int = 7) -> list[tuple[int, list[int], Any]]:
    """(epoch, samples, noise) of whole batches."""
    seen = []
    for epoch in range(num_epochs):
        order = permute(n, key(seed, "numbers", epoch), np.arange(n, dtype=np.uint64)).tolist()
        for begin in range(0, n - batch_size + 1, batch_size):
            part = order[begin : begin + batch_size]
            seen.append((epoch, part, [keyed_rng(seed, "numbers", epoch, i).random(2).tolist() for i in part]))
    return seen


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_evaluation_sees_each_sample_once_in_order_in_batches_of_one_size(world_size: int) -> None:
    parts = [list(evaluation(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert {len(part) for part in parts} == {6}  # ceil(23 / 4)
    gathered: list[int] = []
    for batches in zip(*parts, strict=True):
        for batch in batches:
            assert len(batch.indices) == len(batch.read) == len(batch.batch.values) == 4 // world_size
            assert batch.indices.dtype == torch.int64
            assert batch.read.equal(batch.indices >= 0)
            assert batch.batch.values[batch.read].equal(batch.indices[batch.read])
            gathered += batch.indices.tolist()
    assert gathered == [*range(23), -1]


def test_a_rank_without_any_sample_has_as_many_batches() -> None:
    (batch,) = evaluation(1, 4, rank=3, world_size=4)
    assert batch.indices.tolist() == [-1]
    assert batch.read.tolist() == [False]
    assert batch.batch.values.tolist() == [0]
    assert len(evaluation(8, 4)) == 2
    assert len(evaluation(9, 4)) == 3


@pytest.mark.slow
def test_passes_and_workers_change_nothing() -> None:
    here, again, there = evaluation(), evaluation(), evaluation(num_workers=2)
    assert len(list(again)) == 6
    for one, two, three in zip(here, again, there, strict=True):
        for other in (two, three):
            assert one.indices.equal(other.indices)
            assert one.read.equal(other.read)
            assert one.batch.values.equal(other.batch.values)
            assert one.batch.noise.equal(other.batch.noise)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unread_sample_keeps_its_place_and_is_named(num_workers: int, caplog: pytest.LogCaptureFixture) -> None:
    """The accuracy of a perfect model: over a fixed set its unread samples are wrong; left out, they are not."""
    broken = [3, 8, 9, 10, 11, 20]  # one batch wholly
    loop = evaluation(broken=broken, num_workers=num_workers)
    with caplog.at_level(logging.WARNING):
        batches = list(loop)
    assert [sample.at for sample in loop.unread] == broken
    assert loop.unread[0] == ("numbers", 3, "sample 3 is broken")
    assert "numbers, sample 20 cannot be read: sample 20 is broken" in caplog.text
    indices, read = torch.cat([b.indices for b in batches]), torch.cat([b.read for b in batches])
    assert indices.tolist() == [*range(23), -1]
    assert [int(i) for i in indices[~read]] == [*broken, -1]
    right = torch.cat([b.batch.values for b in batches]) == indices
    assert float((right & read).sum() / (indices >= 0).sum()) == pytest.approx(17 / 23)
    assert float((right & read).sum() / read.sum()) == 1
    assert {len(b.batch.values) for b in batches} == {4}
    list(loop)
    assert len(loop.unread) == len(broken)


def test_an_evaluation_of_which_nothing_can_be_read_says_so() -> None:
    with pytest.raises(CorruptSample, match=r"none of 23 samples from all over numbers can be read.*sample \d+ is bro"):
        list(evaluation(broken=range(23)))
    assert sum(int(b.read.sum()) for b in evaluation(broken=range(1, 23))) == 1


def test_a_blend_is_evaluated_by_its_own_sources() -> None:
    parts = [Numbers(5, "a"), Numbers(3, "b", broken=[1])]
    loop = Evaluation(Samples(Blend("both", parts), row, stack), 8)
    (batch,) = loop
    assert batch.batch.names == ("a",) * 5 + ("b", "a", "b")  # the broken one's place is filled with the first row
    assert batch.batch.values.tolist() == [0, 1, 2, 3, 4, 0, 0, 2]
    assert batch.indices.tolist() == list(range(8))
    assert batch.read.tolist() == [True] * 6 + [False, True]
    assert loop.unread[0][:2] == ("b", 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_are_the_loop_written_out(num_workers: int) -> None:
    loop = epochs(num_workers=num_workers)
    batches = list(loop.batches(3))
    assert len(loop) == 5
    assert [b.step for b in batches] == list(range(15))
    assert all(b.real.all() for b in batches)
    seen = [(b.epoch, b.batch.values.tolist(), b.batch.noise.tolist()) for b in batches]
    assert seen == written_out(3)
    per_epoch = [sorted(v for epoch, values, _ in seen for v in values if epoch == e) for e in range(3)]
    assert all(len(set(values)) == 20 for values in per_epoch)
    assert per_epoch[0] != per_epoch[1]  # other samples are dropped
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_have_what_one_has_and_pad_alike(world_size: int) -> None:
    alone = list(epochs(drop_last=False).batches(2))
    parts = [list(epochs(drop_last=False, rank=rank, world_size=world_size).batches(2)) for rank in range(world_size)]
    assert {len(part) for part in parts} == {12}
    for whole, *shares in zip(alone, *parts, strict=True):
        real = torch.cat([share.real for share in shares])
        assert real.equal(whole.real)
        assert torch.cat([share.batch.values for share in shares])[real].equal(whole.batch.values[real])
        assert torch.cat([share.batch.noise for share in shares])[real].equal(whole.batch.noise[real])
    for epoch in range(2):
        values = torch.cat([b.batch.values[b.real] for b in alone if b.epoch == epoch])
        assert sorted(values.tolist()) == list(range(23))
    assert [int(b.real.sum()) for b in alone] == [4, 4, 4, 4, 4, 3] * 2


def test_a_rank_whose_part_is_all_padding_still_has_a_batch() -> None:
    last = list(epochs(Numbers(5), drop_last=False, rank=3, world_size=4).batches(1))[-1]
    assert last.real.tolist() == [False]
    assert len(last.batch.values) == 1


@pytest.mark.parametrize(("num_workers", "stop"), [(0, 1), (0, 7), (0, 10), (2, 7)])
def test_a_loop_goes_on_at_the_same_sample_with_the_same_randomness(num_workers: int, stop: int) -> None:
    whole = told(epochs(num_workers=num_workers).batches(3))
    first = epochs(num_workers=num_workers)
    begun, batches = [], first.batches(3)
    for _ in range(stop):
        begun += told(iter([next(batches)]))
    state = json.loads(json.dumps(first.state_dict()))
    next(batches)  # neither this batch nor those read ahead belong to the state
    batches.close()
    second = epochs(num_workers=num_workers)
    second.load_state_dict(state)
    assert second.step == stop
    assert second.state_dict() == state
    assert begun + told(second.batches(3)) == whole


def test_a_loop_that_was_left_goes_on_and_ends_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, whole = epochs(), told(epochs().batches(4))
    seen = []
    for batch in loop.batches(4):
        seen += told(iter([batch]))
        if batch.step == 6:
            break
    seen += told(loop.batches(2))
    assert len(seen) == 10
    assert told(loop.batches(2)) == []
    seen += told(loop.batches(4))
    assert seen == whole
    monkeypatch.setattr(loops_module, "read_ahead", None)
    assert told(loop.batches(4)) == []  # no worker is started for nothing


def test_the_state_is_the_same_on_all_ranks_and_small() -> None:
    states = []
    for rank in range(2):
        loop = epochs(rank=rank, world_size=2)
        for _ in zip(range(7), loop.batches(3), strict=False):
            pass
        states.append(loop.state_dict())
    assert states[0] == states[1]
    assert states[0]["step"] == 7
    assert len(json.dumps(states[0])) < 700


def test_going_on_late_goes_through_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = epochs(Numbers(8001), batch_size=1)
    asked: list[int] = []
    make = loops_module._of_epoch

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments[3])
        return make(*arguments, **options)

    monkeypatch.setattr(loops_module, "_of_epoch", noted)
    next(loop.batches(1))
    state = loop.state_dict()
    late = json.loads(json.dumps(state).replace('"next": 1', '"next": 8000').replace('"step": 1', '"step": 8000'))
    asked.clear()
    loop.load_state_dict(late)
    assert next(loop.batches(1)).step == 8000
    assert asked == [8000]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_workers": 2}, "num_workers was 0, is 2"),
        ({"batch_size": 8}, "batch_size was 4, is 8"),
        ({"seed": 8}, "seed was 7, is 8"),
        ({"drop_last": False}, "drop_last was True, is False"),
        ({"rank": 0, "world_size": 2}, "world_size was 1, is 2"),
        ({"source": Numbers(24)}, "source.length was 23, is 24"),
        ({"source": Numbers(23, "others")}, "source.name was 'numbers', is 'others'"),
    ],
)
def test_a_state_of_other_settings_is_refused_by_name(change: dict[str, Any], told: str) -> None:
    state = json.loads(json.dumps(epochs().state_dict()))
    epochs().load_state_dict(state)
    with pytest.raises(ValueError, match=f"{told}; use the same settings and data, or start anew"):
        epochs(**change).load_state_dict(state)


def test_a_state_that_is_none_or_was_changed_is_refused() -> None:
    with pytest.raises(ValueError, match="a state of nothing is not of `Epochs`"):
        epochs().load_state_dict({})
    loop = epochs()
    next(loop.batches(1))
    loop.load_state_dict(loop.state_dict() | {"step": 3})
    with pytest.raises(ValueError, match="a batch of step 1 came where 3 is due"):
        next(loop.batches(1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_corrupt_sample_is_replaced_by_its_key_and_counted(
    num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = Numbers(23, broken=[3, 7])
    with caplog.at_level(logging.WARNING):
        loop = epochs(source, drop_last=False, num_workers=num_workers)
        seen = told(loop.batches(2))
    assert all(len(values) == 4 for _, _, _, values, _, _ in seen)
    assert not {3, 7} & {value for _, _, _, values, _, _ in seen for value in values}
    for epoch, _, _, values, noise, _ in seen:  # of the sample that stands there, not of the one that was due
        assert noise == [keyed_rng(7, "numbers", epoch, value).random(2).tolist() for value in values]
    assert loop.replacements.num_seen == {"numbers": 46 + loop.replacements.num_replaced["numbers"]}
    assert {sample.at for sample in loop.replacements.listed} >= {3, 7}
    assert "numbers, sample 3 is replaced: sample 3 is broken" in caplog.text
    assert seen == told(epochs(source, drop_last=False).batches(2))


def test_too_many_corrupt_samples_stop_the_loop() -> None:
    source = Numbers(1000, broken=range(0, 1000, 40))
    with pytest.raises(CorruptSample, match=r"more than max_corrupt_fraction 0\.01"):
        list(epochs(source, 50).batches(1))
    assert len(list(epochs(source, 50, max_corrupt_fraction=0.05).batches(1))) == 20


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class TwoWordsError(Exception):
    """An error that cannot be made from one text, as torch would make it."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


@pytest.mark.timeout(200)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("error", "comes"),
    [
        ((OSError, "the disk is gone"), OSError),
        ((UnicodeDecodeError, "utf-8", b"x", 0, 1, "bad"), UnicodeDecodeError),
        ((TwoWordsError, "no", "luck"), {0: TwoWordsError, 2: RuntimeError}),
    ],
)
def test_whatever_a_source_raises_reaches_the_caller_with_the_sample(num_workers: int, error: Any, comes: Any) -> None:
    comes = comes[num_workers] if isinstance(comes, dict) else comes
    for loop in (
        epochs(Numbers(23, raises=error), drop_last=False, num_workers=num_workers).batches(1),
        iter(Evaluation(Samples(Numbers(23, raises=error), row, stack), 4, num_workers=num_workers)),
    ):
        with pytest.raises(comes, match=re.escape(str(error[0](*error[1:])))) as caught:
            list(loop)
        notes = "\n".join(caught.value.__notes__)
        assert "at sample 11 of numbers, epoch 0" in notes
        assert ("in a worker process" in notes and "in __getitem__" in notes) == (num_workers > 0)
        assert multiprocessing.active_children() == []


@pytest.mark.timeout(200)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # files that torchdata opens to see whether it still can
def test_a_worker_that_is_killed_or_leaves_does_not_hang() -> None:
    with pytest.raises(RuntimeError, match=r"a worker process was lost .*; if the system ended it for its memory"):
        list(epochs(Numbers(23, raises=[kill]), num_workers=1).batches(2))
    with pytest.raises(SystemExit):
        list(epochs(Numbers(23, raises=[SystemExit, 3]), drop_last=False, num_workers=1).batches(1))
    assert multiprocessing.active_children() == []
    gc.collect()


@pytest.mark.timeout(200)
def test_a_loop_that_is_left_early_leaves_no_process() -> None:
    batches = epochs(num_workers=2).batches(100)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    end = time.monotonic() + 50
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.01)
    assert multiprocessing.active_children() == []


def test_what_does_not_pickle_is_refused_where_workers_are_asked_for() -> None:
    local = Samples(Numbers(9), lambda source, index, rng: (source[index], [0.0], ""), stack)
    assert len(list(Evaluation(local, 4))) == 3
    with pytest.raises(ValueError, match=r"cannot be sent to worker processes .*lambda.*top of a module, or use num_w"):
        list(Evaluation(local, 4, num_workers=1))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_global_generator_is_touched(num_workers: int) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    list(epochs(num_workers=num_workers).batches(1))
    list(evaluation(num_workers=num_workers))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.get_rng_state().equal(before[2])


def test_batches_are_pinned_only_where_cuda_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, used in [(False, False), (True, False), (True, True)]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        assert ahead_module._loader(int, 3, 0).pin_memory == used


def test_an_error_of_the_loader_is_a_lost_worker_only_where_there_are_some() -> None:
    def broken() -> Iterator[int]:
        raise RuntimeError("no pinned memory is left")
        yield 0

    with pytest.raises(RuntimeError, match=r"^no pinned memory is left"):
        ahead_module._next(broken(), 0)
    with pytest.raises(RuntimeError, match=r"^a worker process was lost .*no pinned memory is left"):
        ahead_module._next(broken(), 2)


def test_workers_are_not_forked_from_this_process() -> None:
    assert ahead_module._loader(int, 3, 2).multiprocessing_context.get_start_method() == "forkserver"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"n": 0}, "numbers is empty"),
        ({"batch_size": 0}, "a global batch of 0"),
        ({"batch_size": 5, "rank": 0, "world_size": 2}, "a global batch of 5 cannot be shared evenly by 2 ranks"),
        ({"rank": 2, "world_size": 2}, r"rank 2 lies outside \[0, 2\)"),
        ({"rank": -1}, r"rank -1 lies outside \[0, 1\)"),
        ({"num_workers": -1}, "num_workers -1 must be 0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        evaluation(**options)


def test_epochs_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="numbers has 3 samples, too few for a batch of 4; use drop_last=False"):
        epochs(Numbers(3))
    assert len(epochs(Numbers(3), drop_last=False)) == 1
    assert len(epochs(Numbers(4))) == 1
    parts = [Numbers(5, "a"), Numbers(6, "b")]
    with pytest.raises(ValueError, match="blend both has weights, hence no epochs of the whole"):
        epochs(Blend("both", parts, {"a": 1, "b": 1}))
    by_size = [name for b in epochs(Blend("both", parts), 11).batches(1) for name in b.batch.names]
    assert sorted(by_size) == ["a"] * 5 + ["b"] * 6


# Why the sampler is our own: torchdata's, as of 0.11.


def of_torchdata(sampler: Any, state: dict[str, Any] | None = None) -> Any:
    with pytest.warns(UserWarning, match="set_vital"):
        loader: Any = StatefulDataLoader(range(1000), batch_size=None, sampler=sampler)
    if state is not None:
        loader.load_state_dict(state)
    return loader


def distributed(epoch: int) -> StatefulDistributedSampler:
    sampler = StatefulDistributedSampler(range(12), num_replicas=1, rank=0, seed=3)
    sampler.set_epoch(epoch)
    return sampler


def test_torchdatas_sampler_for_ranks_goes_on_in_another_epoch() -> None:
    whole = [int(i) for i in of_torchdata(distributed(1))]
    first = of_torchdata(distributed(1))
    begun = [int(next(batches)) for batches in [iter(first)] for _ in range(5)]
    assert begun == whole[:5]
    went_on = [int(i) for i in of_torchdata(distributed(0), first.state_dict())]  # a fresh process begins at epoch 0
    assert went_on != whole[5:]
    assert went_on == [int(i) for i in of_torchdata(distributed(0))][5:]


class Plain:
    taken = 0

    def __iter__(self) -> Iterator[int]:
        for i in range(1000):
            Plain.taken += 1
            yield i

    def __len__(self) -> int:
        return 1000


def test_a_plain_sampler_is_gone_through_again() -> None:
    first = of_torchdata(Plain())
    batches = iter(first)
    for _ in range(900):
        next(batches)
    Plain.taken = 0
    next(iter(of_torchdata(Plain(), first.state_dict())))
    assert Plain.taken == 901
