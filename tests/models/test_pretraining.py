"""The six losses against one sample at a time without padding, and everything that must not break them.

Letters: B batch, N patches, T tokens, K rows asked for.
"""

import copy
import math
from collections import Counter
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from torchflava.batch import IGNORE, Batch, ImageBatch, PairBatch, TextBatch
from torchflava.encoders import Fused
from torchflava.losses import LOSSES, Loss
from torchflava.models import FlavaForPreTraining, flava_for_pretraining

HEADS = ("mmm_image", "mmm_text", "itm", "contrastive")


def words_put_back(batch: PairBatch) -> Tensor:
    """The masked text before its words were hidden."""
    ids = batch.masked_ids.clone()
    for b, k in (batch.token_labels != IGNORE).nonzero().tolist():
        ids[b, batch.token_positions[b, k]] = batch.token_labels[b, k]
    return ids


def fused_alone(model: FlavaForPreTraining, batch: PairBatch, b: int, *, clean: bool = False) -> Fused:
    """The fusion encoder over sample `b` alone, its text cut to its length."""
    length = int(batch.masked_keep[b].sum())
    ids = (words_put_back(batch) if clean else batch.masked_ids)[b : b + 1, :length]
    image = model.flava.image_encoder(batch.pixels[b : b + 1], None if clean else batch.masked[b : b + 1])
    text = model.flava.text_encoder(ids)
    joined = model.flava.image_to_fusion(image.hidden), model.flava.text_to_fusion(text.hidden)
    return model.flava.fusion_encoder(*joined, torch.ones(1, length, dtype=torch.bool))


def cross_entropy(logits: Tensor, label: Tensor | int) -> Tensor:
    return logits.exp().sum().log() - logits[label]


def mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean()


def asked(states: Tensor, head: nn.Module, positions: Tensor, labels: Tensor) -> list[Tensor]:
    """The cross-entropy of each place of one sample that has a label."""
    places = zip(positions.tolist(), labels.tolist(), strict=True)
    return [cross_entropy(head(states[at]), label) for at, label in places if label != IGNORE]


def losses_one_by_one(model: FlavaForPreTraining, batch: Batch) -> dict[str, Tensor]:
    """Each loss as the references compute it: a sample at a time, only the rows that count."""
    rows = range(len(batch[0]))
    if isinstance(batch, ImageBatch):
        each = []
        for b in rows:
            patches = model.flava.image_encoder(batch.pixels[b : b + 1], batch.masked[b : b + 1]).normed[0, 1:]
            each += asked(patches, model.mim, batch.positions[b], batch.labels[b])
        return {"mim": mean(each)}
    if isinstance(batch, TextBatch):
        each = []
        for b in rows:
            tokens = model.flava.text_encoder(batch.masked_ids[b : b + 1, : int(batch.keep[b].sum())]).normed[0]
            each += asked(tokens, model.mlm, batch.positions[b], batch.labels[b])
        return {"mlm": mean(each)}
    mmm_image, mmm_text, itm = [], [], []
    for b in rows:
        fused = fused_alone(model, batch, b)
        if batch.matched[b]:
            mmm_image += asked(fused.image[0, 1:], model.mmm_image, batch.patch_positions[b], batch.patch_labels[b])
            mmm_text += asked(fused.text[0], model.mmm_text, batch.token_positions[b], batch.token_labels[b])
        seen = fused if model.itm_input == "masked" else fused_alone(model, batch, b, clean=True)
        itm.append(cross_entropy(model.itm(seen.cls)[0], int(batch.matched[b])))
    image = F.normalize(model.flava.image_projection(model.flava.image_encoder(batch.pixels).normed[:, 0]), dim=-1)
    text = model.flava.text_encoder(batch.ids, batch.keep).normed[:, 0]
    text = F.normalize(model.flava.text_projection(text), dim=-1)
    logits = model.contrastive.log_scale.exp() * image @ text.T
    pairs = [(cross_entropy(logits[b], b) + cross_entropy(logits[:, b], b)) / 2 for b in rows if batch.contrast[b]]
    return {"contrastive": mean(pairs), "mmm_image": mean(mmm_image), "mmm_text": mean(mmm_text), "itm": mean(itm)}


