"""Does a dataset give the same images in every epoch, and which are they?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from petl.data.bad_files import BAD_FILE, raising_bad_files
from petl.data.datasets import Images
from petl.wrapping.fingerprints import fingerprint


def dataset_fingerprint(dataset: Any) -> str:
    """A fingerprint of the images and labels of a dataset.

    Of files it takes paths, sizes and times of change, and the transform; of tensors their bits. Everything else is read
    through once.
    """
    if type(dataset) is Subset:
        return _hashed("subset", [int(index) for index in dataset.indices], dataset_fingerprint(dataset.dataset))
    if type(dataset) is ConcatDataset:
        return _hashed("concat", [dataset_fingerprint(part) for part in dataset.datasets])
    if type(dataset) is TensorDataset:
        return _hashed("tensors", [fingerprint(tensor) for tensor in dataset.tensors])
    files = _file_states(dataset) if type(dataset) is Images else None
    if files is not None:
        made = [dataset.pipeline, dataset.training, dataset.augment, dataset.classes]
        return _hashed("files", files, made, dataset.targets.tolist())
    return _hashed("items", [_item_fingerprint(dataset, index) for index in range(len(dataset))])


def _item_fingerprint(dataset: Any, index: int) -> Any:
    """Fingerprints of the parts of an item; of one that can't be read, that it can't."""
    try:
        with raising_bad_files():
            item = dataset[index]
    except BAD_FILE as error:
        return str(error)
    return [fingerprint(torch.as_tensor(part)) for part in default_collate([item])]


def _file_states(dataset: Images) -> list[Sequence[Any]] | None:
    """(path, bytes, times of change) of every image, or None where they aren't files of their own."""
    paths = [Path(dataset.filename(i)) for i in range(len(dataset))]
    if not all(path.is_absolute() and path.is_file() for path in paths):
        return None
    states = [path.stat() for path in paths]
    return [
        (
            str(path),
            state.st_size,
            state.st_mtime_ns,
            state.st_ctime_ns,
        )  # the last one also tells of files that were swapped
        for path, state in zip(paths, states, strict=True)
    ]


def _hashed(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
