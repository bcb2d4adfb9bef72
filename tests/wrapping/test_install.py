"""A plan is carried out whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import petl
from tests.support.compare import portrait
from tests.support.zoo import disturb, images, make, output

WRONG = {
    "unknown method": ("lorra", {}, petl.MethodError, "near names: lora"),
    "unknown method in a list": (["bias", "norm", "adaptor"], {}, petl.MethodError, "near names: adapter"),
    "empty list": ([], {}, petl.MethodError, "empty list"),
    "no method": (0, {}, petl.MethodError, "0"),
    "class, not object": (petl.LoRA, {}, petl.MethodError, "LoRA"),
    "options to many": (["lora", "bias"], {"rank": 4}, petl.MethodError, "single method"),
    "unknown option": ("lora", {"rnk": 4}, petl.MethodError, "near names: rank"),
    "zero rank": ("lora", {"rank": 0}, petl.MethodError, "rank=0"),
    "text after a colon": ("lora:big", {}, petl.MethodError, "colon"),
    "unknown place": ("lora", {"where": "linears"}, petl.SiteError, "near names: linear"),
    "nothing there": ("bn", {}, petl.SiteError, "no BatchNorm"),
    "third of three": (["bias", "lora", "bn"], {}, petl.SiteError, "no BatchNorm"),
    "same place twice": ([petl.LoRA(rank=2), petl.LoRA(rank=4)], {}, petl.SiteError, "already has an attribute 'lora'"),
    "no classes": ("lora", {"num_classes": 0}, petl.MethodError, "num_classes=0"),
    "fewer than no classes": ("lora", {"num_classes": -3}, petl.MethodError, "num_classes=-3"),
    "classes that are no number": ("lora", {"num_classes": "five"}, petl.MethodError, "expected a whole number"),
    "half a class": ("lora", {"num_classes": 1.5}, petl.MethodError, "expected a whole number"),
    "scale that is none": ("lora", {"alpha": float("nan")}, petl.MethodError, "alpha=nan"),
    "arguments as a list": ("lora", {"create_args": [("img_size", 64)]}, petl.MethodError, "expected a dict"),
    "no head's name": ("lora", {"head": 5}, petl.MethodError, "list of names"),
    "head's names in no order": ("lora", {"head": {"head"}}, petl.MethodError, "list of names"),
    "unknown head": ("lora", {"head": "heed"}, petl.SiteError, "near names: head"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.sweep(9)
def test_errors_leave_the_model_as_it_was(case: str) -> None:
    methods, options, error, message = WRONG[case]
    model = make("vit").train()
    model.head.weight.requires_grad_(False)
    before = portrait(model)
    with pytest.raises(error, match=message) as caught:
        petl.wrap(model, methods, **{"num_classes": 5, **options})
    assert isinstance(caught.value, petl.PetlError)
    assert portrait(model) == before


@petl.register("fails-late")
@dataclass(frozen=True, kw_only=True)
class FailsLate(petl.Method):
    """Grows on half of its sites, sets an attribute, replaces a module, then fails."""

    where: petl.Where = "linear"
    error: str = "PetlError"

    def apply(self, model: nn.Module, sites: Any) -> None:
        for site in sites[: len(sites) // 2]:
            petl.grow(model.get_submodule(site.name), "late", petl.LoRA and _Twice())
        model.remembered = 1
        model.blocks[0].norm1 = nn.Identity()
        del model.blocks[1].norm2
        model.blocks[2].mlp.fc1.weight = nn.Parameter(torch.zeros(1))
        with torch.no_grad():
            model.blocks[1].attn.qkv.bias.zero_()  # trained in place by the method before: a copy is there
        raise {"PetlError": petl.SiteError, "bug": ZeroDivisionError, "ctrl-c": KeyboardInterrupt}[self.error]("late")


class _Twice(petl.WeightGraft):
    """Twice the weight."""

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(2.0))

    def change(self, weight: Tensor) -> Tensor:
        return weight * self.by


@pytest.mark.parametrize("error", ["PetlError", "bug", "ctrl-c"])
def test_the_third_method_fails_in_the_middle(error: str) -> None:
    model = make("vit").train()
    model.head.weight.requires_grad_(False)
    before, expected = portrait(model), output(make("vit"), images("vit"))
    with pytest.raises((petl.SiteError, ZeroDivisionError, KeyboardInterrupt)):
        petl.wrap(model, ["bias", petl.LoRA(rank=2), FailsLate(error=error)], num_classes=5)
    assert portrait(model) == before
    assert torch.equal(output(model, images("vit")), expected)
    petl.wrap(model, "lora", num_classes=5)  # and it can be wrapped


def test_wrapping_twice() -> None:
    model = disturb(petl.wrap(make("vit"), "lora", num_classes=5))
    before = portrait(model)
    with pytest.raises(petl.StateError, match="wrapped already"):
        petl.wrap(model, "adapter")
    assert portrait(model) == before
    compiled = torch.compile(make("vit"), backend="eager")
    with pytest.raises(petl.StateError, match="wrap it first"):
        petl.wrap(compiled, "lora")
    with pytest.raises(petl.StateError, match=r"nn\.Module"):
        petl.wrap("test_vit", "lora")


def test_batchnorm_on_norm_free_nets_suggests_others() -> None:
    for method in ("bn", "norm"):
        with pytest.raises(petl.SiteError, match="'bias' or 'lora'"):
            petl.wrap(make("nfnet"), method, num_classes=5)


def test_a_module_with_an_attribute_of_that_name() -> None:
    """Never take a model's own attribute for a graft, nor overwrite it."""
    model = make("vit")
    model.blocks[2].mlp.fc1.lora = "the user's"
    before = portrait(model)
    with pytest.raises(petl.SiteError, match="already has an attribute 'lora'"):
        petl.wrap(model, "lora")
    assert portrait(model) == before and model.blocks[2].mlp.fc1.lora == "the user's"
