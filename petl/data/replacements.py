"""What takes the place of an image that can't be read: the next image in training, an image of zeros otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from petl.data.bad_files import BAD_FILE, RETRIES, placeholder, raising_bad_files
from petl.data.class_labels import dataset_classes
from petl.data.datasets import Images
from petl.data.wrappers import DatasetWrapper, petl_datasets, pipeline_of


def first_readable(dataset: Any, index: int) -> Any:
    """Item ``index``, or the next one of this very dataset whose file can be read; the error of the first, if there is none."""
    with raising_bad_files():
        for step in range(RETRIES):
            with contextlib.suppress(*BAD_FILE):
                return dataset[(index + step) % len(dataset)]
        return dataset[index]


class MarkedUnreadable(DatasetWrapper):
    """A dataset in which an image that can't be read is one of zeros, with class number `LEFT_OUT`."""

    def __init__(self, dataset: Any):
        super().__init__(dataset)
        self._pipeline = pipeline_of(dataset)

    def __getitem__(self, index: int) -> Any:
        with raising_bad_files():
            try:
                return self.dataset[index]
            except BAD_FILE:
                if self._pipeline is None:
                    raise
                return placeholder(self._pipeline)

    @property
    def classes(self) -> list[str] | None:
        return dataset_classes(self.dataset)


@contextlib.contextmanager
def marking_unreadable(*data: Any) -> Iterator[None]:
    """Inside, petl's datasets in DataLoaders of somebody else's making mark images that can't be read, see `Images`.

    What is no DataLoader is left alone: `loader` sees to those itself.
    """
    loaders = [
        one for one in data if isinstance(one, DataLoader) or isinstance(getattr(one, "loader", None), DataLoader)
    ]
    found = [
        origin
        for one in loaders
        for origin in petl_datasets(getattr(one, "dataset", None))
        if isinstance(origin, Images)
    ]
    before = [origin.marks for origin in found]
    for origin in found:
        origin.marks = True
    try:
        yield
    finally:
        for origin, mark in zip(found, before, strict=True):
            origin.marks = mark
