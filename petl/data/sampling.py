"""How often each image is drawn in an epoch: equally often, by weights, or so that all classes come equally often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler, Subset

from petl.data.class_labels import dataset_targets
from petl.data.wrappers import DatasetWrapper, wrapped_datasets
from petl.errors import DataError, shortened

Sampling = Literal["balanced", "weights"] | Sequence[float] | Tensor | np.ndarray | None
EXPECTED_SAMPLING = "None, 'balanced', 'weights', or a number of 0 or more for each image"


class Shuffle(Sampler[tuple[int, int]]):
    """A sampler of (index, seed of the augmentation) in an order that depends on (seed, epoch).

    Each image comes once. With ``weights`` [count], images are drawn with replacement, each in proportion to its weight, as by
    torch's WeightedRandomSampler: an epoch still has ``count`` images.
    """

    def __init__(self, count: int, seed: int = 0, weights: np.ndarray | None = None):
        self.count, self.seed, self.weights, self.epoch = count, seed, weights, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; also called by accelerate's prepared loaders."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.weights is None:
            order = rng.permutation(self.count)
        else:
            order = rng.choice(self.count, size=self.count, p=self.weights / self.weights.sum())
        return iter(list(zip(order.tolist(), rng.integers(2**32, size=self.count).tolist(), strict=True)))

    def __len__(self) -> int:
        return self.count


def kept_weights(sampling: Sampling, dataset: Any, kept: Any) -> Sampling:
    """Returns the sampling for those images of a dataset that were kept because they can be read."""
    if sampling is None or isinstance(sampling, str):
        return sampling
    weights = sampling_weights(dataset, sampling)
    if kept is dataset or weights is None:
        return weights
    positions = kept.indices if isinstance(kept, Subset) else np.isin(dataset.indices, kept.indices)
    return weights[positions]


def refuse_sampling(sampling: Any) -> None:
    """Raises a DataError for what can't say how images are drawn, as far as that is known without the images."""
    if sampling is None or (isinstance(sampling, str) and sampling in ("balanced", "weights")):
        return
    if isinstance(sampling, (str, bytes)) or not isinstance(sampling, (Sequence, Tensor, np.ndarray)):
        raise DataError(f"sampling={shortened(repr(sampling), 80)}; expected {EXPECTED_SAMPLING}")
    _numbers(sampling)


def sampling_weights(dataset: Any, sampling: Sampling) -> np.ndarray | None:
    """Returns the weight of each image [N] in float64; None where each image comes once.

    Raises:
        DataError: they aren't one finite number of 0 or more for each image, some above 0; or the dataset has no weights, or no
            class numbers to balance.
    """
    refuse_sampling(sampling)
    if sampling is None:
        return None
    if isinstance(sampling, str):
        weights = _balanced(dataset) if sampling == "balanced" else _own_weights(dataset)
    else:
        weights = _numbers(sampling)
    if len(weights) != len(dataset):
        raise DataError(f"sampling has {len(weights)} numbers for {len(dataset)} images; expected one for each")
    return weights


def _own_weights(dataset: Any) -> np.ndarray:
    weights = dataset_weights(dataset)
    if weights is None:
        raise DataError(
            f"sampling='weights', and this {type(dataset).__name__} has no weights: no attribute .weights with a number for each "
            "image (of a manifest, the column weight); pass the numbers themselves: sampling=[...]"
        )
    return _numbers(weights)


def _numbers(values: Any) -> np.ndarray:
    """Returns weights as float64 [N], after a check."""
    try:
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
        weights = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"sampling holds what is no number ({error}); expected {EXPECTED_SAMPLING}") from error
    if array.dtype.kind not in "iuf" or weights.ndim != 1:
        raise DataError(
            f"sampling is of shape {list(weights.shape)} and type {array.dtype}; expected {EXPECTED_SAMPLING}"
        )
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise DataError(f"sampling has {weights[bad[0]]:g} for image {bad[0]}; expected finite numbers of 0 or more")
    if len(weights) and not weights.any():
        raise DataError("sampling is 0 for every image, so none can be drawn; expected some numbers above 0")
    return weights / max(weights.max(initial=0), np.finfo(np.float64).tiny)


def _balanced(dataset: Any) -> np.ndarray:
    """Returns 1 / (images of its class) for each image."""
    numbers = _numbers_of_items(dataset)
    if numbers is None:
        raise DataError(
            f"sampling='balanced' needs the class number of each image, which this {type(dataset).__name__} doesn't have; pass "
            "a number for each image: sampling=[...]"
        )
    known = numbers >= 0  # what can't be read has a negative one
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return _numbers(np.where(known, 1 / counts[inverse], 0.0))


def _numbers_of_items(dataset: Any) -> np.ndarray | None:
    """Returns the class number of each item, from what the dataset lists, else from the items; None where these have none."""
    listed = dataset_targets(dataset)
    if isinstance(listed, np.ndarray):
        return listed if listed.ndim == 1 and listed.dtype.kind in "iu" else None
    try:
        if getattr(dataset, "target_transform", None) is None:
            listed = getattr(dataset, "targets", None)
        targets = [dataset[index][1] for index in range(len(dataset))] if listed is None else listed
        numbers = np.asarray([int(t) if torch.as_tensor(t).numel() == 1 else np.nan for t in targets])
        whole = all(not torch.as_tensor(t).is_floating_point() for t in targets)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError):
        return None
    return numbers.astype(np.int64) if whole and np.isfinite(numbers).all() else None


def dataset_weights(dataset: Any) -> Tensor | None:
    """Returns the weights [N] of a dataset, also inside of torch's and petl's wrappers; None where it has none."""
    own = getattr(dataset, "weights", None)
    if own is not None and not callable(own):
        return torch.as_tensor(own, dtype=torch.float64)
    parts = [dataset_weights(part) for part in wrapped_datasets(dataset)]
    if not parts or any(part is None for part in parts):
        return None
    if isinstance(dataset, DatasetWrapper) or not hasattr(dataset, "indices"):
        return torch.cat(parts)  # type: ignore[arg-type]  # none of them is None
    return parts[0][torch.as_tensor(dataset.indices, dtype=torch.int64)]  # type: ignore[index]  # as above
