"""Two sets along common axes, and how well a classifier tells them apart."""

from __future__ import annotations

import pytest
import torch

from petl.measures.mmd import mmd_test
from petl.measures.two_sample import common_components, separation, target_likeness


def test_common_axes_do_not_prefer_a_side() -> None:
    """Axes of one side alone, with more columns than rows, make any other set look different."""
    p = []
    for seed in range(8):
        x = torch.randn(80, 300, generator=torch.Generator().manual_seed(seed))
        a, b = common_components(x[:40], x[40:])
        p.append(mmd_test(a, b, draws=50).p)
    assert min(p) > 0.02 and a.shape == (40, 32)


def test_the_axes_are_the_principal_ones_either_way_round() -> None:
    generator = torch.Generator().manual_seed(0)
    wide, long = torch.randn(30, 50, generator=generator), torch.randn(60, 20, generator=generator)
    for x in (wide, long):
        a, b = common_components(x[:10], x[10:], components=5)
        both = torch.cat([a, b])
        scaled = (x.double() - x.double().mean(0)) / x.double().std(0)
        values = torch.linalg.svdvals(scaled)[:5]
        assert torch.allclose(both.square().sum(0).sqrt(), values)


def test_separation_is_by_held_out_images() -> None:
    x = torch.randn(120, 200, generator=torch.Generator().manual_seed(0))
    alike, apart = separation(x[:60], x[60:]), separation(x[:60], x[60:] + 1)
    assert (
        alike.low < 0.5 < alike.high and alike.images == 60
    )  # more columns than images: fitted perfectly, and yet at chance
    assert apart.accuracy > 0.9 and apart.distance == pytest.approx(2 * (2 * apart.accuracy - 1))


def test_images_that_look_like_the_target_are_named() -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    z = torch.cat([x[:20] + 3, torch.randn(10, 3, generator=torch.Generator().manual_seed(1))])
    logits = target_likeness(x, z)[40:]
    assert float(logits[:20].min()) > float(logits[20:].median())
