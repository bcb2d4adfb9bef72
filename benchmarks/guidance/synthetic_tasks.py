"""Six tasks of drawn images with a known right answer about methods: numpy, seeded, a few hundred images of 64 x 64 pixels.

    from benchmarks.guidance.synthetic_tasks import TASKS
    task = TASKS["high_frequency"](images=120, seed=0)      # .images uint8 [N, 64, 64, C], .labels [N], .right, .wrong
    data = task.tensors(petl.data.pipeline(model, size=64))  # pairs (image [C, 64, 64], label), normalised

| task | the label is | what is right |
|---|---|---|
| `high_frequency` | the phase of a checkerboard of single pixels | the first layers: features and small pictures don't have it |
| `colour_opponent` | which of two bands is brighter; their mean is the same | `input` |
| `textures` | the kind of a texture, at 50 images | a probe: the features have it, and pixels don't |
| `shuffled` | drawn at random | nothing is above chance |
| `fixed_place` | the sign of a faint pattern at a fixed place, under a texture | raw pixels: features lose places |
| `sensor` | as `textures`, by a camera of other gains and offsets | norms or `input`: the first layer's statistics are off |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

SIDE = 64  # a multiple of 64: pictures of 32 x 32 and 8 x 8 then average whole tiles of the checkerboard


@dataclass(frozen=True)
class SyntheticTask:
    """Images uint8 [N, side, side, C] with labels int64 [N].

    ``right`` are the names of methods that should do best, ``wrong`` those that can't be better than chance (or than raw pixels);
    "raw" and "probe" are raw pixels and a classifier on the features. ``transfer`` is what advice may say of pretraining.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    transfer: tuple[str, ...]

    def tensors(self, pipeline: Mapping[str, Any]) -> TensorDataset:
        """Pairs (image [C, side, side], label), normalised by a pipeline; one of other channels gives its mean numbers."""
        values = torch.from_numpy(self.images).permute(0, 3, 1, 2).float() / 255
        channels = values.shape[1]
        mean, std = (torch.tensor(pipeline[key]) for key in ("mean", "std"))
        if len(mean) != channels:
            mean, std = (numbers.mean().expand(channels) for numbers in (mean, std))
        return TensorDataset((values - mean.view(-1, 1, 1)) / std.view(-1, 1, 1), torch.from_numpy(self.labels))


def high_frequency(images: int = 120, seed: int = 0, *, side: int = SIDE, strength: float = 10) -> SyntheticTask:
    """The phase of a checkerboard of single pixels, ``strength`` of 255 levels, on smooth coloured clouds."""
    rng = np.random.default_rng([seed, 1])
    labels = _labels(rng, images, 2)
    rows, columns = np.indices((side, side))
    board = np.where((rows + columns) % 2, strength, -strength)[..., None]
    pictures = [_clouds(rng, side) + (board if label else -board) for label in labels]
    return _task(
        "high_frequency", pictures, labels, ("even", "odd"), ("partial", "full"), ("raw", "probe"), ("ambiguous",)
    )


def colour_opponent(images: int = 120, seed: int = 0, *, side: int = SIDE, strength: float = 12) -> SyntheticTask:
    """Which of two bands is brighter. Their mean is what `petl.Input` gives the backbone at first, and has no part of it."""
    rng = np.random.default_rng([seed, 2])
    labels = _labels(rng, images, 2)
    pictures = []
    for label in labels:
        mean, gap = _clouds(rng, side)[..., :1], strength * (1 if label else -1)
        noise = rng.normal(0, 4, (side, side, 1))
        pictures.append(np.concatenate([mean + gap + noise, mean - gap - noise], 2))
    return _task("colour_opponent", pictures, labels, ("second", "first"), ("input",), ("probe",), ("negative",))


def textures(images: int = 50, seed: int = 0, *, side: int = SIDE) -> SyntheticTask:
    """Stripes, dots, squares or clouds, each in two colours of any kind, at any size, turn and place."""
    rng = np.random.default_rng([seed, 3])
    labels = _labels(rng, images, len(KINDS))
    pictures = [_texture(rng, KINDS[label], side) for label in labels]
    return _task("textures", pictures, labels, KINDS, ("probe", "norm"), ("raw",), ("positive",))


