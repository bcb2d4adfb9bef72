"""The reading of features: the better of two heads by leave-one-out, and what labels it needs."""

from __future__ import annotations

import pytest
import torch

import petl
from petl.evidence.leave_one_out import nearest_neighbours, ridge
from petl.evidence.reading import read_classes
from petl.measures.enough_labels import refuse_few_labels


def test_it_is_the_better_of_the_two() -> None:
    g = torch.Generator().manual_seed(0)
    angle = torch.rand(60, generator=g) * 6.28
    y = (torch.arange(60) % 2).long()
    ring = torch.stack([angle.cos(), angle.sin()], 1) * (1 + y[:, None])  # no line tells them apart, cosines neither
    x = torch.cat([ring, ring.norm(dim=1, keepdim=True)], 1)
    for table in (x, torch.randn(60, 100, generator=g)):
        found = read_classes(table, y, 2)
        each = [
            float((s.argmax(1) == y).double().mean())
            for s in (ridge(table, y, 2).left_out, nearest_neighbours(table, y, 2))
        ]
        assert found.balanced == pytest.approx(max(each)) and found.accuracy == pytest.approx(found.balanced)
        assert torch.equal(found.right, found.predicted == y) and found.error > 0  # also where all are right


def test_balanced_accuracy_counts_classes_alike_and_skips_those_without_images() -> None:
    y = torch.tensor([0] * 20 + [2] * 4)
    found = read_classes(torch.zeros(24, 3), y, 4)
    assert found.balanced == pytest.approx(0.5) and found.accuracy == pytest.approx(20 / 24)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, "needs a class for each image"),
        (torch.zeros(8), "numbers or several labels"),
        (torch.zeros(8, 2).long(), "numbers or several labels"),
        (torch.arange(8) % 2 - 1, "label -1; expected class numbers from 0 on"),
        (torch.zeros(8).long(), "two classes or more; got 1, 'cat'"),
        (torch.tensor([0] * 8 + [1] * 3), r"4 images of each class or more; too few are of dog \(3\)"),
    ],
)
def test_labels_that_are_too_few_are_one_error(y: torch.Tensor | None, words: str) -> None:
    with pytest.raises(petl.DataError, match=words):
        refuse_few_labels("rank", y, ["cat", "dog"])
