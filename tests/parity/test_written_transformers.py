"""What is written for transformers: it loads without a word, computes the same, and comes back tensor by tensor."""

# ruff: noqa: F811 (fixtures of the neighbour)

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from agree import assert_close, assert_same_losses, inputs, step
from test_transformers import losses, pair_losses, saved, theirs  # noqa: F401
from tiny import (
    EMBED_DIM,
    IMAGE_SIZE,
    MAX_LENGTH,
    NUM_CODES,
    PATCH_SIZE,
    VOCAB_SIZE,
    fusion_encoder,
    image_encoder,
    stirred,
    text_encoder,
)
from torch import nn

from torchflava.codebooks import DalleCodebook
from torchflava.codebooks.dalle_names import dalle_layout
from torchflava.files import load_tensors
from torchflava.models import (
    Flava,
    FlavaForPreTraining,
    flava_for_classification,
    flava_for_pretraining,
    flava_model,
    from_pretrained,
    load_pretrained,
    to_transformers,
)
from torchflava.transforms import EvalView, WordPiece, normalise

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")


def trained(**options: Any) -> FlavaForPreTraining:
    """Our own, of one width, with the eps that our own heads have."""
    sizes = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "vocab_size": VOCAB_SIZE}
    return stirred(flava_for_pretraining(flava_model("tiny", **sizes), num_codes=NUM_CODES, **options)).eval()


def loaded(folder: Path, cls: str = "FlavaForPreTraining") -> nn.Module:
    """What transformers makes of a folder, if nothing in it is missing or too much."""
    model, said = getattr(transformers, cls).from_pretrained(folder, output_loading_info=True)
    assert not any(said.values()), said
    return model.eval()


def set_eps(model: nn.Module, written: Any) -> None:
    """What the report says to say after loading."""
    for name, reason in written.differs.items():
        if name.startswith("head_eps"):
            exec(reason.partition("after loading say ")[2], {"model": model})


def dvae() -> DalleCodebook:
    generator = torch.Generator().manual_seed(1)
    shapes = dalle_layout(8, 1, NUM_CODES)
    return DalleCodebook({name: 0.1 * torch.randn(s, generator=generator) for name, s in shapes.items()}, image_size=24)


def test_theirs_to_ours_and_back(theirs: nn.Module, saved: Path, tmp_path: Path) -> None:
    """Tensor by tensor but for the poolers, which no loss reads; the config says the same of all that it says."""
    written = to_transformers(from_pretrained(saved), tmp_path / "back")
    before, after = load_tensors(saved), load_tensors(tmp_path / "back")
    assert after.keys() == before.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} <= written.made.keys()
    assert written.made.keys() == {name for name in before if ".pooler." in name and "itm_head" not in name}
    model = loaded(tmp_path / "back")
    given = inputs(padded=True, mismatched=True)
    for keep in (None, given.keep):
        expected, found = pair_losses(theirs, given, keep), pair_losses(model, given, keep)
        assert all(torch.equal(expected[name], found[name]) for name in expected if expected[name] is not None)
    was, now = (json.loads((folder / "config.json").read_bytes()) for folder in (saved, tmp_path / "back"))
    for part in ("image_config", "text_config", "multimodal_config"):
        assert now[part].items() <= was[part].items()
    parts = ("image_config", "text_config", "multimodal_config")
    assert {key: value for key, value in now.items() if key not in parts}.items() <= was.items()


