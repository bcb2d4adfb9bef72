"""Tries one image on the model, before more of the data is read."""

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
from petl.wrapping.eval_mode import in_eval
from petl.wrapping.lookup import in_chans

UNPOOLED = "it has no pooling (global_pool=''); build it again without that argument: timm.create_model('NAME', pretrained=True)"


def one_image(loader: Loader) -> Any:
    """Returns a batch of the first image that can be read, without starting a worker; for other loaders, their first batch."""
    if isinstance(loader, PairLoader):
        return loader.sample()
    if isinstance(loader.dataset, IterableDataset) or loader.collate_fn is None:
        return first_batch(loader)
    first = next(iter(loader.sampler))
    dataset: Any = loader.dataset  # MarkedUnreadable would hide an error that all images have
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
    """Runs the model on one image; returns the number of classes in its output.

    Raises:
        DataError: batches aren't pairs, the model can't take the image, or its output has no classes, or not one per label.
    """
    outputs = count_outputs(accelerator, model, images_and_labels(one_image(loader), model)[0])
    refuse_label_count(labels, outputs)
    return outputs


def count_outputs(accelerator: Any, model: nn.Module, images: Tensor) -> int:
    """Runs the model on images [N, C, H, W]; returns the number of its outputs.

    Raises:
        DataError: the model can't take the images, or doesn't return [N, outputs].
    """
    _refuse_channels(model, images)
    with in_eval(model), torch.no_grad(), accelerator.autocast():
        output = output_of(model, images.to(accelerator.device))
    scores = logits(output)
    if scores is not None and scores.ndim > 2:
        raise DataError(map_fault(model, scores))
    if scores is None or scores.ndim != 2 or not scores.shape[1]:
        raise DataError(
            f"the model answers {len(images)} image with {describe_output(output if scores is None else scores)}; expected "
            f"[{len(images)}, classes]: a model with a classifier"
        )
    return scores.shape[1]


def map_fault(model: nn.Module, scores: Tensor) -> str:
    """Returns what is wrong with a model whose scores [N, ...] have more than two axes."""
    pooling = UNPOOLED if is_unpooled(model) else "give it a pooling before its classifier, or flatten what it answers"
    return (
        f"the model answers {len(scores)} image{'s' * (len(scores) > 1)} with {describe_output(scores)}, scores for several "
        f"places of each; expected [{len(scores)}, classes], from a model with a classifier: {pooling}"
    )


def is_unpooled(model: nn.Module) -> bool:
    """Returns whether timm built the model without pooling, ``global_pool=''``."""
    pools = [getattr(module, "global_pool", None) for module in model.modules()]
    return any(pool == "" or getattr(pool, "pool_type", None) == "" for pool in pools)


def refuse_label_count(labels: Sequence[str] | None, outputs: int, *, numbers: bool = False) -> None:
    """Raises a DataError where there isn't one label for each output; with ``numbers``, they are those of a regression."""
    if labels is not None and len(labels) != outputs:
        kind, classes = ("numbers", "outputs") if numbers else ("labels", "classes")
        raise DataError(
            f"{len(labels)} {kind} ({listing(labels)}) for a model of {outputs} {classes}; wrap it with num_classes={len(labels)}"
        )


def _refuse_channels(model: nn.Module, images: Tensor) -> None:
    expected = _expected_channels(model)
    if expected is not None and images.ndim == 4 and images.shape[1] != expected:
        raise DataError(
            f"the images have {images.shape[1]} channels, the model takes {expected}; convert the images, or adapt the "
            f"model: petl.wrap(model, [petl.Input(in_chans={images.shape[1]}), 'lora'])"
        )


def output_of(model: nn.Module, images: Tensor) -> Any:
    """Returns the model's output; a DataError if the model can't take the images."""
    try:
        return model(images)
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"{type(model).__name__} can't take images of shape {tuple(images.shape)} and type {images.dtype} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); "
            f"{UNPOOLED if is_unpooled(model) else 'petl.data.pipeline(model) says what it expects'}"
        ) from error


def _expected_channels(model: nn.Module) -> int | None:
    """Returns the number of channels that the model takes, or None where petl can't tell."""
    try:
        return in_chans(model)
    except PetlError:
        return None
