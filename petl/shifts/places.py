"""Where and on which images the sides differ: block by block, and image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from petl.extraction.feature_set import Features
from petl.measures.mmd import kernel_table, permuted_mmd, residual_test
from petl.measures.two_sample import common_components

IMAGES_NAMED = 16  # images on each end
MOST, BLOCK_DRAWS = 300, 100  # images a side for a block, and draws of its test


@dataclass(frozen=True)
class BlockShift:
    """How much the outputs of a block differ, with the class frequencies matched where they are known.

    ``deviations`` is the squared MMD in deviations of what chance gives; above 3 is clear, and blocks compare by it.
    """

    name: str
    deviations: float
    p: float


@dataclass(frozen=True)
class OneImage:
    """An image by its file or number, and its logit: above 0 where it looks like the target."""

    image: str
    logit: float


def block_shifts(
    source: Mapping[str, Tensor] | None,
    target: Mapping[str, Tensor] | None,
    expected: Tensor | None,
    *,
    seed: int,
    most: int = MOST,
) -> list[BlockShift]:
    """Returns how much each block's outputs differ, in depth order; of at most ``most`` images a side.

    ``expected`` [n + m] is each image's probability of being of the target by the class frequencies alone.
    """
    found = []
    for name in source or ():
        one, two = source[name], target[name]  # type: ignore[index]  # both sides have the same blocks
        rows = [_spread(len(part), most) for part in (one, two)]
        a, b = common_components(one[rows[0]], two[rows[1]])
        table, second = kernel_table(torch.cat([a, b])), torch.cat([torch.zeros(len(a)), torch.ones(len(b))])
        if expected is None:
            test = permuted_mmd(table, second, draws=BLOCK_DRAWS, seed=seed)
        else:
            chosen = _of_part(expected, rows, len(one), len(two))
            test = residual_test(table, second, chosen, draws=BLOCK_DRAWS, seed=seed)
        found.append(BlockShift(name, test.deviations, test.p))
    return found


def _of_part(expected: Tensor, rows: list[Tensor], n: int, m: int) -> Tensor:
    """Returns the probabilities of some images, for the odds that these parts of both sides have."""
    chosen = torch.cat([expected[rows[0]], expected[n + rows[1]]]).double()
    odds = chosen / (1 - chosen).clamp_min(1e-12) * (n / m) * (len(rows[1]) / len(rows[0]))
    return (odds / (1 + odds)).float()


def _spread(count: int, most: int) -> Tensor:
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).round().long()


def extreme_images(target: Features, logits: Tensor, names: list[str] | None) -> tuple[list[OneImage], list[OneImage]]:
    """Returns the target images that look least like the source, and those that look most like it; 16 of each at most."""
    order = logits.argsort(descending=True, stable=True).tolist()
    named = [OneImage(names[row] if names else f"image {row}", float(logits[row])) for row in order]
    shown = min(IMAGES_NAMED, len(target))
    return named[:shown], named[::-1][:shown]
