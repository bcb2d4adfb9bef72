"""Batches of images to compute features of: with labels or without, in the data's order, each rank its share of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler, TensorDataset

from petl import data as images
from petl.data.bad_files import LEFT_OUT
from petl.data.datasets import Images
from petl.data.decoding import extensions
from petl.data.hugging_face import is_hub_dataset
from petl.data.inputs import Data, as_loader
from petl.data.loaders import Loader, PairLoader
from petl.data.pairs import Keys, as_tensor, images_and_labels, pick_keys
from petl.data.table_files import is_frame, is_table_file
from petl.data.table_sources import is_image_table
from petl.data.unlabelled import flat_folder, unlabelled_images, unlabelled_table
from petl.data.wrappers import locate
from petl.errors import DataError
from petl.graft.values import input_dtype

PATHS = (str, Path)


@dataclass(frozen=True)
class ImageBatches:
    """A loader of the images, whether it also gives their labels, and the files that were left out, with the reasons."""

    loader: Loader
    labelled: bool
    own_loader: bool  # the user's, which has its own order and batches
    left_out: dict[str, str] = field(default_factory=dict)


def image_batches(
    data: Data, model: nn.Module, *, split: str | None, classes: Sequence[str] | None, keys: Keys | None, **options: Any
) -> ImageBatches:
    """Returns the batches of what `petl.evaluate` takes, and of images without labels.

    The latter are a folder with images and no class folders, a list of files, a tensor, datasets and loaders of images alone.

    Raises:
        DataError: the data is none of these, or empty.
    """
    if split is not None and not isinstance(data, PATHS) and not is_image_table(data):
        raise DataError(
            f"split={split!r} chooses a part of a folder or a table, and the data is a {type(data).__name__}"
        )
    table = keys is None and (is_table_file(data) or is_frame(data) or is_hub_dataset(data))
    alone = unlabelled_table(data, images.pipeline(model), split) if table else None
    source, labelled = (alone, False) if alone is not None else _source(data, model, split, classes)
    if isinstance(source, PairLoader):
        return ImageBatches(source, labelled, own_loader=True)
    left_out: dict[str, str] = {}
    loader = as_loader(source, model, classes=classes, keys=keys, left_out=left_out, **options)
    return ImageBatches(loader, labelled, isinstance(data, DataLoader) or isinstance(loader, PairLoader), left_out)


def _source(data: Any, model: nn.Module, split: str | None, classes: Sequence[str] | None) -> tuple[Any, bool]:
    """Returns the data as ``as_loader`` takes it, and whether it may have labels."""
    if isinstance(data, PATHS):
        single = Path(data).is_file() and Path(data).suffix.lower() in extensions()
        files = ([data] if single else flat_folder(data)) if split is None else None
        if files is not None:
            return unlabelled_images(files, images.pipeline(model)), False
        if split is None:
            return data, True
        return images.dataset(data, images.pipeline(model), split=split, classes=classes), True
    if isinstance(data, (list, tuple)) and data and all(isinstance(file, PATHS) for file in data):
        return unlabelled_images(data, images.pipeline(model)), False
    if split is not None:
        return images.dataset(data, images.pipeline(model), split=split, classes=classes), True
    if isinstance(data, (Tensor, np.ndarray)):
        return _tensor_dataset(torch.as_tensor(data)), False
    first = None if isinstance(data, (Dataset, DataLoader, Iterator, Mapping, nn.Module)) else _first(data)
    return (PairLoader(data, first=first) if isinstance(first, Tensor) and first.ndim == 4 else data), True


def _first(data: Any) -> Any:
    """Returns the first item of a list or another iterable, or None."""
    return next(iter(data), None) if hasattr(data, "__iter__") and not isinstance(data, type) else None


def _tensor_dataset(tensor: Tensor) -> TensorDataset:
    if tensor.ndim != 4:
        raise DataError(f"got a tensor {tuple(tensor.shape)}; expected images [N, C, H, W]")
    return TensorDataset(tensor)


def images_and_any_targets(batch: Any, model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Returns images [N, C, H, W] in the model's type, and their targets: int64 or float32 [N] or [N, k], or None without labels.

    Raises:
        DataError: the batch is neither images nor a pair of images and targets.
    """
    picked = pick_keys(batch, None)
    parts = [picked] if isinstance(picked, (Tensor, np.ndarray)) else picked
    tensors = [as_tensor(part) for part in parts] if isinstance(parts, (list, tuple)) else []
    pictures = tensors[0] if tensors else None
    targets = tensors[1] if len(tensors) == 2 else None
    if pictures is None or pictures.ndim != 4 or (len(tensors) > 1 and not _are_numbers(targets, len(pictures))):
        return _classes(batch, model)  # or the error that says what is wrong
    pictures = pictures.to(input_dtype(model)) if pictures.is_floating_point() else pictures
    if targets is None:
        return pictures, None
    return pictures, targets.long() if _are_whole(targets) else targets.float()


