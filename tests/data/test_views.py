"""Test-time augmentation: the views, their average, and what `evaluate` makes of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import petl
from petl.data.views import ViewedModel, average_outputs, make_views
from petl.errors import DataError
from tests.support.data import pairs

IMAGES = torch.randn(3, 2, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("views", "count"), [(None, 1), (1, 1), ("flip", 2), (2, 2), (5, 5), (10, 10)])
def test_how_many_views_there_are(views: Any, count: int) -> None:
    seen = [view(IMAGES) for view in make_views(views)]
    assert len(seen) == count and all(one.shape == IMAGES.shape for one in seen)
    assert count in (5, 10) or torch.equal(seen[0], IMAGES)
    assert len({one.numpy().tobytes() for one in seen}) == count


def test_the_places_of_the_crops() -> None:
    """Of 16 x 24 pixels, 14 x 21: the corners, then the centre, as torchvision has them; then the mirror images."""
    from torchvision.transforms.v2.functional import ten_crop

    expected = [F.interpolate(crop, (16, 24), mode="bilinear") for crop in ten_crop(IMAGES, [14, 21])]
    found = [view(IMAGES) for view in make_views(10)]
    for number, (one, other) in enumerate(zip(found[:5], expected[:5], strict=True)):
        assert torch.equal(one, other), number
    for crop, mirror in zip(found[:5], found[5:], strict=True):
        torch.testing.assert_close(mirror, crop.flip(-1))


@pytest.mark.parametrize("views", ["five", 3, 0, True, 2.0, [], [1], {}, "", -1, IMAGES])
def test_what_are_no_views(views: Any) -> None:
    with pytest.raises(DataError, match="expected None or 1"):
        make_views(views)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_probabilities_are_averaged(scale: float) -> None:
    outputs = [torch.randn(4, 3, generator=torch.Generator().manual_seed(n)) * scale for n in range(3)]
    softmax = torch.stack([output.softmax(1) for output in outputs]).mean(0)
    torch.testing.assert_close(average_outputs(outputs).softmax(1), softmax)
    sigmoid = torch.stack([output.sigmoid() for output in outputs]).mean(0)
    torch.testing.assert_close(average_outputs(outputs, "multilabel").sigmoid(), sigmoid, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(average_outputs(outputs, "regression"), torch.stack(outputs).mean(0))


def test_a_view_returns_as_many_images() -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(DataError, match=r"view <lambda> made a tensor \[2, 2, 16, 24\] of images \[3, 2, 16, 24\]"):
        ViewedModel(net, [lambda images: images[:2]])(IMAGES)
    with pytest.raises(DataError, match="made None"):
        ViewedModel(net, [lambda images: None])(IMAGES)  # type: ignore[list-item, return-value]


def model_of(name: str = "test_resnet") -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=3)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("kind", ["dataset", "loader", "autocast"])
def test_evaluate_averages(kind: str) -> None:
    model, data = model_of().eval(), pairs(10, size=32)
    images, targets = data.tensors
    with torch.no_grad():
        probabilities = (model(images).softmax(1) + model(images.flip(-1)).softmax(1)) / 2
    options: dict[str, Any] = {"progress": False, "precision": "bf16" if kind == "autocast" else None}
    model.train()
    found = petl.evaluate(model, DataLoader(data, 4) if kind == "loader" else data, views="flip", **options)
    assert all(module.training for module in model.modules())
    expected = -probabilities[range(10), targets].log().mean().item()
    np.testing.assert_allclose(found.loss, expected, rtol=2e-2 if kind == "autocast" else 1e-5)
    one, other = petl.evaluate(model, data, progress=False), petl.evaluate(model, data, views=1, progress=False)
    assert one == other and one.loss != found.loss
    own = petl.evaluate(model, data, views=[lambda images: images, lambda images: images.flip(-1)], progress=False)
    assert kind == "autocast" or own == found


def test_evaluate_refuses_before_it_reads() -> None:
    with pytest.raises(DataError, match="views='mirror'; expected None or 1"):
        petl.evaluate(model_of(), "no/such/folder", views="mirror")  # type: ignore[arg-type]


class Odd(nn.Module):
    """Returns its scores in a tuple, as Inception does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model_of()

    def forward(self, images: Tensor) -> Any:
        return self.net(images), None


@pytest.mark.deep
def test_other_models() -> None:
    data = pairs(4, size=32)
    with warnings.catch_warnings():
        for model in (Odd(), petl.wrap(model_of("test_vit"), "lora", num_classes=3)):
            images = data if isinstance(model, Odd) else pairs(4, size=160)
            assert petl.evaluate(model, images, views=5, progress=False).loss > 0
