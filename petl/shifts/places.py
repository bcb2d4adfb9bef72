"""Where and on which images the sides differ: block by block, and image by image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from petl.extraction.feature_set import Features
from petl.measures.mmd import drawn_residuals, kernel_table, permuted_mmd, residual_test
from petl.measures.two_sample import common_components
from petl.shifts.expected_sides import ExpectedSides

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
    expected: ExpectedSides | None,
    *,
    seed: int,
    most: int = MOST,
) -> list[BlockShift]:
    """Returns how much each block's outputs differ, in depth order; of at most ``most`` images a side.

    ``expected`` says how probably an image is of the target by the class frequencies alone.
    """
    if not source or target is None:
        return []
    counts = [len(next(iter(side.values()))) for side in (source, target)]
    first, last = (_spread(count, most) for count in counts)
    second = torch.cat([torch.zeros(len(first)), torch.ones(len(last))])
    residuals = None
    if expected is not None:
        some = expected.part(first, last)
        residuals = drawn_residuals(second, some, draws=some.draws(BLOCK_DRAWS), seed=seed)
    found = []
    for name in source:
        a, b = common_components(source[name][first], target[name][last])
        table = kernel_table(torch.cat([a, b]))
        plain = residuals is None
        test = permuted_mmd(table, second, draws=BLOCK_DRAWS, seed=seed) if plain else residual_test(table, residuals)
        found.append(BlockShift(name, test.deviations, test.p))
    return found


def _spread(count: int, most: int) -> Tensor:
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).round().long()


def extreme_images(target: Features, logits: Tensor, names: list[str] | None) -> tuple[list[OneImage], list[OneImage]]:
    """Returns the target images that look least like the source, and those that look most like it; 16 of each at most."""
    order = logits.argsort(descending=True, stable=True).tolist()
    named = [OneImage(names[row] if names else f"image {row}", float(logits[row])) for row in order]
    shown = min(IMAGES_NAMED, len(target))
    return named[:shown], named[::-1][:shown]
