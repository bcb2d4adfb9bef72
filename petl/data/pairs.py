"""The two parts of a batch: images and labels, picked by their keys, checked, and in the types that model and loss take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from petl.data.bad_files import LEFT_OUT
from petl.data.dict_keys import usual_keys
from petl.data.label_faults import label_fault
from petl.errors import DataError, listing
from petl.graft.values import input_dtype

Batch = tuple[Tensor, Tensor]
Item = TypeVar("Item")


def images_and_targets(batch: Any, model: nn.Module) -> Batch:
    """Returns the images [N, C, H, W] and the targets of a batch: class numbers int64 [N], or numbers float32 [N] or [N, K].

    True and False become 1 and 0. Which targets a task takes, its objective says.

    Raises:
        DataError: the batch is no such pair.
    """
    batch = pick_keys(batch, None)
    parts = list(batch) if isinstance(batch, (tuple, list)) and len(batch) == 2 else []
    images, targets = (as_tensor(parts[0]), _as_targets(parts[1])) if parts else (None, None)
    if images is None or targets is None:
        raise DataError(
            f"got a batch of type {describe_batch(batch)}; expected pairs (images [N, C, H, W], labels [N]){_hint(batch)}"
        )
    if targets.ndim == 2 and targets.shape[1] == 1:  # as DALI and FFCV have them
        targets = targets[:, 0]
    if targets.ndim not in (1, 2) or len(targets) != len(images) or targets.is_complex():
        raise DataError(
            f"got labels of shape {tuple(targets.shape)} and {targets.dtype} for {len(images)} images; expected class numbers "
            "[N], or numbers [N] or [N, K]"
        )
    images = images.to(input_dtype(model)) if images.is_floating_point() else images
    whole = not targets.is_floating_point() and targets.dtype != torch.bool
    return images, targets.to(images.device, torch.int64 if whole else torch.float32)


def images_and_labels(batch: Any, model: nn.Module, classes: int | None = None) -> Batch:
    """Returns the images [N, C, H, W] and class numbers [N] of a batch, in the types that model and loss take.

    Raises:
        DataError: the batch is no such pair, or a class number isn't one of the model's ``classes``.
    """
    images, targets = images_and_targets(batch, model)
    if targets.ndim == 1 and are_bools(batch):
        targets = targets.long()
    if targets.ndim != 1 or targets.is_floating_point():
        raise DataError(
            f"got labels of shape {tuple(targets.shape)} and {targets.dtype} for {len(images)} images; expected class numbers [N]"
        )
    known = targets[targets != LEFT_OUT]  # images that couldn't be read
    if classes is not None and len(known) and not 0 <= int(known.min()) <= int(known.max()) < classes:
        raise unknown_class_error(int(known.max()) if int(known.max()) >= classes else int(known.min()), classes)
    return images, targets


def are_bools(batch: Any) -> bool:
    """Returns whether the labels are True and False, which as classes are 1 and 0."""
    parts = pick_keys(batch, None)
    labels = as_tensor(parts[1]) if isinstance(parts, (tuple, list)) and len(parts) == 2 else None
    return labels is not None and labels.dtype == torch.bool


def _as_targets(part: Any) -> Tensor | None:
    """Returns the targets of a batch as a tensor. torch collates lists of K numbers to K tensors [N], which are its columns."""
    columns = [as_tensor(each) for each in part] if isinstance(part, (list, tuple)) and part else []
    if columns and all(isinstance(each, Tensor) and each.ndim == 1 for each in columns):
        if len(columns) == 1:
            return columns[0]
        same = len({len(each) for each in columns if each is not None}) == 1
        return torch.stack([each.double() for each in columns if each is not None], dim=1).float() if same else None
    if columns and all(isinstance(each, (float, int)) for each in part):
        return as_tensor(list(part)) if not any(isinstance(each, float) for each in part) else torch.tensor(part)
    return as_tensor(part)


def unknown_class_error(number: int, classes: int) -> DataError:
    """Returns the error for a class number that isn't one of the model's."""
    return DataError(
        f"label {number} for a model of {classes} classes (0 to {classes - 1}); wrap it with num_classes= the number "
        "of classes, and number these from 0"
    )


def _hint(batch: Any) -> str:
    """Returns the advice to name the two parts with ``keys=``: images have four axes, class numbers have one."""
    named = isinstance(batch, Mapping)
    if not named and isinstance(batch, (tuple, list)) and len(batch) == 2 and isinstance(batch[1], (tuple, list)):
        return f"; {fault}" if (fault := label_fault(batch[1])) else ""
    if not named and not (isinstance(batch, (tuple, list)) and len(batch) > 2):
        return ""
    parts = {key: as_tensor(part) for key, part in (batch.items() if named else enumerate(batch))}
    tensors = {key: part for key, part in parts.items() if part is not None}
    images = next((key for key, part in tensors.items() if part.ndim == 4), None)
    labels = next((key for key, part in tensors.items() if part.ndim == 1 and not part.is_floating_point()), None)
    if images is None or labels is None:
        return "; name the two parts, such as keys=('image', 'label')" if named else ""
    return f"; name the two parts: keys=({images!r}, {labels!r})"


def grouped(batches: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yields lists of ``size`` batches, the last one perhaps shorter."""
    group: list[Item] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


