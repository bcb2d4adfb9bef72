"""What the outputs of an ordinal delta mean: one number for each level, in order. It needs torch, and no state."""

from __future__ import annotations

from torch import Tensor


def level_probabilities(outputs: Tensor) -> Tensor:
    """Returns the probability of each level [..., K] for the outputs [..., K] of an ordinal model: their softmax."""
    return outputs.softmax(-1)


def ordinal_levels(outputs: Tensor) -> Tensor:
    """Returns the predicted level [...] for the outputs [..., K] of an ordinal model: the median of the levels' probabilities.

    It is the number of levels k for which "above k" is more likely than not. The median has the smallest expected absolute
    error. The most likely level, which a classification would answer, may be far from it.

    >>> import torch
    >>> outputs = torch.tensor([[0.35, 0.30, 0.35]]).log()
    >>> ordinal_levels(outputs).tolist(), outputs.argmax(1).tolist()
    ([1], [0])
    """
    return median_levels(level_probabilities(outputs.double()))


def median_levels(probabilities: Tensor) -> Tensor:
    """Returns the median level [...] of the levels' probabilities [..., K]; see `ordinal_levels`."""
    above = 1 - probabilities.double().cumsum(-1)
    return (above[..., :-1] > 0.5).sum(-1)
