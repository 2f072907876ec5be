"""Fine-tuning for classification: an MLP on a class token (paper §4.2 and appendix C).

Letters: B batch, S side in pixels, T tokens, D width, C classes.
"""

from typing import Literal

from torch import Tensor, nn

from torchflava.heads import MlpClassifier
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
        for name, given, read in (("pixels", pixels, self.reads != "text"), ("ids", ids, self.reads != "image")):
            if (given is not None) != read:
                raise ValueError(f"a classifier that reads {self.reads!r} {'needs' if read else 'takes no'} {name}")
        if keep is not None and ids is None:
            raise ValueError(f"a classifier that reads {self.reads!r} takes no keep")
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
