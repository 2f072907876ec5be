"""Embeddings or logits in, the papers' numbers out. It takes callables and knows no model."""

from torchflava.evaluation.confusion import Confused, confusion, most_confused
from torchflava.evaluation.linear_probe import Labelled, ProbeResult, held_out, linear_probe
from torchflava.evaluation.metrics import (
    accuracy,
    accuracy_and_f1,
    auroc,
    f1,
    matthews,
    mean_per_class,
    pearson,
    spearman,
)
from torchflava.evaluation.published import PUBLISHED, effects
from torchflava.evaluation.reading import Reading, table
from torchflava.evaluation.reranking import ranks_in, rerank, reranked_retrieval
from torchflava.evaluation.retrieval import Recalls, ranks_of_answers, recall, retrieval, top_k
from torchflava.evaluation.scorecard import (
    AVERAGES,
    COLUMNS,
    TASKS,
    Column,
    Row,
    as_csv,
    as_markdown,
    averages,
    shown_averages,
)
from torchflava.evaluation.sharing import embed_over_ranks
from torchflava.evaluation.vqa import normalise_answer, vqa_accuracy, vqa_targets
from torchflava.evaluation.whitening import Whitening, fit_whitening
from torchflava.evaluation.zero_shot import class_embeddings, top_k_accuracy

__all__ = [
    "AVERAGES",
    "COLUMNS",
    "PUBLISHED",
    "TASKS",
    "Column",
    "Confused",
    "Labelled",
    "ProbeResult",
    "Reading",
    "Recalls",
    "Row",
    "Whitening",
    "accuracy",
    "accuracy_and_f1",
    "as_csv",
    "as_markdown",
    "auroc",
    "averages",
    "class_embeddings",
    "confusion",
    "effects",
    "embed_over_ranks",
    "f1",
    "fit_whitening",
    "held_out",
    "linear_probe",
    "matthews",
    "mean_per_class",
    "most_confused",
    "normalise_answer",
    "pearson",
    "ranks_in",
    "ranks_of_answers",
    "recall",
    "rerank",
    "reranked_retrieval",
    "retrieval",
    "shown_averages",
    "spearman",
    "table",
    "top_k",
    "top_k_accuracy",
    "vqa_accuracy",
    "vqa_targets",
]
