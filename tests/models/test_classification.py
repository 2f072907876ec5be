"""Fine-tuning: which class token is read, without labels, and what is refused."""

import pytest
import tiny
import torch
from torch import Tensor, nn

from torchflava.heads import MlpClassifier
from torchflava.models import FlavaForClassification, flava_for_classification

READS = ("image", "text", "pair")


def inputs(reads: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels, (ids, keep) = tiny.pixels(3, generator), tiny.caption(3, 7, generator)
    given = {"pixels": pixels, "ids": ids, "keep": keep}
    return {name: x for name, x in given.items() if reads == "pair" or (name == "pixels") == (reads == "image")}


@pytest.mark.parametrize("reads", READS)
def test_logits_are_the_classifier_on_the_normed_class_token(reads: str) -> None:
    model = tiny.stirred(flava_for_classification(7, tiny.flava(), reads, hidden=13))
    given = inputs(reads)
    states = {
        "image": lambda: model.flava.image_encoder(given["pixels"]).normed[:, 0],
        "text": lambda: model.flava.text_encoder(given["ids"], given["keep"]).normed[:, 0],
        "pair": lambda: model.flava(given["pixels"], given["ids"], given["keep"]).fused.cls,
    }
    logits = model(**given)
    assert logits.shape == (3, 7)
    torch.testing.assert_close(logits, model.classifier(states[reads]()))
    if reads != "image":
        torch.testing.assert_close(model(**{k: v for k, v in given.items() if k != "keep"}), logits)


@pytest.mark.parametrize("reads", READS)
def test_what_is_read_gets_a_gradient_and_the_rest_none(reads: str) -> None:
    model = flava_for_classification(7, tiny.flava(), reads, hidden=13)
    torch.nn.functional.cross_entropy(model(**inputs(reads)), torch.tensor([0, 6, 3])).backward()
    used = {name.split(".")[1] for name in tiny.gradients(model) if name.startswith("flava.")}
    fusion = {"image_encoder", "text_encoder", "fusion_encoder", "image_to_fusion", "text_to_fusion"}
    assert used == {"image": {"image_encoder"}, "text": {"text_encoder"}, "pair": fusion}[reads]
    assert all(grad.isfinite().all() for grad in tiny.gradients(model).values())


def test_the_papers_head() -> None:
    model = flava_for_classification(7, tiny.flava())
    assert isinstance(model.classifier, MlpClassifier)
    assert model.classifier.dense.weight.shape == (1536, tiny.FUSION_WIDTH)
    assert model.reads == "pair"


def test_padding_changes_nothing() -> None:
    model = flava_for_classification(7, tiny.flava(), hidden=13)
    given = inputs("pair")
    longer = {name: nn.functional.pad(x, (0, 5)) if name != "pixels" else x for name, x in given.items()}
    torch.testing.assert_close(model(**longer), model(**given), rtol=1e-5, atol=1e-5)


def test_a_classifier_of_ones_own() -> None:
    model = FlavaForClassification(tiny.flava(), nn.Linear(tiny.TEXT_WIDTH, 5), "text")
    assert model(ids=torch.tensor([[tiny.CLS, tiny.SEP]])).shape == (1, 5)


def test_what_is_refused() -> None:
    model = flava_for_classification(7, tiny.flava(), "image", hidden=13)
    pair, image = inputs("pair"), inputs("image")
    with pytest.raises(ValueError, match="a classifier that reads 'image' takes no ids"):
        model(**pair)
    with pytest.raises(ValueError, match="a classifier that reads 'image' takes no keep"):
        model(**image, keep=pair["keep"])
    with pytest.raises(ValueError, match="a classifier that reads 'image' needs pixels"):
        model()
    with pytest.raises(ValueError, match="a classifier that reads 'pair' needs ids"):
        flava_for_classification(7, tiny.flava(), hidden=13)(pair["pixels"])
    with pytest.raises(ValueError, match="reads must be 'image', 'text' or 'pair', got 'both'"):
        flava_for_classification(7, tiny.flava(), "both")
    with pytest.raises(ValueError, match="the classifier is 11 wide, the text states are 26; make them equal"):
        FlavaForClassification(tiny.flava(), MlpClassifier(11, 7), "text")


def test_forward_compiles_into_one_graph() -> None:
    model = flava_for_classification(7, tiny.flava(**tiny.shallow()), hidden=13)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs("pair")), model(**inputs("pair")))
