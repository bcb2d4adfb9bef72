"""A dataset of features: what `FeatureSource` computed, in place of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from petl.data.pairs import Batch


class FeatureDataset(Dataset[Batch]):
    """The inputs of a net, one [N, ...] per view, and the labels [N]. In epoch e, view e modulo views is the dataset."""

    def __init__(self, views: Sequence[Tensor], targets: Tensor):
        self.views, self.targets, self.view = views, targets, 0

    def __len__(self) -> int:
        return len(self.targets)

    def set_epoch(self, epoch: int) -> None:
        self.view = epoch % len(self.views)

    def __getitem__(self, key: Any) -> Batch:
        index = key[0] if isinstance(key, tuple) else key
        return self.views[self.view][index], self.targets[index]

    def __getitems__(self, keys: Sequence[Any]) -> Batch:
        """A whole batch in one go; the keys may be a Shuffle's (index, seed)."""
        return self[[key[0] if isinstance(key, tuple) else key for key in keys]]


def whole_batch(batch: Any) -> Any:
    return batch
