"""A convolution's output that waits for the frozen norm after it, in models changed in every way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import timm.utils
import torch
from torch import Tensor, nn

import petl
from petl.graft.kinds import PAIRED_NORM
from petl.memory.deferred_conv import DeferredOutput
from petl.memory.modes import MEMORY_MODES
from tests.support.conv_nets import Net, plain_call, same
from tests.support.steps import twins
from tests.support.zoo import images, make


def norm_like(norm: nn.Module) -> nn.Module:
    chance = torch.Generator().manual_seed(7)
    other = nn.BatchNorm2d(norm.num_features).double().eval()  # type: ignore[union-attr]
    other.running_mean.copy_(torch.randn(len(other.running_mean), generator=chance))  # type: ignore[union-attr,arg-type]
    other.requires_grad_(False)
    return other


class Negated(torch.autograd.Function):
    """Takes its input in C++, where no function of torch's is called by its Python name."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return -x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


class NegatedInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.neg_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return -grads[0]


class Between(nn.Module):
    """Something new between a convolution and its norm."""

    def __init__(self, norm: nn.Module, what: Callable[[Tensor], Tensor]):
        super().__init__()
        self.norm, self.what = norm, what

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.what(x))


def frozen_norms(model: Net) -> None:
    timm.layers.freeze_batch_norm_2d(model)


def frozen_stage(model: Net) -> None:
    timm.utils.freeze(model, ["layer1"])


def other_norm(model: Net) -> None:
    model.bn1 = norm_like(model.bn1)
    block = model.layer1[0]
    block.bn1 = norm_like(block.bn1)


def no_norm(model: Net) -> None:
    model.bn1, model.layer1[0].bn2 = nn.Identity(), nn.Identity()


def other_activation(model: Net) -> None:
    model.act1, model.layer1[0].act1 = nn.LeakyReLU(0.3), nn.Tanh()


def other_pooling(model: Net) -> None:
    model.maxpool = nn.AvgPool2d(3, 2, 1)


def function_between(model: Net) -> None:
    model.bn1 = Between(model.bn1, Negated.apply)


def write_between(model: Net) -> None:
    model.bn1 = Between(model.bn1, lambda x: x.mul_(2).add_(1))


def function_writes_between(model: Net) -> None:
    model.bn1 = Between(model.bn1, NegatedInPlace.apply)


def noise_between(model: Net) -> None:
    model.bn1 = Between(model.bn1, lambda x: x + 0.5)


def wider_convolution(model: Net) -> None:
    torch.manual_seed(3)
    conv = model.conv1
    model.conv1 = nn.Conv2d(3, conv.out_channels, 3, 2, 1, bias=True).double().requires_grad_(False)


def norms_that_count_batches(model: Net) -> None:
    for module in model.modules():  # past ``train``, as some libraries do
        module.training = True


def other_statistics(model: Net) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.data.add_(0.3)  # type: ignore[union-attr]
            module.eps = 1e-2


def hooks_on_convolutions(model: Net) -> None:
    model.conv1.register_forward_hook(lambda module, args, out: out * 2)
    model.layer1[0].conv2.register_forward_hook(lambda module, args, out: out.add_(1))


def hooks_on_norms(model: Net) -> None:
    model.bn1.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model.layer1[0].bn1.register_forward_pre_hook(lambda module, args: (args[0].detach() + args[0],))


def hooks_on_gradients(model: Net) -> None:
    model.conv1.register_full_backward_hook(lambda module, given, out: (given[0] * 2,))
    model.layer1[0].conv3.register_full_backward_pre_hook(lambda module, out: (out[0] * 3,))


def patched_forward(model: Net) -> None:
    model.bn1.forward = lambda x: x * 2
    model.layer1[0].conv1.forward = lambda x: x.mean(1, keepdim=True).expand(
        -1, model.layer1[0].bn1.num_features, -1, -1
    )


def thawed(model: Net) -> None:
    model.conv1.weight.requires_grad_()
    model.layer1[0].bn1.weight.requires_grad_()


def recomputing(model: Net) -> None:
    model.set_grad_checkpointing(True)


CHANGES = [
    frozen_norms,
    frozen_stage,
    other_norm,
    no_norm,
    other_activation,
    other_pooling,
    function_between,
    write_between,
]
CHANGES += [function_writes_between, noise_between, wider_convolution, norms_that_count_batches, other_statistics]
CHANGES += [hooks_on_convolutions, hooks_on_norms, hooks_on_gradients, patched_forward, thawed, recomputing]


@pytest.mark.sweep(5)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_changed_model(change: Callable[[Net], None], memory: str) -> None:
    cheap, plain = twins("resnext", ["lora", "norm"] if change is thawed else "lora", memory)
    for model in (cheap, plain):
        change(model)
    same(plain_call, cheap, plain, images("resnext").double())


def test_a_waiting_output_is_used_by_the_norm_and_by_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    model = petl.wrap(make("resnext"), "lora", num_classes=5).train()
    joined, plain = [0], [0]
    from petl.kernels import low_rank_conv

    run = low_rank_conv.conv2d

    def counted(*args: Any) -> Tensor:
        joined[0] += args[4] is not None
        plain[0] += args[4] is None
        return run(*args)

    monkeypatch.setattr(low_rank_conv, "conv2d", counted)
    model(images("resnext")).sum().backward()
    pairs = sum(hasattr(m, PAIRED_NORM) for m in model.modules())
    assert joined[0] == pairs > 10 and plain[0] == 0
    said = petl.summary(model).steps
    assert sum("multiplied in" in words for words in said.values()) == pairs
    model.bn1 = norm_like(model.bn1).float()
    assert "replaced" in petl.summary(model).steps["conv1"]


def test_nothing_that_leaves_a_module_is_waiting() -> None:
    class Ends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            if self.training:
                return {"maps": [y]}
            return self.fc(self.norm(y).mean((2, 3)))

    model = petl.wrap(Ends(), "lora", head="fc").train()
    (out,) = model(torch.randn(2, 3, 8, 8))["maps"]
    assert type(out) is Tensor and not isinstance(out, DeferredOutput)
