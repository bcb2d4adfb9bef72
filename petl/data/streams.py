"""A dataset around a source that is read only forward, such as WebDataset."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset

from petl.data.bad_files import BAD_FILE
from petl.data.source_labels import source_classes
from petl.data.transforms import Augment, make_transform
from petl.errors import DataError

log = logging.getLogger(__name__)


class Stream(IterableDataset[tuple[Tensor, int]]):
    """Pairs of (image [k, H, W], class number) from a reader that only reads forward (WebDataset, hfids, tfds)."""

    def __init__(
        self,
        source: Any,
        pipeline: Mapping[str, Any],
        *,
        training: bool = False,
        classes: Sequence[str] | None = None,
        augment: Augment = None,
        transform: Callable[..., Any] | None = None,
    ):
        self.source, self.pipeline, self.classes = source, dict(pipeline), list(classes or source_classes(source))
        if not self.classes:
            raise DataError("this source doesn't tell its class names; pass classes=[...], in the order of its numbers")
        self.transform = make_transform(pipeline, training, augment, transform)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for number, (raw, target) in enumerate(self.source):
            try:
                image = self.transform(raw)
            except BAD_FILE as error:
                log.warning("skipped image %d of the stream: %s", number, error)
            else:
                yield image, int(target)

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        self.source.set_epoch(epoch)

    def set_loader_cfg(self, num_workers: int) -> None:
        self.source.set_loader_cfg(num_workers=num_workers)
