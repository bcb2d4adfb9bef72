"""A dataset of features, to be trained on in place of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from petl.data.pairs import Batch


class FeatureDataset(Dataset[Batch]):
    """Pairs of features and label: features [N, ...] for each view, labels [N]. Epoch e has view e modulo the number of views."""

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
        """Returns a whole batch at once; the keys are numbers, or a Shuffle's (index, seed)."""
        return self[[key[0] if isinstance(key, tuple) else key for key in keys]]


def whole_batch(batch: Any) -> Any:
    """Collates nothing: leaves the batch as `FeatureDataset` returned it."""
    return batch
