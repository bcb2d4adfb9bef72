"""Predictions of images that a head wasn't fitted on: leaving each image out by hand gives the left-out predictions."""

from __future__ import annotations

import torch

from petl.evidence.leave_one_out import nearest_neighbours
from petl.evidence.new_images import predict_new


def test_neighbours_of_a_left_out_image_vote_alike() -> None:
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(30) % 3
    x[:, 0] += y
    expected = nearest_neighbours(x, y, 3, k=9).argmax(1)  # without one image, the smallest class has nine
    others = [torch.arange(30) != one for one in range(30)]
    found = [int(predict_new("knn", x[rest], y[rest], 3, x[~rest])) for rest in others]
    assert found == expected.tolist()


def test_ridge_tells_new_images() -> None:
    x = torch.randn(60, 100, generator=torch.Generator().manual_seed(1))
    y = torch.arange(60) % 2
    x[:, :10] += 2.0 * y[:, None]
    assert float((predict_new("ridge", x[:40], y[:40], 2, x[40:]) == y[40:]).float().mean()) > 0.9
