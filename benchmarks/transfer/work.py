"""What each row of the table is given: epochs and images, one backbone on one data set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

import petl
from benchmarks.transfer.data import Backbone, Pictures
from benchmarks.transfer.rows import Row


@dataclass(frozen=True)
class Plan:
    """How much work each line of the table gets."""

    epochs: int = 4
    batch_size: int = 16
    train: int = 1000
    test: int = 1000
    search_epochs: int = 2
    search_train: int = 256
    search_test: int = 160
    threads: int = 1
    precision: str = "no"


@dataclass(frozen=True)
class Task:
    """One backbone on one data set."""

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

    def model(self, row: Row) -> nn.Module:
        """The backbone with the row's method on it; the same seed gives every row the same new classifier."""
        base = self.backbone.build()
        torch.manual_seed(self.seed)
        return row.apply(base, self.classes)

    @cached_property
    def key(self) -> dict[str, Any]:
        return {"backbone": self.backbone.name, "data": self.pictures.name, "seed": self.seed}

    @cached_property
    def kept(self) -> dict[tuple[int, int], TensorDataset]:
        """Images by (split, channels), so that they are enlarged once."""
        return {}

    def images(self, model: nn.Module, split: int) -> TensorDataset:
        place = (split, petl.in_chans(model))
        if place not in self.kept:
            chosen = self.pictures.chosen(split, (self.plan.train, self.plan.test)[split], seed=0)
            self.kept[place] = self.pictures.tensors(chosen, self.backbone.pipeline(model))
        return self.kept[place]
