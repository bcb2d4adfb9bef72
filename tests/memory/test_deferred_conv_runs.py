"""Convolutions whose output waits for a norm, in models run in every way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.feature_extraction import create_feature_extractor

import petl
from petl.graft.kinds import PAIRED_NORM
from petl.memory.modes import MEMORY_MODES
from tests.support.conv_nets import Net, Run, plain_call, same
from tests.support.steps import twins
from tests.support.zoo import disturb, images

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


@pytest.mark.sweep(3)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("run", RUNS, ids=lambda f: f.__name__)
def test_another_way_to_run_it(run: Run, memory: str) -> None:
    for methods in ("lora", "norm"):
        cheap, plain = twins("resnext", methods, memory)
        same(run, cheap, plain, images("resnext").double())


@pytest.mark.sweep(2)
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
