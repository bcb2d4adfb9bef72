"""Frequencies of classes without labels: known answers."""

from __future__ import annotations

import torch
from torch import Tensor

from petl.measures.label_shift import (
    bootstrapped_frequencies,
    estimated_frequencies,
    fitted_scaling,
    total_variation,
    variations_by_chance,
)

PRIOR = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def simulated(count: int, frequencies: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Calibrated probabilities [N, 3] for the prior, of images with these frequencies, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.multinomial(frequencies, count, replacement=True, generator=generator)
    means = 2 * torch.eye(3, dtype=torch.float64)
    x = means[y] + torch.randn(count, 3, generator=generator, dtype=torch.float64)
    logits = x @ means.T - means.square().sum(1) / 2 + PRIOR.log()
    return logits.softmax(1), y


def test_em_recovers_the_frequencies_of_calibrated_scores() -> None:
    for wanted in ([0.1, 0.2, 0.7], [0.5, 0.3, 0.2]):
        probabilities, y = simulated(100_000, torch.tensor(wanted, dtype=torch.float64))
        found = estimated_frequencies(probabilities, PRIOR)
        true = torch.bincount(y, minlength=3).double() / len(y)
        assert float((found - true).abs().max()) < 0.01
        if wanted[0] == 0.5:
            assert total_variation(found, PRIOR) < 0.01


def test_the_scaling_finds_temperature_and_bias() -> None:
    probabilities, y = simulated(6000, PRIOR)
    bias = torch.tensor([0.4, -0.6, 0.2], dtype=torch.float64)
    scores = (probabilities.log() - bias) * 3
    found = fitted_scaling(scores, y)
    assert abs(found.scale - 1 / 3) < 0.02
    assert float((found.bias - bias - (found.bias - bias).mean()).abs().max()) < 0.12
    assert float((found.probabilities(scores) - probabilities).abs().mean()) < 0.02
    soft = fitted_scaling(scores * 1000, probabilities)  # for probabilities, in another unit
    assert float((soft.probabilities(scores * 1000) - probabilities).abs().mean()) < 0.01


def test_bootstraps_agree_with_the_estimate() -> None:
    probabilities, _ = simulated(300, torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64))
    found = bootstrapped_frequencies(probabilities, PRIOR, draws=60)
    assert float((found.mean(0) - estimated_frequencies(probabilities, PRIOR)).abs().max()) < 0.02
    assert 0.01 < float(found.std(0).max()) < 0.08
    by_chance = variations_by_chance(simulated(300, PRIOR)[0], 300, draws=60)
    assert float(by_chance.quantile(0.95)) < 0.15 < total_variation(found.mean(0), PRIOR)


def test_a_class_that_the_source_lacks_stays_at_zero() -> None:
    probabilities = torch.tensor([[0.7, 0.3, 0.0]] * 20, dtype=torch.float64)
    prior = torch.tensor([0.6, 0.4, 0.0], dtype=torch.float64)
    assert float(estimated_frequencies(probabilities, prior)[2]) == 0
    assert bool(bootstrapped_frequencies(probabilities, prior, draws=10).isfinite().all())
    scores = torch.tensor([[2.0, 0.0, -torch.inf], [0.0, 2.0, -torch.inf]] * 10)
    assert bool(fitted_scaling(scores, torch.arange(20) % 2).probabilities(scores).isfinite().all())
