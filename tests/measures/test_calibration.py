"""The calibration error of simulated confidences, and what one temperature does."""

from __future__ import annotations

import pytest
import torch

from petl.measures.calibration import calibration, calibration_error
from petl.measures.temperature import cross_fitted, fitted_temperature


def simulated(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [N, 3] whose softmax is right, and classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 3, generator=generator)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def test_calibrated_confidences_have_no_error_beyond_chance() -> None:
    logits, y = simulated(20_000)
    found = calibration_error(logits.softmax(1), y)
    assert found.value < 0.012 and abs(found.value - found.by_chance) < 4 * found.error
    few = calibration_error(logits[:60].softmax(1), y[:60])
    assert few.by_chance > 0.06  # of 60 images, chance alone makes that much


@pytest.mark.parametrize("temperature", [0.25, 3.0])
def test_the_temperature_is_found_and_undone(temperature: float) -> None:
    logits, y = simulated(4000)
    scores = logits * temperature
    assert fitted_temperature(scores, y) == pytest.approx(temperature, rel=0.08)
    found = calibration(scores, y)
    assert found.before.value > 0.08 > 0.03 > found.after.value
    assert found.accuracy == float((logits.argmax(1) == y).double().mean())
    assert "temperature" in str(found) and "chance" in str(found)


def test_the_error_afterwards_is_by_images_that_fitted_nothing() -> None:
    logits, y = simulated(40)
    scaled = cross_fitted(logits, y)
    factors = (scaled / logits.double()).mean(1)
    assert len(factors.round(decimals=9).unique()) == 5
    assert torch.equal(scaled.argmax(1), logits.argmax(1))


def test_all_right_is_not_infinitely_sure() -> None:
    y = torch.arange(50) % 2
    scores = torch.eye(2)[y]
    temperature = fitted_temperature(scores, y)
    assert float((scores / temperature).softmax(1).max()) == pytest.approx(1 - 0.5 / 52, abs=2e-3)


def test_too_few_images_and_broken_scores_are_refused() -> None:
    logits, y = simulated(40)
    with pytest.raises(ValueError, match="20"):
        calibration(logits[:19], y[:19])
    with pytest.raises(ValueError, match="NaN"):
        calibration(logits / 0, y)
