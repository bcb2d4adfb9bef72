"""From folders, datasets or loaders to batches that the model can take, or one clear error before training starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from petl import data as images
from petl.batches import Marked, readable
from petl.datasets import LEFT_OUT
from petl.errors import DataError, PetlError
from petl.graft import seen_dtype
from petl.launch import in_eval
from petl.origins import Around, class_names, class_numbers, refuse_one_class, refuse_other_numbers
from petl.wrap import in_chans

Data = str | Path | Dataset[Any] | DataLoader[Any]
Batch = tuple[Tensor, Tensor]


def feed(
    data: Data,
    model: nn.Module,
    *,
    training: bool = False,
    classes: Any = None,
    strict: bool = False,
    **options: Any,
) -> DataLoader[Any]:
    """Batches from a folder (with the model's own pipeline), a dataset of pairs, or a DataLoader as it is.

    Files that can't be read are left out, see `petl.data.sift`; of a DataLoader they are marked when they are read.

    Raises:
        DataError: it is something else, there is nothing in it, or one class alone to train on; its classes are known by other
            numbers than in ``classes``; or, with ``strict``, some files can't be read.
    """
    if isinstance(data, (str, Path)):
        data = folder(data, model, training=training, classes=classes)
    if not isinstance(data, (DataLoader, Dataset)) and not hasattr(data, "__getitem__"):
        raise DataError(
            f"got data of type {type(data).__name__}; expected a folder, a Dataset of pairs, or a DataLoader"
        )
    if training or hasattr(data, "__len__"):
        _refuse_empty(data)
    dataset = data.dataset if isinstance(data, DataLoader) else data
    refuse_other_numbers(dataset, classes)
    if training:
        refuse_one_class(dataset)
    if isinstance(data, DataLoader):
        if strict:
            images.sift(dataset, strict=True)
        return data
    kept, _ = images.sift(data, training=training, strict=strict)
    return images.loader(kept, training=training, **options)


def folder(path: str | Path, model: nn.Module, *, training: bool, classes: Any) -> Dataset[Any]:
    """The images in a folder: to train on its ``train``, else its ``val`` or ``test``; where it has no splits, all of it."""
    split = "train" if training else images.held_out(path) or "."
    return images.dataset(path, images.pipeline(model), split=split, training=training, classes=classes)


def _refuse_empty(data: Any) -> None:
    try:
        count = len(data)
    except TypeError:
        raise DataError(
            f"{type(data).__name__} has no length, which the schedule needs; give it a __len__, "
            "such as the number of images in the stream"
        ) from None
    if count:
        return
    if isinstance(data, DataLoader) and len(data.dataset):  # type: ignore[arg-type]  # it has a length like its loader
        raise DataError(
            f"the DataLoader gives no batch: its dataset has {len(data.dataset)} images, fewer than one batch "  # type: ignore[arg-type]
            f"of {data.batch_size}, and drop_last is set"
        )
    raise DataError("the dataset is empty; expected at least one pair of image and label")


def classes_of(loader: DataLoader[Any]) -> list[str] | None:
    """The class names that the data brings, if it does."""
    return class_names(loader.dataset)


def sample(loader: DataLoader[Any]) -> Any:
    """A batch of one: nothing but the first image (that can be) is read, no worker starts."""
    if isinstance(loader.dataset, IterableDataset) or loader.collate_fn is None:
        return next(iter(loader))
    first = next(iter(loader.sampler))
    dataset = loader.dataset
    if isinstance(dataset, Marked):  # it would hide what is wrong with all images
        return loader.collate_fn([readable(dataset.dataset, first)])
    return loader.collate_fn([dataset[first]])


def first_look(accelerator: Any, model: nn.Module, loader: DataLoader[Any], labels: Sequence[str] | None) -> int:
    """Try one image; the number of classes that the model answers with.

    Raises:
        DataError: batches aren't pairs, the model can't take the image, it has no classes, or another number than labels.
    """
    images, _ = pair(sample(loader), model)
    expected = _channels(model)
    if expected is not None and images.ndim == 4 and images.shape[1] != expected:
        raise DataError(
            f"the images have {images.shape[1]} channels, the model takes {expected}; convert the images, or adapt the "
            f"model: petl.wrap(model, ['input', ...], in_chans={images.shape[1]})"
        )
    with in_eval(model), torch.no_grad(), accelerator.autocast():
        answer = _answer(model, images.to(accelerator.device))
    if not isinstance(answer, Tensor) or answer.ndim != 2 or not answer.shape[1]:
        shown = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise DataError(
            f"the model answers with {shown} for one image; expected [1, classes]: a model with a classifier"
        )
    if labels is not None and len(labels) != answer.shape[1]:
        raise DataError(
            f"{len(labels)} labels ({', '.join(labels[:5])} ...) for a model of {answer.shape[1]} classes; "
            f"wrap it with num_classes={len(labels)}"
        )
    return answer.shape[1]


def _answer(model: nn.Module, images: Tensor) -> Any:
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
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(part, Tensor) for part in batch):
        raise DataError(f"got a batch of type {_shown(batch)}; expected pairs (images [N, C, H, W], labels [N])")
    images, targets = batch
    if targets.ndim != 1 or targets.is_floating_point():
        raise DataError(f"got labels of shape {tuple(targets.shape)} and {targets.dtype}; expected class numbers [N]")
    known = targets[targets != LEFT_OUT]  # images that couldn't be read
    if classes is not None and len(known) and not 0 <= int(known.min()) <= int(known.max()) < classes:
        wrong = int(known.max()) if int(known.max()) >= classes else int(known.min())
        raise DataError(
            f"label {wrong} for a model of {classes} classes (0 to {classes - 1}); wrap it with num_classes= the number "
            "of classes, and number these from 0"
        )
    return images.to(seen_dtype(model)) if images.is_floating_point() else images, targets.long()


def _shown(batch: Any) -> str:
    parts = f" of {', '.join(type(part).__name__ for part in batch)}" if isinstance(batch, (tuple, list)) else ""
    return f"{type(batch).__name__}{parts}"


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


def class_weights(wish: Any, loader: DataLoader[Any], classes: int) -> Tensor | None:
    """One weight per class: as given, or for "balanced" images / (classes * images of the class), as scikit-learn has it.

    Where the dataset has no ``targets``, "balanced" reads it once. A class without images gets weight 0.
    """
    if wish is None:
        return None
    if isinstance(wish, str):
        if wish != "balanced":
            raise PetlError(f"class_weights={wish!r}; expected 'balanced', or one number per class")
        counts = torch.bincount(_targets(loader), minlength=classes)
        return torch.where(counts > 0, counts.sum() / (classes * counts.clamp(min=1)), 0.0).float()
    weights = torch.as_tensor(wish, dtype=torch.float32)
    if weights.shape != (classes,) or not (weights >= 0).all():
        raise PetlError(f"class_weights of shape {tuple(weights.shape)}; expected {classes} numbers of 0 or more")
    return weights


def _targets(loader: DataLoader[Any]) -> Tensor:
    numbers = class_numbers(loader.dataset)
    if numbers is not None:
        return torch.from_numpy(numbers)
    dataset = loader.dataset.dataset if isinstance(loader.dataset, Around) else loader.dataset
    targets = getattr(dataset, "targets", None)
    if targets is not None and getattr(dataset, "target_transform", None) is None:
        return torch.as_tensor(targets).long()
    return torch.tensor([int(dataset[i][1]) for i in range(len(dataset))])  # type: ignore[arg-type]  # map-style
