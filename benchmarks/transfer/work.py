"""What each row of the table is given: images, epochs and precision, one backbone on one data set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import petl
from benchmarks.transfer.data import Backbone, Pictures
from benchmarks.transfer.rows import Row

RAW_SIDE = 32  # pixels


@dataclass(frozen=True)
class Plan:
    """How much work each line of the table gets; ``epochs=0`` is petl's default."""

    epochs: int = 0
    train: int = 300
    test: int = 1000
    size: int = 64
    threads: int = 1
    precision: str = "no"

    def settings(self, row: Row) -> dict[str, Any]:
        """The arguments of `petl.fit` that aren't its defaults: rates, start, clipping and warm-up are."""
        epochs = {"epochs": self.epochs} if self.epochs and not row.closed else {}
        return {**epochs, "precision": self.precision}


@dataclass(frozen=True)
class Task:
    """One backbone on one data set, with the training images of one seed."""

    backbone: Backbone
    pictures: Pictures
    plan: Plan
    seed: int

    @property
    def classes(self) -> int:
        return len(self.pictures.classes)

    @property
    def gray(self) -> bool:
        return self.pictures.images.shape[-1] == 1

    def base(self) -> nn.Module:
        return self.backbone.build(self.plan.size)

    @cached_property
    def key(self) -> dict[str, Any]:
        return {"backbone": self.backbone.name, "data": self.pictures.name, "seed": self.seed}

    @cached_property
    def kept(self) -> dict[tuple[int, int], TensorDataset]:
        """Images by (split, channels), so that they are enlarged once."""
        return {}

    def images(self, model: nn.Module, split: int) -> TensorDataset:
        """Images [n, k, S, S] as the model takes them, with their labels [n]."""
        place = (split, petl.in_chans(model))
        if place not in self.kept:
            pipeline = petl.data.pipeline(model, size=self.plan.size)
            self.kept[place] = self.pictures.tensors(self.chosen(split), pipeline)
        return self.kept[place]

    def pixels(self, split: int) -> tuple[Tensor, Tensor]:
        """The same images as rows of 32 x 32 pixels for each channel they have, and their labels."""
        channels = self.pictures.images.shape[-1]
        plain = {"input_size": (channels, RAW_SIDE, RAW_SIDE), "mean": (0.0,) * channels, "std": (1.0,) * channels}
        images, labels = self.pictures.tensors(self.chosen(split), plain).tensors
        return torch.flatten(images, 1), labels

    def chosen(self, split: int) -> Any:
        """Indices of the images: those to train on are drawn by the seed, those to test on are always the same."""
        count, seed = (self.plan.train, self.seed) if split == 0 else (self.plan.test, 0)
        return self.pictures.chosen(split, count, seed)
