"""How much of a model's first layer gray images can reach, and whether images are gray."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GRAY = 0.01  # of the range 0..1: JPEG's colours of a gray picture, averaged over an area, are within it


class StemReach(NamedTuple):
    """``filters`` [out]: the reach of each filter; ``share``: that of all filters, weighted by their energy."""

    filters: Tensor
    share: float


def stem_reach(weight: Tensor) -> StemReach:
    """Returns the share of the energy of filters [out, C, ...] that an image with C equal channels can reach.

    For a filter it is ``|sum_c W_c|^2 / (C sum_c |W_c|^2)``: 1 where the channels are equal, 0 where they cancel out (as in
    filters that compare two colours). A filter of zeros has reach 0.

    >>> stem_reach(torch.ones(1, 3, 2, 2)).share
    1.0
    >>> stem_reach(torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)).share
    0.0
    """
    values = weight.detach().double()
    summed = values.sum(1).flatten(1).square().sum(1)
    energy = values.shape[1] * values.flatten(1).square().sum(1)
    share = float(summed.sum() / energy.sum()) if float(energy.sum()) else 0.0
    return StemReach(summed / energy.clamp_min(torch.finfo(torch.float64).tiny), share)


def gray_images(pictures: Tensor, *, same_scale: bool = True) -> Tensor:
    """Returns for each of N small pictures [N, C, side, side] whether it is gray, bool [N]: all of its channels say the same.

    ``same_scale``: channels are values of 0..1. Else they may have been normalised, each in its own way: then one scale and
    offset for each channel, the same for all pictures, has to turn the first channel into it.
    """
    values = pictures.double()
    if values.shape[1] < 2:
        return torch.ones(len(values), dtype=torch.bool)
    first, others = values[:, :1], values[:, 1:]
    unit = 1.0
    if not same_scale:
        flat = values.transpose(0, 1).flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        spread = centred[0].square().mean()
        if not float(spread):
            return (values.flatten(1).std(1) == 0) if len(values) else torch.zeros(0, dtype=torch.bool)
        slopes = (centred * centred[0]).mean(1) / spread
        offsets = flat.mean(1) - slopes * flat[0].mean()
        first = slopes[1:].view(1, -1, 1, 1) * first + offsets[1:].view(1, -1, 1, 1)
        unit = 4 * float(values.std())  # of pictures of 0..1, the deviation is about a quarter of the range
    return (others - first).abs().flatten(1).amax(1) <= GRAY * unit
