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
    """Returns item ``index``, or the next one of this very dataset that can be read; if there is none, raises the first error."""
    with raising_bad_files():
        for step in range(RETRIES):
            with contextlib.suppress(*BAD_FILE):
                return dataset[(index + step) % len(dataset)]
        return dataset[index]


class MarkedUnreadable(DatasetWrapper):
    """A dataset in which an image that can't be read is an image of zeros with a target that counts nowhere (`left_out`)."""

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
                return placeholder(self._pipeline, self._another_target(index))

    def _another_target(self, index: int) -> Any:
        """Returns the target of another image, which shows the kind of this one; a class number where none can be read."""
        with contextlib.suppress(*BAD_FILE):
            return first_readable(self.dataset, (index + 1) % len(self))[1]
        return 0

    @property
    def classes(self) -> list[str] | None:
        return dataset_classes(self.dataset)


@contextlib.contextmanager
def marking_unreadable(*data: Any) -> Iterator[None]:
    """Inside, petl's datasets in DataLoaders of the user's mark images that can't be read, see `Images`.

    Datasets outside of a DataLoader aren't changed: `petl.data.loader` wraps those.
    """
    datasets = [
        dataset for each in data if _is_loader(each) for dataset in petl_datasets(getattr(each, "dataset", None))
    ]
    images = [dataset for dataset in datasets if isinstance(dataset, Images)]
    before = [dataset.marks for dataset in images]
    for dataset in images:
        dataset.marks = True
    try:
        yield
    finally:
        for dataset, marks in zip(images, before, strict=True):
            dataset.marks = marks


def _is_loader(data: Any) -> bool:
    return isinstance(data, DataLoader) or isinstance(getattr(data, "loader", None), DataLoader)  # timm's hold one
