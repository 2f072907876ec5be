"""Embeddings or logits in, the papers' numbers out. It takes callables and knows no model."""

from torchflava.evaluation.reading import Reading, table
from torchflava.evaluation.retrieval import ranks_of_answers, recall
from torchflava.evaluation.sharing import embed_over_ranks
from torchflava.evaluation.whitening import Whitening, fit_whitening
from torchflava.evaluation.zero_shot import class_embeddings, top_k_accuracy

__all__ = [
    "Reading",
    "Whitening",
    "class_embeddings",
    "embed_over_ranks",
    "fit_whitening",
    "ranks_of_answers",
    "recall",
    "table",
    "top_k_accuracy",
]
