"""Embeddings or logits in, the papers' numbers out. It takes callables and knows no model."""

from torchflava.evaluation.linear_probe import Labelled, ProbeResult, held_out, linear_probe
from torchflava.evaluation.metrics import accuracy, mean_per_class
from torchflava.evaluation.reading import Reading, table
from torchflava.evaluation.retrieval import ranks_of_answers, recall
from torchflava.evaluation.sharing import embed_over_ranks
from torchflava.evaluation.whitening import Whitening, fit_whitening
from torchflava.evaluation.zero_shot import class_embeddings, top_k_accuracy

__all__ = [
    "Labelled",
    "ProbeResult",
    "Reading",
    "Whitening",
    "accuracy",
    "class_embeddings",
    "embed_over_ranks",
    "fit_whitening",
    "held_out",
    "linear_probe",
    "mean_per_class",
    "ranks_of_answers",
    "recall",
    "table",
    "top_k_accuracy",
]
