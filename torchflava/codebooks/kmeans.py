"""Weighted k-means with k-means++ (Arthur and Vassilvitskii, 2007), in which every cluster ends with a member.

Letters: P points, F numbers in a point, K clusters.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_SEEDING_POINTS = 40
"""k-means++ looks at so many points a cluster at most: more cost K passes over them and change little."""
_TRIES = 4
"""Candidates for each seed, of which the one that helps most is kept."""
_CHUNK = 16384
"""Points whose distances to all centres are held at once."""
_SAME = 1e-10
"""Squared distance below which two points are one; rounding in float64 stays far below it."""


def kmeans(
    points: Tensor,
    num_clusters: int,
    *,
    weights: Tensor,
    iterations: int,
    generator: torch.Generator,
    between: Callable[[], object] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """(P, F) float64 -> centres (K, F) and the cluster of each point (P,) int64; none is empty.

    Args:
        points: what is to be clustered.
        num_clusters: K.
        weights: (P,), what each point counts.
        iterations: of Lloyd's.
        generator: of the random draws.
        between: is called before each seed and each iteration; what it raises ends the search.

    Raises:
        ValueError: if fewer than K of the points differ.
    """
    centres = _seeds(points, num_clusters, weights, generator=generator, between=between)
    for _ in range(iterations):
        between()
        found = nearest(points, centres)
        centres = _refill(points, found, weights, _means(points, found[0], weights, centres))
    for _ in range(num_clusters + 1):
        found = nearest(points, centres)
        if bool((torch.bincount(found[0], minlength=num_clusters) > 0).all()):
            return centres, found[0]
        centres = _refill(points, found, weights, centres)
    raise AssertionError("a centre at a point of its own lost it")


def nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """(P, F), (K, F) -> which centre is nearest to each point, (P,) int64, and its squared distance (P,)."""
    halves = centres.square().sum(1) / 2
    best = [(part @ centres.T).sub_(halves).max(1) for part in torch.split(points, _CHUNK)]
    closeness = torch.cat([found.values for found in best])
    return torch.cat([found.indices for found in best]), (points.square().sum(1) - 2 * closeness).clamp(min=0)


def _seeds(
    points: Tensor,
    num_clusters: int,
    weights: Tensor,
    *,
    generator: torch.Generator,
    between: Callable[[], object],
) -> Tensor:
    """K points, each drawn by its weight times its squared distance to those before (greedy k-means++)."""
    most = _SEEDING_POINTS * num_clusters
    if len(points) > most:
        chosen = weights.multinomial(most, generator=generator)
        # Drawn by weight and weighted again: seeds favour the rare more than means do, or grain of a ground gets seeds.
        points, weights = points[chosen], weights[chosen]
    norms = points.square().sum(1)
    seeds = weights.multinomial(1, generator=generator)
    distances = (norms - 2 * points @ points[seeds[0]] + norms[seeds[0]]).clamp(min=0)
    while len(seeds) < num_clusters and bool((distances > _SAME).any()):
        between()
        tries = (weights * distances).multinomial(_TRIES, replacement=True, generator=generator)
        after = (norms[:, None] - 2 * points @ points[tries].T + norms[tries]).clamp(min=0).minimum(distances[:, None])
        best = (weights @ after).argmin()
        seeds, distances = torch.cat([seeds, tries[best, None]]), after[:, best].contiguous()
    seeds = torch.cat([seeds, seeds[:1].expand(num_clusters - len(seeds))])  # twins stay empty, and are moved later
    return points[seeds]


def _means(points: Tensor, clusters: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
    """The weighted mean of each cluster's points; an empty cluster's centre stays."""
    sums = torch.zeros_like(centres).index_add_(0, clusters, points * weights[:, None])
    totals = torch.bincount(clusters, weights, minlength=len(centres))[:, None]
    return torch.where(totals > 0, sums / totals, centres)


def _refill(points: Tensor, found: tuple[Tensor, Tensor], weights: Tensor, centres: Tensor) -> Tensor:
    """Moves each empty cluster's centre to the point that costs most, one after the other."""
    clusters, distances = found
    centres = centres.clone()
    empty = (torch.bincount(clusters, minlength=len(centres)) == 0).nonzero().flatten()
    for cluster in empty.tolist():
        worst = (weights * distances).argmax()
        if distances[worst] <= _SAME:
            raise ValueError(
                f"fewer than {len(centres)} of the {len(points)} patches differ; give more images or ask for fewer codes"
            )
        centres[cluster] = points[worst]
        distances = distances.minimum((points - points[worst]).square().sum(1))
    return centres
