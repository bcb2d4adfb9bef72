"""What a forward or a step makes is freed as soon as nobody needs it, also where no backward comes, or where one fails."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import petl
from petl.memory.modes import MEMORY_MODES
from tests.support.live_bytes import Storages
from tests.support.zoo import images, make

SETTINGS = [*MEMORY_MODES, "plain"]
METHODS = ["lora", "adapter", petl.BN(), ["lora", "norm", "bias"], "partial", petl.LoRA(dora=True)]


class Stop(Exception):
    pass


def no_backward(model: nn.Module, x: Tensor) -> None:
    model(x)


def in_evaluation(model: nn.Module, x: Tensor) -> None:
    model.eval()
    model(x)
    model.train()


def part_of_the_backward(model: nn.Module, x: Tensor) -> None:
    first = next(iter(petl.trainable(model).values()))
    torch.autograd.grad(model(x).sum(), [first], allow_unused=True)


def forward_raises(model: nn.Module, x: Tensor) -> None:
    leaf = [m for m in model.modules() if not [*m.children()]][-1]
    hook = leaf.register_forward_pre_hook(_raise)
    try:
        model(x)
    except Stop:
        pass
    finally:
        hook.remove()


def backward_raises(model: nn.Module, x: Tensor) -> None:
    first = next(iter(petl.trainable(model).values()))
    hook = first.register_hook(_raise)
    try:
        model(x).sum().backward()
    except Stop:
        pass
    finally:
        hook.remove()


def retained(model: nn.Module, x: Tensor) -> None:
    loss = model(x).sum()
    loss.backward(retain_graph=True)
    loss.backward()


def twice(model: nn.Module, x: Tensor) -> None:
    wanted = [*petl.trainable(model).values()]
    with sdpa_kernel(SDPBackend.MATH):  # the only attention of torch's that has second derivatives
        first = torch.autograd.grad((model(x) ** 2).sum(), wanted, create_graph=True, allow_unused=True)
        sum((g**2).sum() for g in first if g is not None).backward()  # type: ignore[union-attr]


def _raise(*args: object) -> None:
    raise Stop


WAYS = [no_backward, in_evaluation, part_of_the_backward, forward_raises, backward_raises, retained, twice]


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect(), gc.disable()
    yield
    gc.enable()


@pytest.mark.deep
@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("memory", SETTINGS)
@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_nothing_that_was_made_stays_alive(name: str, memory: str) -> None:
    for methods in METHODS:
        if name == "vit" and isinstance(methods, petl.BN):
            continue
        x, model = images(name), _wrapped(name, methods, memory)
        for way in WAYS:
            if way is twice and memory == "min":  # torch's checkpoint has no second derivatives of what it runs again
                continue
            left = _left(model, way, x)
            most = 0
            if way is backward_raises:  # torch's engine keeps gradients that the failing hook saw, without petl too
                most = _left(_wrapped(name, methods, "plain"), way, x)
            assert left <= most, f"{way.__name__} with {methods} leaves {left} bytes"


def _wrapped(name: str, methods: object, memory: str) -> nn.Module:
    options = {"fused": False} if memory == "plain" else {"memory": memory}
    return petl.wrap(make(name), methods, num_classes=3, **options).train()


def _left(model: nn.Module, way: Callable[[nn.Module, Tensor], None], x: Tensor) -> int:
    way(model, x)  # what modules compute once and keep
    model.zero_grad()
    with Storages() as seen:
        way(model, x)
    model.zero_grad()
    model.eval(), model.train()
    return seen.alive(but=[*model.parameters(), *model.buffers(), x])
