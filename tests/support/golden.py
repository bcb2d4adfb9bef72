"""The golden files: one delta of each kind, as this version of petl writes it, on small backbones whose weights are a formula.

    python -m tests.support.golden          # writes the files that are missing; those that are there stay as they are
    python -m tests.support.golden --check  # loads all and says what differs

A file in tests/golden is never written again: what it holds is what people's files hold. A new kind gets a new file. Weights come
from whole numbers alone, without a random generator, so that they are the same under every version of torch.
"""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

import petl
from petl.delta.tensors import delta_checksum, delta_tensors

FOLDER = Path(__file__).parents[1] / "golden"
EXPECTED = FOLDER / "expected.json"
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("test_resnet", {"channels": (8, 8, 8, 8)}),
    "vit": ("test_vit", {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 32}),
}
CLASSES = 4


class Kind(NamedTuple):
    """The backbone, the methods, channels of images, and what else ``wrap``, ``save`` and the record are told."""

    backbone: str
    methods: Any
    channels: int = 3
    wrap: dict[str, Any] = {}  # noqa: RUF012  # never changed
    save: dict[str, Any] = {}  # noqa: RUF012
    record: dict[str, Any] = {}  # noqa: RUF012
    change: Callable[[nn.Module], Any] | None = None


def _exchanged_head(model: Any) -> None:
    model.fc = nn.Linear(model.fc.in_features, CLASSES)


CORRECTION = {
    "source": [0.25] * 4, "target": [0.4, 0.3, 0.2, 0.1], "scale": 1.0, "offset": [0.5, 0.25, -0.25, -0.5],
    "before": {"fc": [0.0, 0.125, 0.25, 0.375]}, "temperature": None,
}  # fmt: skip
KINDS: dict[str, Kind] = {
    "probe": Kind("resnet", petl.Probe(solver="ridge"), save={"labels": list("abcd"), "results": {"accuracy": 0.5}}),
    "probe-layers": Kind("vit", petl.Probe(layers="all")),
    "bn": Kind("resnet", "bn"),
    "bn-keep": Kind("resnet", petl.BN(stats="keep")),
    "bn-statistics": Kind("resnet", petl.BN(affine=False)),
    "norm": Kind("vit", "norm"),
    "bias": Kind("vit", "bias"),
    "lora": Kind("resnet", petl.LoRA(rank=1)),
    "lora-dora": Kind("resnet", petl.LoRA(rank=1, dora=True)),
    "lora-rslora": Kind("vit", petl.LoRA(rank=2, rslora=True)),
    "lora-fa": Kind("resnet", petl.LoRA(rank=1, freeze_down=True)),
    "lora-slices": Kind("vit", petl.LoRA(rank=1, slices="qv")),
    "adapter": Kind("vit", petl.Adapter(bottleneck=2)),
    "adapter-parallel": Kind("vit", petl.Adapter(where="mlp", parallel=True, bottleneck=2, scale=0.1)),
    "adapter-conv": Kind("resnet", petl.Adapter(bottleneck=2)),
    "input": Kind("resnet", petl.Input(in_chans=1), 1),
    "input-bias": Kind("vit", petl.Input(in_chans=5, bias=True), 5),
    "partial": Kind("vit", petl.Partial(last=1)),
    "full": Kind("vit", "full"),
    "peft-loha": Kind("vit", "peft:LoHa", wrap={"r": 1}),
    "peft-lora": Kind("vit", "peft:Lora", wrap={"r": 1}),
    "combined": Kind("resnet", [petl.Input(in_chans=1), "bn", petl.LoRA(rank=1)], 1),
    "norm-lora": Kind("vit", ["norm", petl.LoRA(rank=1)]),
    "with-adapter": Kind("resnet", ["bn", petl.LoRA(rank=1), petl.Adapter(bottleneck=2)]),
    "own-classifier": Kind("resnet", "norm", wrap={"num_classes": None, "head": False}),
    "exchanged-classifier": Kind("resnet", "norm", change=_exchanged_head),
    "unfrozen-by-hand": Kind("resnet", "norm", change=lambda model: model.conv1[0].weight.requires_grad_(True)),
    "low-base": Kind("vit", petl.LoRA(rank=1), wrap={"base_dtype": "bfloat16"}),
    "bfloat16": Kind("vit", "bias", save={"dtype": torch.bfloat16}),
    "float16": Kind("resnet", "bn", save={"dtype": torch.float16}),
    "int8": Kind("vit", "partial", save={"dtype": "int8"}),
    "int4": Kind("vit", "full", save={"dtype": "int4"}),
    "int3": Kind("vit", petl.Partial(last=1), save={"dtype": "int3"}),
    "multilabel": Kind("vit", "probe", save={"task": "multilabel", "thresholds": [0.25, 0.5, 0.75, 0.5]}),
    "regression": Kind("vit", "probe", save={"task": "regression", "units": ["mm", "mm", "g", "g"]}),
    "quantiles": Kind("vit", "probe", record={"task": "regression", "quantiles": [0.25, 0.75], "units": "mm"}),
    "ordinal": Kind("vit", "probe", save={"task": "ordinal", "labels": ["0", "1", "2", "3"]}),
    "metric": Kind("vit", petl.LoRA(rank=1), save={"task": "metric"}),
    "temperature": Kind("resnet", "probe", record={"temperature": 1.5, "correction": CORRECTION}),
}  # fmt: skip


