"""Blocks that run again in the backward find what their first run found, and change nothing that it has changed already."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

import petl
from petl.graft.classes import fast_paths
from petl.memory.checkpointed_blocks import CheckpointedBlock
from petl.memory.modes import MEMORY_MODES
from tests.support.zoo import disturb, gradients, images, make

MOVING = [petl.BN(), "full", petl.Partial(last=2, stats="adapt"), ["lora", petl.BN()]]


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.named_buffers()}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("methods", MOVING, ids=str)
@pytest.mark.parametrize("name", ["resnet", "efficientnet", "levit"])
def test_running_statistics_move_once_a_step(name: str, methods: object) -> None:
    found = []
    for options in ({"memory": "min"}, {"fused": False}):
        model = petl.wrap(make(name).double(), methods, num_classes=5, **options).train()
        for _ in range(2):
            out = model(images(name).double())
            (sum(out) if isinstance(out, tuple) else out).sum().backward()
        found.append(buffers(model))
    mine, theirs = found
    assert all(torch.allclose(mine[key], value, rtol=1e-9, atol=1e-9) for key, value in theirs.items())


def wide() -> nn.Module:
    """Enough inside that a block is worth running again."""
    return nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8))


def reruns(model: nn.Module) -> int:
    return sum(CheckpointedBlock in fast_paths(module) for module in model.modules())


class Counts(nn.Module):
    """Blocks with state of every kind: a buffer that is written to, one that is replaced, numbers, a tensor made once."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = wide()
        self.register_buffer("written", torch.ones(8))
        self.register_buffer("replaced", torch.ones(8))
        self.calls, self.made = 0, None

    def forward(self, x: Tensor) -> Tensor:
        if self.made is None:
            self.made = torch.full((8,), 0.5)
        self.calls += 1
        self.written.mul_(1.5)  # type: ignore[operator,union-attr]
        self.replaced = self.replaced + 1
        return torch.tanh(self.fc(x)) * self.written * self.replaced * self.made * self.calls + x


class Stack(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(3, 8), nn.Sequential(*blocks), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x.mean((2, 3)))))


def compared(net: nn.Module, blocks: int) -> None:
    x, net = torch.randn(5, 3, 2, 2).double(), net.double()
    plain = petl.wrap(copy.deepcopy(net), "lora", head="head", fused=False).train()
    cheap = petl.wrap(net, "lora", head="head", memory="min").train()
    disturb(plain)
    assert reruns(cheap) >= blocks
    for key, value in petl.trainable(plain).items():
        petl.trainable(cheap)[key].data.copy_(value)
    for _ in range(3):
        outs = []
        for model in (cheap, plain):
            model.zero_grad()
            out = model(x)
            out.square().sum().backward()
            outs.append(out)
        torch.testing.assert_close(*outs)
        for key, value in petl.trainable(plain).items():
            torch.testing.assert_close(petl.trainable(cheap)[key].grad, value.grad)
    assert all(torch.equal(one, other) for one, other in zip(cheap.buffers(), plain.buffers(), strict=True))


def test_state_of_every_kind_is_as_in_the_first_run() -> None:
    torch.manual_seed(0)
    compared(Stack(Counts(), Counts(), Counts(), Counts()), blocks=3)


def test_power_iterations_run_once_a_step() -> None:
    torch.manual_seed(0)

    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.apart = wide(), spectral_norm(nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.apart(torch.tanh(self.fc(x)))) + x

    net = Stack(*(Spectral() for _ in range(4)))
    lora = petl.LoRA(where=[f"blocks.{n}.fc.0" for n in range(4)])
    x = torch.randn(5, 3, 2, 2)
    cheap = petl.wrap(copy.deepcopy(net), lora, head="head", memory="min").train()
    plain = petl.wrap(net, lora, head="head", fused=False).train()
    assert reruns(cheap)
    for model in (cheap, plain):
        model(x).sum().backward()
    assert all(torch.equal(one, other) for one, other in zip(cheap.buffers(), plain.buffers(), strict=True))


def test_a_block_that_writes_to_its_input_is_not_run_again() -> None:
    class Writes(nn.Module):
        def __init__(self, only_in_training: bool = False) -> None:
            super().__init__()
            self.fc, self.only_in_training = wide(), only_in_training

        def forward(self, x: Tensor) -> Tensor:
            if self.training or not self.only_in_training:
                x = x.mul_(2)
            return torch.tanh(self.fc(x)) + x

    torch.manual_seed(0)
    net = Stack(*(Writes() for _ in range(4)))
    compared(net, blocks=1)  # what lies inside runs again
    assert not any(CheckpointedBlock in fast_paths(block) for block in net.blocks)
    model = petl.wrap(
        Stack(*(Writes(only_in_training=True) for _ in range(4))), "lora", head="head", memory="min"
    ).train()
    with pytest.raises(petl.PetlError, match="writes to its own input"):
        model(torch.randn(5, 3, 2, 2))


# writes between a forward and its backward


