"""What timm's readers and torchvision's datasets give, as pairs of (image tensor, class number)."""

from __future__ import annotations

import contextlib
import contextvars
import copy
import logging
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from petl.data.images import Transform, Unfit, Unreadable, decode, loaded
from petl.errors import DataError, listing, near

log = logging.getLogger(__name__)
Augment = Mapping[str, Any] | Literal[False] | None
RETRIES = 10  # as timm: more unreadable files in a row end the training
BAD = (Unreadable, Unfit)  # a file's own fault, which costs nothing but this file
LEFT_OUT = -100  # the class number of an image that can't be read: torch's cross-entropy leaves it out by itself
_loader_cares = contextvars.ContextVar("loader_cares", default=False)


def _transform(pipeline: Mapping[str, Any], training: bool, augment: Augment) -> Transform:
    return Transform(pipeline, training and augment is not False, augment or None)


def left_out(pipeline: Mapping[str, Any]) -> tuple[Tensor, int]:
    """What stands in a batch for an image that can't be read."""
    return torch.zeros(tuple(pipeline["input_size"])), LEFT_OUT


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Inside, `Images` raises `Unreadable` in training too: who asks for the item does what is to be done.

    Only the outermost dataset knows which images may take the place of another: the next one of an `Images` inside a
    `Subset` may belong to the validation images.
    """
    token = _loader_cares.set(True)
    try:
        yield
    finally:
        _loader_cares.reset(token)


class Images(Dataset[tuple[Tensor, int]]):
    """Pairs of (image [k, H, W], class number) from a folder, one of timm's readers or a torchvision dataset.

    What happens with a file that can't be read:

    - `petl.fit` and `petl.evaluate` look through the files before they begin (see `petl.data.sift`), name those that can't be
      read, and go on without them. What this quick look doesn't find shows when the file is read:
    - in batches for training another image takes its place, in other batches it is an image of zeros with class number
      `LEFT_OUT` (-100), which torch's cross-entropy ignores and petl's metrics leave out. Batches keep their size;
    - ``dataset[i]`` alone raises `DataError` with the file's name; in training it gives the next image that can be read. In
      a `Subset` that may be an image of another fold: take `petl.data.loader` for it, or `petl.data.sift` before.

    Each is logged once, and listed by `unreadable`, also when worker processes read it.
    """

    def __init__(
        self,
        source: Any,
        pipeline: Mapping[str, Any],
        *,
        training: bool = False,
        classes: Sequence[str] | None = None,
        augment: Augment = None,
    ):
        own = names_of(source)
        self.source, self.pipeline, self.training = source, dict(pipeline), training
        self.augment: Augment = augment
        self.classes = list(classes if classes is not None else own)
        self.transform = _transform(pipeline, training, augment)
        self.indices = np.arange(len(source))
        self.marks = False  # whether a file that can't be read is an image of class LEFT_OUT instead of an error
        self._failed = torch.zeros(len(source), dtype=torch.uint8)  # by place in the source; parts share it
        self._number = _numbers(own, self.classes)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        alone = self.training and not self.marks and not _loader_cares.get()
        for step in range(RETRIES if alone else 0):
            try:
                return self._read((index + step) % len(self))
            except Unreadable as error:
                self._note((index + step) % len(self), error)
        try:
            return self._read(index % len(self))
        except BAD as error:
            if self.marks or _loader_cares.get():
                self._note(index % len(self), error)
            if not self.marks:
                raise
            return left_out(self.pipeline)

    def _read(self, index: int) -> tuple[Tensor, int]:
        return self._used(index, self.transform)

    def _used(self, index: int, use: Callable[[Any], Any]) -> tuple[Any, int]:
        """What ``use`` makes of the picture, and the class number; errors name the file."""
        try:
            picture, target = self.source[int(self.indices[index])][:2]
            if hasattr(picture, "read"):
                with picture:
                    picture = picture.read()
            return use(picture), self._class(target)
        except DataError as error:
            raise type(error)(f"{self.filename(index)}: {error}") from error
        except (
            OSError,
            EOFError,
            SyntaxError,
            struct.error,
            zlib.error,
        ) as error:  # what PIL's codecs raise in a reader
            raise Unreadable(f"{self.filename(index)}: it can't be read: {error}") from error

    def raw(self, index: int) -> Any:
        """The picture of image ``index`` as it is in its file: a PIL image, an array, or bands."""
        return self._used(index, lambda source: decode(source) if isinstance(source, bytes) else loaded(source))[0]

    def flaw(self, index: int) -> str:
        """Why image ``index`` can't be used, or "": it is read whole, without a transform."""
        try:
            self._used(index, self.transform.picture)
        except BAD as error:
            return str(error).removeprefix(f"{self.filename(index)}: ")
        return ""

    def _note(self, index: int, error: DataError) -> None:
        """Say once, and remember, that a file can't be used."""
        place = int(self.indices[index])
        if not self._failed[place]:
            self._failed[place] = 1
            log.warning("skipped %s", error)

    def share(self) -> None:
        """Let worker processes report which files they couldn't read; called before they start."""
        with contextlib.suppress(RuntimeError, OSError):  # no shared memory here: their reports are in the log alone
            self._failed.share_memory_()

    @property
    def unreadable(self) -> list[str]:
        """The files of this dataset that were asked for and couldn't be read, so far."""
        failed = np.flatnonzero(self._failed.numpy()[self.indices])
        return [self.filename(int(index)) for index in failed]

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
    def random(self) -> bool:
        """Whether the images are augmented at random, so that they are others in every epoch."""
        return self.training and self.augment is not False

    @property
    def targets(self) -> np.ndarray:
        """The class number of each image, without reading the images where the source can tell."""
        targets = _targets(self.source)
        return np.array([self._class(targets[i]) for i in self.indices.tolist()], dtype=np.int64)

    def part(self, positions: Sequence[int] | np.ndarray, *, training: bool) -> Images:
        """Some of the images; with ``training=False`` under the evaluation transform."""
        chosen = copy.copy(self)
        chosen.indices, chosen.training = self.indices[positions], training
        chosen.transform = _transform(self.pipeline, training, self.augment)
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
        augment: Augment = None,
    ):
        self.source, self.pipeline, self.classes = source, dict(pipeline), list(classes or names_of(source))
        if not self.classes:
            raise DataError("this source doesn't tell its class names; pass classes=[...], in the order of its numbers")
        self.transform = _transform(pipeline, training, augment)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for number, (picture, target) in enumerate(self.source):
            try:
                image = self.transform(picture)
            except BAD as error:
                log.warning("skipped image %d of the stream: %s", number, error)
            else:
                yield image, int(target)

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


def tells(source: Any) -> bool:
    """Whether a source knows its class numbers without reading its images."""
    return any(hasattr(source, name) for name in ("iter_targets", "targets", "samples"))


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

    Raises:
        DataError: A stream, a fraction that can't be, or no class with two images.
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
    if not held:
        raise DataError(
            "every class has one image alone, so none can be held out for validation; bring two of a class, or validation "
            "images of their own (petl train: --val FOLDER)"
        )
    rest = np.setdiff1d(np.arange(len(dataset)), held)
    return dataset.part(rest, training=True), dataset.part(np.sort(held).astype(int), training=False)