def shuffled(images: int = 120, seed: int = 0, *, side: int = SIDE) -> SyntheticTask:
    """Textures whose labels were drawn at random: no method is above chance, and none may be said to be."""
    task = textures(images, seed, side=side)
    labels = np.random.default_rng([seed, 4]).permutation(task.labels)
    wrong = ("raw", "probe", "norm", "lora", "full")
    return replace(task, name="shuffled", labels=labels, right=(), wrong=wrong, transfer=("ambiguous",))


def fixed_place(images: int = 120, seed: int = 0, *, side: int = SIDE, strength: float = 14) -> SyntheticTask:
    """The sign of a faint smooth pattern, the same in all images, under a texture of any kind."""
    rng = np.random.default_rng([seed, 5])
    labels = _labels(rng, images, 2)
    pattern = strength * _smooth(np.random.default_rng(11), side, 4)[..., None]
    pictures = [
        0.4 * (_texture(rng, rng.choice(KINDS), side) - 128) + 128 + (pattern if label else -pattern)
        for label in labels
    ]
    return _task("fixed_place", pictures, labels, ("minus", "plus"), ("raw", "full"), ("probe",), ("negative",))


def sensor(images: int = 120, seed: int = 0, *, side: int = SIDE) -> SyntheticTask:
    """Textures by another camera: the channels have gains of .25, .15 and .1, and offsets of 60, 120 and 200 levels."""
    task = textures(images, seed, side=side)
    gain, offset = np.array([0.25, 0.15, 0.1]), np.array([60.0, 120.0, 200.0])
    changed = (task.images * gain + offset).clip(0, 255).round().astype(np.uint8)
    return replace(
        task, name="sensor", images=changed, right=("norm", "input"), wrong=("raw",), transfer=("positive", "ambiguous")
    )


KINDS = ("stripes", "dots", "squares", "clouds")
TASKS: dict[str, Callable[..., SyntheticTask]] = {
    "high_frequency": high_frequency,
    "colour_opponent": colour_opponent,
    "textures": textures,
    "shuffled": shuffled,
    "fixed_place": fixed_place,
    "sensor": sensor,
}


def _task(
    name: str, pictures: list[np.ndarray], labels: np.ndarray, classes: tuple[str, ...], *known: tuple[str, ...]
) -> SyntheticTask:
    images = np.stack(pictures).clip(0, 255).round().astype(np.uint8)
    return SyntheticTask(name, images, labels, classes, *known)


def _labels(rng: np.random.Generator, images: int, classes: int) -> np.ndarray:
    """Labels as even as they can be, in random order."""
    return rng.permutation(np.arange(images) % classes).astype(np.int64)


def _smooth(rng: np.random.Generator, side: int, coarse: int) -> np.ndarray:
    """Smooth random numbers [side, side] with mean 0 and deviation 1: coarse ones, enlarged."""
    few = torch.from_numpy(rng.normal(size=(1, 1, coarse, coarse)))
    big = torch.nn.functional.interpolate(few, size=(side, side), mode="bicubic", align_corners=True)[0, 0].numpy()
    return (big - big.mean()) / big.std()


def _clouds(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth clouds of colour, [side, side, 3], around the middle of the range."""
    return np.stack([128 + 28 * _smooth(rng, side, 5) for _ in range(3)], 2)


def _texture(rng: np.random.Generator, kind: str, side: int) -> np.ndarray:
    """A texture [side, side, 3] in two colours, with a little noise."""
    turn, period = rng.uniform(0, np.pi), rng.uniform(7, 14)
    rows, columns = np.indices((side, side)) + rng.uniform(0, 100, (2, 1, 1))
    along = (rows * np.cos(turn) + columns * np.sin(turn)) * 2 * np.pi / period
    across = (columns * np.cos(turn) - rows * np.sin(turn)) * 2 * np.pi / period
    if kind == "stripes":
        level = np.sin(along) > 0
    elif kind == "dots":
        level = np.cos(along) + np.cos(across) > 0.9
    elif kind == "squares":
        level = np.sin(along) * np.sin(across) > 0
    else:
        level = _smooth(rng, side, int(side / period) + 1) > 0
    ink, paper = rng.uniform(20, 235, (2, 3))
    if np.abs(ink - paper).max() < 90:
        ink = 255 - paper
    return np.where(level[..., None], ink, paper) + rng.normal(0, 8, (side, side, 3))
