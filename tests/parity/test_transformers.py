"""Against transformers' FLAVA, at random weights that come over through its own `save_pretrained`."""

from pathlib import Path

import pytest
import torch
from agree import CLOSE, Inputs, assert_close, assert_same_gradients, assert_same_losses, inputs, step
from tiny import EMBED_DIM, IMAGE_SIZE, MAX_LENGTH, NUM_CODES, PATCH_SIZE, VOCAB_SIZE, stirred
from torch import Tensor, nn

from torchflava.models import Flava, flava_for_pretraining, flava_model, from_pretrained, load_pretrained
from torchflava.models.layouts_transformers import PRETRAINING

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")

WORDS = "flava.text_encoder.embed.words.weight"
PADDING = {"none": None, "hidden": (False, False), "seen": (True, True)}
"""How transformers is run, and what `attend_to_padding` that is: texts without padding, with a mask, and without one."""


def config(**options: object) -> "transformers.FlavaConfig":
    """One width, as its heads need; heads, depths and MLPs differ from encoder to encoder."""
    sizes = {"hidden_size": 24, "layer_norm_eps": 1e-12}
    return transformers.FlavaConfig(
        image_config=sizes
        | {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 23, "vocab_size": NUM_CODES}
        | {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
        text_config=sizes
        | {"num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 29, "vocab_size": VOCAB_SIZE}
        | {"max_position_embeddings": MAX_LENGTH},
        multimodal_config=sizes | {"num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 31},
        **{"hidden_size": 24, "projection_dim": EMBED_DIM, "init_codebook": False} | options,
    )


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(0)
    return stirred(transformers.FlavaForPreTraining(config())).eval()


@pytest.fixture(scope="module")
def saved(theirs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformers")
    theirs.save_pretrained(folder)
    return folder


def losses(model: nn.Module, **given: Tensor | None) -> dict[str, Tensor | None]:
    """Its losses by our names, after the backward pass of their sum."""
    model.zero_grad()
    found = model(**{name: None if x is None else x.clone() for name, x in given.items()}).loss_info
    torch.stack([loss for loss in found.values() if loss is not None]).sum().backward()
    return {"contrastive" if name == "global_contrastive" else name: loss for name, loss in found.items()}


def pair_losses(model: nn.Module, given: Inputs, keep: Tensor | None) -> dict[str, Tensor | None]:
    return losses(
        model,
        input_ids=given.ids,
        input_ids_masked=given.masked_ids,
        pixel_values=given.pixels,
        attention_mask=None if keep is None else keep.long(),
        bool_masked_pos=given.masked,
        mim_labels=given.codes,
        mlm_labels=given.words,
        itm_labels=given.itm,
    )


@pytest.mark.parametrize("mismatched", [False, True], ids=["matched", "mismatched"])
@pytest.mark.parametrize("padding", PADDING)
def test_the_four_losses_of_a_pair_and_their_gradients(
    theirs: nn.Module, saved: Path, padding: str, mismatched: bool
) -> None:
    ours = from_pretrained(saved, attend_to_padding=PADDING[padding])
    given = inputs(padded=padding != "none", mismatched=mismatched)
    assert_same_losses(
        step(ours, given.pair_batch()), pair_losses(theirs, given, given.keep if padding == "hidden" else None)
    )
    # Its word embedding never learns the padding's row (`padding_idx`); ours does where padding is seen.
    alive = assert_same_gradients(ours, theirs, PRETRAINING, frozen=(WORDS, 0) if padding == "seen" else None)
    unimodal = {name for name, _ in ours.named_parameters() if name.startswith(("mim.", "mlm."))}
    assert alive | unimodal == {name for name, _ in ours.named_parameters()}


def test_seen_and_hidden_padding_are_told_apart(theirs: nn.Module, saved: Path) -> None:
    given = inputs(padded=True)
    seen, hidden = pair_losses(theirs, given, None), pair_losses(theirs, given, given.keep)
    assert all(abs(seen[name] - hidden[name]) > 10 * CLOSE for name in ("mmm_image", "mmm_text", "itm", "contrastive"))
    released = from_pretrained(saved)
    assert released.flava.text_encoder.attend_to_padding is False
    assert released.flava.fusion_encoder.attend_to_padding is True


def test_masked_image_modelling_and_its_gradients(theirs: nn.Module, saved: Path) -> None:
    ours, given = from_pretrained(saved), inputs()
    expected = losses(theirs, pixel_values=given.pixels, bool_masked_pos=given.masked, mim_labels=given.codes)
    assert_same_losses(step(ours, given.image_batch()), expected)
    alive = assert_same_gradients(ours, theirs, PRETRAINING)
    assert alive == {name for name, _ in ours.named_parameters() if name.startswith(("mim.", "flava.image_encoder."))}


@pytest.mark.parametrize("padding", PADDING)
def test_masked_language_modelling_and_its_gradients(theirs: nn.Module, saved: Path, padding: str) -> None:
    ours = from_pretrained(saved, attend_to_padding=PADDING[padding])
    given = inputs(padded=padding != "none")
    expected = losses(
        theirs,
        input_ids=given.ids,
        input_ids_masked=given.masked_ids,
        attention_mask=given.keep.long() if padding == "hidden" else None,
        mlm_labels=given.words,
    )
    assert_same_losses(step(ours, given.text_batch()), expected)
    alive = assert_same_gradients(ours, theirs, PRETRAINING, frozen=(WORDS, 0) if padding == "seen" else None)
    assert alive == {name for name, _ in ours.named_parameters() if name.startswith(("mlm.", "flava.text_encoder."))}


def test_logits(theirs: nn.Module, saved: Path) -> None:
    ours, given = from_pretrained(saved, attend_to_padding=(False, False)), inputs(padded=True)
    with torch.no_grad():
        out = theirs(
            input_ids=given.ids,
            input_ids_masked=given.masked_ids,
            pixel_values=given.pixels,
            attention_mask=given.keep.long(),
            bool_masked_pos=given.masked,
            return_loss=False,
        )
        batch = given.pair_batch()
        words = out.mmm_text_logits.gather(1, batch.token_positions[..., None].expand(-1, -1, VOCAB_SIZE))
        assert_close(ours.match_logits(batch), out.itm_logits, "itm logits")
        assert_close(ours.word_logits(batch), words, "mmm_text logits")
        cosines = ours.embed_image(given.pixels) @ ours.embed_text(given.ids, given.keep).T
        scaled = cosines * ours.contrastive.log_scale.exp()
        assert_close(scaled, out.contrastive_logits_per_image, "contrastive logits")


def test_a_sharded_folder_a_lone_file_and_a_torch_file(theirs: nn.Module, saved: Path, tmp_path: Path) -> None:
    whole = from_pretrained(saved).state_dict()
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    torch.save(theirs.state_dict(), tmp_path / "weights.pt")  # holds the decoders' biases under both their names
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((saved / "model.safetensors").read_bytes())
    for path in (tmp_path / "shards", tmp_path / "weights.pt", lone):
        heads = None if path.is_dir() else (2, 3, 4)
        model = from_pretrained(path, num_heads=heads)
        assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())
        given = inputs().pair_batch()
        with torch.no_grad():
            assert torch.equal(model.match_logits(given), from_pretrained(saved).match_logits(given))


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    codebook = {"hidden_size": 8, "vocab_size": NUM_CODES}
    theirs = transformers.FlavaForPreTraining(config(init_codebook=True, image_codebook_config=codebook))
    state = theirs.state_dict() | {"flava.text_model.embeddings.position_ids": torch.arange(MAX_LENGTH)[None]}
    torch.save(state, tmp_path / "weights.pt")
    loaded = load_pretrained(tmp_path / "weights.pt", num_heads=2)
    towers = ("image_model", "text_model", "multimodal_model")
    expected = {f"flava.{tower}.pooler.dense.{kind}" for tower in towers for kind in ("weight", "bias")}
    expected |= {f"{head}_head.bias" for head in ("mim", "mlm", "mmm_image", "mmm_text")}
    expected |= {name for name in state if name.startswith("image_codebook.")}
    assert loaded.unused.keys() == expected | {"flava.text_model.embeddings.position_ids"}
    assert loaded.layout == "transformers' FlavaForPreTraining"


def test_settings_come_from_the_config(tmp_path: Path) -> None:
    own = config()
    own.image_config.layer_norm_eps, own.text_config.layer_norm_eps = 1e-3, 2e-3
    own.text_config.pad_token_id, own.text_config.hidden_dropout_prob = 5, 0.1
    theirs = stirred(transformers.FlavaForPreTraining(own)).eval()
    theirs.save_pretrained(tmp_path)
    ours, _, settings, unused, _ = load_pretrained(tmp_path)
    assert settings.num_heads == (2, 3, 4)
    assert settings.eps == (1e-3, 2e-3, 1e-12)
    assert settings.head_eps == (1e-3, 2e-3)
    assert ours.flava.text_encoder.pad_id == 5
    assert "config.json: text_config.hidden_dropout_prob" in unused
    given = inputs()
    assert_same_losses(step(ours, given.pair_batch()), pair_losses(theirs, given, None))


def test_flava_model_without_heads_loads_as_the_encoders(theirs: nn.Module, tmp_path: Path) -> None:
    theirs.flava.save_pretrained(tmp_path / "model")
    loaded = load_pretrained(tmp_path / "model")
    assert isinstance(loaded.model, Flava)
    assert "logit_scale" in loaded.unused
    torch.save({n: t for n, t in theirs.state_dict().items() if n.startswith("flava.")}, tmp_path / "headless.pt")
    headless = load_pretrained(tmp_path / "headless.pt", num_heads=(2, 3, 4))
    assert "flava.logit_scale" in headless.unused
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, headless.model.state_dict()[name])


def test_as_many_parameters_as_at_the_papers_size() -> None:
    """Trainable there 303,859,063, of which its three encoders' poolers are not ours."""
    with torch.device("meta"):
        theirs = transformers.FlavaForPreTraining(transformers.FlavaConfig(init_codebook=False))
        ours = flava_for_pretraining(flava_model(embed_dim=768))
    there = sum(p.numel() for p in theirs.parameters())
    poolers = sum(p.numel() for name, p in theirs.flava.named_parameters() if ".pooler." in name)
    assert there == 303_859_063
    assert sum(p.numel() for p in ours.parameters()) == there - poolers
