"""The dVAE's losses: densities that integrate to one, an average by hand, and divergences with known answers."""

import math

import pytest
import torch

from torchflava.losses import logit_laplace_loss, uniform_kl_loss


@pytest.mark.parametrize(("mu", "scale", "least"), [(0.0, 1.0, 0.0), (1.3, 0.4, 0.0), (-0.7, 0.2, 0.3)])
def test_the_density_is_one_over_all_pixels(mu: float, scale: float, least: float) -> None:
    """By the midpoint rule."""
    n, said = 1000, torch.tensor([mu, math.log(scale)]).view(1, 2, 1, 1)
    middles = [torch.full((1, 1, 1, 1), (at + 0.5) / n) for at in range(n)]
    densities = [math.exp(-float(logit_laplace_loss(said, x, least_scale=least).total)) for x in middles]
    assert math.fsum(densities) / n == pytest.approx(1.0, abs=3e-3)


def test_channels_have_their_own_centre_and_scale() -> None:
    draws = torch.Generator().manual_seed(0)
    x = 0.1 + 0.8 * torch.rand(2, 3, 5, 7, generator=draws)
    said = torch.randn(2, 6, 5, 7, generator=draws)
    loss = logit_laplace_loss(said, x)
    total = 0.0
    for b in range(2):
        for c in range(3):
            for value, mu, log_b in zip(
                x[b, c].flatten().tolist(),
                said[b, c].flatten().tolist(),
                said[b, 3 + c].flatten().tolist(),
                strict=True,
            ):
                scale, logit = math.exp(log_b), math.log(value / (1 - value))
                total -= math.log(math.exp(-abs(logit - mu) / scale) / (2 * scale * value * (1 - value)))
    assert float(loss.total) == pytest.approx(total, rel=1e-4)
    assert float(loss.num_rows) == 2 * 3 * 5 * 7


def test_the_median_is_the_best_centre() -> None:
    """As of any Laplace distribution: half of the targets lie on each side."""
    x = torch.tensor([0.2, 0.3, 0.35, 0.7, 0.8]).view(5, 1, 1, 1)
    mu = torch.zeros(1, requires_grad=True)

    def loss(at: torch.Tensor) -> torch.Tensor:
        said = torch.stack([at.expand(5), torch.zeros(5)], dim=1).view(5, 2, 1, 1)
        return logit_laplace_loss(said, x).total

    best = torch.logit(torch.tensor([0.35]))
    assert float(loss(best).detach()) < min(float(loss(best + off).detach()) for off in (-0.05, 0.05))
    loss(mu).backward()  # two above 0.5, three below
    assert float(mu.grad) == pytest.approx(1.0)


def test_a_least_scale_bounds_the_density_of_flat_colours() -> None:
    x = torch.full((1, 1, 1, 1), 0.5)
    said = torch.tensor([0.0, -30.0]).view(1, 2, 1, 1)
    assert float(logit_laplace_loss(said, x).total) == pytest.approx(-30 + math.log(2 * 0.25))
    assert float(logit_laplace_loss(said, x, least_scale=0.01).total) == pytest.approx(
        math.log(2 * 0.01 * 0.25), rel=1e-5
    )


def test_divergence_from_uniform() -> None:
    """0 where all codes are as likely, log K where one is certain, and a distribution by hand."""
    flat, certain = torch.full((2, 5, 3, 3), 7.0), torch.zeros(2, 5, 3, 3)
    certain[:, 2] = 60.0
    assert float(uniform_kl_loss(flat).total) == pytest.approx(0.0, abs=1e-4)
    assert float(uniform_kl_loss(certain).mean) == pytest.approx(math.log(5), rel=1e-5)
    assert float(uniform_kl_loss(certain).num_rows) == 18
    shares = [0.5, 0.25, 0.125, 0.125]
    due = sum(p * math.log(p * 4) for p in shares)
    logits = torch.tensor(shares).log().view(1, 4, 1, 1).expand(3, 4, 2, 2) + 5.0
    assert float(uniform_kl_loss(logits).total) == pytest.approx(12 * due, rel=1e-4)


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"said \(2, 3, 4, 4\) must have .* \(2, 6, 4, 4\)"):
        logit_laplace_loss(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5))
    with pytest.raises(ValueError, match="least_scale is -1"):
        logit_laplace_loss(torch.zeros(2, 6, 4, 4), torch.full((2, 3, 4, 4), 0.5), least_scale=-1)
