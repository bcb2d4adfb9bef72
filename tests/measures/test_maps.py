"""Maps and their trustworthiness."""

from __future__ import annotations

import pytest
import torch

from petl.measures.maps import neighbour_map, principal_map, trust_neighbours, trustworthiness


def test_trustworthiness_is_that_of_scikit_learn() -> None:
    manifold = pytest.importorskip("sklearn.manifold")
    generator = torch.Generator().manual_seed(0)
    x, points = torch.randn(60, 9, generator=generator), torch.randn(60, 2, generator=generator)
    for neighbours in (1, 5, 15, 29):
        theirs = manifold.trustworthiness(x.numpy(), points.numpy(), n_neighbors=neighbours)
        assert trustworthiness(x, points, neighbours) == pytest.approx(theirs, abs=1e-12)
    assert trustworthiness(x[:, :2], 3 * x[:, :2] + 1, 5) == 1
    with pytest.raises(ValueError, match="fewer than half"):
        trustworthiness(x, points, 30)
    assert [trust_neighbours(n) for n in (1, 2, 3, 12, 500)] == [0, 0, 1, 5, 15]


def test_principal_components_are_those_of_the_plane() -> None:
    plane = torch.randn(40, 2, dtype=torch.float64) * torch.tensor([5.0, 1.0])
    plane = plane - plane.mean(0)
    turned = plane @ torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0][:2] + 4
    found = principal_map(turned)
    assert found.shares is not None and sum(found.shares) == pytest.approx(1)
    assert torch.allclose(torch.pdist(found.points), torch.pdist(plane), atol=1e-9)
    assert principal_map(torch.arange(3.0)[:, None]).points.shape == (3, 2)


def test_tsne_repeats_and_keeps_neighbours() -> None:
    pytest.importorskip("sklearn")
    x = torch.cat([torch.randn(20, 10) + 9 * k for k in range(3)])
    first, second = neighbour_map(x, seed=1), neighbour_map(x, seed=1)
    assert first is not None and second is not None and torch.equal(first.points, second.points)
    assert trustworthiness(x, first.points, 10) > 0.85
    assert neighbour_map(x[:5]) is None and neighbour_map(torch.ones(30, 4)) is None


def test_without_scikit_learn_there_is_no_tsne(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    assert neighbour_map(torch.randn(30, 4)) is None
