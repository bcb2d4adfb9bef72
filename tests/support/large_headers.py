"""Headers that ask for huge models: each is refused without the memory or the time for it. A process of its own."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch

import petl
from petl.format.tensorfile import write_file
from tests.support.delta_files import args, base, edit


def highest() -> int:
    """The most MB that this process has had. (`ru_maxrss` would count those of the process that started it.)"""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) // 1024


def refused(folder: Path, name: str, change: Callable[[dict[str, Any]], Any], methods: str, *, model: bool) -> None:
    torch.manual_seed(0)
    wrapped = petl.wrap(timm.create_model(name, num_classes=3), methods)
    path = edit(petl.save(wrapped, folder / "d.safetensors"), change)
    try:
        petl.load(path, timm.create_model(name, num_classes=3) if model else None, pretrained=False)
    except petl.DeltaError:
        return
    raise SystemExit(f"{name} {methods} was taken")


def method(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda header: {"methods": [{**header["methods"][0], **values}]}


def main(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
    refused(folder, "test_vit", args(depth=2), "bias", model=False)  # everything is imported, and has its size
    start = highest()
    refused(folder, "test_resnet", method(bottleneck=10**12), "adapter", model=True)
    refused(folder, "test_resnet", method(bottleneck=10**6), "adapter", model=True)
    refused(folder, "test_resnet", method(kernel=10**6 + 1), "adapter", model=True)
    refused(folder, "test_vit", method(rank=10**6), "lora", model=True)
    refused(folder, "test_resnet", method(in_chans=10**6), "input", model=True)
    refused(folder, "test_vit", base(num_classes=2 * 10**7), "bias", model=True)
    refused(folder, "test_vit", base(num_classes=10**7), "bias", model=False)
    sizes = [{"depth": 5000}, {"embed_dim": 10**5}, {"img_size": 10**6}, {"img_size": 4096, "patch_size": 1}]
    for values in (*sizes, {"mlp_ratio": 1e9}, {"reg_tokens": 10**6}, {"num_heads": 10**6}):
        refused(folder, "test_vit", args(**values), "bias", model=False)
    refused(folder, "test_resnet", args(width_factor=1000.0), "bias", model=False)
    many = {f"x{i}": torch.empty(0) for i in range(70_000)}
    write_file(folder / "many.safetensors", many, {"petl": "{}"})
    for verb in (petl.read, petl.load):
        try:
            verb(folder / "many.safetensors")
        except petl.DeltaError:
            continue
        raise SystemExit("many tensors were taken")
    assert highest() - start < 300, f"{highest() - start} MB"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
