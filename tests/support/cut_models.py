"""Adapted models whose frozen part can be cut off, trained shortly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

import petl
from tests.support.data import CLASSES, SIZE, noise_pairs

BATCH = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def built(name: str = "test_vit", **options: Any) -> nn.Module:
    """The same model each time, with nothing at zero."""
    torch.manual_seed(3)
    size = {"img_size": SIZE} if "vit" in name else {}
    model = timm.create_model(name, num_classes=CLASSES, **size, **options)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return model


def late(model: nn.Module) -> nn.Module:
    """LoRA in the last block."""
    block = petl.find(model, "block")[-1].name
    names = [site.name for site in petl.find(model, ["linear", "conv"]) if site.name.startswith(f"{block}.")]
    return petl.wrap(model, petl.LoRA(where=names, rank=2))


def late_adapter(model: nn.Module) -> nn.Module:
    return petl.wrap(model, petl.Adapter(where=[petl.find(model, "block")[-1].name]))


def partial(model: nn.Module) -> nn.Module:
    return petl.wrap(model, "partial", last=1)


def late_bn(model: nn.Module) -> nn.Module:
    return petl.wrap(model, petl.BN(where=["layer4.*.bn*"], stats="keep"))


def adapting(model: nn.Module) -> nn.Module:
    return petl.wrap(model, "partial", last=1, stats="adapt")


def train(model: nn.Module, data: Any = None, val: Any = None, **options: Any) -> Any:
    given = {"epochs": 3, "lr": 1e-2, "batch_size": 8, "progress": False, **options}
    return petl.fit(model, noise_pairs() if data is None else data, val, **given)


ROADS: list[Any] = [
    (partial, "test_vit", "blocks.5"),
    (late, "test_vit", "blocks.5"),
    (late_adapter, "test_vit", "blocks.5.adapter"),
    (partial, "test_resnet", "layer4.0"),
    (adapting, "test_resnet", "layer4.0"),
    (late, "test_resnet", "layer4.0"),
    (partial, "test_efficientnet", "blocks.4.0.conv_pw"),
    (partial, "test_convnext", "stages.3.blocks.1"),
    (late_bn, "test_resnet", "layer4.0"),
    (late, "test_nfnet", "stages.3.0.act1"),
]


def picture_folder(path: Path) -> Path:
    for number in range(6):
        place = path / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(255, size=(SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place)
    return path


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
