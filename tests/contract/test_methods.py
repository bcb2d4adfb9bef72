"""Every method on the architectures of its row: the whole contract."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

import petl
from tests.support.compare import differing, state
from tests.support.zoo import images, make


class Row(NamedTuple):
    """Methods and options, the architectures, channels of the images, and whether the whole folds."""

    methods: Any
    options: dict[str, Any]
    archs: str
    channels: int = 3
    folds: bool = True


EVERY_LAYER = ("linear", "conv", "depthwise")
CONTRACT = {
    "probe": Row("probe", {}, "resnet levit deit_distilled beit"),
    "probe-layers": Row("probe", {"layers": "all"}, "resnet vit swin convnext mambaout", folds=False),
    "bn": Row("bn", {}, "resnet densenet levit"),
    "bn-keep": Row("bn", {"stats": "keep"}, "efficientnet"),
    "bn-statistics": Row("bn", {"affine": False}, "byobnet"),
    "norm": Row("norm", {}, "vit swinv2 convnext efficientnet_gn efficientnet_evos"),
    "norm-adapt": Row("norm", {"stats": "adapt"}, "resnext"),
    "bias": Row("bias", {}, "beit eva eva_fused swinv2 nfnet coat sequencer"),
    "lora": Row("lora", {"rank": 2}, "vit2 beit eva eva_fused swinv2 resnet nfnet mambaout coat densenet"),
    "lora-fa": Row("lora", {"rank": 2, "freeze_down": True}, "vit2 resnet efficientnet_same"),
    "lora-all": Row(
        "lora",
        {"rank": 3, "where": EVERY_LAYER},
        "convnext efficientnet_same resnext levit sequencer condconv lowformer",
    ),
    "lora-slices": Row("lora", {"slices": "qv"}, "vit beit swinv2 eva crossvit"),
    "dora": Row("lora", {"rank": 2, "dora": True, "where": EVERY_LAYER}, "eva resnext nfnet sequencer lowformer"),
    "rslora": Row("lora", {"rank": 4, "rslora": True}, "swin"),
    "adapter": Row(
        "adapter", {"bottleneck": 4}, "vit4 swin convnext mambaout crossvit coatnet maxvit tnt", folds=False
    ),
    "adapter-parallel": Row(
        "adapter", {"where": "mlp", "parallel": True, "scale": 0.1}, "vit_relpos beit", folds=False
    ),
    "adapter-inside": Row("adapter", {"where": "branch", "kernel": 5}, "swin deit_distilled", folds=False),
    "input-1": Row("input", {"in_chans": 1}, "resnet beit crossvit repvgg", 1),
    "input-2": Row("input", {"in_chans": 2}, "efficientnet_same", 2),
    "input-4": Row("input", {"in_chans": 4}, "swin", 4),
    "input-13": Row("input", {"in_chans": 13}, "convnext2", 13),
    "input-in-front": Row("input", {"in_chans": 1}, "nfnet", 1, folds=False),
    "input-bias": Row("input", {"in_chans": 4, "bias": True}, "vit", 4),
    "partial": Row("partial", {}, "vit4 swin"),
    "partial-first": Row("partial", {"last": 0, "first": 2, "stats": "adapt"}, "resnet"),
    "full": Row("full", {}, "levit vit"),
    "peft": Row("peft:LoHa", {"r": 2}, "vit"),
    "seed-case": Row([petl.Input(in_chans=1), "bn", petl.LoRA(rank=2)], {}, "resnet efficientnet_same", 1),
    "lora+input": Row([petl.LoRA(rank=2), petl.Input(in_chans=5)], {}, "beit resnet", 5),
    "all-small": Row(["norm", "bias", petl.LoRA(rank=2)], {}, "swinv2 levit"),
    "with-adapter": Row(["bn", petl.LoRA(rank=2), petl.Adapter(bottleneck=4)], {}, "byobnet", folds=False),
}
CASES = [(row, arch) for row in CONTRACT for arch in CONTRACT[row].archs.split()]


@pytest.mark.sweep(3)
@pytest.mark.parametrize(("name", "arch"), CASES, ids=["-".join(case) for case in CASES])
def test_contract(name: str, arch: str) -> None:
    row = CONTRACT[name]
    torch.manual_seed(0)
    report = petl.check(make(arch), images(arch, row.channels), row.methods, num_classes=5, **row.options)
    assert report.ok, f"\n{report!r}"
    found = {finding.point: finding.status for finding in report}
    assert found.pop("merge") == ("pass" if row.folds else "n/a")
    assert found.pop("injection") == ("pass" if row.channels == 3 else "n/a")
    assert {*found.values()} == {"pass"}


def test_every_registered_method_has_a_row() -> None:
    ours = {name for name, cls in petl.methods().items() if cls.__module__.startswith("petl.methods.")}
    asked = [
        item for row in CONTRACT.values() for item in (row.methods if isinstance(row.methods, list) else [row.methods])
    ]
    assert ours <= {item.name if isinstance(item, petl.Method) else item.partition(":")[0] for item in asked}


@pytest.mark.parametrize("name", ["vit", "resnet", "beit", "levit"])
def test_training_by_hand_moves_what_trains_and_nothing_else(name: str) -> None:
    """The contract once without petl.check."""
    torch.manual_seed(0)
    methods = {"vit": "lora", "resnet": ["bn", "lora"], "beit": ["bias", "lora"], "levit": ["lora", "adapter"]}[name]
    model = petl.wrap(make(name), methods, num_classes=5).train()
    before, trains = state(model), {*petl.trainable(model)}
    optimizer = torch.optim.SGD(petl.trainable(model).values(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        out = model(images(name))
        sum((o.square() - o).sum() for o in (out if isinstance(out, tuple) else [out])).backward()
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        optimizer.step()
    moved = {*differing(before, state(model))}
    statistics = {k for k in before if "running" in k or "num_batches" in k}
    assert moved - statistics == trains
    assert moved & statistics == (statistics if name == "resnet" else {k for k in statistics if k.startswith("head")})
