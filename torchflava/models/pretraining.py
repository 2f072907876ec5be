"""Pretraining: the six losses over the three kinds of batch (paper §3.2).

Letters: B batch, N patches, T tokens, K rows asked for, V words, E embedding width.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from torchflava.batch import IGNORE, Batch, CachedPairBatch, ImageBatch, PairBatch, TextBatch
from torchflava.distributed import Gather
from torchflava.encoders import Encoded, Fused, both_views, first_rows, normed_at
from torchflava.heads import MaskedPredictionHead, MatchHead
from torchflava.layers import take_rows
from torchflava.losses import ContrastiveLoss, Loss, matching_loss
from torchflava.models.clip import Clip, clip_model
from torchflava.models.flava import Flava, flava_model
from torchflava.models.labelled import of_matched
from torchflava.models.objectives import own_losses
from torchflava.models.predicted import prediction_loss

ItmInput = Literal["masked", "clean"]
Masked = tuple[Encoded, Encoded, Tensor]
"""The states of the masked image and of the masked text, and which of the text's are tokens."""


class FlavaForPreTraining(nn.Module):
    """FLAVA with its heads. `forward` maps a batch to its named losses, unweighted; the batch's type says which.

    CLIP in place of FLAVA has the contrastive loss alone, and the same verbs: see `clip_for_pretraining`.

    A part set to None takes its loss, and the passes that only it needs, out of training: `model.itm = None`. What is put
    into `objectives`, by name, adds a loss of its own: see `Objective`.

    Args:
        flava: the encoders, FLAVA's or CLIP's.
        mim, mlm: heads of masked image and masked language modelling, on the encoders' normed states.
        mmm_image, mmm_text: heads of masked multimodal modelling, on the fusion encoder's normed states.
        itm: head of image-text matching, on CLS_M.
        contrastive: the global contrastive loss, on the projected class tokens of the clean pair.
        itm_input: whether matching looks at the masked pair, sharing the pass of MMM as both references do, or at the
            clean pair, at the cost of a text and a fusion pass more.

    Raises:
        ValueError: for an unknown `itm_input`, and for heads on CLIP.
    """

    def __init__(
        self,
        flava: Flava | Clip,
        *,
        mim: nn.Module | None,
        mlm: nn.Module | None,
        mmm_image: nn.Module | None,
        mmm_text: nn.Module | None,
        itm: nn.Module | None,
        contrastive: nn.Module | None,
        itm_input: ItmInput = "masked",
    ) -> None:
        super().__init__()
        if itm_input not in ("masked", "clean"):
            raise ValueError(f"itm_input must be 'masked' or 'clean', got {itm_input!r}")
        heads = {"mim": mim, "mlm": mlm, "mmm_image": mmm_image, "mmm_text": mmm_text, "itm": itm}
        if isinstance(flava, Clip) and (given := ", ".join(name for name, head in heads.items() if head is not None)):
            raise ValueError(f"CLIP learns by the contrastive loss alone, it has no use for {given}; give None")
        self.flava = flava
        self.mim, self.mlm = mim, mlm
        self.mmm_image, self.mmm_text = mmm_image, mmm_text
        self.itm, self.contrastive = itm, contrastive
        self.itm_input = itm_input
        self.objectives = nn.ModuleDict()

    def forward(self, batch: Batch) -> dict[str, Loss]:
        """A batch -> its losses by name.

        Raises:
            TypeError: for what is no batch.
            ValueError: for a batch for which every objective was taken out.
        """
        match batch:
            case ImageBatch():
                losses = self.image_losses(batch)
            case TextBatch():
                losses = self.text_losses(batch)
            case PairBatch():
                losses = self.pair_losses(batch)
            case CachedPairBatch():
                losses = self.cached_losses(batch)
            case _:
                raise TypeError(
                    f"no objective for a {type(batch).__name__}; give an ImageBatch, TextBatch or PairBatch"
                )
        losses |= own_losses(self.objectives, self.flava, batch)
        if not losses:
            raise ValueError(
                f"every objective for a {type(batch).__name__} was taken out; leave this kind out of the data"
            )
        return losses

    def image_losses(self, batch: ImageBatch) -> dict[str, Loss]:
        """Masked image modelling: codes of the hidden patches from the image alone."""
        if self.mim is None:
            return {}
        patches = normed_at(self.flava.image_encoder, (batch.pixels, batch.masked), 1 + batch.positions)
        return {"mim": prediction_loss(self.mim, patches, batch.labels)}

    def text_losses(self, batch: TextBatch) -> dict[str, Loss]:
        """Masked language modelling: hidden words from the text alone."""
        if self.mlm is None:
            return {}
        tokens = normed_at(self.flava.text_encoder, (batch.masked_ids, batch.keep), batch.positions)
        return {"mlm": prediction_loss(self.mlm, tokens, batch.labels)}

    def pair_losses(self, batch: PairBatch) -> dict[str, Loss]:
        """The contrastive loss over true pairs, from the clean views; all others from the masked ones."""
        clean, masked = self._views(batch)
        losses = {}
        if clean is not None and self.contrastive is not None:  # not by `contrast`: a verb gives sharded weights back
            losses["contrastive"] = self.contrastive(*clean, batch.contrast)
        return losses | self.masked_losses(batch, masked)

    def cached_losses(self, batch: CachedPairBatch) -> dict[str, Loss]:
        """As `pair_losses`, with what has, at the encoders' weights, the gradient of the whole batch's contrastive loss."""
        clean, masked = self._views(batch.pair)
        losses = {}
        if clean is not None:
            total = (clean[0].float() * batch.image_grad).sum() + (clean[1].float() * batch.text_grad).sum()
            losses["contrastive"] = Loss(total, batch.pair.contrast.sum().float())
        return losses | self.masked_losses(batch.pair, masked)

    def masked_losses(self, batch: PairBatch, masked: Masked | None = None) -> dict[str, Loss]:
        """Masked multimodal modelling over matched rows, and matching over all; `masked` is computed unless given."""
        losses: dict[str, Loss] = {}
        if self.looks_at_masked:
            masked = masked or self._encode(batch, batch.masked_ids, batch.masked)
            cls, patches, tokens = self._fused_rows(batch, masked)
            if self.mmm_image is not None:
                losses["mmm_image"] = prediction_loss(self.mmm_image, patches, of_matched(batch.patch_labels, batch))
            if self.mmm_text is not None:
                losses["mmm_text"] = prediction_loss(self.mmm_text, tokens, of_matched(batch.token_labels, batch))
            if self.itm is not None and self.itm_input == "masked":
                losses["itm"] = matching_loss(self.itm(cls), batch.matched)
        if self.itm is not None and self.itm_input == "clean":
            losses["itm"] = matching_loss(self.itm(self.fuse_clean(batch).cls), batch.matched)
        return losses

    @property
    def looks_at_masked(self) -> bool:
        """Whether any loss of a pair is of its masked view."""
        modelled = self.mmm_image is not None or self.mmm_text is not None
        return modelled or (self.itm is not None and self.itm_input == "masked")

    def fuse_masked(self, batch: PairBatch) -> Fused:
        """The fusion encoder over the masked image and the masked text."""
        return self._fused(*self._encode(batch, batch.masked_ids, batch.masked))

    def fuse_clean(self, batch: PairBatch) -> Fused:
        """The fusion encoder over the clean image and the text of the masked pass with its words put back."""
        there = batch.masked_ids.gather(1, batch.token_positions)
        back = torch.where(batch.token_labels != IGNORE, batch.token_labels - there, 0)
        ids = batch.masked_ids.scatter_add(1, batch.token_positions, back)
        return self._fused(*self._encode(batch, ids, None))

    def _views(self, batch: PairBatch) -> tuple[tuple[Tensor, Tensor] | None, Masked | None]:
        """The embeddings (B, E) of the clean pairs, and the states of the masked ones; None for what no loss asks for."""
        if self.contrastive is None:
            return None, None
        if not self.looks_at_masked:
            return self._embedded(batch), None
        flava, keep = self.flava, self.flava.keep(batch.masked_ids, batch.masked_keep)
        images = (batch.pixels, None), (batch.pixels, batch.masked)
        texts = (batch.ids, flava.keep(batch.ids, batch.keep)), (batch.masked_ids, keep)
        # Texts first: what comes last goes back first, and images keep most (docs/decisions/0073).
        of_text, text = both_views(flava.text_encoder, *texts, rows=first_rows(batch.ids))
        of_image, image = both_views(flava.image_encoder, *images, rows=first_rows(batch.pixels))
        return (flava.project_image(of_image[:, 0]), flava.project_text(of_text[:, 0])), (image, text, keep)

    def _encode(self, batch: PairBatch, ids: Tensor, masked: Tensor | None) -> Masked:
        keep = self.flava.keep(ids, batch.masked_keep)
        text = self.flava.text_encoder(ids, keep)  # first, as in `_views`
        return self.flava.image_encoder(batch.pixels, masked), text, keep

    def _fused_rows(self, batch: PairBatch, masked: Masked) -> tuple[Tensor, Tensor, Tensor]:
        """The fused states of CLS_M (B, D), and of the patches and the tokens (B, K, D) that are asked for."""
        if isinstance(self.flava, Clip):
            raise ValueError("CLIP has no fusion encoder; its verbs are those that embed")
        patches, tokens = batch.patch_positions, batch.token_positions
        before = 2 + batch.masked.shape[1]  # CLS_M and the image
        rows = torch.cat([first_rows(patches), 2 + patches, before + tokens], dim=1)
        states = self.flava.fuse_at(*masked, rows=rows)
        cls, of_image, of_text = torch.split(states, [1, patches.shape[1], tokens.shape[1]], dim=1)
        return cls[:, 0], of_image, of_text

    def _fused(self, image: Encoded, text: Encoded, keep: Tensor) -> Fused:
        if isinstance(self.flava, Clip):
            raise ValueError("CLIP has no fusion encoder; its verbs are those that embed")
        return self.flava.fuse(image, text, keep)

    def _embedded(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        # Not this module's own verbs: once sharded, those give the weights back when they return.
        text = self.flava.embed_text(batch.ids, batch.keep)  # first, as in `_views`
        return self.flava.embed_image(batch.pixels), text

    def embed_pair(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """B pairs -> the embeddings (B, E) of images and of texts, of length 1, that the contrastive loss is of."""
        return self._embedded(batch)

    def contrast(self, image: Tensor, text: Tensor, contrast: Tensor) -> Loss:
        """Embeddings (B, E) of images and texts, contrast (B,) bool -> the contrastive loss over all ranks' rows."""
        if self.contrastive is None:
            raise ValueError("contrast: this model has no contrastive loss")
        return self.contrastive(image, text, contrast)

    def losses(self, batch: Batch) -> dict[str, Loss]:
        """What `forward` returns, as a verb for evaluation."""
        return self.forward(batch)

    def embed_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float, normalised -> (B, E) of length 1."""
        return self.flava.embed_image(pixels)

    def embed_text(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, T) int64, keep (B, T) bool -> (B, E) of length 1."""
        return self.flava.embed_text(ids, keep)

    def patch_states(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float, normalised -> (B, N, D): the image encoder's normed states of the patches, row by row."""
        states: Tensor = self.flava.image_encoder(pixels).normed[:, 1:]
        return states

    def match_logits(self, batch: PairBatch) -> Tensor:
        """A batch of pairs -> (B, 2); class 1 says that the masked text belongs to the image."""
        if self.itm is None:
            raise ValueError("match_logits: this model has no itm head")
        return self.itm((self.fuse_masked(batch) if self.itm_input == "masked" else self.fuse_clean(batch)).cls)

    def word_logits(self, batch: PairBatch) -> Tensor:
        """A batch of pairs -> (B, K, V) logits over words at its `token_positions`."""
        if self.mmm_text is None:
            raise ValueError("word_logits: this model has no mmm_text head")
        return self.mmm_text(take_rows(self.fuse_masked(batch).text, batch.token_positions))

    def resize(self, image_size: int) -> None:
        """Resize the image encoder's positions, for good, to images of another size."""
        self.flava.resize(image_size)

    def units(self) -> list[nn.Module]:
        """The parts to shard one by one."""
        return self.flava.units()

    def clamp_temperature(self) -> None:
        """Keep the contrastive temperature in its range; call it after every optimizer step."""
        if (clamp := getattr(self.contrastive, "clamp_", None)) is not None:
            clamp()


VERBS = ("losses", "embed_image", "embed_text", "embed_pair", "contrast", "patch_states", "match_logits", "word_logits")
"""The methods of `FlavaForPreTraining` beside forward, to be registered when it is sharded."""


def flava_for_pretraining(
    flava: Flava | None = None, *, num_codes: int = 8192, gradients: Gather = "global", itm_input: ItmInput = "masked"
) -> FlavaForPreTraining:
    """The paper's model with all heads, widths and vocabulary read off the encoders.

    Args:
        flava: the encoders, `flava_model()` unless given.
        num_codes: of the codebook; 8,192 in DALL-E's.
        gradients: through whose embeddings the contrastive loss differentiates.
        itm_input: see `FlavaForPreTraining`.
    """
    flava = flava_model() if flava is None else flava
    image, text, fusion = flava.image_encoder.width, flava.text_encoder.width, flava.fusion_encoder.width
    vocab_size = flava.text_encoder.vocab_size
    return FlavaForPreTraining(
        flava,
        mim=MaskedPredictionHead(image, num_codes),
        mlm=MaskedPredictionHead(text, vocab_size),
        mmm_image=MaskedPredictionHead(fusion, num_codes),
        mmm_text=MaskedPredictionHead(fusion, vocab_size),
        itm=MatchHead(fusion),
        contrastive=ContrastiveLoss(gradients),
        itm_input=itm_input,
    )


def clip_for_pretraining(clip: Clip | None = None, *, gradients: Gather = "global") -> FlavaForPreTraining:
    """CLIP, the paper's baseline, with the contrastive loss: trained, sharded and saved as FLAVA is.

    Args:
        clip: the encoders, `clip_model()` unless given.
        gradients: through whose embeddings the contrastive loss differentiates.
    """
    clip = clip_model() if clip is None else clip
    contrastive = ContrastiveLoss(gradients)
    return FlavaForPreTraining(
        clip, mim=None, mlm=None, mmm_image=None, mmm_text=None, itm=None, contrastive=contrastive
    )
