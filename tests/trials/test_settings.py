"""The settings that `petl.compare` tries."""

from __future__ import annotations

from typing import Any

import pytest
import timm
from torch import nn

import petl
from petl.trials.settings import FACTORS, settings_for


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return timm.create_model("test_vit")


def names(model: nn.Module, methods: Any) -> list[str]:
    return [setting.name for setting in settings_for(model, methods, FACTORS, 3)]


def test_each_method_has_three_rates_and_the_probe_none(model: nn.Module) -> None:
    assert names(model, "norm") == ["norm x0.33", "norm x1", "norm x3", "probe"]
    found = settings_for(model, ["norm", "probe"], (1.0,), 3)
    assert [(one.name, one.lr, one.closed) for one in found] == [("norm x1", "x1", False), ("probe", None, True)]


def test_without_methods_there_is_a_short_list_of_those_that_fit(model: nn.Module) -> None:
    kinds = dict.fromkeys(name.partition(" ")[0] for name in names(model, None))
    assert [*kinds] == ["best", "norm", "lora", "adapter", "full", "probe"]
    bare = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))  # without norms
    assert not any(one.startswith("norm") for one in names_of_plain(bare))


def names_of_plain(model: nn.Module) -> list[str]:
    try:
        return names(model, None)
    except petl.PetlError:  # a classifier that petl doesn't know
        return []


def test_lists_inside_are_combinations_and_dicts_have_names(model: nn.Module) -> None:
    found = settings_for(model, [petl.LoRA(rank=4), ["norm", petl.LoRA(rank=2)]], (1.0,), 3)
    assert [one.name for one in found] == ["lora(rank=4) x1", "norm+lora(rank=2) x1", "probe"]
    found = settings_for(model, {"small": petl.LoRA(rank=2), "probe": petl.Probe(solver="sgd")}, (1.0,), 3)
    assert [one.name for one in found] == ["small x1", "probe x1", "probe"]
    assert found[0].text == "lora(rank=2)"


@pytest.mark.parametrize(
    "methods", ["lorra", ["norm", "lorra"], [], {}, {"": "norm"}, ["norm", "norm"], 3, ["bn"], {"a": petl.BN()}, [[]]]
)
def test_methods_that_cannot_be_are_refused(model: nn.Module, methods: Any) -> None:
    with pytest.raises((petl.MethodError, petl.SiteError)):
        settings_for(model, methods, FACTORS, 3)


def test_the_model_stays_bare(model: nn.Module) -> None:
    before = dict(model.state_dict())
    settings_for(model, ["lora", "full"], FACTORS, 3)
    assert petl.record(model) is None
    assert all(before[key] is value or bool((before[key] == value).all()) for key, value in model.state_dict().items())