@pytest.mark.parametrize("width", [(24, 24, 24), (32, 24, 40)], ids=["one width", "three widths"])
@torch.no_grad()
def test_the_encoders_alone(width: tuple[int, int, int], tmp_path: Path) -> None:
    parts = [make(width=w) for make, w in zip((image_encoder, text_encoder, fusion_encoder), width, strict=True)]
    ours = stirred(Flava(*parts, embed_dim=EMBED_DIM)).eval()
    written = to_transformers(ours, tmp_path)
    assert {"logit_scale"} < written.made.keys()
    model, given = loaded(tmp_path, "FlavaModel"), inputs(padded=True)
    out = model(input_ids=given.ids, pixel_values=given.pixels, attention_mask=given.keep.long())
    expected = ours(given.pixels, given.ids, given.keep)
    assert_close(expected.image.normed, out.image_embeddings, "image")
    kept = given.keep[..., None]
    assert_close(expected.text.normed * kept, out.text_embeddings * kept, "text")
    assert_close(expected.fused.cls, out.multimodal_embeddings[:, 0], "fused")
    if len(set(width)) == 1:  # its heads, which are not there, ask for one
        whole, said = transformers.FlavaForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
        assert not said["unexpected_keys"]
        assert {name.partition(".")[0] for name in said["missing_keys"]} <= {
            "mim_head",
            "mlm_head",
            "mmm_image_head",
            "mmm_text_head",
            "itm_head",
        }
        assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in whole.flava.state_dict().items())
    back = load_pretrained(tmp_path)
    assert back.settings.attend_to_padding == (False, False)
    assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in back.model.state_dict().items())


def test_ours_to_theirs_with_all_losses(tmp_path: Path) -> None:
    """With padding and with texts that do not belong."""
    ours = trained()
    written = to_transformers(ours, tmp_path)
    model, given = loaded(tmp_path), inputs(padded=True, mismatched=True)
    set_eps(model, written)
    of_image = {"pixel_values": given.pixels, "bool_masked_pos": given.masked, "mim_labels": given.codes}
    of_text = {"input_ids": given.ids, "input_ids_masked": given.masked_ids, "mlm_labels": given.words}
    assert_same_losses(step(ours, given.image_batch()), losses(model, **of_image))
    assert_same_losses(step(ours, given.text_batch()), losses(model, **of_text, attention_mask=given.keep.long()))
    assert_same_losses(step(ours, given.pair_batch()), pair_losses(model, given, given.keep))


def test_heads_that_were_taken_out_begin_anew_and_are_listed(tmp_path: Path) -> None:
    ours, given = trained(), inputs(padded=True)
    ours.mim = ours.itm = ours.contrastive = None
    written = to_transformers(ours, tmp_path)
    model = loaded(tmp_path)
    set_eps(model, written)
    heads = {name.partition(".")[0] for name in written.made if "pooler.dense" not in name or "itm" in name}
    assert heads == {"mim_head", "itm_head", "flava"}
    assert written.made["flava.logit_scale"] == "a head that was taken out of this model; it begins anew"
    assert model.mim_head.decoder.weight.std() > 0
    assert torch.isclose(model.flava.logit_scale.exp(), torch.tensor(1 / 0.07))
    again = to_transformers(ours, tmp_path / "again")
    first, second = load_tensors(tmp_path), load_tensors(tmp_path / "again")
    assert all(torch.equal(first[name], second[name]) for name in first), "the same every time"
    assert again.made == written.made
    of_text = {"input_ids": given.ids, "input_ids_masked": given.masked_ids, "mlm_labels": given.words}
    expected = losses(model, **of_text, attention_mask=given.keep.long())["mlm"]
    assert_same_losses(step(ours, given.text_batch()), {"mlm": expected})


@torch.no_grad()
def test_with_the_codebook_it_makes_the_codes_itself(tmp_path: Path) -> None:
    codebook = dvae()
    to_transformers(trained(), tmp_path, codebook=codebook)
    model = loaded(tmp_path)
    pixels = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8)
    mapped = 0.8 * pixels.float() / 255 + 0.1
    assert torch.equal(model.image_codebook.get_codebook_indices(mapped).flatten(1), codebook.encode(pixels))
    assert all(
        torch.equal(t, codebook.state_dict()[n]) for n, t in DalleCodebook.from_file(tmp_path).state_dict().items()
    )
    written = to_transformers(codebook, tmp_path / "alone")
    alone = loaded(tmp_path / "alone", "FlavaImageCodebook")
    assert written.load.startswith("codebook = transformers.FlavaImageCodebook")
    assert torch.equal(alone.get_codebook_indices(mapped).flatten(1), codebook.encode(pixels))
    back = from_pretrained(tmp_path / "alone")
    assert isinstance(back, DalleCodebook)
    assert (back.image_size, torch.equal(back.encode(pixels), codebook.encode(pixels))) == (24, True)


