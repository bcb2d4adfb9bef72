"""Small adapted models to train, and what their histories hold."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import petl
from tests.support.data import CLASSES, SIZE, pairs


def adapted(methods: Any = "bn", name: str = "test_resnet", **options: Any) -> nn.Module:
    """The same model each time."""
    torch.manual_seed(3)
    size = {"img_size": SIZE} if name == "test_vit" else {}
    return petl.wrap(timm.create_model(name, **size), methods, num_classes=CLASSES, **options)


def without_time(history: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history.rows]


def initial_logits(model: nn.Module, data: TensorDataset) -> Tensor:
    with torch.no_grad():
        return model.eval()(data.tensors[0])


LOOKS = 2  # items that fit reads before it trains: one shows what the data is, and one is tried in the model


class Breaking(Dataset):
    """Raises, or gives NaN, after so many images."""

    def __init__(self, after: int, what: type[BaseException] | float):
        self.data, self.left, self.what = pairs(16), after, what

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.left -= 1
        image, target = self.data[index]
        if self.left >= 0:
            return image, target
        if isinstance(self.what, float):
            return image * self.what, target
        raise self.what
