"""`petl.summary` counts by hand."""

from __future__ import annotations

import pytest
from torch import nn

import petl
from tests.support.zoo import make


def test_summary_counts_by_hand() -> None:
    model = petl.wrap(make("resnet"), ["bn", petl.LoRA(rank=2)], num_classes=5)
    rows = {row.name: row for row in petl.summary(model)}
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    channels = sum(m.num_features for m in norms)
    assert rows["bn"].sites == len(norms) and rows["bn"].tensors == 5 * len(norms)
    assert rows["bn"].bytes == 4 * 4 * channels + 8 * len(norms)
    lora = {n: p for n, p in model.named_parameters() if ".lora." in n}
    assert rows["lora"].trainable == sum(p.numel() for p in lora.values()) and rows["lora"].tensors == len(lora)
    head = sum(p.numel() for p in model.get_classifier().parameters())
    assert rows["head"].trainable == head and rows["head"].bytes == 4 * head
    base = sum(p.numel() for n, p in model.named_parameters() if ".lora." not in n)
    assert rows["head"].share == pytest.approx(head / base)
    assert petl.summary(model).bytes == sum(row.bytes for row in rows.values())
    assert rows["bn"].trainable == 2 * channels, "running statistics don't train"
    assert petl.summary(model).trainable == sum(p.numel() for p in petl.trainable(model).values())
    table = repr(petl.summary(model)).splitlines()
    assert [line.split()[0] for line in table[:5]] == ["method", "bn", "lora", "head", "total"]
