"""What timm's readers and torchvision's datasets give, as pairs of (image tensor, class number)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from petl.errors import DataError, listing, near
from petl.images import Transform, Unreadable

log = logging.getLogger(__name__)
RETRIES = 10  # as timm: more unreadable files in a row end the training


class Images(Dataset[tuple[Tensor, int]]):
    """Pairs of (image [k, H, W], class number) from one of timm's readers or a torchvision dataset.

    A file that can't be read is a `DataError` with its name; in training it is logged, and the next one taken instead.
    """

    def __init__(
        self,
        source: Any,
        pipeline: Mapping[str, Any],
        *,
        training: bool = False,
        classes: Sequence[str] | None = None,
        augment: Mapping[str, Any] | None = None,
    ):
        own = names_of(source)
        self.source, self.pipeline, self.training, self.augment = source, dict(pipeline), training, augment
        self.classes = list(classes if classes is not None else own)
        self.transform = Transform(pipeline, training, augment)
        self.indices = np.arange(len(source))
        self._number = _numbers(own, self.classes)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        for step in range(RETRIES if self.training else 0):
            try:
                return self._read((index + step) % len(self))
            except Unreadable as error:
                log.warning("skipped %s", error)
        return self._read(index % len(self))

    def _read(self, index: int) -> tuple[Tensor, int]:
        try:
            picture, target = self.source[int(self.indices[index])][:2]
            if hasattr(picture, "read"):
                with picture:
                    picture = picture.read()
            return self.transform(picture), self._class(target)
        except DataError as error:
            raise type(error)(f"{self.filename(index)}: {error}") from error
        except OSError as error:
            raise Unreadable(f"{self.filename(index)}: it can't be read: {error}") from error

    def _class(self, target: Any) -> int:
        if (number := self._number.get(int(target))) is None:
            raise DataError(f"its class number is {int(target)}, known are 0 to {len(self._number) - 1}")
        return number

    def filename(self, index: int) -> str:
        """The file's path (in its archive), or its number where the source has no files."""
        place = int(self.indices[index])
        named = hasattr(self.source, "filename")
        return str((self.source.filename(place, absolute=True) if named else "") or f"image {place}")

    @property
    def targets(self) -> np.ndarray:
        """The class number of each image, without reading the images where the source can tell."""
        targets = _targets(self.source)
        return np.array([self._class(targets[i]) for i in self.indices.tolist()], dtype=np.int64)

    def part(self, positions: Sequence[int] | np.ndarray, *, training: bool) -> Images:
        """Some of the images; with ``training=False`` under the evaluation transform."""
        chosen = copy.copy(self)
        chosen.indices, chosen.training = self.indices[positions], training
        chosen.transform = Transform(self.pipeline, training, self.augment)
        return chosen


class Stream(IterableDataset[tuple[Tensor, int]]):
    """Pairs of (image [k, H, W], class number) from a reader that only goes forward (WebDataset, hfids, tfds)."""

    def __init__(
        self,
        source: Any,
        pipeline: Mapping[str, Any],
        *,
        training: bool = False,
        classes: Sequence[str] | None = None,
        augment: Mapping[str, Any] | None = None,
    ):
        self.source, self.classes = source, list(classes or names_of(source))
        if not self.classes:
            raise DataError("this source doesn't tell its class names; pass classes=[...], in the order of its numbers")
        self.transform = Transform(pipeline, training, augment)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return ((self.transform(picture), int(target)) for picture, target in self.source)

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        self.source.set_epoch(epoch)

    def set_loader_cfg(self, num_workers: int) -> None:
        self.source.set_loader_cfg(num_workers=num_workers)


def names_of(source: Any) -> list[str]:
    """Class names in the order of their numbers; the numbers where there are no names; [] for a stream without any."""
    if classes := getattr(source, "classes", None):  # torchvision; ImageNet's are tuples of synonyms
        return [name if isinstance(name, str) else str(name[0]) for name in classes]
    reader = getattr(source, "reader", source)
    numbers = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if numbers:
        return sorted(numbers, key=numbers.__getitem__)
    return [] if isinstance(source, IterableDataset) else [str(i) for i in range(int(max(_targets(source))) + 1)]


def _numbers(own: Sequence[str], classes: Sequence[str]) -> dict[int, int]:
    """From a source's class numbers to those of ``classes``, by name."""
    if unknown := [name for name in own if name not in classes]:
        raise DataError(
            f"class {listing(map(repr, unknown))} is not among the {len(classes)} expected classes "
            f"({listing(classes)}){near(unknown[0], classes)}"
        )
    return {i: list(classes).index(name) for i, name in enumerate(own)}


def _targets(source: Any) -> Sequence[int]:
    if hasattr(source, "iter_targets"):  # Hugging Face
        return [int(target) for target in source.iter_targets()]
    if hasattr(source, "targets"):  # tar, torchvision
        return source.targets
    if hasattr(source, "samples"):  # folders
        return [target for _, target in source.samples]
    return [int(source[i][1]) for i in range(len(source))]


def holdout(dataset: Images | Stream, fraction: float = 0.2, *, seed: int = 0) -> tuple[Images, Images]:
    """Split a training set without a val folder: (train, val), the same share of every class in val.

    ``train`` keeps its augmentation (or gets timm's), ``val`` has the evaluation transform. Classes with two or more
    images have at least one on either side; a single image stays in ``train``. The same seed gives the same split.
    """
    if isinstance(dataset, Stream):
        raise DataError(
            "a stream can't be split: its images have no numbers; pass a source with a split for validation"
        )
    if not 0 < fraction < 1:
        raise DataError(f"fraction={fraction}; expected a share between 0 and 1, such as 0.2")
    chance, targets, held = np.random.default_rng(seed), dataset.targets, []
    for number in np.unique(targets):
        members = chance.permutation(np.flatnonzero(targets == number))
        held += members[: int(np.clip(round(fraction * len(members)), 1, len(members) - 1))].tolist()
    rest = np.setdiff1d(np.arange(len(dataset)), held)
    return dataset.part(rest, training=True), dataset.part(np.sort(held).astype(int), training=False)
