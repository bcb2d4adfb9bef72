"""From folders, datasets or loaders to batches that the model can take, or one clear error before training starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from petl import data as images
from petl.data.batches import Marked, readable
from petl.data.datasets import LEFT_OUT, Stream
from petl.data.loaders import Batches, Keys, Loader, Picked, Streamed, as_tensor, described, first_of, is_batch, picked
from petl.data.logits import logits, returned
from petl.data.origins import class_names, refuse_one_class, refuse_other_numbers
from petl.errors import DataError, PetlError, listing
from petl.graft.values import input_dtype
from petl.wrapping.modes import in_eval
from petl.wrapping.wrap import in_chans

Data = str | Path | Dataset[Any] | DataLoader[Any] | Iterable[Any]
Batch = tuple[Tensor, Tensor]


def feed(
    data: Data,
    model: nn.Module,
    *,
    training: bool = False,
    classes: Any = None,
    keys: Keys | None = None,
    strict: bool = False,
    **options: Any,
) -> Loader:
    """Batches from a folder (with the model's own pipeline), a dataset of pairs, or a loader of any make as it is.

    Files that can't be read are left out, see `petl.data.sift`; of a DataLoader they are marked when they are read.

    Raises:
        DataError: it is something else, there is nothing in it, or one class alone to train on; its classes are known by other
            numbers than in ``classes``; or, with ``strict``, some files can't be read.
    """
    if isinstance(data, (str, Path)):
        data, keys = folder(data, model, training=training, classes=classes), None
    made = as_it_is(data, keys)
    if training or hasattr(data, "__len__"):
        _refuse_empty(data)
    dataset = data if made is None else made.dataset
    refuse_other_numbers(dataset, classes)
    if training:
        refuse_one_class(dataset)
    if made is not None:
        if strict:
            images.sift(dataset, strict=True)
        return made
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        stream = data if isinstance(data, IterableDataset) and not keys else Streamed(data, keys)  # type: ignore[arg-type]  # as_it_is looked
        return images.loader(stream, training=training, **options)
    kept, _ = images.sift(data, training=training, strict=strict)
    chosen: Any = Picked(kept, keys) if keys else kept
    return images.loader(chosen, training=training, **options)


def as_it_is(data: Any, keys: Keys | None) -> DataLoader[Any] | Batches | None:
    """A loader that makes its own batches; None for single images, which petl puts into batches.

    Raises:
        DataError: it is neither, or can be read only once.
    """
    if isinstance(data, DataLoader):
        return Batches(data, keys) if keys else data
    if isinstance(data, (list, tuple)):
        return Batches(data, keys) if data and is_batch(data[0], keys) else None
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
    return Batches(data, keys, first=first) if is_batch(first, keys) else None


def _is_map(data: Any) -> bool:
    """Whether items are asked for by number, as of a dataset of Hugging Face; torch's streams inherit a method for that."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, IterableDataset)


def folder(path: str | Path, model: nn.Module, *, training: bool, classes: Any) -> Dataset[Any]:
    """The images in a folder: to train on its ``train``, else its ``val`` or ``test``; where it has no splits, all of it."""
    split = "train" if training else images.held_out(path) or "."
    return images.dataset(path, images.pipeline(model), split=split, training=training, classes=classes)


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
    if isinstance(data, DataLoader) and len(data.dataset):  # type: ignore[arg-type]  # it has a length like its loader
        raise DataError(
            f"the DataLoader gives no batch: its dataset has {len(data.dataset)} images, fewer than one batch "  # type: ignore[arg-type]
            f"of {data.batch_size}, and drop_last is set"
        )
    raise DataError("the dataset is empty; expected at least one pair of image and label")


def classes_of(loader: Loader) -> list[str] | None:
    """The class names that the data brings, if it does."""
    return class_names(loader.dataset)


def sample(loader: Loader) -> Any:
    """A batch of one: nothing but the first image (that can be) is read, no worker starts. Of other loaders the first batch."""
    if isinstance(loader, Batches):
        return loader.sample()
    if isinstance(loader.dataset, IterableDataset) or loader.collate_fn is None:
        return first_of(loader)
    first = next(iter(loader.sampler))
    dataset: Any = loader.dataset  # a Marked one would hide what is wrong with all images
    return _collated(loader, readable(dataset.dataset, first) if isinstance(dataset, Marked) else dataset[first])


def _collated(loader: DataLoader[Any], item: Any) -> Any:
    collate: Any = loader.collate_fn
    try:
        return collate(item if loader.batch_size is None and loader.batch_sampler is None else [item])
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the dataset's items can't be put into a batch: {described(item)} ({str(error).splitlines()[0]}); expected pairs "
            "(image tensor [C, H, W], class number); keys= names the two parts of a dict or a longer tuple"
        ) from error