@pytest.mark.parametrize("itm_input", ["masked", "clean"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_losses_are_those_of_samples_one_by_one_forward_and_gradient(kind: str, itm_input: str) -> None:
    model = tiny.pretraining(itm_input=itm_input)
    batch = tiny.batch_of(kind, 5)
    fast = {name: loss.mean for name, loss in model(batch).items()}
    slow = losses_one_by_one(model, batch)
    assert set(fast) == set(slow)
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    parameters = list(model.parameters())
    a, b = (torch.autograd.grad(sum(losses.values()), parameters, allow_unused=True) for losses in (fast, slow))
    for (name, _), got, due in zip(model.named_parameters(), a, b, strict=True):
        assert (got is None) == (due is None), name
        if due is not None:
            torch.testing.assert_close(got, due, rtol=1e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_clean_matching_differs_from_masked_matching() -> None:
    model, batch = tiny.pretraining(), tiny.pair_batch()
    masked = model(batch)["itm"].total
    model.itm_input = "clean"
    assert (model(batch)["itm"].total - masked).abs() > 1e-3
    torch.testing.assert_close(model.match_logits(batch), torch.cat([
        model.itm(fused_alone(model, batch, b, clean=True).cls) for b in range(3)
    ]), rtol=1e-4, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "head", "codes"),
    [
        ("image", "mim", tiny.NUM_CODES),
        ("text", "mlm", tiny.VOCAB_SIZE),
        ("pair", "mmm_image", tiny.NUM_CODES),
        ("pair", "mmm_text", tiny.VOCAB_SIZE),
        ("pair", "itm", 2),
    ],
)
def test_an_empty_decoder_costs_the_logarithm_of_its_outputs(kind: str, head: str, codes: int) -> None:
    model = tiny.pretraining()
    decoder = model.get_submodule(head).decoder
    nn.init.zeros_(decoder.weight)
    nn.init.zeros_(decoder.bias)
    assert model(tiny.batch_of(kind))[head].mean.item() == pytest.approx(math.log(codes), rel=1e-6)


def test_equal_embeddings_cost_the_logarithm_of_the_batch() -> None:
    model = tiny.pretraining()
    for projection in (model.flava.image_projection, model.flava.text_projection):
        nn.init.zeros_(projection.weight)
        nn.init.ones_(projection.bias)
    batch = tiny.pair_batch(5)
    assert model(batch)["contrastive"].mean.item() == pytest.approx(math.log(5), rel=1e-5)


def without_labels(batch: Batch) -> Batch:
    names = {"labels", "patch_labels", "token_labels"} & set(batch._fields)
    return batch._replace(**{name: torch.full_like(getattr(batch, name), IGNORE) for name in names})


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_nothing_labelled_costs_exactly_nothing_with_finite_gradients(kind: str, size: int) -> None:
    model = tiny.pretraining()
    batch = without_labels(tiny.batch_of(kind, size))
    if kind == "pair":
        batch = batch._replace(contrast=torch.zeros(size, dtype=torch.bool))
    losses = model(batch)
    assert {name: loss.mean.item() for name, loss in losses.items() if name != "itm"} == dict.fromkeys(
        [name for name in losses if name != "itm"], 0.0
    )
    tiny.total(model, batch).backward()
    grads = tiny.gradients(model)
    reached = {"image": ("flava.image_encoder", "mim"), "text": ("flava.text_encoder", "mlm"), "pair": ("flava", *HEADS)}
    assert set(grads) == {name for name, _ in model.named_parameters() if name.startswith(reached[kind])}
    for name, grad in grads.items():
        assert grad.isfinite().all(), name
        if kind != "pair":
            assert not grad.any(), name


def test_nothing_matched_leaves_matching_alone() -> None:
    model = tiny.pretraining()
    batch = tiny.pair_batch()._replace(matched=torch.zeros(3, dtype=torch.bool))
    losses = model(batch)
    assert losses["mmm_image"].mean.item() == losses["mmm_text"].mean.item() == 0.0
    assert losses["itm"].mean > 0
    assert losses["contrastive"].mean > 0
    tiny.total(model, batch).backward()
    assert all(grad.isfinite().all() for grad in tiny.gradients(model).values())


def test_one_sample_with_a_caption_of_two_tokens() -> None:
    model = tiny.pretraining()
    two, kept = torch.tensor([[tiny.CLS, tiny.SEP]]), torch.ones(1, 2, dtype=torch.bool)
    none = {"token_positions": torch.zeros(1, 1, dtype=torch.int64), "token_labels": torch.full((1, 1), IGNORE)}
    batch = tiny.pair_batch(1)._replace(ids=two, keep=kept, masked_ids=two, masked_keep=kept, **none)
    losses = model(batch)
    assert losses["contrastive"].mean.item() == losses["mmm_text"].mean.item() == 0.0
    assert losses["mmm_image"].mean > 0
    tiny.total(model, batch).backward()
    assert all(grad.isfinite().all() for grad in tiny.gradients(model).values())


@st.composite
def batches(draw: Any) -> Batch:
    """Of any kind, with any masks, lengths, labels and rows, the extremes included."""
    size, length, other = draw(st.sampled_from([1, 2, 5])), draw(st.integers(1, 13)), draw(st.integers(1, 13))
    patches, words = draw(st.sampled_from([0, 1, 7])), draw(st.sampled_from([0, 1, 3]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    share = st.sampled_from([0.0, 0.3, 1.0])

    def coins(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) < draw(share)

    def below(end: int, *shape: int) -> Tensor:
        return torch.randint(0, end, shape, generator=generator)

    def labels(end: int, *shape: int) -> Tensor:
        return torch.where(coins(*shape), below(end, *shape), IGNORE)

    pixels = tiny.pixels(size, generator) * draw(st.sampled_from([0.0, 1.0, 1e4]))
    n, v = tiny.NUM_PATCHES, tiny.VOCAB_SIZE
    image = (coins(size, n), below(n, size, patches), labels(tiny.NUM_CODES, size, patches))
    text = (below(v, size, other), coins(size, other), below(other, size, words), labels(v, size, words))
    kind = draw(st.sampled_from(tiny.KINDS))
    if kind == "image":
        return ImageBatch(pixels, *image)
    if kind == "text":
        return TextBatch(*text)
    clean = below(v, size, length), coins(size, length)
    return PairBatch(pixels, *image, *clean, *text, matched=coins(size), contrast=coins(size))


MODELS = {name: tiny.pretraining(itm_input=name) for name in ("masked", "clean")}


@given(batch=batches(), itm_input=st.sampled_from(["masked", "clean"]))
def test_no_batch_gives_nan(batch: Batch, itm_input: str) -> None:
    model = MODELS[itm_input]
    model.zero_grad()
    losses = model(batch)
    counts = {"mim": "labels", "mlm": "labels", "itm": None, "contrastive": "contrast"}
    for name, loss in losses.items():
        assert loss.mean.isfinite(), name
        if counts.get(name):
            there = getattr(batch, counts[name])
            assert loss.num_rows == (there if there.dtype == torch.bool else there != IGNORE).sum()
        assert loss.num_rows > 0 or loss.mean.item() == 0.0, name
    tiny.total(model, batch).backward()
    for name, grad in tiny.gradients(model).items():
        assert grad.isfinite().all(), name


def hidden_pixels(batch: ImageBatch | PairBatch) -> Tensor:
    """(B, 1, S, S) bool: True under a mask."""
    return batch.masked.reshape(-1, 1, 3, 3).repeat_interleave(5, 2).repeat_interleave(5, 3)


@pytest.mark.parametrize("kind", ["image", "pair"])
def test_what_is_hidden_cannot_be_seen(kind: str) -> None:
    model = tiny.pretraining()
    batch = tiny.batch_of(kind)
    other = batch._replace(pixels=torch.where(hidden_pixels(batch), batch.pixels + 3, batch.pixels))
    before, after = model(batch), model(other)
    for name in set(before) - {"contrastive"}:
        assert torch.equal(before[name].total, after[name].total), name
    if kind == "pair":
        assert not torch.equal(before["contrastive"].total, after["contrastive"].total), "its image is not masked"


@pytest.mark.parametrize("kind", ["text", "pair"])
def test_padding_changes_nothing(kind: str) -> None:
    model = tiny.pretraining(parts={"text": tiny.text_encoder(max_length=23)})
    batch = tiny.batch_of(kind)
    padded = {name: F.pad(getattr(batch, name), (0, 7)) for name in ("ids", "keep", "masked_ids", "masked_keep")
              if hasattr(batch, name)}  # fmt: skip
    before, after = model(batch), model(batch._replace(**padded))
    for name, loss in before.items():
        torch.testing.assert_close(after[name].mean, loss.mean, rtol=1e-5, atol=1e-5, msg=name)


def test_labels_asked_for_twice_as_much_padding_change_nothing() -> None:
    model, batch = tiny.pretraining(), tiny.image_batch()
    more = batch._replace(positions=F.pad(batch.positions, (0, 4)), labels=F.pad(batch.labels, (0, 4), value=IGNORE))
    torch.testing.assert_close(model(more)["mim"], model(batch)["mim"])


class Passes:
    """Counts how often each encoder runs."""

    def __init__(self, model: FlavaForPreTraining) -> None:
        self.counted: Counter[str] = Counter()
        for name in ("image", "text", "fusion"):
            part = model.flava.get_submodule(f"{name}_encoder")
            part.register_forward_hook(lambda *_, name=name: self.counted.update([name]))


@pytest.mark.parametrize(
    ("kind", "without", "itm_input", "passes"),
    [
        ("image", (), "masked", {"image": 1}),
        ("text", (), "masked", {"text": 1}),
        ("pair", (), "masked", {"image": 2, "text": 2, "fusion": 1}),
        ("pair", (), "clean", {"image": 3, "text": 3, "fusion": 2}),
        ("pair", ("contrastive",), "masked", {"image": 1, "text": 1, "fusion": 1}),
        ("pair", ("mmm_image", "mmm_text", "itm"), "masked", {"image": 1, "text": 1}),
        ("pair", ("mmm_image", "mmm_text", "itm"), "clean", {"image": 1, "text": 1}),
        ("pair", ("mmm_image", "mmm_text", "contrastive"), "clean", {"image": 1, "text": 1, "fusion": 1}),
        ("pair", ("mmm_image", "itm"), "masked", {"image": 2, "text": 2, "fusion": 1}),
    ],
)
def test_no_pass_runs_that_no_loss_asks_for(
    kind: str, without: tuple[str, ...], itm_input: str, passes: dict[str, int]
) -> None:
    model, batch = tiny.pretraining(itm_input=itm_input), tiny.batch_of(kind)
    whole = model(batch)
    for name in without:
        setattr(model, name, None)
    counted = Passes(model)
    losses = model(batch)
    assert dict(counted.counted) == passes
    assert set(losses) == set(whole) - set(without)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, whole[name])


@pytest.mark.parametrize(("kind", "without"), [("image", ["mim"]), ("text", ["mlm"]), ("pair", HEADS)])
def test_a_kind_without_objectives_is_refused(kind: str, without: list[str]) -> None:
    model = tiny.pretraining()
    for name in without:
        setattr(model, name, None)
    with pytest.raises(ValueError, match=r"every objective for a \w+Batch was taken out; leave this kind out"):
        model(tiny.batch_of(kind))


class SigmoidLoss(nn.Module):
    """A contrastive loss of one's own: each pair alone is true or false (Zhai et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.full((1,), 10.0)), nn.Parameter(torch.full((1,), -10.0))

    def forward(self, image: Tensor, text: Tensor, contrast: Tensor) -> Loss:
        signs = 2 * torch.eye(len(image)) - 1
        each = -F.logsigmoid(signs * (self.scale * image @ text.T + self.bias)).sum(1)
        return Loss(torch.where(contrast, each, 0.0).sum(), contrast.sum().float())


def test_another_contrastive_loss_goes_in() -> None:
    model, batch = tiny.pretraining(), tiny.pair_batch()
    model.contrastive = SigmoidLoss()
    image, text = model.embed_image(batch.pixels), model.embed_text(batch.ids, batch.keep)
    torch.testing.assert_close(model(batch)["contrastive"], model.contrastive(image, text, batch.contrast))
    tiny.total(model, batch).backward()
    assert model.contrastive.scale.grad.isfinite().all()
    model.clamp_temperature()  # it has none to clamp
    model.contrastive = None
    model.clamp_temperature()


def test_another_head_goes_in() -> None:
    model, batch = tiny.pretraining(), tiny.image_batch()
    model.mim = nn.Linear(tiny.IMAGE_WIDTH, tiny.NUM_CODES)
    assert model(batch)["mim"].mean.isfinite()


def test_the_temperature_is_clamped_after_the_step_not_in_forward() -> None:
    model = tiny.pretraining()
    nn.init.constant_(model.contrastive.log_scale, 7.0)
    model(tiny.pair_batch())
    assert model.contrastive.log_scale.item() == 7.0
    model.clamp_temperature()
    assert model.contrastive.log_scale.item() == pytest.approx(math.log(100))


@pytest.mark.parametrize("itm_input", ["masked", "clean"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_no_argument_and_no_weight_is_changed(kind: str, itm_input: str) -> None:
    model, batch = tiny.pretraining(itm_input=itm_input), tiny.batch_of(kind)
    before, weights = copy.deepcopy(batch), copy.deepcopy(model.state_dict())
    versions = [tensor._version for tensor in batch]
    tiny.total(model, batch).backward()
    assert all(torch.equal(a, b) for a, b in zip(batch, before, strict=True))
    assert [tensor._version for tensor in batch] == versions
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_verbs_for_evaluation() -> None:
    model, batch = tiny.pretraining(), tiny.pair_batch()
    torch.testing.assert_close(model.embed_image(batch.pixels), model.flava.embed_image(batch.pixels))
    torch.testing.assert_close(model.embed_text(batch.ids), model.flava.embed_text(batch.ids, batch.keep))
    for b in range(3):
        alone = fused_alone(model, batch, b)
        torch.testing.assert_close(model.match_logits(batch)[b], model.itm(alone.cls)[0], rtol=1e-4, atol=1e-5)
        at = batch.token_positions[b]
        torch.testing.assert_close(model.word_logits(batch)[b], model.mmm_text(alone.text[0, at]), rtol=1e-4, atol=1e-4)
    model.itm = model.mmm_text = None
    with pytest.raises(ValueError, match="match_logits: this model has no itm head"):
        model.match_logits(batch)
    with pytest.raises(ValueError, match="word_logits: this model has no mmm_text head"):
        model.word_logits(batch)


def test_the_builder_reads_sizes_off_the_encoders() -> None:
    model = flava_for_pretraining(tiny.flava(), num_codes=tiny.NUM_CODES, gradients="local", itm_input="clean")
    heads = {name: model.get_submodule(name) for name in LOSSES}
    assert heads["mim"].decoder.weight.shape == (tiny.NUM_CODES, tiny.IMAGE_WIDTH)
    assert heads["mlm"].decoder.weight.shape == (tiny.VOCAB_SIZE, tiny.TEXT_WIDTH)
    assert heads["mmm_image"].decoder.weight.shape == (tiny.NUM_CODES, tiny.FUSION_WIDTH)
    assert heads["mmm_text"].decoder.weight.shape == (tiny.VOCAB_SIZE, tiny.FUSION_WIDTH)
    assert heads["itm"].dense.weight.shape == (tiny.FUSION_WIDTH, tiny.FUSION_WIDTH)
    assert (heads["contrastive"].gradients, model.itm_input) == ("local", "clean")
    assert [id(unit) for unit in model.units()] == [id(unit) for unit in model.flava.units()]
    assert len(model.units()) == 5


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        ("image", {"pixels": torch.zeros(3, 3, 20, 20)}, "images are 20 x 20, the encoder is made for 15 x 15"),
        ("image", {"pixels": torch.zeros(3, 3, 15, 15, dtype=torch.uint8)}, "uint8; .* after transforms.normalise"),
        ("image", {"masked": torch.zeros(3, 8, dtype=torch.bool)}, r"masked is \(3, 8\) .* has \(3, 9\) patches"),
        ("image", {"masked": torch.zeros(3, 9)}, r"masked is \(3, 9\) torch.float32, .* give a bool for each patch"),
        ("image", {"labels": torch.zeros(3, 4, dtype=torch.int64)}, r"labels are \(3, 4\), logits \(3, 5, 37\)"),
        ("image", {"positions": torch.zeros(2, 5, dtype=torch.int64)}, r"positions are \(2, 5\); \(3, K\) is due"),
        ("text", {"masked_ids": torch.full((3, 11), 41)}, "id 41 is beyond the vocabulary of 41"),
        ("text", {"keep": torch.ones(3, 4, dtype=torch.bool)}, r"keep is \(3, 4\).*; a bool for each of \(3, 11\) ids"),
        ("text", {"keep": torch.ones(3, 11)}, r"keep is \(3, 11\) torch.float32; a bool for each"),
        ("pair", {"pixels": torch.zeros(2, 3, 15, 15)}, r"image embeddings are \(2, 19\), text's \(3, 19\)"),
        ("pair", {"masked_keep": torch.ones(3, 4, dtype=torch.bool)}, r"keep is \(3, 4\)"),
        ("pair", {"matched": torch.ones(2, dtype=torch.bool)}, r"matched is \(2,\) .*; one bool for each of 3 rows"),
        ("pair", {"matched": torch.ones(3, dtype=torch.int64)}, r"matched is \(3,\) torch.int64; one bool for each"),
        ("pair", {"contrast": torch.ones(3, 1, dtype=torch.bool)}, r"contrast is \(3, 1\) .*; one bool for each of 3"),
        ("pair", {"contrast": torch.ones(3)}, r"contrast is \(3,\) torch.float32; one bool for each"),
    ],
)
def test_what_is_refused(kind: str, wrong: dict[str, Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny.pretraining()(tiny.batch_of(kind)._replace(**wrong))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_an_empty_batch_is_refused(kind: str) -> None:
    words = "ids are .* above 0 is due" if kind == "text" else "the batch is empty"
    with pytest.raises(ValueError, match=words):
        tiny.pretraining()(tiny.part(tiny.batch_of(kind), slice(0)))


def test_texts_and_images_of_unequal_number_are_refused_without_a_contrastive_loss_too() -> None:
    model = tiny.pretraining()
    model.contrastive = None
    batch = tiny.pair_batch()
    fewer = batch._replace(pixels=batch.pixels[:2], masked=batch.masked[:2])
    with pytest.raises(ValueError, match="2 images meet 3 texts; give one text for each image"):
        model(fewer)


def test_what_is_no_batch_is_refused() -> None:
    with pytest.raises(TypeError, match="no objective for a Tensor; give an ImageBatch, TextBatch or PairBatch"):
        tiny.pretraining()(torch.zeros(2))
    with pytest.raises(ValueError, match="itm_input must be 'masked' or 'clean', got 'both'"):
        tiny.pretraining(itm_input="both")


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_forward_compiles_into_one_graph(kind: str) -> None:
    model, batch = tiny.pretraining(parts=tiny.shallow()), tiny.batch_of(kind)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for name, loss in compiled(batch).items():
        torch.testing.assert_close(loss, model(batch)[name])