def _step(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in petl.trainable(model).values():
            parameter.add_(1e-3)


@pytest.mark.sweep(4)
@pytest.mark.parametrize("memory", [*MEMORY_MODES, None])
@pytest.mark.parametrize("name", ["vit", "resnet", "convnext"])
def test_a_step_between_forward_and_backward_is_an_error(name: str, memory: str | None) -> None:
    for methods in ("lora", ["lora", "norm"], "adapter", "full"):
        options: dict[str, Any] = {"fused": False} if memory is None else {"memory": memory}
        model = petl.wrap(make(name), methods, num_classes=3, **options).train()
        loss = model(images(name)).sum()
        _step(model)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("name", ["vit", "resnext"])
def test_evaluation_mode_between_forward_and_backward_changes_no_gradient(name: str) -> None:
    """Dropout too is again what it was, and the model stays in evaluation mode."""
    found = []
    for options in ({"memory": "min"}, {"fused": False}):
        torch.manual_seed(0)
        model = petl.wrap(make(name).double(), "lora", num_classes=3, **options).train()
        disturb(model)
        for part in [*model.modules()]:
            if isinstance(part, nn.Dropout):
                part.p = 0.3
        torch.manual_seed(1)
        loss = (model(images(name).double()) ** 2).sum()
        model.eval()
        loss.backward()
        assert not any(part.training for part in model.modules())
        found.append([p.grad for p in petl.trainable(model).values()])
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("memory", ["lean", "min"])
@pytest.mark.parametrize("end", [petl.unwrap, petl.merge])
def test_a_model_that_is_unwrapped_before_its_backward_says_so(end: Any, memory: Any) -> None:
    model = petl.wrap(make("vit"), "lora", num_classes=3, memory=memory).train()
    loss = model(images("vit")).sum()
    end(model)
    with pytest.raises(petl.StateError, match="run the backward first"):
        loss.backward()


@pytest.mark.sweep(1)
@pytest.mark.parametrize("memory", MEMORY_MODES)
def test_results_that_are_written_to_after_the_forward_change_no_gradient(memory: str) -> None:
    """What was kept for the backward is what it was, is computed again from what was kept, or the backward raises."""
    model = petl.wrap(make("resnet"), ["lora", petl.BN(stats="keep")], num_classes=3, memory=memory).train()
    kept: list[Tensor] = []
    names = [name for name, module in model.named_modules() if isinstance(module, (nn.ReLU, nn.MaxPool2d, nn.Conv2d))]
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda module, args, out: kept.append(out))
    expected = gradients(model, images("resnet"))
    for at in range(len(names)):
        kept.clear()
        model.zero_grad()
        torch.manual_seed(0)
        loss = (model(images("resnet")) ** 2).sum()
        with torch.no_grad():
            kept[at].add_(1)
        try:
            loss.backward()
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)
        else:
            found = {key: p.grad for key, p in petl.trainable(model).items()}
            assert all(torch.equal(value, expected[key]) for key, value in found.items() if value is not None), names[
                at
            ]


# transforms of torch.func


@pytest.mark.sweep(2)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_torch_func_sees_the_plain_layers(name: str, memory: str) -> None:
    plain = disturb(petl.wrap(make(name).double(), "lora", num_classes=3, fused=False)).train()
    cheap = petl.wrap(make(name).double(), "lora", num_classes=3, memory=memory).train()
    cheap.load_state_dict(plain.state_dict())
    x = images(name).double()

    def loss(model: nn.Module, values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, values, (x,)).square().sum()

    def found(model: nn.Module) -> list[dict[str, Tensor]]:
        values = {key: p.detach() for key, p in petl.trainable(model).items()}
        tangents = {key: torch.ones_like(value) for key, value in values.items()}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            first = torch.func.grad(lambda v: loss(model, v))(values)
            _, forward = torch.func.jvp(lambda v: loss(model, v), (values,), (tangents,))
        return [first, {"jvp": forward}]

    for mine, theirs in zip(found(cheap), found(plain), strict=True):
        for key, value in theirs.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6])
def test_an_activation_in_place_whose_output_a_layer_keeps_is_no_write(kind: type[nn.Module]) -> None:
    """Autograd counts a custom function's write in place a second time when the function is over."""
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), kind(inplace=True), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    net, x = nn.Sequential(*parts, kind(inplace=True), *pooled), torch.randn(4, 3, 6, 6)
    methods = [petl.BN(), petl.LoRA(rank=2)]
    plain = disturb(petl.wrap(copy.deepcopy(net).double(), methods, head="8", fused=False)).train()
    for memory in MEMORY_MODES:
        cheap = petl.wrap(copy.deepcopy(net).double(), methods, head="8", memory=memory).train()
        cheap.load_state_dict(plain.state_dict())
        mine, theirs = gradients(cheap, x.double()), gradients(plain, x.double())
        assert all(torch.allclose(mine[key], value, rtol=1e-9, atol=1e-9) for key, value in theirs.items())
