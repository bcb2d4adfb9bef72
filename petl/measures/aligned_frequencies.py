"""Class frequencies of images that look different: classes as Gaussians in the space of scores, which all move alike.

Under a change of appearance the calibrated scores are biased, and with them the EM of label_shift.py: on Fashion
images that were only blurred it reports a total variation of .37. Here the target's classes are the source's, moved by one common
vector, nearer to each other by one factor and spread by another, all of which are fitted with the frequencies (a mixture of
Gaussians, EM). That halves the error (.35 to .18), and the rest is why a change of frequencies has to be larger before it is
believed. Where the classes have come very near each other, any frequencies explain the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNED_ROUNDS, STARTS = 60, 3
NEARNESS = (0.05, 2.0)  # the least and the most
SHRINK = 0.1  # the share of the mean variance in each direction's
ALIGNED_DRAWS = 60
MOST_AT_ONCE = 3e6  # of a table [draws, images, classes] at a time


@dataclass(frozen=True)
class ClassClouds:
    """Classes as Gaussians of one covariance, in whitened coordinates: means [K, d], ``axes`` [K, d] that lead there.

    ``frequencies`` [K] are the source's, ``residuals`` [N, d] its images without the means of their classes.
    """

    axes: Tensor
    means: Tensor
    frequencies: Tensor
    residuals: Tensor

    def whitened(self, scores: Tensor) -> Tensor:
        """Returns class scores [N, K] in these coordinates [N, d]; what is added to all scores of an image doesn't count."""
        return _centred(scores) @ self.axes


def class_clouds(scores: Tensor, y: Tensor) -> ClassClouds:
    """Returns the classes' Gaussians from scores [N, K] of images of known classes ``y`` [N], new to the classifier."""
    scores = _centred(scores)
    classes = scores.shape[1]
    counts = torch.bincount(y, minlength=classes).double()
    sums = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, y, scores)
    means = sums / counts.clamp_min(1)[:, None]
    inner = scores - means[y]
    values, vectors = torch.linalg.eigh(inner.T @ inner / max(len(scores) - int((counts > 0).sum()), 1))
    values, vectors = values[1:], vectors[:, 1:]  # centred scores lack one direction
    values = (1 - SHRINK) * values + SHRINK * values.mean() + 1e-12
    axes = vectors / values.sqrt()
    return ClassClouds(axes, means @ axes, counts / counts.sum(), inner @ axes)


class Alignment(NamedTuple):
    """``frequencies`` [K] of images whose classes have moved; the classes' distances are ``nearness`` times those of the source,
    and ``spread`` is the variance within them, 1 in the source."""

    frequencies: Tensor
    nearness: float
    spread: float


def fitted_clouds(clouds: ClassClouds, scores: Tensor) -> Alignment:
    """Returns the class frequencies of images with these scores [N, K], whose classes may all have moved alike, and how.

    >>> y = torch.arange(400) % 2
    >>> noise = 0.5 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> clouds = class_clouds(torch.eye(2)[y] * 4 + noise, y)
    >>> moved = torch.eye(2)[(torch.arange(400) % 10 == 0).long()] * 2 + torch.tensor([3.0, 0.0]) + noise
    >>> found = fitted_clouds(clouds, moved)
    >>> found.frequencies.round(decimals=1).tolist(), round(found.nearness, 1)
    ([0.9, 0.1], 0.5)
    """
    q, nearness, spread = _fitted(clouds, clouds.whitened(scores)[None])
    return Alignment(q[0], float(nearness[0]), float(spread[0]))


def aligned_draws(
    clouds: ClassClouds,
    images: int,
    *,
    nearness: float = 1.0,
    spread: float = 1.0,
    frequencies: Tensor | None = None,
    draws: int = ALIGNED_DRAWS,
    seed: int = 0,
) -> Tensor:
    """Returns the frequencies that are found in ``draws`` sets of source images, as near and as spread as that; [draws, K].

    ``frequencies`` [K] are those of the sets; None: the source's.
    """
    shares = clouds.frequencies if frequencies is None else frequencies
    generator = torch.Generator().manual_seed(seed)
    part = max(1, min(draws, int(MOST_AT_ONCE // max(1, images * len(shares)))))
    found = []
    for start in range(0, draws, part):
        count = min(part, draws - start)
        classes = torch.multinomial(shares, count * images, replacement=True, generator=generator)
        rows = torch.randint(len(clouds.residuals), (count * images,), generator=generator)
        points = clouds.means[classes] * nearness + clouds.residuals[rows] * spread**0.5
        found.append(_fitted(clouds, points.reshape(count, images, -1))[0])
    return torch.cat(found)


def _fitted(clouds: ClassClouds, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns frequencies [S, K], nearness [S] and variances [S] of S sets of points [S, m, d]: the likeliest of three starts.

    The starts are: nothing has moved; the mean of all images has moved while the frequencies haven't; that, and half as far.
    """
    full = points.mean(1, keepdim=True) - clouds.frequencies @ clouds.means
    runs = [_climbed(clouds, points, *start) for start in ((torch.zeros_like(full), 1.0), (full, 1.0), (full, 0.5))]
    best = torch.stack([run[3] for run in runs]).argmax(0)
    rows = torch.arange(len(points))
    q, nearness, variance = (torch.stack([run[number] for run in runs])[best, rows] for number in range(3))
    return q, nearness, variance


def _climbed(clouds: ClassClouds, points: Tensor, moved: Tensor, near: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns frequencies, nearness, variances and mean log-likelihoods after EM.

    It begins where the classes have ``moved`` [S, 1, d] and are ``near`` times as far apart.
    """
    sets, _, size = points.shape
    q, lengths = clouds.frequencies.expand(sets, -1), clouds.means.square().sum(1)
    variance = torch.ones(sets, dtype=torch.float64)
    nearness = torch.full((sets,), near, dtype=torch.float64)
    likelihood = torch.zeros(sets, dtype=torch.float64)
    middle = points.mean(1, keepdim=True)
    for _ in range(ALIGNED_ROUNDS):
        distances = torch.cdist(points - moved, nearness[:, None, None] * clouds.means).square()
        logs = q.clamp_min(1e-12).log()[:, None] - distances / (2 * variance[:, None, None])
        likelihood = logs.logsumexp(2).mean(1) - size / 2 * variance.log()
        shares = logs.softmax(2)
        q = shares.mean(1)
        expected = shares @ clouds.means
        centre = expected.mean(1, keepdim=True)
        together = ((points - middle) * (expected - centre)).mean((1, 2)) * size
        own = q @ lengths - centre.square().sum((1, 2))
        nearness = (together / own.clamp_min(1e-9)).clamp(*NEARNESS)
        moved = middle - nearness[:, None, None] * centre
        apart = (points - middle).square().mean((1, 2)) * size - 2 * nearness * together + nearness.square() * own
        variance = (apart / size).clamp_min(1e-6)
    return q, nearness, variance, likelihood


def _centred(scores: Tensor) -> Tensor:
    scores = scores.double().clamp_min(-1e3)
    return scores - scores.mean(1, keepdim=True)
