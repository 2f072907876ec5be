"""Whitening against its definition and against numpy's singular values."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from torchflava.evaluation import fit_whitening


def embeddings(n: int = 500) -> torch.Tensor:
    """Directions of very different spread, turned, about a centre that is not zero."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([9.0, 3.0, 1.0, 0.3])
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
    return (torch.randn(n, 4, generator=generator) * spread) @ turn + 5


def test_spreads_become_equal_where_nothing_is_shrunk():
    x = embeddings()
    whiten = fit_whitening(x, shrink=1e-6)
    covariance = ((x - whiten.mean) @ whiten.matrix).T.cov()
    assert_close(covariance, torch.eye(4), atol=1e-3, rtol=0)


def test_equals_singular_values_with_shrinking():
    x = embeddings()
    centred = (x - x.mean(0)).double().numpy()
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    s = s / np.sqrt(len(x) - 1)
    wanted = centred @ axes.T / (s + 0.1 * s[0])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    got = fit_whitening(x)(x).double().numpy()
    # Axes have no sign and no order: what is compared are likenesses.
    assert got @ got.T == pytest.approx(wanted @ wanted.T, abs=1e-5)


def test_a_turn_of_all_embeddings_changes_no_likeness():
    x = embeddings()
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))).Q
    one, other = fit_whitening(x)(x[:50]), fit_whitening(x @ turn)(x[:50] @ turn)
    assert_close(one @ one.T, other @ other.T, atol=1e-4, rtol=0)


def test_finds_what_a_loud_direction_drowned():
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(200, 6, generator=generator)
    one, other = (
        torch.cat(
            [8 * torch.randn(200, 1, generator=generator), signal + 0.1 * torch.randn(200, 6, generator=generator)], 1
        )
        for _ in range(2)
    )
    whiten = fit_whitening(torch.cat([one, other]))

    def found(a: torch.Tensor, b: torch.Tensor) -> float:
        likeness = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
        return float((likeness.argmax(1) == torch.arange(200)).float().mean())

    assert found(whiten(one), whiten(other)) > 2 * found(one, other)


def test_a_direction_that_never_varies_is_no_nan():
    x = torch.cat([embeddings(), torch.ones(500, 1)], 1)
    assert torch.isfinite(fit_whitening(x)(x)).all()


@pytest.mark.parametrize(
    ("x", "shrink", "message"),
    [
        (torch.zeros(1, 4), 0.1, r"\(1, 4\); give \(N, E\) of two"),
        (torch.randn(5, 4), 0.0, "shrink 0.0 must be above 0"),
        (torch.randn(5, 4), float("inf"), "shrink inf must be above 0 and finite"),
        (torch.full((5, 4), torch.nan), 0.1, "not finite; look at the model"),
        (torch.full((7, 4), 0.1, dtype=torch.float64), 0.1, "7 embeddings are all equal"),
        (torch.ones(5, 4), 0.1, "5 embeddings are all equal"),
    ],
)
def test_names_what_is_wrong(x, shrink, message):
    with pytest.raises(ValueError, match=message):
        fit_whitening(x, shrink=shrink)
