"""What a frozen lower part computes from the training images, on disk: found again only for the same base, data and release.

An entry is a folder of ``.npy`` files, read memory-mapped, and ``about.json``: all that the values depend on. The entry's name is
the fingerprint of that, so a stale one is never found. Entries appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from petl.batches import Seeded
from petl.datasets import Images
from petl.digest import fingerprint
from petl.errors import DataError, StateError

Batch = tuple[Tensor, Tensor]
GIGA = 10**9
ENTRY = re.compile("[0-9a-f]{32}")  # the names of entries: nothing else in a folder is ever removed
TRIED = 8  # images that are read twice to see whether a dataset is what it was said to be


class Store:
    """Entries in a folder, of at most ``limit`` bytes together: a folder of the user's, or one that goes with the store."""

    def __init__(self, folder: str | Path | None, limit: float):
        self.kept, self.limit, self.used, self.found = folder is not None, int(limit), 0, 0
        self.mine: set[Path] = set()  # entries that this store has given out
        self.folder = Path(folder) if folder is not None else Path(tempfile.mkdtemp(prefix="petl-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._finalizer = None if self.kept else weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def entry(self, about: dict[str, Any], count: int, parts: Iterable[Batch], *, needed: int = 0) -> Batch:
        """Features [N, ...] and labels [N], memory-mapped: those kept under ``about``, else those of ``parts``.

        Others may have to go for these, which take about ``needed`` bytes.
        """
        text = json.dumps(about, sort_keys=True, indent=1)
        place = self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]
        found = _read(place, text)
        if found is None:
            self.make_room(needed)
            self._write(place, text, count, parts)
            found = _read(place, text)
        else:
            self.found += 1
        if found is None:
            raise StateError(f"{place} was removed or changed while it was written; give each run its own cache folder")
        os.utime(place)
        self.mine.add(place)
        self.used += size(found[0])
        return found

    def word(self) -> str:
        """What there is, and where."""
        place = self.folder if self.kept else "a temporary folder"
        return f"{self.used / 1e6:.1f} MB in {place}{' (found there)' if self.found == len(self.mine) else ''}"

    def close(self) -> None:
        """Remove a folder that isn't the user's."""
        if self._finalizer:
            self._finalizer()

    def make_room(self, needed: int) -> None:
        """Remove the entries that were used the longest ago, but for the store's own, until ``needed`` bytes fit.

        Raises:
            StateError: they can't fit.
        """
        why = self.refusal(needed)
        if why:
            raise StateError(f"the features don't fit: {why}")
        entries = [path for path in self.folder.iterdir() if ENTRY.fullmatch(path.name)]
        sizes = {place: _on_disk(place) for place in sorted(entries, key=lambda path: path.stat().st_mtime)}
        for place in list(sizes):
            if sum(sizes.values()) + needed > self.limit and place not in self.mine:
                shutil.rmtree(place)
                del sizes[place]

    def refusal(self, needed: int) -> str:
        """Why ``needed`` bytes can't be had, or ""."""
        free = shutil.disk_usage(self.folder).free
        if needed > self.limit:
            return f"{needed / GIGA:.1f} GB of features are more than cache_limit={self.limit / GIGA:g}"
        return (
            f"{needed / GIGA:.1f} GB of features, and the disk has {free / GIGA:.1f} GB left" if needed > free else ""
        )

    def _write(self, place: Path, text: str, count: int, parts: Iterable[Batch]) -> None:
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder))
        try:
            kind = _fill(part, count, parts)
            (part / "about.json").write_text(json.dumps({"about": text, "dtype": kind}))
            shutil.rmtree(place, ignore_errors=True)  # a damaged one
            os.replace(part, place)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _fill(folder: Path, count: int, parts: Iterable[Batch]) -> str:
    """Write the parts as they come; the features' type."""
    features = targets = None
    start, kind = 0, ""
    for found, labels in parts:
        kind = str(found.dtype).removeprefix("torch.")
        raw = _raw(found)
        if features is None or targets is None:
            features = np.lib.format.open_memmap(
                folder / "features.npy", mode="w+", dtype=raw.dtype, shape=(count, *raw.shape[1:])
            )
            targets = np.lib.format.open_memmap(folder / "targets.npy", mode="w+", dtype=np.int64, shape=(count,))
        features[start : start + len(raw)], targets[start : start + len(raw)] = raw, labels.numpy()
        start += len(raw)
    if start != count or features is None or targets is None:
        raise DataError(f"the dataset gave {start} images, and its length is {count}")
    features.flush()
    targets.flush()
    return kind


