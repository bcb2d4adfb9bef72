"""A dataset of pairs (image tensor, target) around a folder, a table, one of timm's readers, or a dataset of torchvision's."""

from __future__ import annotations

import contextlib
import copy
import logging
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from petl.data.bad_files import BAD_FILE, CALLER_HANDLES_BAD_FILES, RETRIES, placeholder
from petl.data.decoding import Unreadable, decode, load_pixels
from petl.data.source_labels import source_targets
from petl.data.target_kinds import target_kind
from petl.data.transforms import Augment, make_transform
from petl.errors import DataError

log = logging.getLogger(__name__)


class Images(Dataset[tuple[Tensor, Any]]):
    """Pairs of (image [k, H, W], target) from a folder, a table, one of timm's readers or a torchvision dataset.

    A target is a class number. In a table with several labels for an image, it is float32 [K] of 0 and 1 in the order of
    ``classes``; with numbers, it is a float32 scalar or [K]. NaN is what isn't known. ``task`` says which it is.

    What happens with a file that can't be read:

    - `petl.fit` and `petl.evaluate` check the files before they begin (see `petl.data.sift`), name those that can't be read, and
      go on without them. What this quick check doesn't find shows when the file is read:
    - in batches for training, another image takes its place; in other batches, it is an image of zeros with class number
      `LEFT_OUT` (-100), which torch's cross-entropy ignores and petl's metrics leave out (numbers and several labels are NaN).
      Batches keep their size;
    - ``dataset[i]`` alone raises `DataError` with the file's name; in training, it returns the next image that can be read. In
      a `Subset`, that may be an image of another fold: use `petl.data.loader`, or call `petl.data.sift` first.

    Each such file is logged once, and listed by `unreadable`, also when worker processes read it.
    """

    def __init__(
        self,
        source: Any,
        pipeline: Mapping[str, Any],
        *,
        training: bool = False,
        classes: Sequence[str] | None = None,
        augment: Augment = None,
        transform: Callable[..., Any] | None = None,
    ):
        self.source, self.pipeline, self.training = source, dict(pipeline), training
        self.augment: Augment = augment
        self.target_kind = target_kind(source, classes)
        self.task, self.classes = self.target_kind.task, self.target_kind.names
        self.own_transform = transform
        self.transform = make_transform(pipeline, training, augment, transform)
        self.indices = np.arange(len(source))
        self.marks = False  # whether a file that can't be read is an image of class LEFT_OUT instead of an error
        self._failed = torch.zeros(len(source), dtype=torch.uint8)  # by number in the source; `part` shares it

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
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
            return placeholder(self.pipeline, self.target_kind.unknown)

    def _read(self, index: int) -> tuple[Tensor, Any]:
        return self._apply(self.transform, index)

    def _apply(self, function: Callable[[Any], Any], index: int) -> tuple[Any, Any]:
        """Returns ``function`` of the image as the source has it, and the target; errors name the file."""
        try:
            image, target = self.source[int(self.indices[index])][:2]
            if hasattr(image, "read"):
                with image as file:
                    image = file.read()
            return function(image), self.target_kind(target)
        except DataError as error:
            raise type(error)(f"{self.filename(index)}: {error}") from error
        except (OSError, EOFError, SyntaxError, struct.error, zlib.error) as error:  # of PIL's codecs, in a reader
            raise Unreadable(f"{self.filename(index)}: it can't be read: {error}") from error

    def contents(self, index: int) -> Any:
        """Returns what the source has of image ``index``: the bytes of its file, or a PIL image or an array without a file."""
        return self._apply(lambda image: image, index)[0]

    def raw(self, index: int) -> Any:
        """Returns image ``index`` as it is in its file: a PIL image, an array, or bands."""
        return self._apply(self._decoded, index)[0]

    def _decoded(self, image: Any) -> Any:
        return decode(image, self.transform.reading) if isinstance(image, bytes) else load_pixels(image)

    def flaw(self, index: int) -> str:
        """Returns why image ``index`` can't be used, or "". The image is read whole, and not transformed."""
        try:
            self._apply(self.transform.untransformed, index)
        except BAD_FILE as error:
            return str(error).removeprefix(f"{self.filename(index)}: ")
        return ""

    def _note(self, index: int, error: DataError) -> None:
        """Logs once, and remembers, that a file can't be used."""
        number = int(self.indices[index])
        if not self._failed[number]:
            self._failed[number] = 1
            log.warning("skipped %s", error)

    def share(self) -> None:
        """Makes worker processes report which files they couldn't read; to be called before they start."""
        with contextlib.suppress(RuntimeError, OSError):  # without shared memory, their reports are only in the log
            self._failed.share_memory_()

    @property
    def unreadable(self) -> list[str]:
        """Returns the files of this dataset that couldn't be read when they were asked for, so far."""
        failed = np.flatnonzero(self._failed.numpy()[self.indices])
        return [self.filename(int(index)) for index in failed]

    def filename(self, index: int) -> str:
        """Returns the path of the image's file (in its archive), or the image's number where the source has no files."""
        number = int(self.indices[index])
        has_names = hasattr(self.source, "filename")
        return str((self.source.filename(number, absolute=True) if has_names else "") or f"image {number}")

    @property
    def random(self) -> bool:
        """Returns whether the images are augmented at random, so that each epoch has different ones."""
        return self.own_transform is not None or (self.training and self.augment is not False)

    @property
    def targets(self) -> np.ndarray:
        """Returns the target of each image: int64 [N] for classes, float32 [N] or [N, K] for numbers and several labels.

        Images are read only where the source doesn't list its targets.
        """
        targets = source_targets(self.source)
        return self.target_kind.array([targets[i] for i in self.indices.tolist()])

    @property
    def target_names(self) -> list[str]:
        """Returns what the outputs of a model for these images stand for: classes, labels, or a table's columns of numbers."""
        return list(getattr(self.target_kind, "columns", self.classes))

    @property
    def files(self) -> list[str]:
        """Returns the path of each image, as `filename` has it."""
        return [self.filename(index) for index in range(len(self))]

    @property
    def groups(self) -> np.ndarray | None:
        """Returns the group of each image (such as the patient) as text, from a table's column; None where there is none."""
        groups = getattr(self.source, "groups", None)
        return None if groups is None else np.asarray(groups, dtype=object)[self.indices]

    @property
    def weights(self) -> Tensor | None:
        """Returns the weight of each image, float32 [N], from a table's column; None where there is none."""
        weights = getattr(self.source, "weights", None)
        return (
            None if weights is None else torch.as_tensor(weights, dtype=torch.float32)[torch.from_numpy(self.indices)]
        )

    def part(self, positions: Sequence[int] | np.ndarray, *, training: bool) -> Images:
        """Returns a dataset of some of the images; with ``training=False``, they have the evaluation transform alone."""
        part = self.some(positions)
        part.training, part.own_transform = training, self.own_transform if training else None
        part.transform = make_transform(self.pipeline, training, self.augment, part.own_transform)
        return part

    def some(self, positions: Sequence[int] | np.ndarray) -> Images:
        """Returns a dataset of some of the images, with the same transform."""
        some = copy.copy(self)
        some.indices = self.indices[positions]
        return some
