"""What timm's readers and torchvision's datasets give, as pairs of (image tensor, class number)."""

from __future__ import annotations

import contextlib
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

from petl.data.bad_files import BAD_FILE, CALLER_HANDLES_BAD_FILES, RETRIES, placeholder
from petl.data.decoding import Unreadable, decode, load_pixels
from petl.data.source_labels import renumbering, source_classes, source_targets
from petl.data.transforms import Transform
from petl.errors import DataError

log = logging.getLogger(__name__)
Augment = Mapping[str, Any] | Literal[False] | None


def _transform_of(pipeline: Mapping[str, Any], training: bool, augment: Augment) -> Transform:
    return Transform(pipeline, training and augment is not False, augment or None)


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
        own = source_classes(source)
        self.source, self.pipeline, self.training = source, dict(pipeline), training
        self.augment: Augment = augment
        self.classes = list(classes if classes is not None else own)
        self.transform = _transform_of(pipeline, training, augment)
        self.indices = np.arange(len(source))
        self.marks = False  # whether a file that can't be read is an image of class LEFT_OUT instead of an error
        self._failed = torch.zeros(len(source), dtype=torch.uint8)  # by place in the source; parts share it
        self._number = renumbering(own, self.classes)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        alone = self.training and not self.marks and not CALLER_HANDLES_BAD_FILES.get()
        for step in range(RETRIES if alone else 0):
            try:
                return self._read((index + step) % len(self))
            except Unreadable as error:
                self._note((index + step) % len(self), error)
        try:
            return self._read(index % len(self))
        except BAD_FILE as error:
            if self.marks or CALLER_HANDLES_BAD_FILES.get():
                self._note(index % len(self), error)
            if not self.marks:
                raise
            return placeholder(self.pipeline)

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
        return self._used(index, lambda source: decode(source) if isinstance(source, bytes) else load_pixels(source))[0]

    def flaw(self, index: int) -> str:
        """Why image ``index`` can't be used, or "": it is read whole, without a transform."""
        try:
            self._used(index, self.transform.picture)
        except BAD_FILE as error:
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
        targets = source_targets(self.source)
        return np.array([self._class(targets[i]) for i in self.indices.tolist()], dtype=np.int64)

    def part(self, positions: Sequence[int] | np.ndarray, *, training: bool) -> Images:
        """Some of the images; with ``training=False`` under the evaluation transform."""
        chosen = copy.copy(self)
        chosen.indices, chosen.training = self.indices[positions], training
        chosen.transform = _transform_of(self.pipeline, training, self.augment)
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
        self.source, self.pipeline, self.classes = source, dict(pipeline), list(classes or source_classes(source))
        if not self.classes:
            raise DataError("this source doesn't tell its class names; pass classes=[...], in the order of its numbers")
        self.transform = _transform_of(pipeline, training, augment)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for number, (picture, target) in enumerate(self.source):
            try:
                image = self.transform(picture)
            except BAD_FILE as error:
                log.warning("skipped image %d of the stream: %s", number, error)
            else:
                yield image, int(target)

    def __len__(self) -> int:
        return len(self.source)

    def set_epoch(self, epoch: int) -> None:
        self.source.set_epoch(epoch)

    def set_loader_cfg(self, num_workers: int) -> None:
        self.source.set_loader_cfg(num_workers=num_workers)