def _classes(batch: Any, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns images and class numbers; a DataError where they are none, or below 0."""
    pictures, targets = images_and_labels(batch, model)
    if (known := targets[targets != LEFT_OUT]).numel() and int(known.min()) < 0:
        raise DataError(f"label {int(known.min())}; expected class numbers from 0 on, or no labels at all")
    return pictures, targets


def _are_numbers(targets: Tensor | None, count: int) -> bool:
    """Returns whether these are number targets or several labels for each image, which are no class numbers [N]."""
    if targets is None or targets.ndim not in (1, 2) or len(targets) != count:
        return False
    return targets.is_floating_point() or (targets.ndim == 2 and targets.shape[1] > 1)


def _are_whole(targets: Tensor) -> bool:
    return not targets.is_floating_point() and targets.dtype != torch.bool


def unreadable_rows(pictures: Tensor, targets: Tensor | None) -> Tensor:
    """Returns for each image [N] whether it stands for one that couldn't be read, by its target (`LEFT_OUT`, or NaN), or has NaN.

    An image whose pixels are NaN or infinite, as those of files of floats may be, has no features.
    """
    broken = ~torch.isfinite(pictures.reshape(len(pictures), -1)).all(1).cpu()
    return broken | _stand_ins(pictures, targets)


def _stand_ins(pictures: Tensor, targets: Tensor | None) -> Tensor:
    if targets is None:
        return torch.zeros(len(pictures), dtype=torch.bool)
    if targets.is_floating_point():
        unknown = targets.reshape(len(targets), -1).isnan().all(1).cpu()
        return unknown & (pictures.reshape(len(pictures), -1) == 0).all(1).cpu() if unknown.any() else unknown
    return (targets == LEFT_OUT).cpu() if targets.ndim == 1 else torch.zeros(len(pictures), dtype=torch.bool)


def share_of_batches(loader: Loader, rank: int, ranks: int) -> Iterable[Any]:
    """Returns every ``ranks``-th batch from number ``rank`` on: with all ranks, each batch once, as it is in one process.

    Only loaders of another library have to share out their images themselves.
    """
    if isinstance(loader, PairLoader):
        return _share_of_others(loader, rank, ranks)
    if ranks == 1 and isinstance(getattr(loader, "sampler", None), SequentialSampler):
        return loader
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return itertools.islice(loader, rank, None, ranks)
    numbers = list(loader.batch_sampler)[rank::ranks]  # drawn in the same way on all ranks, and in one process
    options = {"num_workers": loader.num_workers, "worker_init_fn": loader.worker_init_fn}
    return DataLoader(loader.dataset, batch_sampler=numbers, collate_fn=loader.collate_fn, **options)


def _share_of_others(loader: PairLoader, rank: int, ranks: int) -> Iterable[Any]:
    if isinstance(loader.source, DataLoader):
        return PairLoader(share_of_batches(loader.source, rank, ranks), loader.keys)
    if ranks == 1:
        return loader
    return itertools.islice(loader, rank, None, ranks) if isinstance(loader.source, (list, tuple)) else loader


def file_names(loader: Loader, count: int) -> list[str] | None:
    """Returns the path of each image, or None: the images are no files, or come in an order that isn't known."""
    source = loader.source if isinstance(loader, PairLoader) else loader
    if not isinstance(source, DataLoader) or not isinstance(getattr(source, "sampler", None), SequentialSampler):
        return None
    dataset: Any = source.dataset
    if len(dataset) < count or type(source.batch_sampler) is not torch.utils.data.BatchSampler:
        return None
    names: list[str] = []
    for index in range(count):
        name = _file_name(*locate(dataset, index))
        if name is None:
            return None
        names.append(name)
    return names


def _file_name(dataset: Any, index: int) -> str | None:
    if isinstance(dataset, Images):
        return dataset.filename(index) if hasattr(dataset.source, "filename") else None
    samples = getattr(dataset, "samples", None)  # torchvision's folders
    first = samples[index] if isinstance(samples, Sequence) and index < len(samples) else None
    path = first[0] if isinstance(first, (list, tuple)) and first else first
    return str(path) if isinstance(path, PATHS) else None


def refuse_keys_of_images(keys: Any) -> Keys | None:
    """Returns the names or numbers of the images and perhaps the labels, as a sequence; one name is the images' alone.

    Raises:
        DataError: they can't name one or two parts of a batch.
    """
    if keys is None:
        return None
    named = [keys] if isinstance(keys, (str, int)) else list(keys) if isinstance(keys, Sequence) else []
    good = len(named) in (1, 2) and all(isinstance(k, (str, int)) and not isinstance(k, bool) for k in named)
    if not good or isinstance(keys, (bytes, Mapping)):
        raise DataError(
            f"keys={keys!r}; expected the names or numbers of images and labels, such as ('image', 'label') or (0, 1), or of "
            "the images alone, such as 'image'"
        )
    return tuple(named)
