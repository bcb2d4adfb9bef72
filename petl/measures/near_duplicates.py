"""Pairs of images that are almost one picture: saved again, in other sizes or formats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

COSINE = 0.999  # of features: with it, pictures may differ more
DIFFERENCE, LOOSE_DIFFERENCE = (
    0.1,
    0.15,
)  # root mean square of the difference, in deviations from the mean picture
CORRELATION, LOOSE_CORRELATION = 0.99, 0.95  # of two pictures' pixels
FLAT = 0.02  # a picture varies less, in the same units: it has no content to correlate
SAME_FLAT = 0.005  # the difference of two flat ones
AT_ONCE = 512  # rows that are compared at once


class NearPair(NamedTuple):
    """Images number ``first`` and ``second`` (of the other set, where there are two), with the cosine of their features."""

    first: int
    second: int
    cosine: float


def near_duplicates(x: Tensor, pictures: Tensor, others: tuple[Tensor, Tensor] | None = None) -> list[NearPair]:
    """Returns the pairs of images that are almost one picture, by their pixels and by their features, in order.

    Args:
        x: Features [N, D] of any model.
        pictures: The same images at a few pixels, [N, C, side, side].
        others: Features [M, D] and pictures of a second set: pairs have one image of each. None: pairs within the first.

    The pictures differ by at most a tenth of their usual deviation from the mean picture, and correlate to .99; where features
    have a cosine of .999, they may differ a little more. Features alone can't tell: a JPEG of a small picture had cosines of .86
    to .99 to the original (EfficientNet-Lite0 on Fashion-MNIST at quality 90), and a model that knows little about images has
    .999 for all of them. Of 2000 pictures of Fashion-MNIST one pair in two million is taken for a duplicate, of 898 scanned
    digits none.
    """
    whole = pictures if others is None else torch.cat([pictures, others[1]])
    flat = whole.double().flatten(1)
    centre = flat.mean(0)
    unit = (
        float((flat - centre).square().mean().sqrt()) or 1.0
    )  # channels and places that are bright in all pictures don't count
    mine = _Side(x, pictures, centre, unit)
    theirs = mine if others is None else _Side(*others, centre, unit)
    return [pair for pair in _alike(mine, theirs) if others is not None or pair.first < pair.second]


class _Side:
    """Features of unit length and flattened pictures of one set, without the mean picture, in units of the deviation."""

    def __init__(self, x: Tensor, pictures: Tensor, centre: Tensor, unit: float) -> None:
        self.x = torch.nn.functional.normalize(x.float(), dim=1)
        own = (pictures.flatten(1).double() - centre) / unit
        self.pixels, self.centred = own.float(), (own - own.mean(1, keepdim=True)).float()
        self.spread = self.centred.double().square().mean(1).sqrt()
        self.squares = self.pixels.square().sum(1)


def _alike(mine: _Side, theirs: _Side) -> Iterator[NearPair]:
    size = mine.pixels.shape[1]
    for start in range(0, len(mine.x), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        squares = mine.squares[rows, None] + theirs.squares - 2 * mine.pixels[rows] @ theirs.pixels.T
        a, b = (squares <= 1.1 * size * LOOSE_DIFFERENCE**2 + 1e-3).nonzero(
            as_tuple=True
        )  # rounded: the exact test follows
        for begin in range(0, len(a), AT_ONCE):
            first, second = a[begin : begin + AT_ONCE] + start, b[begin : begin + AT_ONCE]
            cosines = (mine.x[first] * theirs.x[second]).sum(1).clamp(-1, 1)
            same = _same_pictures(mine, theirs, first, second, cosines >= COSINE)
            found = zip(first[same].tolist(), second[same].tolist(), cosines[same].tolist(), strict=True)
            yield from (NearPair(i, j, cosine) for i, j, cosine in found)


def _same_pictures(mine: _Side, theirs: _Side, a: Tensor, b: Tensor, near: Tensor) -> Tensor:
    """Returns for pairs of numbers [P] whether the pictures are almost one, bool [P]; ``near``: whether features are."""
    difference = (mine.pixels[a].double() - theirs.pixels[b].double()).square().mean(1).sqrt()
    spreads = (mine.spread[a] * theirs.spread[b]).clamp_min(1e-12)
    correlation = (mine.centred[a].double() * theirs.centred[b].double()).mean(1) / spreads
    close = (difference <= DIFFERENCE) & (correlation >= CORRELATION)
    loose = near & (difference <= LOOSE_DIFFERENCE) & (correlation >= LOOSE_CORRELATION)
    flat = torch.minimum(mine.spread[a], theirs.spread[b]) < FLAT
    return torch.where(flat, near & (difference <= SAME_FLAT), close | loose)


def groups_of(pairs: list[tuple[int, int]]) -> list[list[int]]:
    """Returns the sets of numbers that pairs connect, each ascending, in the order of their first numbers.

    >>> groups_of([(0, 3), (1, 2), (3, 5)])
    [[0, 3, 5], [1, 2]]
    """
    group: dict[int, list[int]] = {}
    for a, b in pairs:
        one, other = group.get(a, [a]), group.get(b, [b])
        if one is not other:
            one = [*one, *other]
            group.update(dict.fromkeys(one, one))
    unique = {min(members): sorted(members) for members in group.values()}
    return [unique[first] for first in sorted(unique)]
