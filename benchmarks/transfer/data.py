"""The benchmark's images and backbones: npz files and checkpoint files, or what the ``demo`` extra ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn
from torch.utils.data import TensorDataset

from petl import demo

DEMO = Path("demo")  # in place of a file of weights


@dataclass(frozen=True)
class Pictures:
    """Images uint8 [n, h, w, c] with labels [n] and split [n] (0 train, 1 test)."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...]

    def chosen(self, split: int, count: int, seed: int) -> np.ndarray:
        """Indices of ``count`` images of the split, as even among the classes as they allow; all, if there are fewer."""
        chance = np.random.default_rng([seed, split])
        members = [
            chance.permutation(np.flatnonzero((self.split == split) & (self.labels == k)))
            for k in range(len(self.classes))
        ]
        turns = [(turn, k, index) for k, found in enumerate(members) for turn, index in enumerate(found)]
        return np.sort([index for _, _, index in sorted(turns)[:count]])

    def tensors(self, indices: np.ndarray, pipeline: Mapping[str, Any]) -> TensorDataset:
        """(image [k, S, S], label) pairs: enlarged by torch, normalised by the pipeline; gray is repeated for RGB."""
        channels, *size = pipeline["input_size"]
        mean, std = (torch.tensor(pipeline[key]).view(-1, 1, 1) for key in ("mean", "std"))
        images = torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2).float() / 255
        images = F.interpolate(images, size=tuple(size), mode="bicubic", antialias=True, align_corners=False).clamp(
            0, 1
        )
        return TensorDataset((images.expand(-1, channels, -1, -1) - mean) / std, torch.from_numpy(self.labels[indices]))


def pictures(folder: Path | None, names: Sequence[str]) -> list[Pictures]:
    """The npz files ``names`` in ``folder`` (all, if no names are given); without a folder, scikit-learn's digits."""
    if folder is None:
        return [digits()]
    return [read(folder / f"{name}.npz") for name in names or sorted(path.stem for path in folder.glob("*.npz"))]


def read(path: Path) -> Pictures:
    """An npz file with images, labels, split and classes."""
    with np.load(path) as file:
        classes = tuple(str(name) for name in file["classes"])
        return Pictures(path.stem, file["images"], file["labels"].astype(np.int64), file["split"], classes)


def digits() -> Pictures:
    """scikit-learn's 1797 scans of 8 x 8 pixels, 898 of them to train on; gray."""
    train, test = demo.digits(8)
    images = torch.cat([train.images, test.images])
    gray = ((images * demo.STD + demo.MEAN) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    split = np.repeat([0, 1], [len(train), len(test)])
    return Pictures("digits", gray, torch.cat([train.labels, test.labels]).numpy(), split, tuple(train.classes))


@dataclass(frozen=True)
class Backbone:
    """A timm model with the weights of a safetensors file, or the demo's EfficientNet-Lite0."""

    name: str = demo.BACKBONE
    weights: Path | None = None

    def build(self, size: int) -> nn.Module:
        """A fresh model for images of this size; where the file says how its inputs are normalised, the model says so too."""
        if self.weights is None:
            return demo.lite0()
        config = timm.get_pretrained_cfg(self.name)
        args: dict[str, Any] = {"img_size": size} if config and config.fixed_input_size else {}
        found = {"file": str(self.weights), **_normalisation(self.weights)}
        return timm.create_model(self.name, pretrained=True, pretrained_cfg_overlay=found, **args)


def backbones(files: Sequence[Path]) -> list[Backbone]:
    """One per weights file, whose name (or metadata ``timm_model``) is timm's name; ``demo``, or without files, the demo's."""
    return [_backbone(path) for path in files or [DEMO]]


def _backbone(path: Path) -> Backbone:
    return Backbone() if path == DEMO else Backbone(_metadata(path).get("timm_model", path.stem), path)


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _normalisation(path: Path) -> dict[str, tuple[float, ...]]:
    found = {key: text for key, text in _metadata(path).items() if key in ("mean", "std")}
    return {key: tuple(float(part) for part in text.split(",")) for key, text in found.items()}