Keys = Sequence[str | int]


def pick_keys(batch: Any, keys: Any) -> Any:
    """Returns the two parts of a batch or an item that ``keys`` names, as a tuple; without keys, the batch as it is.

    Of a dict whose parts have usual names (image and label), the two are found without keys.

    Raises:
        DataError: there is no such part.
    """
    if isinstance(batch, (list, tuple)) and len(batch) == 1 and isinstance(batch[0], Mapping):
        batch = batch[0]  # DALI returns a list with a dict for each GPU
    if keys is None:
        keys = usual_keys(batch) if isinstance(batch, Mapping) else None
    if keys is None:
        return batch
    try:
        return tuple(batch[key] for key in keys)
    except (KeyError, IndexError, TypeError):
        raise DataError(
            f"keys={tuple(keys)!r}, and there is {describe_batch(batch)}; name the images' part and the labels'"
        ) from None


def is_batch(item: Any, keys: Keys | None) -> bool:
    """Returns whether this is a whole batch (images [N, C, H, W], labels [N]) rather than one image and its label."""
    try:
        images, labels = (
            pick_keys(item, keys)[:2] if keys is None and not isinstance(item, Mapping) else pick_keys(item, keys)
        )
    except (DataError, TypeError, ValueError, KeyError, IndexError):
        return _looks_batched(item)
    shapes = [tuple(getattr(part, "shape", ())) for part in (images, labels)]
    count = len(labels) if isinstance(labels, (list, tuple)) else shapes[1][0] if shapes[1] else 0
    return len(shapes[0]) == 4 and count == shapes[0][0]


def _looks_batched(item: Any) -> bool:
    """Returns whether an item that isn't a pair holds images of four dimensions, so that it is a batch."""
    item = pick_keys(item, None)
    parts = item.values() if isinstance(item, Mapping) else item if isinstance(item, (list, tuple)) else ()
    return any(len(getattr(part, "shape", ())) == 4 for part in parts)


def as_tensor(part: Any) -> Tensor | None:
    """Returns a tensor, an array or a list of whole numbers as a tensor; None for anything else."""
    if isinstance(part, Tensor):
        return part
    if isinstance(part, np.ndarray) and part.dtype.kind in "iufb":
        return torch.from_numpy(part)
    if isinstance(part, (list, tuple)) and part and all(isinstance(each, (int, np.integer)) for each in part):
        return torch.tensor([int(each) for each in part])
    return None


def describe_batch(batch: Any) -> str:
    """Returns a batch in a few words: its type, and the types or names of its parts."""
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with {listing(map(repr, batch))}"
    parts = f" of {listing(type(part).__name__ for part in batch)}" if isinstance(batch, (tuple, list)) else ""
    return f"{type(batch).__name__}{parts}"
