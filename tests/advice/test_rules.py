"""Which methods the rules give: by images of a class, distance, channels, and what fits the backbone."""

from __future__ import annotations

import pytest
import timm

import petl
from petl.advice.rules import Distance, shortlist

NEAR, FAR = Distance("near", "", ("reason",)), Distance("far", "input", ("reason",))
WANTED = (4, True)


def names(model: str, each: float, distance: Distance, channels: int | None = None) -> list[str]:
    rows = shortlist(timm.create_model(model), each, distance, channels, WANTED)
    assert all(row.basis.startswith("a prior") and row.reason for row in rows)
    return ["+".join(method.name for method in row.methods) for row in rows]


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
@pytest.mark.deep
def test_more_images_bring_larger_methods(model: str) -> None:
    assert names(model, 5, NEAR) == ["probe", "probe", "norm"] == names(model, 5, FAR)
    assert names(model, 30, NEAR) == ["probe", "norm+lora", "norm"]
    assert names(model, 200, NEAR) == ["probe", "norm+lora", "norm", "adapter", "partial"]
    assert names(model, 2000, NEAR)[-1] == "full"
    assert names(model, 30, FAR) == ["norm+lora", "norm", "partial", "probe"]


def test_full_fine_tuning_has_a_decay_and_rates_of_its_own() -> None:
    full = shortlist(timm.create_model("test_vit"), 2000, NEAR, None, WANTED)[-1]
    assert full.options == {"layer_decay": 0.75} and full.rates == {"full": 3e-5, "head": 5e-4}
    assert full.code == "petl.Full()"


def test_other_channels_put_an_input_layer_before_everything() -> None:
    assert all(name.startswith("input+") for name in names("test_resnet", 30, FAR, 5))


@pytest.mark.deep
def test_what_does_not_fit_the_backbone_is_left_out() -> None:
    """A net without norms has none to train."""
    row = shortlist(timm.create_model("vgg11"), 30, NEAR, None, WANTED)
    assert [[method.name for method in one.methods] for one in row] == [["probe"], ["lora"]]


def test_no_rule_moves_statistics() -> None:
    rows = shortlist(timm.create_model("test_resnet"), 2000, FAR, None, WANTED)
    assert {getattr(method, "stats", "keep") for row in rows for method in row.methods} == {"keep"}


def test_a_wrapped_model_gets_methods_for_its_backbone() -> None:
    model = petl.wrap(timm.create_model("test_vit"), "bias", num_classes=4)
    assert [row.rates for row in shortlist(model, 30, NEAR, None, WANTED)][1] == {
        "lora": 1.5e-3,
        "norm": 3e-3,
        "head": 5e-4,
    }
