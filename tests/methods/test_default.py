"""The best recipe: what `petl.wrap(model)` applies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import petl
from petl.errors import MethodError
from petl.methods.default import best_methods
from tests.support.compare import equal, state


def names(model: nn.Module) -> list[str]:
    return [method.name for method in petl.record(model).methods]  # type: ignore[union-attr]  # wrapped


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_without_a_method_the_best_recipe_is_applied_and_recorded(name: str, tmp_path: Path) -> None:
    model = petl.wrap(timm.create_model(name), num_classes=3)
    assert names(model) == [method.name for method in best_methods(timm.create_model(name))]
    path = petl.save(model, tmp_path / "best.safetensors", labels=["a", "b", "c"])
    assert [values["name"] for values in petl.read(path)["methods"]] == names(model)


@pytest.mark.deep
def test_it_has_a_name_and_goes_together_with_others() -> None:
    for asked, expected in [
        ("best", ["norm", "lora"]),
        (["best"], ["norm", "lora"]),
        ([petl.Input(in_chans=1), "best"], ["input", "norm", "lora"]),
        (["best", "bias"], ["norm", "lora", "bias"]),
        (["best", petl.LoRA(rank=2)], ["norm", "lora"]),  # a method that is named isn't applied twice
    ]:
        assert names(petl.wrap(timm.create_model("test_vit"), asked, num_classes=3)) == expected


def test_a_method_that_has_nothing_to_do_is_left_out() -> None:
    class Plain(nn.Sequential):
        """No norms."""

    model = Plain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    assert names(petl.wrap(model, head="4")) == ["lora"]


def test_options_go_to_the_methods_that_have_them() -> None:
    record = petl.record(petl.wrap(timm.create_model("test_vit"), rank=2, stats="adapt", num_classes=3))
    assert record is not None and [*record.methods] == [petl.Norm(stats="adapt"), petl.LoRA(rank=2)]


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [(None, {"ranks": 2}, "no option 'ranks'; near names: rank"), (["best", "bias"], {"rank": 2}, "inside the methods"),
     ("bset", {}, "near names: best"), ([], {}, "empty list")],
)  # fmt: skip
def test_what_it_cant_be_changes_nothing(asked: Any, options: dict[str, Any], message: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit")
    before = state(model)
    with pytest.raises(MethodError, match=message):
        petl.wrap(model, asked, num_classes=3, **options)
    assert equal(state(model), before)


def test_its_name_is_taken() -> None:
    with pytest.raises(MethodError, match="give the method another"):
        petl.register("best")(petl.Method)
