"""Whether confidences can be believed: the expected calibration error, its standard error, and what chance alone adds to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from petl.evidence.bootstrap import bootstrap_errors
from petl.measures.temperature import cross_fitted, fitted_temperature

BINS = 15
CHANCE_DRAWS = 200
FEWEST_CALIBRATED = 20  # images


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error of N images, its standard error, and what calibrated confidences would show by chance.

    ``value`` is the mean over images of the gap between confidence and accuracy in bins of confidence; ``error`` is by
    bootstrap; ``by_chance`` is what as many images show whose confidences are exactly right: with few images a bin's accuracy
    varies, so the value can't be near 0. ``confidence`` is the mean confidence.
    """

    value: float
    error: float
    by_chance: float
    confidence: float


@dataclass(frozen=True)
class Calibration:
    """What one temperature does to the confidences of a classifier.

    Attributes:
        temperature: Confidences are ``softmax(scores / temperature)``; above 1 the classifier was too sure. Fitted on all images.
        before, after: The calibration error with the scores as they are, and after. "After" is honest: each image's temperature
            was fitted on the other images (five folds).
        images, bins: How many images there were, and how many bins of equal width.
        accuracy: Of the images; a temperature doesn't change it.
    """

    temperature: float
    before: CalibrationError
    after: CalibrationError
    images: int
    bins: int
    accuracy: float

    def __str__(self) -> str:
        one, two = self.before, self.after
        return (
            f"temperature {self.temperature:.3f}: mean confidence {one.confidence:.3f} -> {two.confidence:.3f} at accuracy "
            f"{self.accuracy:.3f}; calibration error {one.value:.3f} +- {one.error:.3f} -> {two.value:.3f} +- {two.error:.3f} "
            f"(cross-fitted; {two.by_chance:.3f} is chance with {self.images} images)"
        )


def calibration(scores: Tensor, y: Tensor, *, seed: int = 0, bins: int = BINS) -> Calibration:
    """Returns the temperature for class scores [N, K] of images of classes ``y`` [N], and what it changes.

    Raises:
        ValueError: there are fewer than 20 images, or a score is not finite.
    """
    if len(y) < FEWEST_CALIBRATED:
        raise ValueError(f"{len(y)} images; a temperature needs {FEWEST_CALIBRATED} or more")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("some scores are NaN or infinite")
    scores = scores.double()
    before = calibration_error(scores.softmax(1), y, bins=bins, seed=seed)
    after = calibration_error(cross_fitted(scores, y, seed=seed).softmax(1), y, bins=bins, seed=seed)
    accuracy = float((scores.argmax(1) == y).double().mean())
    return Calibration(fitted_temperature(scores, y), before, after, len(y), bins, accuracy)


def calibration_error(probabilities: Tensor, y: Tensor, *, bins: int = BINS, seed: int = 0) -> CalibrationError:
    """Returns the expected calibration error of probabilities [N, K] for classes ``y`` [N] (arXiv:1706.04599, equal widths).

    >>> always = torch.tensor([[0.75, 0.25]] * 40)
    >>> round(calibration_error(always, (torch.arange(40) % 4 == 0).long()).value, 6)
    0.0
    """
    confidences, predicted = probabilities.double().max(1)
    right = (predicted == y).double()
    places = (confidences * bins).ceil().long().clamp(1, bins) - 1

    def binned(rows: Tensor) -> Tensor:
        return _gap(confidences[rows], right[rows], places[rows], bins)[None]

    value = float(_gap(confidences, right, places, bins))
    (error,) = bootstrap_errors(binned, len(y), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    draws = [
        _gap(confidences, (torch.rand(len(y), generator=generator) < confidences).double(), places, bins)
        for _ in range(CHANCE_DRAWS)
    ]
    return CalibrationError(value, error, float(torch.stack(draws).mean()), float(confidences.mean()))


def _gap(confidences: Tensor, right: Tensor, places: Tensor, bins: int) -> Tensor:
    """Returns the sum over bins of |sum of confidences - number right|, over the number of images."""
    sums = torch.zeros(bins, dtype=torch.float64).index_add_(0, places, confidences - right)
    return sums.abs().sum() / len(confidences)
