"""Features of all blocks for the classifier: the pooled output of each, and a linear layer on all beside the classifier."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from petl.errors import StateError
from petl.graft.kinds import OutputGraft
from petl.sites.sites import Site

NAME = "layers"  # of both grafts


class PooledOutputs:
    """The pooled outputs of the blocks in one forward, by the places of their features; the classifier takes them out."""

    def __init__(self) -> None:
        self.values: dict[int, Tensor] = {}


class PooledOutput(OutputGraft):
    """Notes what its parent returns, averaged over positions, and changes nothing.

    ``outputs`` are (place among the features, number of the tensor, axis of the channels).
    """

    def __init__(self, outputs: list[tuple[int, int, int]], pooled: PooledOutputs) -> None:
        super().__init__()
        self.why_stuck = "it hands a block's output to the classifier"
        self.outputs, self.pooled = outputs, pooled

    def forward(self, output: Any, *inputs: Any) -> Any:
        tensors = [output] if isinstance(output, Tensor) else [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        for place, number, axis in self.outputs:
            self.pooled.values[place] = mean_over_positions(tensors[number], axis)
        return output


class BlockReader(OutputGraft):
    """Adds a linear function of all blocks' pooled outputs to the class scores; zero at the start."""

    reads_beyond = True

    def __init__(self, widths: list[int], classes: int, like: Tensor, pooled: PooledOutputs) -> None:
        super().__init__()
        self.why_stuck = "the classifier also reads the outputs of blocks before the last"
        self.widths, self.pooled = widths, pooled
        dtype = torch.promote_types(like.dtype, torch.float32)
        self.weight = nn.Parameter(torch.zeros(classes, sum(widths), device=like.device, dtype=dtype))

    def features(self) -> Tensor:
        """Returns the pooled outputs of all blocks in the forward under way [N, sum of widths]."""
        values = self.pooled.values
        if len(values) != len(self.widths):
            raise StateError(
                "a classifier on the outputs of all blocks (petl.Probe(layers='all')) ran without them; run the whole model"
            )
        return torch.cat([values[place].to(self.weight.dtype) for place in range(len(self.widths))], 1)

    def forward(self, output: Tensor, *inputs: Any) -> Tensor:
        change = F.linear(self.features(), self.weight).to(output.dtype)
        self.pooled.values.clear()  # the next forward has its own
        positions = output.ndim - 2
        if isinstance(inputs[0], Tensor) and inputs[0].ndim == 4 and output.shape[1] == change.shape[1]:
            return output + change[(..., *(None,) * positions)]
        return output + change[(slice(None), *(None,) * positions)]


def mean_over_positions(x: Tensor, axis: int) -> Tensor:
    """Returns [N, channels]: the mean over the positions of a map or of tokens."""
    x = x.movedim(axis, -1)
    return x.flatten(1, -2).mean(1) if x.ndim > 2 else x


def pooled_parts(site: Site, images: int) -> list[tuple[int, int, int]]:
    """Returns (number of the tensor, axis of its channels, width) for each tensor of the site with a row for each image."""
    pairs = enumerate(zip(site.outputs, site.axes, strict=True))
    return [(number, axis, shape[axis]) for number, (shape, axis) in pairs if len(shape) > 1 and shape[0] == images]
