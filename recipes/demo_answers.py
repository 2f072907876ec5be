"""What the demo's page asks of a model, answered in what JSON holds. One question at a time reaches the model.

Letters: N patches, T tokens, C labels, E embedding width.
"""

import base64
import io
import math
import re
import threading
from collections.abc import Mapping
from typing import Any

import torch
from demo import Demo
from demo_gallery import Gallery, open_gallery, thumbnail
from evaluated import Evaluated, length_of_run, loaded_model, of_model, tokenizer_of
from look_drawing import heat
from look_pair import Pair, look
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from torchflava.evaluation import class_embeddings
from torchflava.models import Clip, Flava
from torchflava.transforms.image import CorruptSample, decoded, normalise
from torchflava.transforms.tokenizer import TextTokenizer
from torchflava.transforms.wordpiece import WordPiece

_HITS = 12
_GUESSES = 6
_MOST_LABELS = 200
_MOST_LETTERS = 2_000
_MOST_PIXELS = 40_000_000
_MASK = re.compile(r"\[MASK\]|_{2,}", re.IGNORECASE)


class Answers:
    """A model, what it searches, and its answers; any thread may ask.

    Args:
        model: on its device.
        seen: the same as evaluations see it.
        tokenizer: its vocabulary, if there is one.
        gallery: images and texts.
        max_length: of texts, in tokens.
    """

    def __init__(
        self, model: nn.Module, seen: Evaluated, tokenizer: TextTokenizer | None, *, gallery: Gallery, max_length: int
    ) -> None:
        self.model, self.seen, self.tokenizer, self.gallery = model, seen, tokenizer, gallery
        self.flava: Any = model if isinstance(model, Flava | Clip) else model.flava
        self.device = next(self.flava.parameters()).device
        self.max_length = max_length or int(self.flava.text_encoder.max_length)
        self._one = threading.Lock()

    def about(self) -> dict[str, Any]:
        """What there is, and for what is missing why."""
        return {
            "images": len(self.gallery.files),
            "texts": len(self.gallery.lines),
            "gallery": self.gallery.name,
            "captions": self.gallery.captions,
            "missing": self.missing(),
        }

    def missing(self) -> dict[str, str]:
        """By the page's part, what the model lacks for it."""
        told: dict[str, str] = {}
        if self.seen.embed_text is None:
            why = f"This part reads texts: {self.seen.without}."
            return dict.fromkeys(("search", "classify", "fill", "attend"), why)
        if not self.gallery.files:
            told["search"] = "There are no images to search; start with --images."
        if isinstance(self.flava, Flava) and not isinstance(self.tokenizer, WordPiece):
            told["attend"] = "This part reads words by WordPiece, and the model has another vocabulary."
        elif not isinstance(self.flava, Flava):
            told["attend"] = (
                "This model has no fusion encoder to look into: CLIP compares images and texts, and joins none."
            )
        if not self._fills(alone=True) and not self._fills(alone=False):
            told["fill"] = "This model predicts no masked words: it has no head for them (mlm, mmm_text), or no [MASK]."
        return told

    def answer(self, part: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of a part of the page.

        Raises:
            KeyError: for a part that there is not.
            ValueError: saying what is wrong with the question, for whoever asked.
        """
        parts = {
            "search": self._search, "describe": self._describe, "classify": self._classify,
            "fill": self._fill, "attend": self._attend,
        }  # fmt: skip
        call = parts[part]
        if told := self.missing().get({"describe": "search"}.get(part, part)):
            raise ValueError(told)
        with self._one, torch.no_grad():
            return call(asked)

    def _search(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The images nearest to a text."""
        assert self.seen.embed_text is not None
        query = F.normalize(self.seen.embed_text([_text(asked)])[0].float(), dim=-1)
        return {"images": _nearest(self.gallery.images @ query)}

    def _describe(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The texts nearest to an image, and the images nearest to it."""
        query = self._embedded(self._image(asked))
        texts = _nearest(self.gallery.texts @ query) if self.gallery.lines else []
        told = [{"text": self.gallery.lines[hit["at"]], "score": hit["score"]} for hit in texts]
        return {"texts": told, "images": _nearest(self.gallery.images @ query)}

    def _classify(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """How near each label's prompt is to an image; probabilities if the model has a temperature of its own."""
        labels = [label for one in str(asked.get("labels", "")).splitlines() if (label := one.strip())]
        prompt = str(asked.get("prompt", "")).strip() or "{}"
        if not labels or len(labels) > _MOST_LABELS:
            raise ValueError(f"Give from 1 to {_MOST_LABELS} labels, one a line; these are {len(labels)}.")
        if "{}" not in prompt:
            raise ValueError('The prompt needs {} where the label goes, as in "a photo of a {}".')
        assert self.seen.embed_text is not None
        longest = len(prompt) + prompt.count("{}") * (max(map(len, labels)) - 2)
        if longest > _MOST_LETTERS:
            raise ValueError(f"With a label the prompt has {longest} letters; at most {_MOST_LETTERS} are read.")
        embedded = class_embeddings(self.seen.embed_text, [[prompt.replace("{}", label)] for label in labels])
        cosines = embedded @ self._embedded(self._image(asked))
        scale = self._scale()
        shares = None if scale is None else (scale * cosines).softmax(0).tolist()
        rows = [
            {"label": label, "cosine": round(float(cosines[at]), 4), "share": None if shares is None else shares[at]}
            for at, label in enumerate(labels)
        ]
        return {"labels": sorted(rows, key=lambda row: -row["cosine"])}

    def _fill(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What stands in masked places, told from the words alone and with the image."""
        ids, places = self._masked_ids(_text(asked))
        keep = torch.ones_like(ids, dtype=torch.bool)
        told: dict[str, Any] = {"places": len(places)}
        if self._fills(alone=True):
            logits = self.model.mlm(self.flava.text_encoder(ids, keep).normed[:, places])[0]
            told["alone"] = self._guesses(logits)
        if self._fills(alone=False) and asked.get("image") is not None:
            image = self.flava.image_encoder(self._pixels(self._image(asked)))
            fused = self.flava.fuse(image, self.flava.text_encoder(ids, keep), keep)
            told["seeing"] = self._guesses(self.model.mmm_text(fused.text[:, places])[0])
        if len(told) == 1:
            raise ValueError("This model fills in words with an image alone; choose one.")
        return told

    def _attend(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Where CLS_M looks, over patches and words, and what the matching head says."""
        image = self._image(asked)
        assert isinstance(self.tokenizer, WordPiece)
        pair = Pair(image, _text(asked), num_patches=0, max_length=self.max_length)
        found = look(self.model, self.tokenizer, pair)
        told: dict[str, Any] = {"matched": found.matched, "cosine": found.cosine, "view": _uri(found.view)}
        for name, attended in (("last", found.last), ("rollout", found.rollout)):
            words = attended.words / attended.words.max().clamp(min=1e-12)
            told[name] = {
                "picture": _uri(heat(found.view, attended.patches)),
                "words": [[token, round(float(share), 4)] for token, share in zip(found.tokens, words, strict=True)],
                "patches": round(float(attended.patches.sum()), 4),
                "text": round(float(attended.words.sum()), 4),
            }
        return told

    def _fills(self, *, alone: bool) -> bool:
        head = getattr(self.model, "mlm" if alone else "mmm_text", None)
        return head is not None and isinstance(self.flava, Flava) and isinstance(self.tokenizer, WordPiece)

    def _masked_ids(self, text: str) -> tuple[Tensor, list[int]]:
        """(1, T) ids with [MASK] where it stands in the text, or ____; and the places."""
        assert isinstance(self.tokenizer, WordPiece)
        pieces = [self.tokenizer.encode(part, self.max_length).ids for part in _MASK.split(text)]
        ids = pieces[0][:1]
        for number, piece in enumerate(pieces):
            ids = [*ids, *([self.tokenizer.mask_id] if number else []), *piece[1:-1]]
        ids = [*ids[: self.max_length - 1], pieces[0][-1]]
        places = [at for at, id in enumerate(ids) if id == self.tokenizer.mask_id]
        if not places and len(pieces) > 1:
            told = (
                f"The first place to fill in lies beyond the {self.max_length} tokens that are read; shorten the text."
            )
            raise ValueError(told)
        if not places:
            raise ValueError("Write [MASK] or ____ in the text, where a word is to be filled in.")
        return torch.tensor([ids], device=self.device), places

    def _guesses(self, logits: Tensor) -> list[list[dict[str, Any]]]:
        """(K, V) -> for each place the likeliest tokens."""
        assert isinstance(self.tokenizer, WordPiece)
        tokens = self.tokenizer.tokens  # of which a model may know more than there are
        shares, ids = logits.float().softmax(-1)[:, : len(tokens)].topk(min(_GUESSES, len(tokens)))
        return [
            [{"token": tokens[id], "share": share} for share, id in zip(row, its, strict=True)]
            for row, its in zip(shares.tolist(), ids.tolist(), strict=True)
        ]

    def _embedded(self, image: Tensor) -> Tensor:
        assert self.seen.embed_image is not None
        return F.normalize(self.seen.embed_image(self.seen.view(image)[None].to(self.device))[0].float(), dim=-1)

    def _pixels(self, image: Tensor) -> Tensor:
        return normalise(self.seen.view(image)[None].to(self.device))

    def _scale(self) -> float | None:
        scale = getattr(getattr(self.model, "contrastive", None), "log_scale", None)
        return None if scale is None else math.exp(float(scale.detach()))

    def _image(self, asked: Mapping[str, Any]) -> Tensor:
        """An image of the gallery by its number, or one that was uploaded -> (3, H, W) uint8."""
        given = asked.get("image")
        if isinstance(given, int) and not isinstance(given, bool):
            if not 0 <= given < len(self.gallery.pixels):
                raise ValueError(f"There is no image {given}; there are {len(self.gallery.pixels)}.")
            return self.gallery.pixels[given]
        if not isinstance(given, str):
            raise ValueError("Choose an image, or upload one.")
        return uploaded(given)


def open_answers(asked: Demo, device: torch.device) -> Answers:
    """The model that `asked` names with all that the page needs.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if something cannot be read.
    """
    subject = asked.subject
    model, tokenizer = loaded_model(subject).to(device).eval(), tokenizer_of(subject)
    seen = of_model(model, device, tokenizer=tokenizer, subject=subject)
    gallery = open_gallery(asked, seen, device)
    return Answers(model, seen, tokenizer, gallery=gallery, max_length=length_of_run(subject))


def uploaded(data: str) -> Tensor:
    """An image file in base64 -> (3, H, W) uint8; how large it is is looked at before it is decoded.

    Raises:
        ValueError: if it is no image, damaged or too large.
    """
    try:
        file = base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ValueError("The upload is damaged: it is no base64.") from error
    try:
        with Image.open(io.BytesIO(file)) as picture:
            width, height = picture.size
    except Exception as error:  # whatever a hostile header makes a decoder stumble over
        raise ValueError("This file is no image that can be read; give a JPEG, PNG or WebP.") from error
    if width * height > _MOST_PIXELS:
        raise ValueError(f"The image has {width} x {height} pixels; at most {_MOST_PIXELS // 10**6} million are read.")
    try:
        return decoded(file)
    except CorruptSample as error:
        raise ValueError(f"The image cannot be decoded: {error}") from error


def _text(asked: Mapping[str, Any]) -> str:
    text = asked.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("Write a text first.")
    if len(text) > _MOST_LETTERS:
        raise ValueError(f"The text has {len(text)} letters; at most {_MOST_LETTERS} are read.")
    return text.strip()


def _nearest(scores: Tensor) -> list[dict[str, Any]]:
    best = scores.topk(min(_HITS, len(scores)))
    return [
        {"at": at, "score": round(score, 4)}
        for score, at in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _uri(image: Tensor) -> str:
    return f"data:image/png;base64,{base64.b64encode(thumbnail(image, 480)).decode()}"
