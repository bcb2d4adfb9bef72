"""How well two sets of images can be told apart by their features: the common axes, and a classifier that is tried on a half."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.evidence.intervals import binomial_interval

COMPONENTS = 32
WEIGHT_PENALTY = 1e-2  # on the squared length of the classifier's weights, of unit-variance inputs


def common_components(x: Tensor, z: Tensor, components: int = COMPONENTS) -> tuple[Tensor, Tensor]:
    """Returns features [n, D] and [m, D] along the principal axes of both together: [n, k] and [m, k], float64.

    Each feature is first divided by its deviation. Both sets have their part in means, deviations and axes: axes of the source
    alone fit its own images better than any others, which a test then takes for a difference (.40 rejections at 1.7 % in splits
    of one set, 120 images of 1280 numbers).
    """
    both = torch.cat([x, z]).double()
    both = both - both.mean(0)
    both = both / both.std(0).clamp_min(1e-6 * float(both.std()) + 1e-30)
    small = min(both.shape)
    products = both.T @ both if small == both.shape[1] else both @ both.T
    values, vectors = torch.linalg.eigh(products)
    keep = min(components, small)
    values, vectors = values[-keep:].flip(0), vectors[:, -keep:].flip(1)
    rows = both @ vectors if small == both.shape[1] else vectors * values.clamp_min(0).sqrt()
    return rows[: len(x)], rows[len(x) :]


@dataclass(frozen=True)
class Separation:
    """How well a linear classifier tells two sets apart on images that it hasn't seen, as many of each.

    Attributes:
        accuracy: Of ``images`` images; 0.5 where the sets are alike.
        low, high: Its exact 95 % interval (Clopper and Pearson).
        distance: The proxy A-distance ``2 (2 accuracy - 1)``: 0 where they are alike, 2 where they are apart.
    """

    accuracy: float
    low: float
    high: float
    images: int
    distance: float


def separation(x: Tensor, z: Tensor, *, seed: int = 0) -> Separation:
    """Returns how well logistic regression on a half of both sets [n, D] and [m, D] tells the other half apart.

    >>> drawn = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    >>> separation(drawn[:100], drawn[100:] + 3).accuracy > 0.9
    True
    """
    generator = torch.Generator().manual_seed(seed)
    half = max(1, min(len(x), len(z)) // 2)
    orders = [torch.randperm(len(part), generator=generator) for part in (x, z)]
    tried = [part[order[:half]] for part, order in zip((x, z), orders, strict=True)]
    rest = [part[order[half:]] for part, order in zip((x, z), orders, strict=True)]
    scores = Separator(*rest)
    right = int((scores(tried[0]) < 0).sum()) + int((scores(tried[1]) > 0).sum())
    accuracy = right / (2 * half)
    low, high = binomial_interval(right, 2 * half)
    return Separation(accuracy, low, high, 2 * half, max(0.0, 2 * (2 * accuracy - 1)))


def target_likeness(x: Tensor, z: Tensor, *, seed: int = 0) -> Tensor:
    """Returns a logit for each image [n + m], the source's first: above 0 where it looks like the second set.

    Two classifiers, each of one half of both sets, judge the other half.
    """
    generator = torch.Generator().manual_seed(seed)
    halves = [torch.randperm(len(part), generator=generator) % 2 for part in (x, z)]
    found = torch.zeros(len(x) + len(z), dtype=torch.float64)
    both, fold = torch.cat([x, z]), torch.cat(halves)
    for side in (0, 1):
        scores = Separator(x[halves[0] != side], z[halves[1] != side])
        found[fold == side] = scores(both[fold == side])
    return found


class Separator:
    """Logistic regression of two sets [n, D] and [m, D], which count alike; called on features, it returns their logits."""

    def __init__(self, x: Tensor, z: Tensor):
        both = torch.cat([x, z]).double()
        self.mean, self.deviation = both.mean(0), both.std(0).clamp_min(1e-12)
        rows = (both - self.mean) / self.deviation
        target = torch.cat([torch.zeros(len(x)), torch.ones(len(z))]).double()
        weights = torch.where(target > 0, len(both) / (2 * max(len(z), 1)), len(both) / (2 * max(len(x), 1)))
        self.weight = torch.zeros(rows.shape[1], dtype=torch.float64, requires_grad=True)
        self.bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weight, self.bias], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            fit = F.binary_cross_entropy_with_logits(rows @ self.weight + self.bias, target, weights)
            value = fit + WEIGHT_PENALTY * self.weight.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[arg-type]  # torch's stub says float
        self.weight, self.bias = self.weight.detach(), self.bias.detach()

    def __call__(self, x: Tensor) -> Tensor:
        return ((x.double() - self.mean) / self.deviation) @ self.weight + self.bias
