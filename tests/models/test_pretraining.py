"""The six losses against one sample at a time without padding, and their known answers.

Letters: B batch, N patches, T tokens, K rows asked for.
"""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchflava.batch import IGNORE, Batch, ImageBatch, PairBatch, TextBatch
from torchflava.encoders import Fused
from torchflava.models import FlavaForPreTraining

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
        torch.testing.assert_close(
            fast[name], slow[name], rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
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
    reached = {
        "image": ("flava.image_encoder", "mim"),
        "text": ("flava.text_encoder", "mlm"),
        "pair": ("flava", *HEADS),
    }
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


def test_verbs_for_evaluation() -> None:
    model, batch = tiny.pretraining(), tiny.pair_batch()
    torch.testing.assert_close(model.embed_image(batch.pixels), model.flava.embed_image(batch.pixels))
    states = model.flava.image_encoder(batch.pixels).normed
    torch.testing.assert_close(model.patch_states(batch.pixels), states[:, 1:])
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
