"""Where a network looks: gradient times activation, against finite differences."""

from __future__ import annotations

import pytest
import torch

from petl.measures.class_activation import first_order_effect, layer_cam, token_grid, unit_range


def test_the_effect_of_a_position_is_its_finite_difference() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.GELU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    net.double()
    activation = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(net(activation)[:, 1].sum(), activation)[0]
    effect = first_order_effect(activation, gradient)
    for row, column in ((0, 0), (2, 1)):
        grown, step = torch.ones(3, 3, dtype=torch.float64), 1e-6
        grown[row, column] += step
        difference = (net(activation * grown) - net(activation))[:, 1] / step
        assert torch.allclose(effect[:, row, column], difference, atol=1e-5)
    by_hand = torch.einsum("nchw,nchw->nhw", gradient.relu(), activation).relu()
    assert torch.allclose(layer_cam(activation, gradient), by_hand)


def test_maps_are_drawn_up_to_their_largest_value() -> None:
    maps = torch.tensor([[[0.0, 4.0]], [[0.0, 0.0]]])
    assert unit_range(maps).tolist() == [[[0.0, 1.0]], [[0.0, 0.0]]]


@pytest.mark.parametrize(
    ("tokens", "ratio", "prefix", "grid"),
    [(197, 1, None, (1, 14, 14)), (201, 1, 5, (5, 14, 14)), (196, 1, None, (0, 14, 14)), (23, 1, 0, None)],
)
def test_the_grid_of_tokens(tokens: int, ratio: float, prefix: int | None, grid: tuple[int, ...] | None) -> None:
    assert token_grid(tokens, ratio, prefix) == grid