def _raw(tensor: Tensor) -> np.ndarray:
    """The bits of a tensor as numpy knows them; it has no bfloat16."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _read(place: Path, text: str) -> Batch | None:
    """The entry, or None where there is none, or none that is whole."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        about = json.loads((place / "about.json").read_text())
        if about["about"] != text:
            return None
        arrays = [np.load(place / name, mmap_mode="c") for name in ("features.npy", "targets.npy")]
        features, targets = (torch.from_numpy(array) for array in arrays)
        return features.view(getattr(torch, about["dtype"])), targets
    return None


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


# Does a dataset give the same images in every epoch, and which?


def unsteady(dataset: Any) -> str:
    """Why a dataset may give other images in every epoch, as far as petl can tell; "" where it can't happen."""
    if isinstance(dataset, Subset):
        return unsteady(dataset.dataset)
    if isinstance(dataset, Images):
        return "the training images are augmented at random" if dataset.training else ""
    if isinstance(dataset, (list, tuple)) or type(dataset) is TensorDataset:
        return ""
    return f"petl can't see whether {type(dataset).__name__} changes its images at random"


def varies(dataset: Any) -> bool:
    """Whether some of the images are others when they are read with other random numbers."""
    seeded = Seeded(dataset)
    for index in np.linspace(0, len(dataset) - 1, min(TRIED, len(dataset))).astype(int).tolist():
        one, other = seeded[index, 1], seeded[index, 2]
        if not torch.equal(torch.as_tensor(one[0]), torch.as_tensor(other[0])) or int(one[1]) != int(other[1]):
            return True
    return False


class Watched(Dataset[Any]):
    """A dataset in which an image that draws a random number is an error.

    An augmentation draws from Python's, numpy's or torch's generator also when it then does nothing, so this is no guess from a
    few images; only a dataset with a generator of its own escapes it.
    """

    def __init__(self, dataset: Dataset[Any]):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # map-style datasets have it

    def __getitem__(self, index: int) -> Any:
        before = _chances()
        item = self.dataset[index]
        if _chances() != before:
            raise StateError(
                f"image {index} of {type(self.dataset).__name__} draws random numbers, so it may be another one in each epoch; "
                "turn its augmentation off, or pass cache=False"
            )
        return item


def _chances() -> tuple[Any, ...]:
    """The state of every generator that augmentations use."""
    return random.getstate(), str(get_bit_generator().state), torch.get_rng_state().numpy().tobytes()


def contents(dataset: Any) -> str:
    """A fingerprint of the images and labels of a dataset.

    Of files it takes paths, sizes and times of change, and the transform; of tensors their bits. Everything else is read
    through once.
    """
    if isinstance(dataset, Subset):
        return _hashed("subset", list(dataset.indices), contents(dataset.dataset))
    if type(dataset) is TensorDataset:
        return _hashed("tensors", [fingerprint(tensor) for tensor in dataset.tensors])
    files = _files(dataset) if isinstance(dataset, Images) else None
    if files is not None:
        made = [dataset.pipeline, dataset.training, dataset.augment, dataset.classes]
        return _hashed("files", files, made, dataset.targets.tolist())
    items = (default_collate([dataset[i]]) for i in range(len(dataset)))
    return _hashed("items", [[fingerprint(torch.as_tensor(part)) for part in item] for item in items])


def _files(dataset: Images) -> list[Sequence[Any]] | None:
    """(path, bytes, time of change) of every image, or None where they aren't files of their own."""
    paths = [Path(dataset.filename(i)) for i in range(len(dataset))]
    if not all(path.is_absolute() and path.is_file() for path in paths):
        return None
    states = [path.stat() for path in paths]
    return [(str(path), state.st_size, state.st_mtime_ns) for path, state in zip(paths, states, strict=True)]


def _hashed(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
