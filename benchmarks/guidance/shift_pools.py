"""Features of training and test images, and of the same test images blurred, for benchmarks.guidance.shift."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import petl
from benchmarks.transfer.data import Pictures, digits, read
from petl import demo

SIDE, TRAIN, TEST = 96, 1000, 1200


@dataclasses.dataclass(frozen=True)
class Pool:
    """Features and classes of training images, of test images, and of the same test images blurred."""

    train: Tensor
    train_y: Tensor
    test: Tensor
    blurred: Tensor
    test_y: Tensor
    classes: int


def backbone(words: str) -> tuple[nn.Module, float, float]:
    """A network without classifier, and the mean and deviation that it takes; "lite0" is the demo's."""
    import timm

    if words == "lite0":
        net = demo.lite0()
        net.reset_classifier(0)  # type: ignore[operator]
        return net.eval(), 0.5, 0.5
    name, _, file = words.partition(":")
    return timm.create_model(name, num_classes=0, checkpoint_path=file).eval(), 0.449, 0.226


def small_images(pictures: Pictures, rows: np.ndarray, *, blur: bool, mean: float, deviation: float) -> Tensor:
    x = torch.from_numpy(pictures.images[rows]).permute(0, 3, 1, 2).float() / 255
    x = x.expand(-1, 3, -1, -1)
    if blur and pictures.name == "digits":
        x = F.interpolate(x, 28, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    if blur:
        x = (F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1) - 0.5) * 0.8 + 0.5
    x = F.interpolate(x, SIDE, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return (x - mean) / deviation


def sets(folder: Path | None, names: list[str]) -> list[Pictures]:
    """The npz files of these names, and scikit-learn's digits.

    "digits" are blurred at 28 pixels as the others are, "digits8" at their own 8, where little is left of them.
    """
    own = {"digits": digits(), "digits8": dataclasses.replace(digits(), name="digits8")}
    return [own.get(name) or read((folder or Path()) / f"{name}.npz") for name in names]


def kept_pool(pictures: Pictures, words: str, folder: Path | None) -> Pool:
    """The features, computed once where there is a folder to keep them in."""
    path = folder / f"{pictures.name}-{words.partition(':')[0]}.pt" if folder else None
    if path is not None and path.exists():
        return Pool(**torch.load(path))
    found = pool(pictures, words)
    if path is not None:
        torch.save(vars(found), path)
    return found


def pool(pictures: Pictures, words: str) -> Pool:
    net, mean, deviation = backbone(words)
    chance = np.random.default_rng(0)
    train = chance.permutation(np.flatnonzero(pictures.split == 0))[:TRAIN]
    test = chance.permutation(np.flatnonzero(pictures.split == 1))[:TEST]
    tables = []
    for rows, blur in ((train, False), (test, False), (test, True)):
        x = small_images(pictures, rows, blur=blur, mean=mean, deviation=deviation)
        y = torch.from_numpy(pictures.labels[rows])
        data = torch.utils.data.TensorDataset(x, y)
        tables.append(petl.features(net, data, head=False, cache=False, progress=False).x)
    labels = [torch.from_numpy(pictures.labels[rows]) for rows in (train, test)]
    return Pool(tables[0], labels[0], tables[1], tables[2], labels[1], len(pictures.classes))
