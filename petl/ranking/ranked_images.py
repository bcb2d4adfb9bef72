"""The images that candidates are ranked on: a nested sample in steps, and others that choose nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from petl.data.class_labels import dataset_classes
from petl.data.grouping import every_target, own_groups
from petl.data.own_parts import own_parts
from petl.data.pairs import Keys
from petl.data.pil_items import first_item, pairs_of, usual_keys_of
from petl.data.reopened import reopened
from petl.data.samples import refuse_sample, sampled_rows
from petl.data.sifting import sift
from petl.data.validation_split import holdout, refuse_stream
from petl.errors import DataError, PetlError
from petl.measures.enough_labels import LEAST, refuse_few_labels, refuse_few_read

NEUTRAL = {
    "input_size": (3, 224, 224),
    "interpolation": "bicubic",
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "crop_pct": 1.0,
}
EARLY_STEPS = (128, 512)  # images that are looked at before all of them are
EACH = 5  # images of a class in the first step
HELD_SHARE = 0.2


@dataclass(frozen=True)
class RankedPart:
    """Images with classes ``y`` [N], which each model reads in its own way if they aren't transformed already."""

    dataset: Any
    y: Tensor
    keys: Keys | None = None

    def read_with(self, pipeline: Mapping[str, Any], rows: np.ndarray) -> Any:
        """Returns the images of these numbers for a model with this pipeline."""
        again = reopened(self.dataset, pipeline, self.keys)
        if again is None:
            again = pairs_of(self.dataset, self.keys, None) if self.keys else self.dataset
        return Subset(again, rows.tolist())

    @property
    def transformed_side(self) -> int | None:
        """Returns the height in pixels of images that are transformed already; None where each model reads them itself."""
        if reopened(self.dataset, NEUTRAL, self.keys) is not None:
            return None
        pair = first_item(pairs_of(self.dataset, self.keys, None) if self.keys else self.dataset)
        shape = getattr(pair[0], "shape", ()) if isinstance(pair, (tuple, list)) else ()
        return int(shape[-2]) if len(shape) == 3 else None


@dataclass(frozen=True)
class RankedImages:
    """``train``: what is ranked on, ``rows`` of it, of which the first steps are parts; ``held``: images that choose nothing.

    ``held_from`` says which these are, or why there are none; ``total`` are all images to learn from.
    """

    train: RankedPart
    classes: list[str]
    steps: list[np.ndarray]
    held: RankedPart | None
    held_rows: np.ndarray
    held_from: str
    total: int
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> np.ndarray:
        return self.steps[-1]

    def refuse_few(self, rows: np.ndarray) -> None:
        """Raises a DataError where too few images of a class could be read, which only the reading itself has shown."""
        refuse_few_read(
            "rank", self.train.y[torch.from_numpy(rows)], self.train.y[torch.from_numpy(self.rows)], self.classes
        )


def ranked_images(
    data: Any, images: int, seed: int, options: Mapping[str, Any], *, strict: bool = False
) -> RankedImages:
    """Opens the data and chooses the images among those that can be read, as far as a quick look shows it.

    With ``strict``, bad files stay, so that reading them is an error.

    Raises:
        DataError: it can't be opened, has no classes, one class, or fewer than four images of one.
    """
    refuse_sample(images, seed)
    train, rest = own_parts(data, NEUTRAL, **options)
    refuse_stream(train)
    total = len(train)
    if not strict:
        train, rest = sift(train, training=True)[0], None if rest is None else sift(rest)[0]
    whole = _labelled(train)
    classes = _class_names(train, whole.y)
    refuse_few_labels("rank", whole.y, classes)
    held, held_rows, held_from, own = _held(whole, rest, classes, seed)
    y = whole.y.numpy()[own]
    rows = own[sampled_rows(y, images, seed)]
    _refuse_small_sample(whole.y[torch.from_numpy(rows)], images, len(np.unique(y)))
    steps = [own[sampled_rows(y, step, seed)] for step in _steps(len(rows), len(np.unique(y)))]
    if held is not None:
        held_rows = held_rows[sampled_rows(held.y.numpy()[held_rows], images, seed)]
    return RankedImages(whole, classes, [*steps, rows], held, held_rows, held_from, total, _notes(whole, total))


