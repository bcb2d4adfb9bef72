"""A sample has every class in its share, is repeatable, and a smaller one is a part of a larger one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import petl
from petl.data.samples import sampled_rows
from tests.support.feature_data import noise, small


def pairs(y: torch.Tensor) -> TensorDataset:
    return TensorDataset(torch.zeros(len(y), 1), y)


def test_shares_and_nesting() -> None:
    y = torch.tensor([0] * 700 + [1] * 290 + [2] * 10)
    rows = [set(petl.data.sample(pairs(y), count).indices) for count in (20, 100, 500)]
    assert rows[0] < rows[1] < rows[2] and [len(r) for r in rows] == [20, 100, 500]
    assert np.bincount(y[sorted(rows[0])]).tolist() == [10, 5, 5]  # five of each come first
    assert np.bincount(y[sorted(rows[2])]).tolist() == [350, 145, 5]
    assert petl.data.sample(pairs(y), 1000) is not None and len(petl.data.sample(pairs(y), 5000)) == 1000
    assert set(petl.data.sample(pairs(y), 100, seed=1).indices) != rows[1]
    assert sorted(rows[1]) == petl.data.sample(pairs(y), 100).indices


@pytest.mark.parametrize("y", [torch.linspace(0, 1, 50), (torch.rand(50, 3) > 0.5).float()])
def test_numbers_and_several_labels_are_sampled_too(y: torch.Tensor) -> None:
    assert len(petl.data.sample(pairs(y), 20)) == 20


def test_what_cannot_be_sampled_is_refused() -> None:
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    for images in (0, -1, 2.5, True, "3"):
        with pytest.raises(petl.DataError, match="images="):
            petl.data.sample(pairs(torch.arange(9)), images)
    with pytest.raises(petl.DataError, match="stream"):
        petl.data.sample(Stream(), 3)
    with pytest.raises(petl.DataError, match="seed"):
        sampled_rows(np.zeros(3), 2, -1)


def test_features_of_a_sample(tmp_path: Path) -> None:
    """The same images are chosen from a dataset, before they are read, and from a loader, after."""
    model, data = small(), TensorDataset(noise(12), torch.arange(12) % 3)
    whole = petl.features(model, data, cache=False)
    part = petl.features(model, data, images=6, cache=False)
    later = petl.features(model, DataLoader(data, batch_size=64), images=6, cache=False)
    rows = petl.data.sample(data, 6).indices
    assert part.y is not None and part.y.tolist() == [int(data[i][1]) for i in rows]
    assert torch.allclose(part.x, whole.x[rows], atol=1e-5) and torch.equal(later.x, whole.x[rows])
    assert len(petl.features(model, data.tensors[0], images=5, cache=False)) == 5  # no labels
    assert len(petl.features(model, data, images=99, cache=False)) == 12
    with pytest.raises(petl.DataError, match="images=0"):
        petl.features(model, data, images=0)
