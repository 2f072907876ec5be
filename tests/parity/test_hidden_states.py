"""Hidden states and embeddings against transformers' `FlavaModel`, of three widths, layer by layer, and at other sizes."""

from pathlib import Path

import pytest
import torch
from agree import assert_close, inputs
from tiny import EMBED_DIM, IMAGE_SIZE, MAX_LENGTH, PATCH_SIZE, VOCAB_SIZE, pixels, stirred
from torch import Tensor, nn

from torchflava.models import Flava, from_pretrained

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install '.[parity]'")


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(1)
    image = {"hidden_size": 22, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 23}
    text = {"hidden_size": 26, "num_hidden_layers": 3, "num_attention_heads": 13, "intermediate_size": 29}
    return stirred(
        transformers.FlavaModel(
            transformers.FlavaConfig(
                image_config=image | {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
                text_config=text | {"vocab_size": VOCAB_SIZE, "max_position_embeddings": MAX_LENGTH},
                multimodal_config={"hidden_size": 34, "num_hidden_layers": 2, "num_attention_heads": 17}
                | {"intermediate_size": 31},
                projection_dim=EMBED_DIM,
            )
        )
    ).eval()


@pytest.fixture(scope="module")
def saved(theirs: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    return folder


def after_each_block(model: Flava, *given: Tensor) -> dict[str, list[Tensor]]:
    """Ours: the states before the first and after every block of each encoder."""
    towers = {"image": model.image_encoder, "text": model.text_encoder, "fusion": model.fusion_encoder}
    states: dict[str, list[Tensor]] = {name: [] for name in towers}
    hooks = []
    for name, tower in towers.items():
        into = states[name]
        hooks.append(tower.trunk.register_forward_pre_hook(lambda _, args, into=into: into.append(args[0])))
        hooks += [b.register_forward_hook(lambda _, __, out, into=into: into.append(out)) for b in tower.trunk.blocks]
    model(*given)
    for hook in hooks:
        hook.remove()
    return states


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
def test_all_states(theirs: nn.Module, saved: Path, padded: bool) -> None:
    given = inputs(padded=padded)
    ours = from_pretrained(saved, attend_to_padding=(False, False))
    inside: list[Tensor] = []  # its multimodal encoder does not return them
    layers = theirs.multimodal_model.encoder.layer
    hooks = [block.register_forward_hook(lambda _, __, out: inside.append(out[0])) for block in layers]
    out = theirs(given.ids, given.pixels, given.keep.long())
    for hook in hooks:
        hook.remove()
    seen = ours(given.pixels, given.ids, given.keep)
    fused = out.multimodal_embeddings
    assert_close(seen.image.normed, out.image_embeddings, "image_embeddings")
    assert_close(seen.text.normed, out.text_embeddings, "text_embeddings")
    assert_close(seen.fused.cls, fused[:, 0], "CLS_M")
    assert_close(seen.fused.image, fused[:, 1 : 1 + seen.image.normed.shape[1]], "fused image")
    assert_close(seen.fused.text, fused[:, -given.ids.shape[1] :], "fused text")
    states = after_each_block(ours, given.pixels, given.ids, given.keep)
    for name, hidden in (("image", out.image_output.hidden_states), ("text", out.text_output.hidden_states)):
        assert len(states[name]) == len(hidden)
        for i, (mine, other) in enumerate(zip(states[name], hidden, strict=True)):
            assert_close(mine, other, f"{name} state {i}")
    assert len(states["fusion"]) == len(inside) + 1 == 3
    for i, (mine, other) in enumerate(zip(states["fusion"][1:], inside, strict=True)):
        assert_close(mine, other, f"fused state {i}")


@torch.no_grad()
def test_embeddings(theirs: nn.Module, saved: Path) -> None:
    given = inputs(padded=True)
    ours = from_pretrained(saved)
    image = theirs.get_image_features(given.pixels).pooler_output[:, 0]
    text = theirs.get_text_features(given.ids, given.keep.long()).pooler_output[:, 0]
    assert_close(ours.embed_image(given.pixels), image / image.norm(dim=-1, keepdim=True), "image embedding")
    assert_close(ours.embed_text(given.ids), text / text.norm(dim=-1, keepdim=True), "text embedding")


@torch.no_grad()
def test_segments(theirs: nn.Module, saved: Path) -> None:
    given = inputs()
    segments = (torch.arange(given.ids.shape[1]) > 4).long().expand_as(given.ids)
    out = theirs.text_model(given.ids, token_type_ids=segments).last_hidden_state
    assert_close(from_pretrained(saved).text_encoder(given.ids, segments=segments).normed, out, "with segments")


@torch.no_grad()
@pytest.mark.parametrize("size", [20, 25, 10], ids="{}px".format)
def test_positions_for_images_of_another_size(theirs: nn.Module, saved: Path, size: int) -> None:
    images = pixels(3, torch.Generator().manual_seed(3), size)
    expected = theirs.image_model(images, interpolate_pos_encoding=True).last_hidden_state
    for_good = from_pretrained(saved, image_size=size).image_encoder
    assert for_good.image_size == size
    assert_close(for_good(images).normed, expected, "resized at load")
    on_the_fly = from_pretrained(saved).image_encoder
    on_the_fly.embed.interpolate = True
    assert_close(on_the_fly(images).normed, expected, "interpolated on the fly")
    with pytest.raises(ValueError, match=f"images are {size} x {size}, the encoder is made for 15 x 15"):
        from_pretrained(saved).image_encoder(images)


@torch.no_grad()
def test_positions_for_images_that_are_not_square(theirs: nn.Module, saved: Path) -> None:
    images = torch.randn(2, 3, 10, 25, generator=torch.Generator().manual_seed(4))
    ours = from_pretrained(saved).image_encoder
    ours.embed.interpolate = True
    expected = theirs.image_model(images, interpolate_pos_encoding=True).last_hidden_state
    assert_close(ours(images).normed, expected, "10 x 25")
