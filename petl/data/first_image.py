"""Tries one image on the model before anything else is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from petl.data.loaders import Loader, PairLoader, first_batch
from petl.data.logits import describe_output, logits
from petl.data.pairs import describe_batch, images_and_labels
from petl.data.replacements import MarkedUnreadable, first_readable
from petl.errors import DataError, PetlError, listing
from petl.wrapping.modes import in_eval
from petl.wrapping.wrap import in_chans


def one_image(loader: Loader) -> Any:
    """A batch of one: nothing but the first image (that can be) is read, no worker starts. Of other loaders the first batch."""
    if isinstance(loader, PairLoader):
        return loader.sample()
    if isinstance(loader.dataset, IterableDataset) or loader.collate_fn is None:
        return first_batch(loader)
    first = next(iter(loader.sampler))
    dataset: Any = loader.dataset  # a Marked one would hide what is wrong with all images
    return _collated(
        loader, first_readable(dataset.dataset, first) if isinstance(dataset, MarkedUnreadable) else dataset[first]
    )


def _collated(loader: DataLoader[Any], item: Any) -> Any:
    collate: Any = loader.collate_fn
    try:
        return collate(item if loader.batch_size is None and loader.batch_sampler is None else [item])
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"the dataset's items can't be put into a batch: {describe_batch(item)} ({str(error).splitlines()[0]}); expected "
            "pairs (image tensor [C, H, W], class number); keys= names the two parts of a dict or a longer tuple"
        ) from error


def try_one_image(accelerator: Any, model: nn.Module, loader: Loader, labels: Sequence[str] | None) -> int:
    """Try one image; the number of classes that the model answers with.

    Raises:
        DataError: batches aren't pairs, the model can't take the image, it has no classes, or another number than labels.
    """
    images, _ = images_and_labels(one_image(loader), model)
    _refuse_channels(model, images)
    with in_eval(model), torch.no_grad(), accelerator.autocast():
        output = output_of(model, images.to(accelerator.device))
    answer = logits(output)
    if answer is None or answer.ndim != 2 or not answer.shape[1]:
        raise DataError(
            f"the model answers {len(images)} image with {describe_output(output if answer is None else answer)}; expected "
            f"[{len(images)}, classes]: a model with a classifier"
        )
    if labels is not None and len(labels) != answer.shape[1]:
        raise DataError(
            f"{len(labels)} labels ({listing(labels)}) for a model of {answer.shape[1]} classes; "
            f"wrap it with num_classes={len(labels)}"
        )
    return answer.shape[1]


def _refuse_channels(model: nn.Module, images: Tensor) -> None:
    expected = _expected_channels(model)
    if expected is not None and images.ndim == 4 and images.shape[1] != expected:
        raise DataError(
            f"the images have {images.shape[1]} channels, the model takes {expected}; convert the images, or adapt the "
            f"model: petl.wrap(model, [petl.Input(in_chans={images.shape[1]}), 'lora'])"
        )


def output_of(model: nn.Module, images: Tensor) -> Any:
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


def _expected_channels(model: nn.Module) -> int | None:
    """The channels that the model takes, where petl can tell."""
    try:
        return in_chans(model)
    except PetlError:
        return None