def first_look(accelerator: Any, model: nn.Module, loader: Loader, labels: Sequence[str] | None) -> int:
    """Try one image; the number of classes that the model answers with.

    Raises:
        DataError: batches aren't pairs, the model can't take the image, it has no classes, or another number than labels.
    """
    images, _ = pair(sample(loader), model)
    _refuse_channels(model, images)
    with in_eval(model), torch.no_grad(), accelerator.autocast():
        output = answered(model, images.to(accelerator.device))
    answer = logits(output)
    if answer is None or answer.ndim != 2 or not answer.shape[1]:
        raise DataError(
            f"the model answers {len(images)} image with {returned(output if answer is None else answer)}; expected "
            f"[{len(images)}, classes]: a model with a classifier"
        )
    if labels is not None and len(labels) != answer.shape[1]:
        raise DataError(
            f"{len(labels)} labels ({listing(labels)}) for a model of {answer.shape[1]} classes; "
            f"wrap it with num_classes={len(labels)}"
        )
    return answer.shape[1]


def _refuse_channels(model: nn.Module, images: Tensor) -> None:
    expected = _channels(model)
    if expected is not None and images.ndim == 4 and images.shape[1] != expected:
        raise DataError(
            f"the images have {images.shape[1]} channels, the model takes {expected}; convert the images, or adapt the "
            f"model: petl.wrap(model, [petl.Input(in_chans={images.shape[1]}), 'lora'])"
        )


def answered(model: nn.Module, images: Tensor) -> Any:
    """What the model returns; a DataError where it can't take the images."""
    try:
        return model(images)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"{type(model).__name__} can't take images of shape {tuple(images.shape)} and type {images.dtype} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); petl.data.pipeline(model) says what "
            "it expects"
        ) from error


def _channels(model: nn.Module) -> int | None:
    """The channels that the model takes, where petl can tell."""
    try:
        return in_chans(model)
    except PetlError:
        return None


def pair(batch: Any, model: nn.Module, classes: int | None = None) -> Batch:
    """Images and class numbers of a batch, in the types that model and loss want.

    Raises:
        DataError: it is no such pair, or a class number is none of the model's.
    """
    batch = picked(batch, None)
    parts = [as_tensor(part) for part in batch] if isinstance(batch, (tuple, list)) and len(batch) == 2 else []
    if len(parts) != 2 or parts[0] is None or parts[1] is None:
        raise DataError(
            f"got a batch of type {described(batch)}; expected pairs (images [N, C, H, W], labels [N]){_hint(batch)}"
        )
    images, targets = parts[0], parts[1]
    if targets.ndim == 2 and targets.shape[1] == 1:  # as DALI and FFCV have them
        targets = targets[:, 0]
    if targets.ndim != 1 or targets.is_floating_point() or targets.dtype == torch.bool or len(targets) != len(images):
        raise DataError(
            f"got labels of shape {tuple(targets.shape)} and {targets.dtype} for {len(images)} images; expected class numbers [N]"
        )
    known = targets[targets != LEFT_OUT]  # images that couldn't be read
    if classes is not None and len(known) and not 0 <= int(known.min()) <= int(known.max()) < classes:
        raise no_class(int(known.max()) if int(known.max()) >= classes else int(known.min()), classes)
    images = images.to(input_dtype(model)) if images.is_floating_point() else images
    return images, targets.to(images.device).long()


def no_class(number: int, classes: int) -> DataError:
    """What to say of a class number that is none of the model's."""
    return DataError(
        f"label {number} for a model of {classes} classes (0 to {classes - 1}); wrap it with num_classes= the number "
        "of classes, and number these from 0"
    )


def _hint(batch: Any) -> str:
    """How to say which parts are meant: the images have four axes, class numbers have one."""
    named = isinstance(batch, Mapping)
    if not named and not (isinstance(batch, (tuple, list)) and len(batch) > 2):
        return ""
    parts = {key: as_tensor(part) for key, part in (batch.items() if named else enumerate(batch))}
    found = {key: part for key, part in parts.items() if part is not None}
    images = next((key for key, part in found.items() if part.ndim == 4), None)
    labels = next((key for key, part in found.items() if part.ndim == 1 and not part.is_floating_point()), None)
    if images is None or labels is None:
        return "; name the two parts, such as keys=('image', 'label')" if named else ""
    return f"; name the two parts: keys=({images!r}, {labels!r})"


def windows(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of ``size`` batches, the last one perhaps shorter."""
    window: list[Batch] = []
    for batch in batches:
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window
