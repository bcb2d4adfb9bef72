"""Tiny models and images for advice, with a known answer by construction."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import petl
from benchmarks.guidance.synthetic_tasks import TASKS

SIDE = 64


def net(name: str = "test_resnet", seed: int = 5) -> nn.Module:
    """A model with the same random weights at every call, which stand for pretrained ones."""
    torch.manual_seed(seed)
    size: dict[str, Any] = {"img_size": SIDE} if "vit" in name else {}
    return timm.create_model(name, **size).eval()


def task(name: str, model: nn.Module, images: int = 80, seed: int = 0) -> TensorDataset:
    """A synthetic task as the model reads it."""
    return TASKS[name](images=images, seed=seed).tensors(petl.data.pipeline(model, size=SIDE))


def read_by(model: nn.Module, images: int = 120, component: int = 7) -> TensorDataset:
    """Images with the two classes that the model's features tell apart: the sides of one of their principal axes."""
    pictures: Tensor = task("textures", model, images).tensors[0]
    x = petl.features(model, TensorDataset(pictures), progress=False).x.double()
    centred = x - x.mean(0)
    along = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[component]
    return TensorDataset(pictures, (along > along.median()).long())