def formula(name: str, shape: Any) -> Tensor:
    """Numbers between -1/2 and 1/2 in steps of 2**-16, from the name and whole numbers alone: exact in float32."""
    count = int(torch.Size(shape).numel())
    counted = torch.arange(count, dtype=torch.int64) * 2654435761 + zlib.crc32(name.encode()) * 40503
    return (((counted % 2**32) >> 16).double() / 2**16 - 0.5).float().reshape(shape)


def fill(tensors: dict[str, Tensor], salt: str = "") -> None:
    """Writes the formula into tensors by their names; scales and variances stay positive, counters count."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            values = formula(name + salt, tensor.shape)
            if not tensor.is_floating_point():
                tensor.fill_(len(name))
            elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(values / 2 + 1)
            else:
                tensor.copy_(values / 2)


def backbone(kind: str) -> nn.Module:
    """The backbone of a kind; the same bits everywhere."""
    name, options = BACKBONES[KINDS[kind].backbone]
    model = timm.create_model(name, num_classes=CLASSES, **options).eval()
    fill(model.state_dict())
    return model


def adapted(kind: str) -> nn.Module:
    """The backbone with the methods of this kind, whose tensors hold the formula, too."""
    spec = KINDS[kind]
    model = petl.wrap(backbone(kind), spec.methods, **{"num_classes": CLASSES, **spec.wrap})
    if spec.change is not None:
        spec.change(model)
    record = petl.record(model)
    assert record is not None
    fill(delta_tensors(model, record)[0], salt=" trained")
    for key, value in spec.record.items():
        setattr(record, key, value)
    return model.eval()


def path_of(kind: str) -> Path:
    return FOLDER / f"{kind}.safetensors"


def facts(kind: str, model: nn.Module) -> dict[str, Any]:
    """What has to be the same for ever: the delta's numbers to the bit, the header, and the outputs up to rounding."""
    record = petl.record(model)
    assert record is not None
    channels, header = KINDS[kind].channels, petl.read(path_of(kind))
    with torch.no_grad():
        outputs = model.eval()(formula("image", (2, channels, 32, 32)) * 4)
    return {
        "file": hashlib.sha256(path_of(kind).read_bytes()).hexdigest(),
        "tensors": delta_checksum(delta_tensors(model, record)[0]),
        "header": hashlib.sha256(json.dumps({k: v for k, v in header.items() if v is not None}).encode()).hexdigest(),
        "outputs": [round(value, 5) for value in outputs.flatten().tolist()],
    }


def expected() -> dict[str, dict[str, Any]]:
    return json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}


def main(check: bool) -> None:
    FOLDER.mkdir(exist_ok=True)
    known = expected()
    for kind in KINDS:
        if not check and not path_of(kind).exists():
            model = adapted(kind)
            petl.save(model, path_of(kind), **KINDS[kind].save)
            known[kind] = facts(kind, petl.load(path_of(kind), backbone(kind)))
            if not KINDS[kind].save.get("dtype"):
                assert known[kind] == facts(kind, model), kind
            EXPECTED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
        now = facts(kind, petl.load(path_of(kind), backbone(kind)))
        print(f"{kind:22} {path_of(kind).stat().st_size:7,} bytes  {'as it was' if now == known[kind] else 'DIFFERS'}")


if __name__ == "__main__":
    main("--check" in sys.argv)
