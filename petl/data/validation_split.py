"""Splits a training set into training and validation images, once or into folds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, Subset

from petl.data.class_labels import dataset_classes
from petl.data.datasets import Images
from petl.data.grouping import Groups, every_target, group_numbers
from petl.data.sources import dataset as open_dataset
from petl.data.stratification import assign, bins_of, deal, one_hot
from petl.data.table_sources import is_image_table
from petl.errors import DataError, listing


def holdout(dataset: Any, fraction: float = 0.2, *, groups: Groups = None, seed: int = 0) -> tuple[Any, Any]:
    """Splits a training set that has no val folder: returns (train, val), with the same share of every class in val.

    ``train`` keeps its augmentation (or gets timm's), ``val`` has the evaluation transform. Classes with two or more
    images have at least one on either side; a single image stays in ``train``. The same seed gives the same split.

    Args:
        dataset: What `petl.data.dataset` gives, or any Dataset with targets, of which `Subset` come back.
        fraction: Share of the images in ``val``; with groups, as near as whole groups allow.
        groups: Images of one group (a patient, a place) are never on both sides. None: the ``group`` column of a table, if it
            has one; the name of another column; a function of a file's path; a value for each image; False for none.

    Several labels keep their shares as well as can be, numbers keep their distribution (by quantiles).

    Raises:
        DataError: the dataset is a stream, the fraction isn't between 0 and 1, no class has two images, or there is one group.
    """
    dataset = _opened(dataset, None, {})
    refuse_stream(dataset)
    if not 0 < fraction < 1:
        raise DataError(f"fraction={fraction}; expected a share between 0 and 1, such as 0.2")
    rng, targets, numbers = generator(seed), every_target(dataset), group_numbers(dataset, groups)
    classes = _classes(dataset, targets, round(1 / min(fraction, 1 - fraction)))
    if numbers is not None or classes is None:
        numbers = np.arange(len(targets)) if numbers is None else numbers
        _refuse_one_group(numbers)
        strata = _strata(dataset, targets, 2)
        held = np.flatnonzero(assign(strata, numbers, (1 - fraction, fraction), rng, spare_last=True)).tolist()
    else:
        held = _held_of_each_class(classes, fraction, rng)
    if not held:
        raise DataError(
            "every class has only one image (or group), so none can be held out for validation; add images, or pass validation "
            "images of their own (petl train: --val FOLDER)"
        )
    return _parts(dataset, np.asarray(sorted(held), dtype=np.int64))


def folds(
    data: Any,
    k: int = 5,
    *,
    groups: Groups = None,
    seed: int = 0,
    pipeline: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[tuple[Any, Any]]:
    """Divides a training set into k folds: returns k pairs (train, val); each image is in one val, with every class in each.

    The same seed gives the same folds. ``train`` and ``val`` are as `holdout` gives them.

    Args:
        data: What `petl.data.dataset` gives, any Dataset with targets, or a folder or table together with ``pipeline``.
        groups: As for `holdout`: images of one group are never on both sides.
        pipeline: From `petl.data.pipeline`, for a folder or table; ``options`` are then more for `petl.data.dataset`.

    Classes are divided so that folds differ by at most one image of each; with groups, and with several labels, as evenly as can
    be (a label with fewer images than k is missing in some folds). Numbers are divided by quantiles.

    Raises:
        DataError: a class has fewer images, or groups, than there are folds.

    Example:
        >>> import torch
        >>> pairs = torch.utils.data.TensorDataset(torch.zeros(6, 3, 8, 8), torch.arange(6) % 2)
        >>> [sorted(val.indices) for _, val in folds(pairs, 3, groups=["a", "a", "b", "b", "c", "c"])]
        [[4, 5], [0, 1], [2, 3]]
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 2:
        raise DataError(f"k={k!r}; expected a whole number of folds, at least 2")
    dataset = _opened(data, pipeline, options)
    refuse_stream(dataset)
    rng, targets, numbers = generator(seed), every_target(dataset), group_numbers(dataset, groups)
    _refuse_few(dataset, targets, numbers, k)
    classes = _classes(dataset, targets, k)
    if numbers is None and classes is not None:
        fold = deal(classes, k, rng)
    else:
        numbers = np.arange(len(targets)) if numbers is None else numbers
        fold = assign(_strata(dataset, targets, k), numbers, [1 / k] * k, rng)
    return [_parts(dataset, np.flatnonzero(fold == number)) for number in range(k)]


def generator(seed: int) -> np.random.Generator:
    """Returns numpy's generator of a seed; a DataError if it is no whole number of at least 0."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise DataError(f"seed={seed!r}; expected a whole number of at least 0")
    return np.random.default_rng(seed)


def _opened(data: Any, pipeline: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
    if not (isinstance(data, (str, Path)) or is_image_table(data)):
        if pipeline is not None or options:
            raise DataError("pipeline= and options are for a folder or table; a dataset has its own")
        return data
    if pipeline is None:
        raise DataError(
            "a folder or table is opened first: petl.data.dataset(data, petl.data.pipeline(model), training=True)"
        )
    return open_dataset(data, pipeline, training=True, **options)


def refuse_stream(dataset: Any) -> None:
    """Raises a DataError for what has no items by number, or none at all."""
    if isinstance(dataset, IterableDataset):
        raise DataError(
            "a stream can't be split: its images have no numbers; pass a source with a split for validation"
        )
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise DataError(
            f"a {type(dataset).__name__} can't be split; expected what petl.data.dataset gives, or a Dataset"
        )
    if not len(dataset):
        raise DataError("the dataset is empty; expected at least one pair of image and label")


def _classes(dataset: Any, targets: np.ndarray, parts: int) -> np.ndarray | None:
    """Returns the class of each image, or the quantile of its number; None where images have several labels or numbers."""
    if targets.dtype.kind == "i":
        return targets if targets.ndim == 1 else None
    return bins_of(targets, parts) if targets.ndim == 1 and _task(dataset, targets) != "multilabel" else None


def _task(dataset: Any, targets: np.ndarray) -> str:
    """Returns the task of targets that are floats or have several columns: zeros and ones are labels, unless a table says so."""
    own = getattr(dataset, "task", None)
    hot = targets.ndim == 2 and bool((np.isnan(targets) | (targets == 0) | (targets == 1)).all())
    return own if isinstance(dataset, Images) and own else "multilabel" if hot else "regression"


def strata_of(dataset: Any, targets: np.ndarray) -> np.ndarray:
    """Returns the number of what each image is [N]: of its class, its set of labels, or the quantiles of its numbers."""
    if targets.dtype.kind == "i" and targets.ndim == 1:
        return targets
    return np.unique(_strata(dataset, targets, 2), axis=0, return_inverse=True)[1].reshape(-1)


def _strata(dataset: Any, targets: np.ndarray, parts: int) -> np.ndarray:
    """Returns what each image is, 0 or 1 for each class, label or quantile."""
    if targets.dtype.kind == "i" and targets.ndim == 1:
        return one_hot([targets])
    if _task(dataset, targets) == "multilabel":
        hot = np.nan_to_num(targets.reshape(len(targets), -1).astype(np.float64)) > 0
        return np.concatenate([hot, ~hot.any(1, keepdims=True)], axis=1).astype(np.float64)
    columns = targets.reshape(len(targets), -1).astype(np.float64).T
    return one_hot([bins_of(column, parts) for column in columns])


def _held_of_each_class(classes: np.ndarray, fraction: float, rng: np.random.Generator) -> list[int]:
    held: list[int] = []
    for number in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == number))
        held += members[: int(np.clip(round(fraction * len(members)), 1, len(members) - 1))].tolist()
    return held


def _refuse_one_group(numbers: np.ndarray) -> None:
    if not len(numbers) or not numbers.any():
        raise DataError(
            "all images are of one group, so none can be held out; groups=False splits without regard to groups, and so does a "
            "table that is read without: columns={'group': None} (on a command line: --data group=null)"
        )


def _refuse_few(dataset: Any, targets: np.ndarray, numbers: np.ndarray | None, k: int) -> None:
    """Raises a DataError if a class has fewer images or groups than there are folds, or the images are fewer."""
    ids = np.arange(len(targets)) if numbers is None else numbers
    what = "images" if numbers is None else "groups"
    if (count := len(np.unique(ids))) < k:
        raise DataError(
            f"{count} {what} can't be divided into {k} folds; pass k={max(count, 2)} or less, or add images"
        )
    if targets.ndim != 1 or targets.dtype.kind != "i":
        return
    counts = {number: len(np.unique(ids[targets == number])) for number in np.unique(targets).tolist()}
    few = [number for number, count in counts.items() if count < k]
    if few:
        names = dataset_classes(dataset) or []
        shown = [f"{names[n] if 0 <= n < len(names) else n} ({counts[n]})" for n in few]
        raise DataError(
            f"{len(few)} of {len(counts)} classes have fewer {what} than the {k} folds: {listing(shown)}; pass a smaller k, or "
            "add images"
        )


def _parts(dataset: Any, held: np.ndarray) -> tuple[Any, Any]:
    rest = np.setdiff1d(np.arange(len(dataset)), held)
    if isinstance(dataset, Images):
        return dataset.part(rest, training=True), dataset.part(held, training=False)
    return Subset(dataset, rest.tolist()), Subset(dataset, held.tolist())