def _labelled(dataset: Any) -> RankedPart:
    """Returns a dataset with the classes of its items; ``y`` as it is, also where these are no classes."""
    keys = usual_keys_of(first_item(dataset))
    return RankedPart(dataset, torch.from_numpy(every_target(pairs_of(dataset, keys, None) if keys else dataset)), keys)


def _class_names(dataset: Any, y: Tensor) -> list[str]:
    if y.is_floating_point() or y.ndim != 1 or not len(y):
        return []
    if int(y.min()) < 0:
        raise DataError(f"label {int(y.min())}; expected class numbers from 0 on")
    names = dataset_classes(dataset) or []
    return [*names, *(str(number) for number in range(len(names), int(y.max()) + 1))]


def _held(
    whole: RankedPart, rest: Any, classes: list[str], seed: int
) -> tuple[RankedPart | None, np.ndarray, str, np.ndarray]:
    """Returns images that choose nothing and their numbers, where they come from, and the numbers of all others to learn from."""
    every = np.arange(len(whole.y))
    if rest is not None:
        part = _labelled(rest)
        names = dataset_classes(rest)
        known = (
            not part.y.is_floating_point()
            and part.y.ndim == 1
            and 0 <= int(part.y.min()) <= int(part.y.max()) < len(classes)
        )
        if not known or (names is not None and names != classes[: len(names)]):
            raise DataError(
                "the images for validation have other classes than those to learn from; expected the same, numbered alike"
            )
        known_rows = np.flatnonzero(np.isin(part.y.numpy(), whole.y.numpy()))  # others can't be told by anyone
        return part, known_rows, "the data's own images for validation", every
    held = _held_out_rows(whole, seed)
    if held is None:
        whole_groups = ", in whole groups," if own_groups(whole.dataset) is not None else ""
        why = f"a fifth held out{whole_groups} would leave fewer than {LEAST} images of a class"
        return None, every[:0], why, every
    return whole, held, "a fifth of the images, held out before", np.setdiff1d(every, held)


def _held_out_rows(whole: RankedPart, seed: int) -> np.ndarray | None:
    """Returns the numbers of a fifth of the images, of every class and of whole groups; None where too few would be left."""
    plain = pairs_of(whole.dataset, whole.keys, None) if whole.keys else whole.dataset
    try:
        _, held = holdout(plain, HELD_SHARE, seed=seed)
    except DataError:  # one group alone, or single images
        return None
    own = np.asarray(held.indices, dtype=np.int64)
    rows = own if isinstance(held, Subset) else np.flatnonzero(np.isin(plain.indices, own))
    left = np.bincount(np.delete(whole.y.numpy(), rows), minlength=int(whole.y.max()) + 1)
    return rows if left[np.bincount(whole.y.numpy()) > 0].min() >= LEAST else None


def _refuse_small_sample(y: Tensor, images: int, classes: int) -> None:
    counts = torch.bincount(y)
    if int((counts > 0).sum()) < classes or int(counts[counts > 0].min()) < LEAST:
        raise PetlError(
            f"images={images} are fewer than {LEAST} for each of {classes} classes; pass images={LEAST * classes} or more"
        )


def _steps(count: int, classes: int) -> list[int]:
    """Returns how many images are looked at before all are: steps that spare at least a quarter.

    >>> _steps(1000, 10), _steps(600, 10), _steps(150, 10), _steps(1000, 50)
    ([128, 512], [128], [], [250, 512])
    """
    return sorted({max(step, EACH * classes) for step in EARLY_STEPS if max(step, EACH * classes) <= 0.75 * count})


def _notes(whole: RankedPart, total: int) -> list[str]:
    """Returns what of the images matters for how far the scores can be trusted."""
    lost = total - len(whole.y)
    notes = [f"{lost} of {total} images can't be read, and are left out."] if lost else []
    if own_groups(whole.dataset) is not None:
        notes.append(
            "Images come in groups, and leave-one-out has images of one group on both sides, so scores are too high; the images "
            "held out are of other groups."
        )
    if (side := whole.transformed_side) is not None:
        notes.append(
            f"The images are transformed already ({side} px), so one pipeline is used for all backbones, whatever each was "
            "trained with; give a folder or table, and each reads them in its own way."
        )
    return notes
