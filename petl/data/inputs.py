"""Turns folders, datasets and loaders into batches for the model, or raises one clear error before training starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from petl import data as images
from petl.data.class_labels import refuse_one_class
from petl.data.dataset_tasks import dataset_target_names, refuse_other_order
from petl.data.hugging_face import is_hub_dataset
from petl.data.loaders import Loader, PairLoader
from petl.data.pairs import Keys, is_batch
from petl.data.pil_items import first_item, has_pil_image, pairs_of, usual_keys_of
from petl.data.sampling import Sampling, kept_weights
from petl.data.streams import Stream
from petl.data.table_sources import is_image_table
from petl.data.transforms import make_transform
from petl.errors import DataError

Data = str | Path | Dataset[Any] | DataLoader[Any] | Iterable[Any]  # also a DataFrame


def as_loader(
    data: Data,
    model: nn.Module,
    *,
    training: bool = False,
    classes: Any = None,
    keys: Keys | None = None,
    strict: bool = False,
    left_out: dict[str, str] | None = None,
    transform: Callable[..., Any] | None = None,
    sampling: Sampling = None,
    **options: Any,
) -> Loader:
    """Returns a loader for a folder or table (with the model's own pipeline) or a dataset of pairs; a loader is used as it is.

    Files that can't be read are left out, see `petl.data.sift`; those of a DataLoader are marked when they are read. ``left_out``
    takes the files that were left out, and why. ``transform`` is for a folder, a table, or PIL images; another dataset has its
    own. ``sampling`` draws training images, see `petl.data.loader`.

    Raises:
        DataError: the data is none of these, it is empty, or has only one class to train on; its classes have other numbers than
            in ``classes``; or, with ``strict``, some files can't be read.
    """
    if isinstance(data, (str, Path)) or is_image_table(data):
        columns = _columns_of(keys) if is_hub_dataset(data) else {}
        images_of = {"training": training, "classes": classes, "transform": transform}
        data, keys, transform = folder_dataset(data, model, **images_of, **columns), None, None
    first = first_item(data)
    keys = keys or usual_keys_of(first)
    has_pil = has_pil_image(first, keys)
    if transform is not None and not has_pil:
        raise _no_folder_error(data)
    ready = ready_batches(data, keys)
    _refuse_unfit(data, data if ready is None else ready.dataset, classes, training)
    if ready is not None:
        if sampling is not None:
            raise _own_order_error(data)
        if strict:
            images.sift(ready.dataset, strict=True)
        return ready
    own = make_transform(images.pipeline(model), training, None, transform) if has_pil else None
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        return images.loader(pairs_of(data, keys, own), training=training, sampling=sampling, **options)
    kept, bad = images.sift(data, training=training, strict=strict)
    if left_out is not None:
        left_out.update(bad)
    sampling = kept_weights(sampling, data, kept)
    return images.loader(pairs_of(kept, keys, own), training=training, sampling=sampling, **options)


def _refuse_unfit(data: Any, dataset: Any, classes: Any, training: bool) -> None:
    """Raises a DataError for empty data, other classes than ``classes``, and a single class to train on."""
    if training or hasattr(data, "__len__"):
        _refuse_empty(data)
    refuse_other_order(dataset, classes)
    if training:
        refuse_one_class(dataset)


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


def _columns_of(keys: Keys | None) -> dict[str, Any]:
    """Returns the columns of a Hugging Face dataset that ``keys`` names, as options of `petl.data.dataset`."""
    return {} if keys is None else {"columns": dict(zip(("path", "label"), keys, strict=True))}


def folder_dataset(
    path: Any,
    model: nn.Module,
    *,
    training: bool,
    classes: Any,
    transform: Callable[..., Any] | None = None,
    **options: Any,
) -> Dataset[Any]:
    """Returns the images in a folder or table: its ``train`` split for training, else ``val`` or ``test``; all without splits."""
    split = "train" if training else images.held_out(path, **options) or "."
    how: Any = {"split": split, "training": training, "classes": classes, "transform": transform}
    return images.dataset(path, images.pipeline(model), **how, **options)


def _refuse_empty(data: Any) -> None:
    try:
        count = len(data)
    except TypeError:
        raise DataError(
            f"{type(data).__name__} has no length, which petl needs; give it a __len__, such as the number of images in "
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
    """Returns the names of the loader's classes, labels or columns of numbers, or None where its dataset has none."""
    return dataset_target_names(loader.dataset)
