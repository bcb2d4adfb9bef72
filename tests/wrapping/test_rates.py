"""The default learning rate of every tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
from torch import nn

import petl
from petl.errors import MethodError
from petl.methods import registry
from petl.methods.rates import LOW_RANK_STRENGTH, RATES
from petl.wrapping.rates import rated_tensors
from tests.support.training import adapted


def rates(model: nn.Module) -> dict[str, tuple[str, float]]:
    """Group and rate by name."""
    found = {one.tensor: (one.group, one.rate) for one in rated_tensors(model)}
    return {name: found[p] for name, p in petl.trainable(model).items()}


@pytest.mark.parametrize(
    ("method", "kind"),
    [("adapter", "adapter"), ("bias", "bias"), ("bn", "norm"), ("norm", "norm"), ("lora", "lora"), ("full", "full"),
     ("partial", "partial"), (petl.Input(in_chans=1), "input"), pytest.param("peft:LoHa", "peft", marks=pytest.mark.deep)],
)  # fmt: skip
def test_each_method_declares_the_rate_of_its_tensors(method: Any, kind: str) -> None:
    found = rates(adapted(method))
    name = method if isinstance(method, str) else method.name
    assert {value for key, value in found.items() if not key.startswith("fc.")} == {
        (name.partition(":")[0], RATES[kind].cnn)
    }
    assert found["fc.weight"] == found["fc.bias"] == ("head", RATES["head"].cnn)


def test_transformers_have_rates_of_their_own() -> None:
    assert rates(adapted("full", "test_vit"))["blocks.0.attn.qkv.weight"] == ("full", RATES["full"].transformer)


def test_a_tensor_of_two_methods_takes_the_lower_rate() -> None:
    for methods in (["full", "norm"], ["norm", "full"]):
        found = rates(adapted(methods))
        assert {value for key, value in found.items() if "fc" not in key} == {("full", RATES["full"].cnn)}


def test_large_low_rank_changes_and_depthwise_layers_have_lower_rates() -> None:
    model = adapted(petl.LoRA(where=("conv", "depthwise"), dora=True), "test_efficientnet")
    found = rates(model)
    depthwise = next(name for name in found if "conv_dw" in name and name.endswith("lora.up"))
    assert found[depthwise][1] == RATES["lora depthwise"].cnn
    assert found["conv_stem.lora.up"][1] == RATES["lora"].cnn
    assert found["conv_stem.lora.magnitude"][1] == RATES["norm"].cnn
    for options, strength in [({"rank": 32, "alpha": 32}, 32), ({"rank": 4, "alpha": 4}, 8), ({"rank": 16}, 8)]:
        rate = rates(adapted(petl.LoRA(**options)))["conv1.0.lora.up"][1]
        assert rate == pytest.approx(RATES["lora"].cnn * LOW_RANK_STRENGTH / max(strength, LOW_RANK_STRENGTH))


def test_what_no_method_owns_trains_as_in_full_fine_tuning() -> None:
    plain = timm.create_model("test_resnet", num_classes=3)
    assert rates(plain)["conv1.0.weight"] == ("full", RATES["full"].cnn)
    assert rates(plain)["fc.weight"] == ("head", RATES["head"].cnn)
    unfrozen = adapted("lora")
    dict(unfrozen.named_parameters())["conv1.0.weight"].requires_grad_()
    assert rates(unfrozen)["conv1.0.weight"] == ("full", RATES["full"].cnn)
    headless = petl.wrap(timm.create_model("test_resnet"), "norm", head=False)
    headless.get_parameter("fc.weight").requires_grad_()
    assert rates(headless)["fc.weight"][0] == "head"
    around = nn.Sequential(adapted("lora"), nn.Linear(3, 2))
    assert rates(around)["1.weight"][0] == "full" and rates(around)["0.conv1.0.lora.up"][0] == "lora"
    foreign = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert {group for group, _ in rates(foreign).values()} == {"full"}


def test_a_method_without_declared_rates_has_cautious_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    class Gain(petl.WeightGraft):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(()))

        def change(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * (1 + self.gain)

    @petl.register("gains")
    @dataclass(frozen=True, kw_only=True)
    class Gains(petl.Method):
        where: petl.Where = "stem"

        def trains(self, module: nn.Module, site: petl.Site) -> list[str]:
            return ["weight"] if isinstance(module, nn.BatchNorm2d) else []

        def adapt(self, module: nn.Module, site: petl.Site) -> None:
            petl.grow(module, "gains", Gain())

    found = rates(adapted(Gains(where=("conv1.0", "conv1.1"))))
    assert found["conv1.1.weight"] == ("gains", RATES["full"].cnn)
    assert found["conv1.0.gains.gain"] == ("gains", RATES["new"].cnn)
    monkeypatch.setattr(Gains, "rate", lambda self, tensor: -1.0)
    with pytest.raises(MethodError, match="gains.rate returned -1.0"):
        rates(adapted(Gains(where=("conv1.0",))))


def test_param_groups_have_the_default_rates() -> None:
    model = adapted(["norm", "lora"], "test_vit")
    groups = petl.param_groups(model, weight_decay=0.05)
    assert {group["name"] for group in groups} == {"norm", "lora", "head"}
    assert not any("lr_scale" in group for group in groups)
    of_groups = {p: group["lr"] for group in groups for p in group["params"]}
    assert of_groups == {one.tensor: pytest.approx(one.rate) for one in rated_tensors(model)}
    decayed = petl.param_groups(model, layer_decay=0.5)
    assert {g["name"]: max(o["lr"] for o in decayed if o["name"] == g["name"]) for g in decayed}["head"] == RATES[
        "head"
    ][1]
    assert min(group["lr"] for group in decayed) < RATES["norm"].transformer / 30
