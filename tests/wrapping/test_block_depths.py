"""How deep each parameter is, by timm's order or by a forward on shapes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import petl
from petl.wrapping.block_depths import block_depths
from tests.support.training import adapted


class Own(nn.Module):
    """A model that timm knows nothing of; its blocks run in another order than they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.stem = nn.Conv2d(3, 8, 3, stride=4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)) for _ in range(3))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x.mean((2, 3))))


def test_timms_order_with_grafts() -> None:
    depths = block_depths(adapted("lora", "test_vit"))
    assert depths["patch_embed.proj.lora.down"] == 0
    assert [depths[f"blocks.{i}.mlp.fc1.lora.up"] for i in range(6)] == [1, 2, 3, 4, 5, 6]
    assert (depths["norm.weight"], depths["head.weight"]) == (6, 7)  # timm has the last norm with the last block


@pytest.mark.parametrize("methods", [None, "lora"])
def test_a_model_without_timms_order(methods: str | None) -> None:
    model = Own()
    if methods:
        petl.wrap(model, methods, head=False)
    depths = block_depths(model)
    assert {name.split(".")[0]: depth for name, depth in depths.items() if "blocks" not in name} == {
        "stem": 0,
        "norm": 4,
        "head": 4,
    }
    assert all(depth == int(name.split(".")[1]) + 1 for name, depth in depths.items() if name.startswith("blocks"))


def test_no_blocks() -> None:
    assert len({*block_depths(nn.Sequential(nn.Flatten(), nn.Linear(12, 3))).values()}) < 2


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_mambaout", "test_nfnet", "test_vit3"])
def test_every_parameter_has_a_depth(name: str) -> None:
    model = timm.create_model(name)
    depths = block_depths(model)
    assert {*depths} == {key for key, _ in model.named_parameters()}
    assert len({*depths.values()}) > 3
