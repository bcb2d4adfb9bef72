"""Turns folders, datasets and loaders into batches for the model, or raises one clear error before training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from petl import data as images
from petl.data.class_labels import dataset_classes, refuse_one_class, refuse_other_numbers
from petl.data.loaders import KeyedDataset, KeyedStream, Loader, PairLoader
from petl.data.pairs import Keys, is_batch
from petl.data.sampling import Sampling, kept_weights
from petl.data.streams import Stream
from petl.errors import DataError

Data = str | Path | Dataset[Any] | DataLoader[Any] | Iterable[Any]


def as_loader(
    data: Data,
    model: nn.Module,
    *,
    training: bool = False,
    classes: Any = None,
    keys: Keys | None = None,
    strict: bool = False,
    transform: Callable[..., Any] | None = None,
    sampling: Sampling = None,
    **options: Any,
) -> Loader:
    """Returns a loader for a folder (with the model's own pipeline) or a dataset of pairs; a loader is used as it is.

    ``transform`` is for a folder; a dataset has its own. ``sampling`` draws training images, see `petl.data.loader`.

    Files that can't be read are left out, see `petl.data.sift`; those of a DataLoader are marked when they are read.

    Raises:
        DataError: the data is none of these, it is empty, or has only one class to train on; its classes have other numbers than
            in ``classes``; or, with ``strict``, some files can't be read.
    """
    if isinstance(data, (str, Path)):
        data, keys = folder_dataset(data, model, training=training, classes=classes, transform=transform), None
    elif transform is not None:
        raise _no_folder_error(data)
    ready = ready_batches(data, keys)
    if training or hasattr(data, "__len__"):
        _refuse_empty(data)
    dataset = data if ready is None else ready.dataset
    refuse_other_numbers(dataset, classes)
    if training:
        refuse_one_class(dataset)
    if ready is not None:
        if sampling is not None:
            raise _own_order_error(data)
        if strict:
            images.sift(dataset, strict=True)
        return ready
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        stream = data if isinstance(data, IterableDataset) and not keys else KeyedStream(data, keys)  # type: ignore[arg-type]  # ready_batches has made sure of it
        return images.loader(stream, training=training, sampling=sampling, **options)
    kept, _ = images.sift(data, training=training, strict=strict)
    pairs: Any = KeyedDataset(kept, keys) if keys else kept
    return images.loader(pairs, training=training, sampling=kept_weights(sampling, data, kept), **options)


def _no_folder_error(data: Any) -> DataError:
    return DataError(
        f"transform= is for a folder, and the data is a {type(data).__name__}, which has its own; make the dataset with it: "
        "petl.data.dataset(folder, petl.data.pipeline(model), transform=transform)"
    )


def _own_order_error(data: Any) -> DataError:
    return DataError(
        f"sampling= with a {type(data).__name__}, whose order is its own; pass its dataset, and batch_size= and workers="
    )


def ready_batches(data: Any, keys: Keys | None) -> DataLoader[Any] | PairLoader | None:
    """Returns a loader for data that comes in batches; None for single images, which petl puts into batches.

    Raises:
        DataError: the data is neither, or can be read only once.
    """
    if isinstance(data, DataLoader):
        return PairLoader(data, keys) if keys else data
    if isinstance(data, (list, tuple)):
        return PairLoader(data, keys) if data and is_batch(data[0], keys) else None
    if isinstance(data, Stream) or (isinstance(data, Dataset) and not isinstance(data, IterableDataset)):
        return None
    if isinstance(data, (Mapping, nn.Module, type)) or not (hasattr(data, "__getitem__") or hasattr(data, "__iter__")):
        raise DataError(
            f"got data of type {type(data).__name__}; expected a folder, a Dataset of pairs, or a DataLoader (or another "
            "iterable of batches)"
        )
    if not hasattr(data, "__iter__") or _is_map(data):
        return None
    if isinstance(data, Iterator):
        raise DataError(
            f"{type(data).__name__} can be read once only; pass what it was made from, which every epoch reads anew"
        )
    first = next(iter(data), None)
    return PairLoader(data, keys, first=first) if is_batch(first, keys) else None


def _is_map(data: Any) -> bool:
    """Returns whether items are read by number, as of Hugging Face's datasets. torch's streams only inherit ``__getitem__``."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, IterableDataset)


def folder_dataset(
    path: str | Path,
    model: nn.Module,
    *,
    training: bool,
    classes: Any,
    transform: Callable[..., Any] | None = None,
) -> Dataset[Any]:
    """Returns the images in a folder: its ``train`` split for training, else its ``val`` or ``test``; all if it has no splits."""
    split = "train" if training else images.held_out(path) or "."
    options: Any = {"training": training, "classes": classes, "transform": transform}
    return images.dataset(path, images.pipeline(model), split=split, **options)


def _refuse_empty(data: Any) -> None:
    try:
        count = len(data)
    except TypeError:
        raise DataError(
            f"{type(data).__name__} has no length, which the schedule needs; give it a __len__, such as the number of images in "
            "the stream, or of batches where it makes its own (webdataset: .with_length(n))"
        ) from None
    if count:
        return
    if isinstance(data, DataLoader) and len(data.dataset):  # type: ignore[arg-type]  # has a length, as its loader has one
        raise DataError(
            f"the DataLoader gives no batch: its dataset has {len(data.dataset)} images, fewer than one batch "  # type: ignore[arg-type]
            f"of {data.batch_size}, and drop_last is set"
        )
    raise DataError("the dataset is empty; expected at least one pair of image and label")


def loader_classes(loader: Loader) -> list[str] | None:
    """Returns the class names of the loader's dataset, or None where it has none."""
    return dataset_classes(loader.dataset)
