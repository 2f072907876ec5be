"""Retrieval among COCO's 5,000 test images and 25,000 captions, beside what the ECCV Caption package says of the same scores."""

import pytest
import torch

from torchflava.evaluation import retrieval, top_k

pytest.importorskip(
    "ujson", reason="ujson, without which eccv_caption warns, is not installed: pip install '.[parity]'"
)
eccv_caption = pytest.importorskip("eccv_caption", reason="eccv_caption is not installed: pip install '.[parity]'")

KS = (1, 5, 10)


@pytest.fixture(scope="module")
def reference():
    return eccv_caption.Metrics()


@pytest.mark.slow
def test_recalls_of_coco_are_theirs(reference) -> None:
    captions = [int(number) for number in reference.coco_ids]
    image_of = {caption: images[0] for caption, images in reference.coco_gts["t2i"].items()}
    images = list(dict.fromkeys(image_of[caption] for caption in captions))
    assert (len(images), len(captions)) == (5000, 25_000)
    place = {image: at for at, image in enumerate(images)}
    owner = torch.tensor([place[image_of[caption]] for caption in captions])
    g = torch.Generator().manual_seed(0)
    seen = torch.randn(len(images), 16, generator=g)
    told = seen[owner] + 0.8 * torch.randn(len(captions), 16, generator=g)
    ours = retrieval(seen, told, owner, ks=KS)
    texts = {
        image: [captions[i] for i in row] for image, row in zip(images, top_k(seen, told, 10).tolist(), strict=True)
    }
    found = {
        caption: [images[i] for i in row] for caption, row in zip(captions, top_k(told, seen, 10).tolist(), strict=True)
    }
    theirs = reference.compute_all_metrics(texts, found, target_metrics=("coco_5k_recalls",), Ks=KS)
    for k in KS:
        assert ours.image_to_text[k] == pytest.approx(theirs[f"coco_5k_r{k}"]["i2t"], abs=1e-6)
        assert ours.text_to_image[k] == pytest.approx(theirs[f"coco_5k_r{k}"]["t2i"], abs=1e-6)
    assert 0.2 < ours.text_to_image[1] < 0.9
