"""A norm joins the convolution before it only where this very forward allows it: else every number is that of the plain layers.

Each situation is a way to run or to change a wrapped model that the survey has not seen. Outputs and gradients are compared
with those of ``fused=False`` in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import timm.utils
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor

import petl
from petl.graft.kinds import PAIRED_NORM
from petl.memory.deferred_conv import DeferredOutput
from petl.memory.modes import MEMORY_MODES
from tests.support.zoo import disturb, images, make

Net = Any  # of timm's: its attributes are modules, which type checkers don't know
Run = Callable[[Net, Tensor], Tensor]


def twins(name: str, methods: object, memory: str) -> tuple[Net, Net]:
    base = make(name).double()
    plain = disturb(petl.wrap(copy.deepcopy(base), methods, num_classes=5, fused=False))
    cheap = petl.wrap(base, methods, num_classes=5, memory=memory)
    cheap.load_state_dict(plain.state_dict())
    return cheap.train(), plain.train()


def measured(run: Run, model: Net, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    x = x.clone().requires_grad_()
    out = run(model, x)
    assert type(out) is Tensor
    (out**2).sum().backward()
    grads = {key: p.grad.clone() for key, p in petl.trainable(model).items() if p.grad is not None}
    return {"output": out.detach(), "x": x.grad if x.grad is not None else x * 0, **grads}


def same(run: Run, cheap: Net, plain: Net, x: Tensor, most: float = 1e-9) -> None:
    mine, theirs = measured(run, cheap, x), measured(run, plain, x)
    assert mine.keys() == theirs.keys()
    least = 1e-9 * max(float(v.norm()) for v in theirs.values())  # biases before a norm have no gradient but rounding
    far = {k: float((mine[k] - v).norm()) / max(float(v.norm()), least) for k, v in theirs.items()}
    assert max(far.values()) <= most, {k: value for k, value in far.items() if value > most}


# ways to change the model


def plain_call(model: Net, x: Tensor) -> Tensor:
    return model(x)


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


@pytest.mark.sweep(12)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_changed_model(change: Callable[[Net], None], memory: str) -> None:
    cheap, plain = twins("resnext", ["lora", "norm"] if change is thawed else "lora", memory)
    for model in (cheap, plain):
        change(model)
    same(plain_call, cheap, plain, images("resnext").double())


# ways to run the model


def stem_by_hand(model: Net, x: Tensor) -> Tensor:
    y = model.bn1(model.conv1(x))
    return model.maxpool(model.act1(y)).mean((2, 3)) + y.mean((2, 3))


def convolution_alone(model: Net, x: Tensor) -> Tensor:
    return model.conv1(x)


def norm_alone(model: Net, x: Tensor) -> Tensor:
    return model.bn1(x.mean(1, keepdim=True).expand(-1, model.bn1.num_features, -1, -1))


def u_net(model: Net, x: Tensor) -> Tensor:
    kept = []
    for part in (model.conv1, model.bn1, model.act1, model.maxpool, model.layer1, model.layer2):
        x = part(x)
        kept.append(x)
    return torch.cat([t.mean((2, 3)) for t in kept], 1)


def convolution_without_gradients(model: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = model.conv1(x)
    return model.layer1(model.maxpool(model.act1(model.bn1(x))))


def convolution_in_a_checkpoint(model: Net, x: Tensor) -> Tensor:
    x = checkpoint(model.conv1, x, use_reentrant=False)
    return model.layer1(model.act1(model.bn1(x)))


def norm_in_a_checkpoint(model: Net, x: Tensor) -> Tensor:
    return model.layer1(checkpoint(model.bn1, model.conv1(x), use_reentrant=True))


def block_in_a_checkpoint(model: Net, x: Tensor) -> Tensor:
    x = checkpoint(model.layer1[0], model.bn1(model.conv1(x)), use_reentrant=False)
    return checkpoint(model.layer2, x, use_reentrant=True)


def features(model: Net, x: Tensor) -> Tensor:
    return model.forward_features(x)


def intermediates(model: Net, x: Tensor) -> Tensor:
    return torch.cat([t.mean((2, 3)) for t in model.forward_intermediates(x, intermediates_only=True)], 1)


def extracted(model: Net, x: Tensor) -> Tensor:
    found = create_feature_extractor(model, ["conv1", "bn1", "layer1"])(x)
    return torch.cat([t.mean((2, 3)) for t in found.values()], 1)


def in_another_net(model: Net, x: Tensor) -> Tensor:
    return nn.Sequential(model.conv1, nn.Softplus(), model.bn1, model.layer1)(x)


def block_by_block(model: Net, x: Tensor) -> Tensor:
    return model.layer1[0](model.maxpool(model.act1(model.bn1(model.conv1(x)))))


def with_other_values(model: Net, x: Tensor) -> Tensor:
    values = {key: value * 1.1 for key, value in model.named_parameters()}
    return torch.func.functional_call(model, values, (x,))


def run_twice(model: Net, x: Tensor) -> Tensor:
    return model(x) * model(x.flip(0))


RUNS = [stem_by_hand, convolution_alone, norm_alone, u_net, convolution_without_gradients, convolution_in_a_checkpoint]
RUNS += [
    norm_in_a_checkpoint,
    block_in_a_checkpoint,
    features,
    intermediates,
    extracted,
    in_another_net,
    block_by_block,
]
RUNS += [with_other_values, run_twice]


@pytest.mark.sweep(9)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("run", RUNS, ids=lambda f: f.__name__)
def test_another_way_to_run_it(run: Run, memory: str) -> None:
    for methods in ("lora", "norm"):
        cheap, plain = twins("resnext", methods, memory)
        same(run, cheap, plain, images("resnext").double())


@pytest.mark.sweep(4)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("name", ["vit", "levit", "coatnet", "efficientnet"])
def test_hooks_and_parts_of_other_kinds(name: str, memory: str) -> None:
    cheap, plain = twins(name, ["lora", "norm"], memory)
    x = images(name).double()
    for model in (cheap, plain):
        leaves = [m for n, m in model.named_modules() if not [*m.children()] and "lora" not in n]
        for leaf in leaves[2::7]:
            leaf.register_forward_hook(lambda module, args, out: out * 1.5 if isinstance(out, Tensor) else None)
    run = (
        (lambda model, x: model(x)[0] + model(x)[1]) if name == "levit" and isinstance(cheap(x), tuple) else plain_call
    )
    same(run, cheap, plain, x)
    same(lambda model, x: sum(t.mean() for t in [model.forward_features(x)]) + x.mean(), cheap, plain, x)


# nets whose training forward is another one


class Odd(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), how
        self.stem, self.fc = nn.Conv2d(3, 3, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(x)
        if self.training and self.how == "doubled":
            y = y * 2
        elif self.training and self.how == "read twice":
            return self.fc((self.norm(y) + y).mean((2, 3)))
        elif self.training and self.how == "read before":
            z = torch.tanh(y)
            return self.fc((self.norm(y) * z).mean((2, 3)))
        elif self.training and self.how == "kept":
            self.seen = y
            return self.fc((self.norm(y)).mean((2, 3)) + self.seen.mean((2, 3)))
        elif self.training and self.how == "another input":
            return self.fc(self.norm(y.flip(2)).mean((2, 3)))
        elif self.training and self.how == "without gradient":
            return self.fc(self.norm(y.detach() + 0 * y).mean((2, 3)))
        elif self.training and self.how == "as numbers":
            return self.fc(self.norm(y).mean((2, 3)) * float(y.detach().numpy().mean()))
        elif self.training and self.how == "hooked":
            y.register_hook(lambda grad: grad * 2)
        return self.fc(self.norm(y).mean((2, 3)))


ODDITIES = ["doubled", "read twice", "read before", "kept", "another input", "without gradient", "as numbers", "hooked"]


@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("how", ODDITIES)
def test_a_training_forward_that_the_survey_has_not_seen(how: str, memory: str) -> None:
    torch.manual_seed(0)
    net, x = Odd(how).double().eval(), torch.randn(4, 3, 16, 16, dtype=torch.float64)
    net.norm.running_mean.uniform_(), net.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    plain = disturb(petl.wrap(copy.deepcopy(net), "lora", head="fc", fused=False)).train()
    cheap = petl.wrap(net, "lora", head="fc", memory=memory).train()
    cheap.load_state_dict(plain.state_dict())
    assert hasattr(cheap.conv, PAIRED_NORM)
    same(plain_call, cheap, plain, x)


class Single(nn.Module):
    """Takes the images of a batch one by one in training: torch's layers take images and rows without a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act, self.pool = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        self.mix, self.fc = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            maps = [self.pool(self.act(self.norm(self.conv(image)[None])[0])) for image in x]
            return torch.stack([self.fc(self.mix(one.mean((1, 2)))) for one in maps])
        return self.fc(self.mix(self.pool(self.act(self.norm(self.conv(x)))).mean((2, 3))))


