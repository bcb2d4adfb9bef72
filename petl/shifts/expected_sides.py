"""How probably an image is of the target if nothing but the class frequencies differs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from petl.measures.label_shift import affordable_draws, refitted_ratios

LEAST_DRAWS = 100  # fewer could hardly reach a p-value below .05 / 3


@dataclass(frozen=True)
class ExpectedSides:
    """Calibrated class probabilities of all images, float64 [N, K], the source's ``count`` first; they explain who is where.

    Of two sides with n and m images the odds of being of the target are m / n times the sum over classes of probability x q / p.
    The frequencies q come from the same images (EM), so that they have to be fitted again wherever sides are drawn.
    """

    probabilities: Tensor
    count: int

    def __call__(self, second: Tensor) -> Tensor:
        """Returns the probabilities float32 [S, N] of being of the target, for memberships [S, N] (1: of the target)."""
        ratios, seconds = refitted_ratios(self.probabilities, second), second.double().sum(1, keepdim=True)
        odds = ratios @ self.probabilities.T * (seconds / (second.shape[1] - seconds).clamp_min(1))
        return (odds / (1 + odds)).float()

    def part(self, source: Tensor, target: Tensor) -> ExpectedSides:
        """Returns the same of some images of each side, by their numbers."""
        rows = torch.cat([source, self.count + target])
        return ExpectedSides(self.probabilities[rows], len(source))

    def draws(self, most: int) -> int:
        """Returns how many draws of sides can be afforded."""
        return affordable_draws(*self.probabilities.shape, least=min(LEAST_DRAWS, most), most=most)
