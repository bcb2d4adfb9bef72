"""Equal calls give equal models, in one process and in several; run-time classes look like the classes that they stand for."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

import petl
from petl.graft.classes import base_class, fast_paths
from petl.memory.modes import MEMORY_MODES
from tests.support.zoo import images, make

FAMILIES = ["resnet", "efficientnet", "vit", "convnext", "levit", "densenet", "swin", "mambaout"]


def told(model: nn.Module) -> dict[str, object]:
    return {
        "steps": petl.summary(model).steps,
        "ways": {n: [w.__name__ for w in fast_paths(m)] for n, m in model.named_modules()},
    }


@pytest.mark.deep
@pytest.mark.parametrize("name", FAMILIES)
def test_twenty_wraps_are_alike(name: str) -> None:
    first = None
    for _ in range(20):
        found = told(petl.wrap(make(name), "lora", memory="min"))
        first = first or found
        assert found == first


def told_of_lite0() -> dict[str, object]:
    return told(petl.wrap(timm.create_model("tf_efficientnet_lite0"), "lora"))


@pytest.mark.deep
def test_a_net_with_many_norms_in_one_process_and_in_others() -> None:
    first = [told_of_lite0() for _ in range(20)]
    assert all(found == first[0] for found in first)
    joined = sum("multiplied in" in words for words in first[0]["steps"].values())  # type: ignore[attr-defined]
    assert joined == 49
    code = f"import json, sys; sys.path[:0] = {sys.path!r}; from {__name__} import told_of_lite0 as told"
    code += "; print(json.dumps(told()))"
    for seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(run.stdout) == first[0]


def test_equal_trainings_have_equal_bits() -> None:
    results = []
    for _ in range(3):
        torch.manual_seed(0)
        model = petl.wrap(make("efficientnet"), ["lora", "norm"], num_classes=3).train()
        optimizer = torch.optim.AdamW(petl.trainable(model).values(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            model(images("efficientnet")).square().sum().backward()
            optimizer.step()
        results.append({key: p.detach() for key, p in petl.trainable(model).items()})
    assert all(torch.equal(other[key], value) for other in results[1:] for key, value in results[0].items())


# what tools read of a class


class Keyed(nn.Module):
    """A net whose forward takes more than an image, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act, self.fc = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Linear(8, 4)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """What the net computes."""
        return self.fc(self.act(self.norm(self.conv(pixel_values))).mean((2, 3))) * scale


@pytest.mark.sweep(5)
@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("name", ["vit", "resnet", "efficientnet", "convnext", "swin", "own"])
def test_signatures_are_those_of_the_base_classes(name: str, memory: str) -> None:
    net = Keyed() if name == "own" else make(name)
    methods = ["lora", "adapter"] if name == "vit" else ["lora", "norm"]
    model = petl.wrap(net, methods, memory=memory, head="fc" if name == "own" else True)
    for module in model.modules():
        base = base_class(module)
        assert inspect.signature(type(module).forward) == inspect.signature(base.forward)
        assert inspect.signature(module.forward) == inspect.signature(copy_of(module, base).forward)
        assert (
            type(module).forward.__doc__ == base.forward.__doc__
            and type(module).forward.__name__ == base.forward.__name__
        )


def copy_of(module: nn.Module, base: type[nn.Module]) -> nn.Module:
    bare = base.__new__(base)
    nn.Module.__init__(bare)
    return bare


@pytest.mark.deep
@pytest.mark.parametrize("memory", MEMORY_MODES)
def test_tools_that_trace_a_model(memory: str) -> None:
    model = petl.wrap(make("resnet"), "lora", num_classes=3, memory=memory)
    x = images("resnet")
    expected = model(x)
    extractor = create_feature_extractor(model.eval(), ["layer1", "fc"])
    assert torch.equal(extractor(x)["fc"], expected)
    extractor.train()
    extractor(x)["fc"].sum().backward()
    traced = torch.fx.symbolic_trace(petl.wrap(Keyed(), "lora", head="fc", memory=memory).eval())
    assert "pixel_values" in {node.name for node in traced.graph.nodes}
    dynamic = {"x": {0: torch.export.Dim("batch", min=2)}}
    exported = torch.export.export(model.eval(), (x,), dynamic_shapes=dynamic)
    torch.testing.assert_close(
        exported.module()(torch.cat([x, x])), torch.cat([expected, expected]), rtol=1e-4, atol=1e-4
    )


# one activation for many


ACTIVATION = nn.SiLU()


class Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.fc = nn.Conv2d(3, 8, 3), ACTIVATION, nn.Linear(8, 4)
        self.again = self.act

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.again(self.act(self.stem(x))).mean((2, 3)))


@pytest.mark.parametrize("memory", MEMORY_MODES)
@pytest.mark.parametrize("end", [petl.unwrap, petl.merge])
def test_models_may_share_an_activation(memory: str, end: object) -> None:
    one, other, third = Shares(), Shares(), Shares()
    x = torch.randn(2, 3, 8, 8)
    plain = [net(x) for net in (one, other, third)]
    for net in (one, other):
        petl.wrap(net, "lora", head="fc", memory=memory).train()
    for net, expected in zip((one, other, third), plain, strict=True):
        out = net(x)
        torch.testing.assert_close(out, expected)
        out.sum().backward()
    end(one)  # type: ignore[operator]
    out = other(x)
    torch.testing.assert_close(out, plain[1])
    out.sum().backward()
    end(other)  # type: ignore[operator]
    assert type(ACTIVATION) is nn.SiLU and torch.equal(third(x), plain[2])
