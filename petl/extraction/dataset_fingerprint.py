"""A fingerprint of the images and labels in a dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from petl.data.bad_files import BAD_FILE, raising_bad_files
from petl.data.batches import Seeded
from petl.data.datasets import Images
from petl.wrapping.fingerprints import fingerprint


def dataset_fingerprint(dataset: Any) -> str:
    """Returns a fingerprint of the images and labels of a dataset.

    Of image files, it depends on paths, sizes, times of change, and the transform; of tensors, on their bits. Any other dataset
    is read once as a whole.
    """
    if type(dataset) is Subset:
        return _hashed("subset", [int(index) for index in dataset.indices], dataset_fingerprint(dataset.dataset))
    if type(dataset) is ConcatDataset:
        return _hashed("concat", [dataset_fingerprint(part) for part in dataset.datasets])
    if type(dataset) is TensorDataset:
        return _hashed("tensors", [fingerprint(tensor) for tensor in dataset.tensors])
    if isinstance(dataset, Images) and dataset.own_transform is not None:  # its code may change: the images tell
        return _hashed("transformed", [_item_fingerprint(Seeded(dataset), (index, 0)) for index in range(len(dataset))])
    files = _file_states(dataset) if type(dataset) is Images else None
    if files is not None:
        transform = [dataset.pipeline, dataset.training, dataset.augment, dataset.classes]
        return _hashed("files", files, transform, dataset.targets.tolist())
    return _hashed("items", [_item_fingerprint(dataset, index) for index in range(len(dataset))])


def _item_fingerprint(dataset: Any, index: Any) -> Any:
    """Returns the fingerprints of an item's parts; for a file that can't be read, the error's text."""
    try:
        with raising_bad_files():
            item = dataset[index]
    except BAD_FILE as error:
        return str(error)
    return [fingerprint(torch.as_tensor(part)) for part in default_collate([item])]


def _file_states(dataset: Images) -> list[Sequence[Any]] | None:
    """Returns (path, bytes, times of change) of every image, or None where images aren't files of their own."""
    paths = [Path(dataset.filename(i)) for i in range(len(dataset))]
    if not all(path.is_absolute() and path.is_file() for path in paths):
        return None
    states = [path.stat() for path in paths]
    return [  # st_ctime_ns also changes where a file takes the place of another with the same name and time
        (str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        for path, state in zip(paths, states, strict=True)
    ]


def _hashed(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
