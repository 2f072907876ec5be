"""Fine-tuning for classification: an MLP on a class token (paper §4.2 and appendix C).

Letters: B batch, S side in pixels, T tokens, D width, C classes.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from torchflava.heads import MlpClassifier
from torchflava.models.clip import Clip
from torchflava.models.flava import Flava, flava_model

Reads = Literal["image", "text", "pair"]


class FlavaForClassification(nn.Module):
    """Logits from CLS_I, CLS_T or CLS_M. It never sees a label: `F.cross_entropy(model(pixels, ids), labels)`.

    Args:
        flava: the encoders.
        classifier: (B, D) -> (B, C), D the width of the encoder that is read.
        reads: which encoder's normed class token the classifier looks at.

    Raises:
        ValueError: for an unknown `reads`, and for a classifier of another width than that encoder's.
    """

    def __init__(self, flava: Flava, classifier: nn.Module, reads: Reads = "pair") -> None:
        super().__init__()
        width = _width(flava, reads)
        if getattr(classifier, "width", width) != width:
            raise ValueError(
                f"the classifier is {classifier.width} wide, the {reads} states are {width}; make them equal"
            )
        self.flava = flava
        self.classifier = classifier
        self.reads = reads

    def forward(self, pixels: Tensor | None = None, ids: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """(B, 3, S, S) float and/or (B, T) int64, as `reads` asks -> (B, C) logits.

        Raises:
            ValueError: if an input that is read is missing, or one is given that is not read.
        """
        _check_given(self.reads, pixels, ids, keep=keep)
        return self.classifier(self._cls(pixels, ids, keep))

    def _cls(self, pixels: Tensor | None, ids: Tensor | None, keep: Tensor | None) -> Tensor:
        if pixels is not None and ids is not None:
            return self.flava(pixels, ids, keep).fused.cls
        if pixels is not None:
            return self.flava.image_encoder(pixels).normed[:, 0]
        assert ids is not None, "forward lets at least one input through"
        return self.flava.text_encoder(ids, self.flava.keep(ids, keep)).normed[:, 0]

    def resize(self, image_size: int) -> None:
        """Resize the image encoder's positions, for good, to images of another size."""
        self.flava.resize(image_size)

    def units(self) -> list[nn.Module]:
        """The parts to shard one by one."""
        return self.flava.units()


class EmbeddingsForClassification(nn.Module):
    """Logits from the embeddings that are compared in retrieval, of a pair one after the other.

    It is for models without a trained fusion encoder: CLIP's, and FLAVA's that learnt by the contrastive loss alone (FLAVA_C).

    Args:
        flava: the encoders; CLIP's too.
        classifier: (B, E) or, of pairs, (B, 2 E) -> (B, C).
        reads: what is classified.

    Raises:
        ValueError: for an unknown `reads`, and for a classifier of another width.
    """

    def __init__(self, flava: Flava | Clip, classifier: nn.Module, reads: Reads = "pair") -> None:
        super().__init__()
        width = _embedded_width(flava, reads)
        if getattr(classifier, "width", width) != width:
            raise ValueError(
                f"the classifier is {classifier.width} wide, the {reads} embeddings are {width}; make them equal"
            )
        self.flava = flava
        self.classifier = classifier
        self.reads = reads

    def forward(self, pixels: Tensor | None = None, ids: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """As `FlavaForClassification`'s."""
        _check_given(self.reads, pixels, ids, keep=keep)
        parts = [] if pixels is None else [self.flava.embed_image(pixels)]
        parts += [] if ids is None else [self.flava.embed_text(ids, keep)]
        joined = torch.cat(parts, dim=1)  # float32; under FSDP the classifier may compute in bf16
        return self.classifier(joined.to(next(self.classifier.parameters()).dtype))

    def resize(self, image_size: int) -> None:
        """Resize the image encoder's positions, for good, to images of another size."""
        self.flava.resize(image_size)

    def units(self) -> list[nn.Module]:
        """The parts to shard one by one."""
        return self.flava.units()


def _check_given(reads: str, pixels: Tensor | None, ids: Tensor | None, *, keep: Tensor | None) -> None:
    for name, given, read in (("pixels", pixels, reads != "text"), ("ids", ids, reads != "image")):
        if (given is not None) != read:
            raise ValueError(f"a classifier that reads {reads!r} {'needs' if read else 'takes no'} {name}")
    if keep is not None and ids is None:
        raise ValueError(f"a classifier that reads {reads!r} takes no keep")


def _embedded_width(flava: Flava | Clip, reads: str) -> int:
    if reads not in ("image", "text", "pair"):
        raise ValueError(f"reads must be 'image', 'text' or 'pair', got {reads!r}")
    return flava.embed_dim * (2 if reads == "pair" else 1)


def _width(flava: Flava, reads: str) -> int:
    widths = {
        "image": flava.image_encoder.width,
        "text": flava.text_encoder.width,
        "pair": flava.fusion_encoder.width,
    }
    if reads not in widths:
        raise ValueError(f"reads must be 'image', 'text' or 'pair', got {reads!r}")
    return widths[reads]


def flava_for_classification(
    num_classes: int, flava: Flava | None = None, reads: Reads = "pair", *, hidden: int = 1536, dropout: float = 0.0
) -> FlavaForClassification:
    """The paper's fine-tuning model: an MLP with `hidden` units over the class token of what it `reads`."""
    flava = flava_model() if flava is None else flava
    head = MlpClassifier(_width(flava, reads), num_classes, hidden, dropout=dropout)
    return FlavaForClassification(flava, head, reads)


def embeddings_for_classification(
    num_classes: int, flava: Flava | Clip, reads: Reads = "pair", *, hidden: int = 1536, dropout: float = 0.0
) -> EmbeddingsForClassification:
    """An MLP with `hidden` units over the embeddings of what it `reads`."""
    head = MlpClassifier(_embedded_width(flava, reads), num_classes, hidden, dropout=dropout)
    return EmbeddingsForClassification(flava, head, reads)
