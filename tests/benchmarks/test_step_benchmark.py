"""The benchmark of steps: all sides compute the same, what is counted is what must be, and the report tells what is missed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import stirred
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")
pytest.importorskip(
    "torchmultimodal.models.flava.model",
    reason="TorchMultimodal is not installed: pip install --no-deps torchmultimodal-nightly, beside iopath",
)

import goals
import needed
import sides
import step
import step_page
import turns
from drawn import LONGEST, PADDED, SHORTEST, Case, Drawn, Shape, drawn, our_batch

from torchflava.codebooks.dalle_names import dalle_names
from torchflava.models.labelled import labelled_rows
from torchflava.models.layout import Layout, to_ours
from torchflava.models.layouts_torchmultimodal import PRETRAINING as TORCHMULTIMODAL
from torchflava.models.layouts_transformers import PRETRAINING as TRANSFORMERS

SHAPE = Shape("tiny", 48, 16, 3, 13, 4)
CASES = [
    *(
        Case(kind, codes, padded)
        for kind in ("pair", "image")
        for codes in ("online", "given")
        for padded in (False, True)
    ),
    Case("text"),
    Case("text", padded=True),
]


@pytest.fixture(params=["transformers", "TorchMultimodal"])
def side(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@contextmanager
def stirred_peer(side: str) -> Iterator[Any]:
    """With weights so large that every label shows in the loss."""
    with sides.SIDES[side][0](SHAPE, "fp32") as made:
        stirred(made.model)
        yield made


LAYOUTS: dict[str, Layout] = {"transformers": TRANSFORMERS, "TorchMultimodal": TORCHMULTIMODAL}


def take(ours: sides.Side, theirs: sides.Side, name: str) -> None:
    """Give our side the weights of theirs, the dVAE's too, and let it see padding where theirs does."""
    state = {
        key.replace("image_codebook.codebook.", "image_codebook."): x for key, x in theirs.model.state_dict().items()
    }
    ours.model.load_state_dict(to_ours(LAYOUTS[name], state)[0])
    assert ours.codebook is not None
    ours.codebook.load_state_dict(dalle_names(state))
    ours.model.flava.fusion_encoder.attend_to_padding = name == "TorchMultimodal"


def test_all_sides_compute_the_same_loss(side: str) -> None:
    with stirred_peer(side) as theirs:
        with sides.ours(SHAPE, "fp32", sharded=False) as ours:
            take(ours, theirs, side)
            mine = {case: ours.run(case).item() for case in CASES}
        for case in CASES:  # after our session, for in a process group transformers calls what torch warns of
            if case.padded and case.kind == "pair" and side == "TorchMultimodal":
                continue  # it lets the fusion encoder see all 77, so its users' loss is another
            assert mine[case] == pytest.approx(theirs.run(case).item(), rel=1e-4), case


def test_all_sides_are_asked_for_the_same_rows(side: str) -> None:
    """What comes before the peers' decoders, row by row; ours are those that have labels."""
    rows: dict[int, int] = {}

    def count(decoder: nn.Module, given: tuple[Tensor], _: Tensor) -> None:
        rows[decoder.out_features] = rows.get(decoder.out_features, 0) + given[0].shape[:-1].numel()

    samples = drawn(SHAPE)
    with stirred_peer(side) as theirs:
        for name, part in theirs.model.named_modules():
            if isinstance(part, nn.Linear) and name.endswith("decoder"):
                part.register_forward_hook(count)
        for case in CASES:
            rows.clear()
            theirs.run(case)
            ours = labelled_rows(prepared(samples, case))
            codes = ours.get("mim", ours.get("mmm_image", torch.tensor(0)))
            words = ours.get("mlm", ours.get("mmm_text", torch.tensor(0)))
            assert rows.get(8192, 0) == codes == (0 if case.kind == "text" else 3 * SHAPE.num_masked)
            assert rows.get(30522, 0) == words
            assert ours.get("itm", 3) == ours.get("contrastive", 3) == 3


def prepared(samples: Drawn, case: Case) -> Any:
    """Our batch as the model takes it; the codes do not matter."""
    from torchflava.data.prepare import prepare

    def encode(pixels: Tensor, positions: Tensor, *, num_patches: int) -> Tensor:
        return samples.codes.gather(1, positions)

    return prepare(our_batch(samples, case), torch.device("cpu"), lambda pixels: pixels.float(), encode)


def test_captions_have_real_lengths_and_texts_are_full() -> None:
    samples = drawn(Shape("tiny", 48, 16, 512, 13, 4))
    lengths = samples.keep.sum(1)
    assert (int(lengths.min()), int(lengths.max())) == (SHORTEST, LONGEST)
    assert bool((samples.texts != 0).all())
    assert samples.ids.shape[1] == PADDED
    words = (samples.ids >= 1000).sum()
    assert 0.13 < float(samples.hidden.sum() / words) < 0.23  # 15 %, and one a caption
    assert not bool((samples.hidden & (samples.ids < 1000)).any())


