"""Class frequencies of images without labels: scores calibrated by BCTS, then expectation maximisation.

``softmax(scores * scale + bias)`` is fitted on images whose classes are known and that the classifier hasn't learned from
(bias-corrected temperature scaling, arXiv:1901.06852). Frequencies come by the EM of Saerens, Latinne and Decaestecker (2002).
Without the calibration EM did harm in three of three settings here; docs/shift.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

EM_ROUNDS = 300  # of EM
MOST_WORK = 2e10  # multiplications of EMs that are repeated
BIAS_PENALTY = 1e-3  # on the squared length of the bias


@dataclass(frozen=True)
class Scaling:
    """Bias-corrected temperature scaling: probabilities are ``softmax(scores * scale + bias)``.

    ``scale`` is one over the temperature, ``bias`` is float64 [K].
    """

    scale: float
    bias: Tensor

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns the probabilities float64 [N, K] for class scores [N, K].

        >>> Scaling(1.0, torch.tensor([0.0, 9.0])).probabilities(torch.zeros(1, 2)).round(decimals=2).tolist()
        [[0.0, 1.0]]
        """
        return (scores.double() * self.scale + self.bias).softmax(1)


def fitted_scaling(scores: Tensor, targets: Tensor) -> Scaling:
    """Returns the scaling of class scores [N, K] that makes the targets likeliest: class numbers [N], or probabilities [N, K].

    The bias costs ``1e-3`` times its squared length, which also decides between biases that differ by a constant. A class whose
    score is -inf for every image, as of one that had none, keeps a bias of 0.

    >>> y = torch.arange(300) % 3
    >>> noisy = F.one_hot(torch.where(torch.arange(300) % 5 == 0, (y + 1) % 3, y), 3) * 20.0
    >>> fitted_scaling(noisy, y).scale < 0.5
    True
    """
    scores = _finite(scores.double())
    wanted = targets if targets.is_floating_point() else targets.long()
    power = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(scores.shape[1], dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        start = _starting_power(scores, wanted)
        power.data.fill_(start)
        optimizer = torch.optim.LBFGS([power, bias], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(scores * power.exp() + bias, wanted) + BIAS_PENALTY * bias.square().sum()
            value.backward()
            return value

        optimizer.step(loss)  # type: ignore[arg-type]  # torch's stub says float
    return Scaling(float(power.detach().exp()), bias.detach().clone())


def _finite(scores: Tensor) -> Tensor:
    """Returns the scores with -inf, as of a class without images, far below all others."""
    known = scores[torch.isfinite(scores)]
    low, high = (float(known.min()), float(known.max())) if known.numel() else (0.0, 1.0)
    return scores.clamp_min(low - 50 * ((high - low) or 1.0))


@torch.no_grad()
def _starting_power(scores: Tensor, targets: Tensor) -> float:
    """Returns the best of some powers of the scale, so that scores in any unit converge."""
    spread = float(scores.std(1).median()) or 1.0
    powers = torch.linspace(-4, 4, 33, dtype=torch.float64) - torch.tensor(spread, dtype=torch.float64).log()
    losses = torch.stack([F.cross_entropy(scores * power.exp(), targets) for power in powers])
    return float(powers[int(losses.nan_to_num(torch.inf).argmin())])


def estimated_frequencies(probabilities: Tensor, prior: Tensor, rounds: int = EM_ROUNDS) -> Tensor:
    """Returns the class frequencies [K] of images whose class probabilities [N, K] are calibrated for the frequencies ``prior``.

    Each round sets ``q`` to the mean of the probabilities reweighted by ``q / prior`` (EM; it starts at the prior). A class that
    the prior doesn't have can't be found.

    >>> p = torch.tensor([[0.8, 0.2]] * 9 + [[0.2, 0.8]])
    >>> estimated_frequencies(p, torch.tensor([0.5, 0.5])).round(decimals=1).tolist()
    [1.0, 0.0]
    """
    prior = prior.double()
    q, per_prior = prior.clone(), probabilities.double() / prior.clamp_min(1e-12)
    for _ in range(rounds):
        before, weighted = q, per_prior * q
        q = (weighted / weighted.sum(1, keepdim=True).clamp_min(1e-300)).mean(0)
        if float((q - before).abs().max()) < 1e-10:
            break
    return q / q.sum()


def bootstrapped_frequencies(probabilities: Tensor, prior: Tensor, *, draws: int = 200, seed: int = 0) -> Tensor:
    """Returns the estimates [draws, K] of as many images, drawn with replacement from probabilities [N, K]."""
    tables = _drawn_counts(len(probabilities), len(probabilities), draws, torch.Generator().manual_seed(seed))
    return _weighted_em(probabilities, prior.double().expand(draws, -1), tables)


def variations_by_chance(probabilities: Tensor, images: int, *, draws: int = 200, seed: int = 0) -> Tensor:
    """Returns the total variations [draws] that the estimate shows where nothing has shifted.

    Each draw takes two sets from probabilities [N, K] with replacement: N images for the prior, and ``images`` images whose
    frequencies are estimated.
    """
    generator, count = torch.Generator().manual_seed(seed), len(probabilities)
    priors = _drawn_counts(count, count, draws, generator) @ probabilities.double() / count
    found = _weighted_em(probabilities, priors, _drawn_counts(count, images, draws, generator))
    return (found - priors).abs().sum(1) / 2


def refitted_ratios(probabilities: Tensor, second: Tensor) -> Tensor:
    """Returns target / source frequencies [S, K] for each of S ways to divide images with probabilities [N, K] into two sets.

    ``second`` [S, N] is 1 for images of the target. The source's frequencies are the mean of its probabilities, the target's
    come from EM.

    >>> p = torch.tensor([[0.8, 0.2]] * 9 + [[0.2, 0.8]] * 9)
    >>> refitted_ratios(p, torch.tensor([[0.0, 1.0] * 9])).round(decimals=2).tolist()
    [[0.65, 1.4]]
    """
    table, second = probabilities.double(), second.double()
    priors = (1 - second) @ table / (1 - second).sum(1, keepdim=True).clamp_min(1)
    found = _weighted_em(table, priors, second)
    return torch.where(priors > 1e-9, found / priors.clamp_min(1e-9), 1.0)


def affordable_draws(images: int, classes: int, *, least: int, most: int) -> int:
    """Returns how many times EM may be repeated: ``most``, or as often as `MOST_WORK` allows, ``least`` at least."""
    return int(max(least, min(most, MOST_WORK // (EM_ROUNDS * images * classes))))


def _drawn_counts(count: int, images: int, draws: int, generator: torch.Generator) -> Tensor:
    """Returns how often each of ``count`` rows is among ``images`` draws with replacement, float64 [draws, count]."""
    picks = [torch.randint(count, (images,), generator=generator) for _ in range(draws)]
    return torch.stack([torch.bincount(pick, minlength=count) for pick in picks]).double()


def _weighted_em(probabilities: Tensor, priors: Tensor, counts: Tensor) -> Tensor:
    """Returns EM's estimates [draws, K] of images that count ``counts`` [draws, N] times, each from its prior [draws, K]."""
    table, priors = probabilities.double(), priors.clamp_min(1e-12)
    ratio = torch.ones_like(priors)
    for _ in range(EM_ROUNDS):
        before = ratio
        shares = counts / (ratio @ table.T).clamp_min(1e-300)
        ratio = ratio * (shares @ table) / (counts.sum(1, keepdim=True) * priors)
        if float((ratio - before).abs().max()) < 1e-7:
            break
    q = ratio * priors
    return q / q.sum(1, keepdim=True)


def total_variation(p: Tensor, q: Tensor) -> float:
    """Returns half of the summed absolute differences of two lists of frequencies: 0 for equal ones, 1 without overlap.

    >>> total_variation(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
    0.5
    """
    return float((p.double() - q.double()).abs().sum() / 2)
