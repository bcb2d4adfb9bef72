"""A dataset of images once more, read as another model takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Subset

from petl.data.datasets import Images
from petl.data.pairs import Keys
from petl.data.pil_items import first_item, has_pil_image, pairs_of
from petl.data.reading import READING_KEYS
from petl.data.transforms import Transform, make_transform


def reopened(dataset: Any, pipeline: Mapping[str, Any], keys: Keys | None = None) -> Any | None:
    """Returns the dataset with the evaluation transform of this pipeline; None where its images are transformed already.

    petl's own datasets and those of PIL images can be read for any model, also inside of `Subset` and `ConcatDataset`. How files
    are read (``window``, ``frame``, ``tiff``) stays as it was. ``keys`` name the two parts of an item that is a dict.

    >>> import torch
    >>> reopened(torch.utils.data.TensorDataset(torch.zeros(2, 3, 8, 8), torch.arange(2)), {}) is None
    True
    """
    own = _of_petl(dataset, pipeline)
    if own is None and has_pil_image(first_item(dataset), keys):
        return pairs_of(dataset, keys, Transform(pipeline))
    return own


def _of_petl(dataset: Any, pipeline: Mapping[str, Any]) -> Any | None:
    """Returns petl's datasets with another pipeline, in wrappers of torch's; None for others."""
    if isinstance(dataset, Images):
        again = dataset.some(np.arange(len(dataset)))
        again.pipeline = {**{k: v for k, v in dataset.pipeline.items() if k in READING_KEYS}, **pipeline}
        again.training, again.own_transform = False, None
        again.transform = make_transform(again.pipeline, False, None)
        return again
    if isinstance(dataset, ConcatDataset):
        parts = [_of_petl(part, pipeline) for part in dataset.datasets]
        return None if any(part is None for part in parts) else ConcatDataset(parts)  # type: ignore[arg-type]  # as it says
    if isinstance(dataset, Subset):
        inner = _of_petl(dataset.dataset, pipeline)
        return None if inner is None else Subset(inner, dataset.indices)
    return None