def counted(do: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        do()
    return counter.get_total_flops()


def backward(model: sides.Side, case: Case) -> int:
    return counted(lambda: model.run(case).backward())


def test_the_count_is_what_a_peer_calls_less_what_it_wastes() -> None:
    """TorchMultimodal's steps, with all states of all layers: its poolers and its clean pass of images come off."""
    samples, width, embed_dim = drawn(SHAPE), 64, 32
    pooler, patches = 2 * 3 * width * width, SHAPE.side**2
    with sides.torchmultimodal_side(SHAPE, "fp32") as theirs:
        texts = needed.of_texts(samples.texts, samples.texts_hidden)
        text = sum(needed.text_step(SHAPE, one, spared=False) for one in texts)
        assert backward(theirs, Case("text")) == text + pooler
        image = needed.trunk(SHAPE, 1 + patches, None, depth=2) + 2 * patches * 3 * 16 * 16 * width
        waste = 3 * image + 2 * pooler + 2 * 3 * width * embed_dim
        assert backward(theirs, Case("image", "given")) == 3 * needed.image_step(SHAPE, spared=False) + waste


def test_the_count_of_pairs() -> None:
    """TorchMultimodal's again, whose texts are computed in the length of the longest; five poolers come off."""
    samples, width = drawn(SHAPE), 64
    asked = needed.of_texts(samples.ids, samples.hidden)
    texts = [one._replace(length=samples.longest) for one in asked]
    with sides.torchmultimodal_side(SHAPE, "fp32") as theirs:
        whole = needed.pairs_step(SHAPE, texts, spared=False)
        assert backward(theirs, Case("pair", "given")) == whole + 5 * 2 * 3 * width * width
        assert needed.pairs_step(SHAPE, asked) < whole


def test_the_count_of_the_codebook() -> None:
    codebook, samples = sides.our_codebook(SHAPE), drawn(SHAPE)
    assert counted(lambda: codebook.encode(samples.view)) == 3 * needed.codebook(SHAPE, spared=False)
    last = 2 * 8 * 4 * 8192
    left_out = SHAPE.side**2 - SHAPE.num_masked
    assert needed.codebook(SHAPE, spared=False) - needed.codebook(SHAPE) == last * left_out
    base = needed.codebook(Shape(), spared=False)
    assert base / 2e9 == pytest.approx(26.06, rel=0.001)


def test_the_last_layer_makes_what_is_asked_for() -> None:
    """A block written out, of which three states of eleven are wanted: keys and values of all, the rest of three."""
    length, asked, width, hidden, heads = 11, 3, 64, 128, 2

    def layer() -> Tensor:
        x = torch.randn(length, width)
        kv, q = x @ torch.randn(width, 2 * width), x[:asked] @ torch.randn(width, width)
        k, v = kv.view(length, 2, heads, -1).permute(1, 2, 0, 3)
        scores = q.view(asked, heads, -1).transpose(0, 1) @ k.transpose(1, 2)
        mixed = (scores @ v).transpose(0, 1).reshape(asked, width) @ torch.randn(width, width)
        return mixed @ torch.randn(width, hidden) @ torch.randn(hidden, width)

    assert needed.trunk(SHAPE, length, asked, depth=1) == counted(layer)
    more = needed.trunk(SHAPE, length, asked, depth=3) - counted(layer)
    assert more == 2 * needed.trunk(SHAPE, length, None, depth=1)


def test_padding_is_not_needed_and_samples_add_up() -> None:
    samples = drawn(SHAPE)
    case = Case("pair", "given")
    padded = case._replace(padded=True)
    assert needed.needed_flops(SHAPE, samples, case) == needed.needed_flops(SHAPE, samples, padded)
    online = needed.needed_flops(SHAPE, samples, Case("pair", "online"))
    assert online - needed.needed_flops(SHAPE, samples, case) == 3 * needed.codebook(SHAPE)


def test_a_goal_is_reached_by_the_median_against_the_better_peer() -> None:
    slow, fast = [3.0, 30.0, 3.0], [2.0, 2.2, 9.0]
    goal = goals.Goal("a step", 2.0, [1.0, 1.0, 1.0], {"slow": slow, "fast": fast})
    assert goals.better(goal.peers) == "fast"
    assert goals.line(goal) == "| a step | 1.000 s | fast, 2.200 s | 2.20 (2.00 to 9.00) | ≥ 2.0 | reached |"
    assert goals.line(goal._replace(goal=2.3)).endswith("≥ 2.3 | not reached |")
    assert goals.line(goal._replace(at_most=True, goal=0.4)).endswith("0.45 (0.11 to 0.50) | ≤ 0.4 | not reached |")
    assert goals.line(goal._replace(ours=[])).endswith("| not measured |")
    assert goals.line(goal._replace(peers={"slow": slow, "fast": []})).endswith("| not measured |")
    share = goals.Goal("a share", 0.75, [0.7, 0.8, 0.74], {}, "")
    assert goals.line(share) == "| a share | 0.74 |  | 0.74 (0.70 to 0.80) | ≥ 0.75 | not reached |"
    assert goals.weighted({"pair": [1.0, 10.0], "image": [2.0, 0.0], "text": [4.0, 0.0]}) == pytest.approx([1.6, 7.0])
    assert goals.weighted({"pair": [1.0], "image": [1.0], "text": []}) == []


SECONDS = {"ours": 1.0, "transformers": 1.5, "TorchMultimodal": 2.0}
OPERATIONS = {"ours": 11e12, "transformers": 24e12, "TorchMultimodal": 26e12}
MEMORY = {"ours": 100.0, "transformers": 300.0, "TorchMultimodal": 150.0}


class Stand:
    """In place of a process: tells `SECONDS`, and `MEMORY` beyond 1,000 MB."""

    def __init__(self, work: turns.Work) -> None:
        self.side, self.recompute = work.side, work.recompute

    def __enter__(self) -> "Stand":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def ask(self, what: str, *about: Any) -> Any:
        less = {"none": 0.0, "selective": 30.0, "full": 40.0}[self.recompute]
        more = {"before": 1000.0, "most": 1000.0 + MEMORY[self.side] - less, "gradients": 7.0}
        operators = {"aten::mm": SECONDS[self.side]}
        told = {"seconds": SECONDS[self.side] + less, "memory": more, "rate": 1e9, "profile": operators}
        return (told | {"operations": OPERATIONS[self.side]})[what]


def test_the_page_says_which_goals_are_not_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(step, "Process", Stand)
    sizes = {"size": "tiny", "image_size": 48, "batch_size": 3, "text_length": 13, "codebook_width": 4}
    step.main(step.Config(**sizes, turns=2, precisions=("bf16",), out=str(tmp_path), device="cpu"))
    page = (tmp_path / "step-tiny.md").read_text()
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in page.splitlines() if line.startswith("| ")}
    of = {told: lines[f"step of {told}, bf16"] for told in ("the mixture, codes online", "images, codes given")}
    assert of["the mixture, codes online"].endswith("| 1.50 (1.50 to 1.50) | ≥ 1.4 | reached |")
    assert of["images, codes given"].endswith("| transformers, 1.500 s | 1.50 (1.50 to 1.50) | ≥ 1.8 | not reached |")
    assert lines["memory of the step of pairs, bf16"].endswith("0.67 (0.67 to 0.67) | ≤ 0.5 | not reached |")
    selective = lines["memory of the step of pairs, bf16, --recompute selective"]
    assert selective.endswith("0.47 (0.47 to 0.47) | ≤ 0.5 | reached |")
    row = f"| ours, --recompute full, bf16 | 1,000 | 1,060 | 60 | 7 | {SECONDS['ours'] + 40:.3f} |"
    assert row in page.splitlines()
    assert page.count("not measured") == 0
    assert "| transformers, bf16 | 1.500 | 0.000 |" in page
    shape, cases = Shape("tiny", 48, 16, 3, 13, 4), (Case("pair", "given"), Case("image", "given"), Case("text"))
    flops = [needed.needed_flops(shape, drawn(shape), case) for case in cases]
    row = f"| text | {flops[2] / 1e12:.3g} | 11 | 24 | 26 | {24e12 / flops[2]:.2f} |"
    assert row in page.splitlines()
    share = (0.7 * flops[0] + 0.15 * flops[1] + 0.15 * flops[2]) / 1e9
    assert f"| {share:.2f} |" in lines["share of the machine's rate, step of the mixture, codes given, bf16"]