def test_the_processor_loads_too(tmp_path: Path) -> None:
    """Ids as our own tokenizer's, pixels as our own view's."""
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "red",
        "star",
        "##s",
        *(f"w{i}" for i in range(VOCAB_SIZE - 8)),
    ]
    tokenizer = WordPiece.from_tokens(tokens)
    to_transformers(trained(), tmp_path, tokenizer=tokenizer)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, transformers.FlavaProcessor)
    square = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    asked = {"return_tensors": "pt", "return_codebook_pixels": True, "return_image_mask": True}
    made = processor(images=square, text="Red stars, red", **asked)
    assert made["input_ids"][0].tolist() == tokenizer.encode("Red stars, red", MAX_LENGTH).ids
    assert processor.tokenizer.decode(made["input_ids"][0], skip_special_tokens=True) == "red stars [UNK] red".replace(
        "[UNK] ", ""
    )
    assert_close(made["pixel_values"], normalise(EvalView(IMAGE_SIZE)(square)[None]), "pixels")
    assert made["codebook_pixel_values"].shape[-1] == 24
    assert made["bool_masked_pos"].shape[-2:] == (3, 3)
    with pytest.raises(ValueError, match="the vocabulary has 5 words, the model knows 41"):
        to_transformers(trained(), tmp_path / "other", tokenizer=WordPiece.from_tokens(tokens[:5]))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("tower", ["image_model", "text_model", "multimodal_model"])
@torch.no_grad()
def test_one_of_their_encoders(theirs: nn.Module, tower: str, tmp_path: Path) -> None:
    """Its own file, read as that encoder of ours."""
    part = theirs.flava.get_submodule(tower)
    part.save_pretrained(tmp_path)
    ours, given = load_pretrained(tmp_path), inputs()
    assert set(ours.unused) == {"pooler.dense.weight", "pooler.dense.bias"}
    if tower == "multimodal_model":
        states = torch.randn(3, 7, 24)
        joined = torch.cat([ours.model.cls_token.expand(3, -1, -1), states], dim=1)
        assert_close(ours.model.norm(ours.model.trunk(joined)), part(states).last_hidden_state, "states")
        return
    x = given.pixels if tower == "image_model" else given.ids
    assert_close(ours.model(x).normed, part(x).last_hidden_state, "states")


@torch.no_grad()
def test_the_authors_checkpoint_computes_what_transformers_makes_of_it(
    theirs: nn.Module, saved: Path, tmp_path: Path
) -> None:
    """Renamed as transformers' own converter reads it, backwards."""
    names = {
        "flava.multimodal_model.cls_token": "mm_encoder.module.encoder.cls_token",
        "flava.image_model": "image_encoder.module",
        "flava.text_model": "text_encoder.module",
        "flava.multimodal_model": "mm_encoder.module",
        "flava.image_to_mm_projection": "mm_image_projection",
        "flava.text_to_mm_projection": "mm_text_projection",
        "flava.image_projection": "image_projection",
        "flava.text_projection": "text_projection",
        "flava.logit_scale": "heads.cmd.clip_head.logit_scale",
        "mmm_image_head": "heads.cmd.mim_head.cls.predictions",
        "mmm_text_head": "heads.cmd.mlm_head.cls.predictions",
        "itm_head.pooler": "heads.cmd.itm_head.pooler",
        "itm_head.seq": "heads.cmd.itm_head.cls.seq",
        "mlm_head": "heads.fairseq_mlm.cls.predictions",
        "mim_head": "heads.imagenet.mim_head.cls.predictions",
    }
    original = {}
    for name, tensor in theirs.state_dict().items():
        for new, old in names.items():
            if name.startswith(new):
                name = old + name.removeprefix(new)
                break
        original[name] = tensor
    torch.save(original, tmp_path / "flava.pt")
    ours, expected = from_pretrained(tmp_path / "flava.pt", num_heads=(2, 3, 4)), from_pretrained(saved)
    assert ours.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_a_classifier_is_no_model_of_theirs(tmp_path: Path) -> None:
    model = flava_for_classification(3, trained().flava, hidden=7)
    with pytest.raises(ValueError, match=r"has no classifier; write the encoders: to_transformers\(model\.flava"):
        to_transformers(model, tmp_path)
