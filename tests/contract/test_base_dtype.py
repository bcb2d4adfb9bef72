"""The contract of methods on models whose frozen weights are stored in 16 bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import petl
from tests.support.low_precision import FAMILIES, low
from tests.support.zoo import images, make

OTHERS = [
    "sequencer",
    "condconv",
    "lowformer",
    "nfnet",
    "beit",
]  # LSTM, experts, transposed and standardised kernels, einsum


@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "methods"),
    [*((n, m) for n in FAMILIES for m in ("lora", "adapter")), *((n, "lora") for n in OTHERS if n != "condconv")],
)
def test_the_contract_holds(name: str, methods: str) -> None:
    report = petl.check(make(name), images(name), methods, num_classes=7, base_dtype="bfloat16")
    assert report.ok, report


@pytest.mark.deep
@pytest.mark.parametrize("methods", [petl.BN(), "norm", "probe", "partial", "full", petl.LoRA(dora=True), "input"])
def test_the_contract_holds_for_other_methods(methods: Any) -> None:
    batch = images("resnet", 1 if methods == "input" else 3)
    report = petl.check(make("resnet"), batch, methods, num_classes=7, base_dtype=torch.float16)
    assert report.ok, report
    assert {finding.point: finding.status for finding in report}["injection"] != "fail"


class Attends(nn.Module):
    """torch's own attention behind a patch embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention = nn.Conv2d(3, 16, 8, 8), nn.MultiheadAttention(16, 2, batch_first=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        return self.fc(self.attention(x, x, x)[0].mean(1))


@pytest.mark.deep
def test_the_contract_holds_for_slices_and_torchs_own_attention() -> None:
    for model, head in ((Attends(), "fc"), (make("vit"), True)):
        report = petl.check(model, images("vit"), "lora", slices="qv", head=head, base_dtype="bfloat16")
        assert report.ok, report
    wrapped = petl.wrap(Attends(), "bias", head="fc", base_dtype="bfloat16")
    assert low(wrapped) == ["attention.in_proj_weight", "attention.out_proj.weight", "stem.weight"]