def test_goals_of_a_gpu_are_others() -> None:
    measured = step.Measured({}, {"bf16": []}, {}, {}, {})
    told = {
        goal.what: goal.goal
        for goal in step.goals(step.Config(device="cuda", compiled=True, precisions=("bf16",)), measured)
    }
    assert told["step of the mixture, codes online, bf16"] == 2.0
    assert told["step of images, codes online, bf16"] == 1.25
    assert told["share of the machine's rate, step of the mixture, codes given, bf16"] == 0.5
    assert step.file_name(step.Config(device="cuda", compiled=True)) == "step-cuda-compiled.md"
    assert step.file_name(step.Config(recompute="full", device="cpu")) == "step-recompute-full.md"


def test_the_processors_seconds_are_told_of_one_thread_only() -> None:
    assert step.settled(step.Config(clock="processor", threads=1, device="cpu")).clock == "processor"
    with pytest.raises(SystemExit, match="--threads 1"):
        step.settled(step.Config(clock="processor", device="cpu"))


@pytest.mark.parametrize("reads", [False, True])
def test_every_side_answers(side: str, reads: bool) -> None:
    work = turns.Work(side, reads, "bf16", SHAPE)
    with sides.SIDES[side][reads](SHAPE, "bf16") as made:
        can = turns.answers(work, made)
        cases = step.read_cases("bf16") if reads else [*step.step_cases("bf16"), *step.user_cases()]
        assert all(can["seconds"](list(case)) > 0 for case in cases)
        assert can["rate"](64, "fp32") > 0
        if not reads:
            with FlopCounterMode(display=False) as counter:
                made.run(Case("text")).backward()
            made.model.zero_grad()
            assert can["operations"](list(Case("text"))) == counter.get_total_flops() > 0
            found = can["memory"](list(cases[0]))
            assert found["most"] >= found["before"] > 0
            assert found["gradients"] == 4e-6 * sum(x.numel() for x in made.model.parameters() if x.grad is not None)


