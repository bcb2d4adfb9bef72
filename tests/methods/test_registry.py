"""Methods of the user's own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import petl
from tests.support.zoo import images, make


@pytest.mark.deep
@petl.register("tests-scale")
@dataclass(frozen=True, kw_only=True)
class Scale(petl.Method):
    """A factor per output of linear layers, as a user would write it."""

    where: petl.Where = "linear"
    start: float = 1.0

    def adapt(self, module: nn.Module, site: petl.Site) -> None:
        petl.grow(module, "scale", Factor(site.shape[0], self.start))


class Factor(petl.WeightGraft):
    """Row factors."""

    def __init__(self, rows: int, start: float):
        super().__init__()
        self.factor = nn.Parameter(torch.full((rows, 1), start))

    def change(self, weight: Tensor) -> Tensor:
        return weight * self.factor


@pytest.mark.deep
def test_a_method_of_the_users_own_keeps_the_contract() -> None:
    report = petl.check(make("vit"), images("vit"), "tests-scale", num_classes=5)
    assert report.ok and {f.status for f in report} == {"pass"}, report
    both = petl.check(make("beit"), images("beit"), ["tests-scale", "bias", "lora"])
    assert both.ok, both


def test_a_name_can_be_registered_once() -> None:
    with pytest.raises(petl.MethodError, match="registered already"):

        @petl.register("lora")
        @dataclass(frozen=True, kw_only=True)
        class Mine(petl.Method):
            """Not LoRA."""

    assert petl.methods()["lora"] is petl.LoRA
