"""Losses of fine-tuning, against loops written out."""

import math

import pytest
import torch

from torchflava.losses import answers_loss, class_loss, score_loss

LOGITS = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.1, -0.2]])


def test_classes_by_the_softmax_written_out() -> None:
    labels = [2, 1]
    due = sum(
        math.log(sum(math.exp(x) for x in row)) - row[label] for row, label in zip(LOGITS.tolist(), labels, strict=True)
    )
    loss = class_loss(LOGITS, torch.tensor(labels))
    assert float(loss.total) == pytest.approx(due)
    assert float(loss.num_rows) == 2


def test_scores_by_squares() -> None:
    loss = score_loss(LOGITS[:, :1], torch.tensor([1.0, 2.5]))
    assert float(loss.total) == pytest.approx(0.5**2 + 0.5**2)


def test_answers_by_the_sigmoid_written_out() -> None:
    worth = [[0.3, 0.0, 1.0], [0.0, 0.0, 0.0]]
    due = 0.0
    for logits, targets in zip(LOGITS.tolist(), worth, strict=True):
        for x, y in zip(logits, targets, strict=True):
            p = 1 / (1 + math.exp(-x))
            due -= y * math.log(p) + (1 - y) * math.log(1 - p)
    loss = answers_loss(LOGITS, torch.tensor(worth))
    assert float(loss.total) == pytest.approx(due)
    assert float(loss.mean) == pytest.approx(due / 2)
