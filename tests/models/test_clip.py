"""CLIP: what stands for an image and for a text, its one loss by a formula, its verbs, its files, its compute."""

from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from torchflava.batch import CachedPairBatch
from torchflava.encoders import clip_image_encoder, clip_text_encoder
from torchflava.files import save_tensors
from torchflava.models import (
    CLIP_TEXTS,
    SIZES,
    VERBS,
    Clip,
    FlavaForPreTraining,
    clip_for_pretraining,
    clip_model,
    first_weights,
    from_pretrained,
    load_pretrained,
    save_pretrained,
    step_flops,
)
from torchflava.training import adamw, initialise


def test_an_image_is_its_class_token_and_a_text_its_last() -> None:
    model, batch = tiny.clip(), tiny.pair_batch(5)
    image, text = model(batch.pixels, batch.ids, batch.keep)
    for row in range(5):
        end = int(batch.keep[row].sum())
        assert batch.ids[row, end - 1] == tiny.SEP
        seen = model.image_encoder(batch.pixels[row : row + 1]).normed[0, 0] @ model.image_projection.weight.T
        read = model.text_encoder(batch.ids[row : row + 1, :end]).normed[0, end - 1] @ model.text_projection.weight.T
        torch.testing.assert_close(image[row], seen / seen.norm(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(text[row], read / read.norm(), rtol=1e-4, atol=1e-5)
    assert torch.equal(model.embed_text(batch.ids), text)


def test_the_loss_is_a_cross_entropy_both_ways_over_the_rows_that_count() -> None:
    model, batch = tiny.clip_pretraining(), tiny.pair_batch(5)
    losses = model(batch)
    assert losses.keys() == {"contrastive"}
    image, text = model.embed_pair(batch)
    cosines = image @ text.T / 0.07
    rows = [row for row in range(5) if batch.contrast[row]]
    assert len(rows) == 4
    due = [-(cosines.log_softmax(1)[row, row] + cosines.log_softmax(0)[row, row]) / 2 for row in rows]
    torch.testing.assert_close(losses["contrastive"].mean, torch.stack(due).mean(), rtol=1e-5, atol=1e-5)


def test_every_weight_learns() -> None:
    model = tiny.clip_pretraining()
    tiny.total(model, tiny.pair_batch(5)).backward()
    still = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == set()


def test_the_verbs_that_fuse_and_the_heads_are_refused() -> None:
    model, batch = tiny.clip_pretraining(), tiny.pair_batch(3)
    assert all(callable(getattr(model, verb)) for verb in VERBS)
    assert model.patch_states(batch.pixels).shape == (3, tiny.NUM_PATCHES, tiny.IMAGE_WIDTH)
    with pytest.raises(ValueError, match="this model has no itm head"):
        model.match_logits(batch)
    with pytest.raises(ValueError, match="this model has no mmm_text head"):
        model.word_logits(batch)
    with pytest.raises(ValueError, match="CLIP has no fusion encoder"):
        model.fuse_clean(batch)
    for kind in ("image", "text"):
        with pytest.raises(ValueError, match=r"every objective for a .* was taken out"):
            model(tiny.batch_of(kind))
    gone = dict.fromkeys(("mim", "mmm_image", "mmm_text", "itm"))
    with pytest.raises(ValueError, match="CLIP learns by the contrastive loss alone, it has no use for mlm; give None"):
        FlavaForPreTraining(tiny.clip(), **gone, mlm=nn.Linear(2, 3), contrastive=None)


def test_the_paper_s_sizes_without_arguments() -> None:
    """OpenAI's ViT-B/16 counts 149,620,737 with its temperature and 49,408 ids."""
    with torch.device("meta"):
        model = clip_for_pretraining(clip_model(vocab_size=49408))
    assert sum(p.numel() for p in model.parameters()) == 149_620_737
    assert model.flava.embed_dim == 512
    assert len(model.units()) == 24
    assert model.flava.text_encoder.embed.words.weight.shape == (49408, 512)
    with torch.device("meta"):
        assert clip_model().text_encoder.vocab_size == 30522


@pytest.mark.parametrize("size", CLIP_TEXTS)
def test_every_size_builds_with_a_narrower_text_encoder(size: str) -> None:
    with torch.device("meta"):
        model = clip_model(size, image_size=32, patch_size=8, vocab_size=61, max_length=13)
    assert 0.6 < model.text_encoder.width / model.image_encoder.width <= 0.75
    assert model.image_encoder.width == SIZES[size].width
    assert (model.text_encoder.max_length, model.embed_dim) == (13, SIZES[size].embed_dim)
    assert len(model.text_encoder.units()) == len(model.image_encoder.units()) == SIZES[size].depth


def test_what_the_builders_refuse() -> None:
    with pytest.raises(ValueError, match="no CLIP is of size '10b'; there are tiny, mini, small, medium, base"):
        clip_model("10b")
    text = clip_text_encoder(width=12, depth=1, num_heads=1, vocab_size=7)
    with pytest.raises(ValueError, match="vocab_size and max_length go to the text part, which you gave"):
        clip_model("tiny", text=text, max_length=9)
    image = clip_image_encoder(width=12, depth=1, num_heads=1, image_size=16)
    with pytest.raises(ValueError, match="image_size and patch_size go to the image part, which you gave"):
        clip_model("tiny", image=image, image_size=32)
    with pytest.raises(ValueError, match="the text part, a Linear, has no `width`"):
        Clip(image, nn.Linear(2, 3))
    with pytest.raises(ValueError, match="3 images meet 2 texts"):
        tiny.clip()(torch.zeros(3, 3, 15, 15), torch.ones(2, 5, dtype=torch.int64))


def test_weights_are_drawn_by_seed_and_name_and_narrow_ones_more_widely() -> None:
    with torch.device("meta"):
        small, large = (
            clip_for_pretraining(clip_model(size, image_size=32, vocab_size=61)) for size in ("tiny", "base")
        )
    initialise(small, 3)
    first = small.flava.text_encoder.trunk.blocks[0].mlp.up.weight
    assert first.std().item() == pytest.approx(48**-0.5, rel=0.05)
    assert small.flava.text_projection.weight.std().item() == pytest.approx(48**-0.5, rel=0.1)
    again = clip_for_pretraining(clip_model("tiny", image_size=32, vocab_size=61))
    initialise(again, 3)
    assert all(torch.equal(p, q) for p, q in zip(small.parameters(), again.parameters(), strict=True))
    initialise(large.flava.text_encoder.trunk.blocks[0], 3, prefix="x")
    assert large.flava.text_encoder.trunk.blocks[0].mlp.up.weight.std().item() == pytest.approx(0.03, rel=0.02)


def test_positions_and_class_token_do_not_decay() -> None:
    model = tiny.clip_pretraining()
    decays, stays = adamw(model, 1e-3, 0.1).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in stays["params"] if p.ndim > 1} == {
        "flava.image_encoder.embed.cls_token", "flava.image_encoder.embed.positions",
        "flava.text_encoder.embed.positions.weight",
    }  # fmt: skip
    assert decays["weight_decay"] == 0.1


def test_resizing_changes_the_image_encoder_alone() -> None:
    model = tiny.clip_pretraining()
    model.resize(20)
    assert model.embed_image(torch.zeros(2, 3, 20, 20)).shape == (2, tiny.EMBED_DIM)


def test_a_saved_model_comes_back_as_it_was(tmp_path: Path) -> None:
    model, batch = tiny.clip_pretraining(), tiny.pair_batch(5)
    model.contrastive.gradients, model.contrastive.max_scale, model.flava.text_encoder.pad_id = "local", 50.0, 0
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert isinstance(loaded.model, FlavaForPreTraining)
    assert (loaded.layout, loaded.unused) == ("torchflava's Clip for pretraining", {})
    assert (loaded.settings.num_heads, loaded.settings.eps) == ((2, 2), (1e-5, 1e-5))
    assert (loaded.model.contrastive.gradients, loaded.model.contrastive.max_scale) == ("local", 50.0)
    assert torch.equal(loaded.model(batch)["contrastive"].total, model(batch)["contrastive"].total)
    save_pretrained(model.flava, tmp_path / "clip.safetensors")
    alone = from_pretrained(tmp_path / "clip.safetensors", image_size=20)
    assert isinstance(alone, Clip)
    assert torch.equal(alone.embed_text(batch.ids), model.embed_text(batch.ids))
    assert alone.image_encoder.image_size == 20


def test_heads_are_guessed_or_asked_for(tmp_path: Path) -> None:
    named = clip_model("mini", image_size=32, patch_size=8, vocab_size=61)
    save_tensors(tmp_path / "named.safetensors", named.state_dict())
    assert load_pretrained(tmp_path / "named.safetensors").settings.num_heads == (4, 3)
    save_tensors(tmp_path / "odd.safetensors", tiny.clip().state_dict())
    with pytest.raises(ValueError, match=r"how many heads encoders of widths \[22, 26\] have; give num_heads"):
        from_pretrained(tmp_path / "odd.safetensors")
    assert (
        from_pretrained(tmp_path / "odd.safetensors", num_heads=(11, 13))
        .text_encoder.trunk.blocks[0]
        .attention.num_heads
        == 13
    )
    with pytest.raises(ValueError, match="a number above 0 is due, or one for each of 2 encoders"):
        from_pretrained(tmp_path / "odd.safetensors", num_heads=(2, 2, 2))
    with pytest.raises(ValueError, match="never sees padding; leave attend_to_padding out"):
        from_pretrained(tmp_path / "odd.safetensors", num_heads=2, attend_to_padding=(True, True))


def test_a_file_that_lacks_a_tensor_is_told(tmp_path: Path) -> None:
    state = tiny.clip_pretraining().state_dict()
    del state["flava.image_encoder.embed.norm.bias"]
    save_tensors(tmp_path / "model.safetensors", state)
    with pytest.raises(
        ValueError, match=r"torchflava's Clip for pretraining that lacks flava\.image_encoder\.embed\.norm\.bias"
    ):
        from_pretrained(tmp_path)


def test_first_weights_are_those_of_a_clip_and_of_nothing_else(tmp_path: Path) -> None:
    clip, flava = tiny.clip_pretraining(), tiny.pretraining()
    save_pretrained(clip, tmp_path / "clip.safetensors")
    save_pretrained(flava, tmp_path / "flava.safetensors")
    for name in ("image_encoder", "text_encoder"):
        encoder = clip.flava.get_submodule(name)
        first = first_weights(tmp_path / "clip.safetensors", encoder, name)
        assert all(torch.equal(first.state[key], tensor) for key, tensor in encoder.state_dict().items())
        with pytest.raises(ValueError, match=r"flava\.safetensors .*, and CLIP's for CLIP's"):
            first_weights(tmp_path / "flava.safetensors", encoder, name)
        with pytest.raises(ValueError, match=r"clip\.safetensors .*, and CLIP's for CLIP's"):
            first_weights(tmp_path / "clip.safetensors", flava.flava.get_submodule(name), name)


def test_the_compute_is_that_of_what_is_called() -> None:
    model, batch = tiny.clip_pretraining(), tiny.pair_batch(5)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tiny.total(model, batch).backward()
    assert step_flops(model, batch) == counter.get_total_flops()
    assert step_flops(model, CachedPairBatch(batch, batch.pixels, batch.pixels)) == step_flops(model, batch)
    assert step_flops(model, tiny.image_batch(5)) == step_flops(model, tiny.text_batch(5)) == 0


def test_half_precision_keeps_embeddings_in_float32() -> None:
    model, batch = tiny.clip().bfloat16(), tiny.pair_batch(5)
    image, text = model(batch.pixels.bfloat16(), batch.ids)
    assert image.dtype == text.dtype == torch.float32
    torch.testing.assert_close(image, tiny.clip().embed_image(batch.pixels), rtol=0.05, atol=0.05)
    torch.testing.assert_close(F.normalize(text, dim=-1), text)
