"""What BatchNorms receive, over all batches: BatchNorm's own statistics are the reference."""

from __future__ import annotations

import timm
import torch
from torch import nn

from petl.advice.distance import profile_of
from petl.advice.random_copy import calibrate_norms
from petl.extraction.norm_moments import ChannelMoments, norm_moments, running_norms
from tests.support.compare import portrait


def net() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet").eval()


def images(count: int = 24) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_batches_add_up_to_the_moments_of_all_values() -> None:
    values = torch.randn(12, 5, 3, 3) * 3 + 100
    parts = ChannelMoments.of(values[:4])
    parts.add(ChannelMoments.of(values[4:]))
    flat = values.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(parts.mean, flat.mean(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.variance, flat.var(1), atol=1e-4, rtol=0)


def test_the_gap_is_0_on_the_images_that_the_statistics_are_of() -> None:
    """And a gain and an offset of the channels show in the first layer most."""
    model = net()
    calibrate_norms(model, [images()])
    profile = profile_of(model, norm_moments(model, images().split(7)))
    assert profile.layers[0].gap < 1e-9
    assert max(layer.gap for layer in profile.layers) < 1e-3  # batches were normalised by variances of one value less
    gain, offset = torch.tensor([0.3, 2.0, 1.0]).view(3, 1, 1), torch.tensor([2.0, -1.0, 0.5]).view(3, 1, 1)
    moved = profile_of(model, norm_moments(model, (images() * gain + offset).split(7)))
    assert moved.layers[0].gap > 0.1 and moved.layers[0].layer == next(iter(running_norms(model)))
    assert [layer.layer for layer in moved.layers] == [layer.layer for layer in profile.layers]
    assert (moved.layers[0].depth, moved.layers[-1].depth) == (0.0, 1.0)


def test_the_model_stays_as_it_is() -> None:
    model = net().train()
    before = portrait(model)
    norm_moments(model, [images(4)])
    assert portrait(model) == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_without_statistics_has_none() -> None:
    model = timm.create_model("test_vit")
    assert not running_norms(model) and norm_moments(model, []) == {}
    assert not profile_of(model, {}).applicable