def test_products_within_attention_are_counted() -> None:
    """Within its kernel for the CPU, which our side calls in float32 and the peers do not, torch counts none."""
    with sides.ours(SHAPE, "fp32", sharded=False) as made:
        with FlopCounterMode(display=False) as counter:
            made.run(Case("text")).backward()
        made.model.zero_grad()
        found = turns.operations(lambda: made.run(Case("text")).backward())
    assert found > counter.get_total_flops()
    assert found >= needed.needed_flops(SHAPE, drawn(SHAPE), Case("text"))


def test_a_profile_tells_each_operator_once_and_the_page_adds_them_up_by_kind() -> None:
    a, done = torch.randn(64, 64), []
    found = turns.profile(lambda: done.append((a @ a + a).softmax(-1)), "cpu")
    assert len(done) == 3  # two to warm up
    assert {"aten::mm", "aten::add", "aten::_softmax"} < set(found)
    given = {"aten::mm": 2.0, "aten::addmm": 1.0, "aten::_softmax": 0.5, "aten::view": 0.25, "autograd::engine": 0.125}
    given |= {"aten::_flash_attention_forward": 4.0}  # on a GPU
    head, _, row = step_page.all_operators({("ours", "bf16"): given})
    seconds = dict(zip(head.split(" | ")[1:], row.rstrip(" |").split(" | ")[1:], strict=True))
    assert {kind: float(number) for kind, number in seconds.items() if float(number)} == {
        "products": 3.0,
        "products within attention": 4.0,
        "softmax": 0.5,
        "the rest |": 0.375,
    }


def test_a_gpus_kernels_are_told_under_the_operators_that_start_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def event(key: str, kind: torch.autograd.DeviceType) -> SimpleNamespace:
        return SimpleNamespace(key=key, device_type=kind, self_device_time_total=3e6, self_cpu_time_total=1.0)

    kinds = torch.autograd.DeviceType
    events = [event("aten::mm", kinds.CPU), event("sm90_xmma_gemm_bf16bf16_bf16f32", kinds.CUDA)]
    seen = nullcontext(SimpleNamespace(key_averages=lambda: events))
    monkeypatch.setattr(torch.profiler, "profile", lambda activities: seen)
    assert turns.profile(lambda: None, "cuda") == {"aten::mm": 3.0}


@pytest.mark.parametrize("name", ["embed_image", "embed_text"])
def test_readers_give_embeddings_of_length_1_and_logits(side: str, name: str) -> None:
    for which in ("ours", side):
        with sides.SIDES[which][1](SHAPE, "fp32") as made:
            found = made.run(Case(name))
            assert found.shape == (3, 32)
            assert torch.allclose(found.norm(dim=-1), torch.ones(3), atol=1e-4)
            assert made.run(Case("classify")).shape == (3, sides.NUM_CLASSES)


@pytest.mark.slow
def test_the_whole_at_the_size_tiny(tmp_path: Path) -> None:
    sizes = {"size": "tiny", "image_size": 48, "batch_size": 3, "text_length": 13, "codebook_width": 4, "read_batch": 3}
    step.main(step.Config(**sizes, turns=1, product=64, threads=1, out=str(tmp_path), device="cpu"))
    page = (tmp_path / "step-tiny.md").read_text()
    assert page.count("reached |") == 25
    assert "not measured" not in page


def test_a_process_that_fails_says_why() -> None:
    work = turns.Work("ours", False, "fp32", SHAPE._replace(size="none"))
    with turns.Process(work) as process, pytest.raises(RuntimeError, match="no size is called 'none'"):
        process.ask("rate", 8, "fp32")