@pytest.mark.parametrize("memory", MEMORY_MODES)
def test_images_and_rows_without_a_batch(memory: str) -> None:
    torch.manual_seed(0)
    net, x = Single().double().eval(), torch.randn(4, 3, 16, 16, dtype=torch.float64)
    plain = disturb(petl.wrap(copy.deepcopy(net), "lora", head="fc", fused=False)).train()
    cheap = petl.wrap(net, "lora", head="fc", memory=memory).train()
    cheap.load_state_dict(plain.state_dict())
    same(plain_call, cheap, plain, x)


def test_an_input_that_is_written_to_before_the_norm_reads_is_an_error() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.norm, self.fc = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(4, 8, 3),
                nn.BatchNorm2d(8),
                nn.Linear(8, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            y = self.conv(x)
            if self.training:
                x.add_(1)
            return self.fc(self.norm(y).mean((2, 3)))

    model = petl.wrap(Writes(), "bias", head="fc").train()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(torch.randn(2, 3, 8, 8))
    assert not hasattr(
        petl.wrap(AlwaysWrites(), "bias", head="fc").conv, PAIRED_NORM
    )  # seen in the survey: it runs plain


class AlwaysWrites(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        y = self.conv(x)
        nn.functional.relu(x, inplace=True)
        return self.fc(self.norm(y).mean((2, 3)))


# the waiting output itself


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
