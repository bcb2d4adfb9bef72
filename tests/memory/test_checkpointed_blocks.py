"""Blocks that run a second time in the backward."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn

import petl
from petl.graft.classes import fast_paths
from petl.memory.checkpointed_blocks import CheckpointedBlock
from tests.support.steps import close, step
from tests.support.zoo import disturb


class Mixer(nn.Module):
    """A residual block of two layers; ``last`` says what happens to the second one's result."""

    def __init__(self, last: str = "added"):
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1), last

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(torch.sin(self.first(x)))
        if self.last == "squared":
            y = y * y
        elif self.last == "scaled by itself":
            y = y * y.detach().abs().mean()
        elif self.last == "masked by itself":
            y = y * (y > 0)
        elif self.last == "masked":
            y = y * x.new_empty(len(x), 1, 1, 1).bernoulli_(0.5)
        elif self.last == "stopped":
            return x + y + torch.tanh(x + y.detach())
        elif self.last == "without gradient":
            with torch.no_grad():
                z = y + 1
            return x + y + torch.tanh(x + z)
        return x + y


class Mixers(nn.Module):
    def __init__(self, last: str):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 8, stride=8), nn.Linear(6, 2)
        self.blocks = nn.Sequential(*(Mixer(last) for _ in range(8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def mixers(last: str) -> tuple[nn.Module, nn.Module, Tensor]:
    net = Mixers(last).double()
    lora = petl.LoRA(rank=2, where=[f"blocks.{n}.{layer}" for n in range(8) for layer in ("first", "second")])
    plain = disturb(petl.wrap(copy.deepcopy(net), lora, head="head", fused=False))
    cheap = petl.wrap(net, lora, head="head", memory="min")
    cheap.load_state_dict(plain.state_dict())
    return cheap.train(), plain.train(), torch.randn(5, 3, 32, 32, dtype=torch.float64)


def products(monkeypatch: pytest.MonkeyPatch, model: nn.Module, x: Tensor) -> tuple[int, int]:
    """How many convolutions are computed in a step's forward, and again in its backward."""
    calls, plain = [0], nn.functional.conv2d

    def counted(*args: Any) -> Tensor:
        calls[0] += 1
        return plain(*args)

    with monkeypatch.context() as patch:
        patch.setattr(nn.functional, "conv2d", counted)
        torch.manual_seed(0)
        out = model(x)
        forward = calls[0]
        (out**2).sum().backward()
    return forward, calls[0] - forward


@pytest.mark.parametrize(
    ("last", "again"),
    [
        ("added", 8),
        ("masked", 8),
        ("squared", 16),
        ("scaled by itself", 16),
        ("masked by itself", 16),
        ("stopped", 16),
        ("without gradient", 16),
    ],
)
def test_results_that_nobody_reads_are_not_made_again(last: str, again: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cheap, plain, x = mixers(last)
    assert close(step(cheap, x)[1], step(plain, x)[1])
    assert products(monkeypatch, cheap, x) == (17, again)


def test_hooks_in_a_block_see_true_values_in_both_runs() -> None:
    cheap, plain, x = mixers("added")
    seen: list[Tensor] = []
    cheap.get_submodule("blocks.3.second").register_forward_hook(lambda m, args, out: seen.append(out.detach().clone()))
    assert close(step(cheap, x)[1], step(plain, x)[1])
    assert len(seen) >= 1 and all(torch.equal(one, seen[0]) for one in seen)


def test_a_block_that_keeps_what_it_computes_in_its_first_forward_trains() -> None:
    """ConViT's indices read a weight's type; the run in the backward finds them there."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 2, "local_up_to_layer": 1}
    base = timm.create_model("convit_tiny", num_classes=7, **small).double()
    plain = disturb(petl.wrap(copy.deepcopy(base), "lora", num_classes=7, fused=False)).train()
    cheap = petl.wrap(base, "lora", num_classes=7, memory="min").train()
    cheap.load_state_dict(plain.state_dict())
    batch = torch.randn(3, 3, 32, 32).double()
    assert CheckpointedBlock in fast_paths(cheap.get_submodule("blocks.0.attn"))
    assert close(step(cheap, batch)[1], step(plain, batch)[1])


def test_two_backwards_through_blocks_that_run_again() -> None:
    cheap, plain, x = mixers("added")
    both = []
    for model in (cheap, plain):
        loss = (model(x) ** 2).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        both.append({key: cast(Tensor, p.grad) for key, p in petl.trainable(model).items()})
    assert close(both[0], both[1])


def test_the_last_stages_of_a_pyramid_run_once() -> None:
    """They are as much work as the first ones, and keep a fraction of the numbers."""
    model = petl.wrap(timm.create_model("resnet50"), "lora", memory="min")
    assert [name for name, module in model.named_modules() if CheckpointedBlock in fast_paths(module)] == [
        "layer1",
        "layer2",
        "layer3",
    ]
