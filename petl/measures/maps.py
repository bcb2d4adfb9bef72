"""Maps: features of many numbers as points of a plane, and how far their neighbourhoods can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PlaneMap:
    """Points [N, 2] for features [N, D]; ``shares`` of the variance along the two axes, where they are principal ones."""

    points: Tensor
    shares: tuple[float, float] | None = None


def principal_map(x: Tensor) -> PlaneMap:
    """Returns the first two principal components, float64 [N, 2], with their shares of the variance.

    Each axis points so that its largest number is positive: another library's signs change nothing.

    >>> principal_map(torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])).shares
    (1.0, 0.0)
    """
    scores, sizes = principal_scores(x, 2)
    total = float((x.double() - x.double().mean(0)).square().sum())
    shares = [min(float(size) / total, 1.0) if total > 0 else math.nan for size in (*sizes, 0.0, 0.0)[:2]]
    return PlaneMap(torch.nn.functional.pad(scores, (0, 2 - scores.shape[1])), (shares[0], shares[1]))


def principal_scores(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the scores [N, k] on the first ``count`` principal axes, and the squares that they add up to [k]."""
    centred = x.double() - x.double().mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    scores = (u * s)[:, :count]
    largest = scores.gather(0, scores.abs().argmax(0, keepdim=True))
    return scores * torch.where(largest < 0, -1.0, 1.0), s[:count].square()


def neighbour_map(x: Tensor, *, seed: int = 0) -> PlaneMap | None:
    """Returns a t-SNE of the features by scikit-learn, or None where it isn't installed, or images are fewer than eight.

    It begins with the principal components; the perplexity is 30, or a quarter of the images where that is less. Distances
    between groups and sizes of groups mean nothing in such a map (Wattenberg et al. 2016); neighbours do, as far as
    `trustworthiness` says.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    scores, sizes = principal_scores(x, 50)
    if len(x) < 8 or float(sizes[0]) <= 0:
        return None
    tsne = TSNE(2, init="pca", perplexity=min(30.0, len(x) / 4), random_state=seed, n_jobs=1)
    return PlaneMap(torch.from_numpy(tsne.fit_transform(scores.float().numpy())).double())


def trust_neighbours(count: int) -> int:
    """Returns how many neighbours `trustworthiness` looks at: 15, or fewer of few images; 0 where none can be."""
    return max(0, min(15, (count - 1) // 2))


def trustworthiness(x: Tensor, points: Tensor, neighbours: int) -> float:
    """Returns how many of the neighbours in a map are neighbours of the features too, from 0 to 1 (Venna and Kaski 2001).

    The same as scikit-learn's: neighbours that the map invents count by how far away they are in truth.

    Raises:
        ValueError: ``neighbours`` isn't from 1 to less than half of the images.
    """
    count = len(x)
    if not 1 <= neighbours < count / 2:
        raise ValueError(f"{neighbours} neighbours of {count} images; expected 1 or more, and fewer than half of them")
    real, shown = (_distances(table) for table in (x, points))
    ranks = real.argsort(stable=True, dim=1).argsort(dim=1) + 1  # 1 for the nearest; the image itself is the last
    near = shown.topk(neighbours, dim=1, largest=False).indices
    excess = (ranks.gather(1, near) - neighbours).clamp_min(0).sum()
    return 1 - float(excess) * 2 / (count * neighbours * (2 * count - 3 * neighbours - 1))


def _distances(x: Tensor) -> Tensor:
    x = x.double()
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(math.inf)
