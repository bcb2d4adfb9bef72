"""`RidgeStatistics`: all that ridge regression needs to know of the images seen so far, so that classes and images can be added.

Of N images with features x and one class each: the sum of ``x x'``, and for each class the sum of its x and the number of its
images, in float64. Sums don't depend on their order, so the classifier is the one of all images at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from petl.errors import DataError, StateError, listing
from petl.evidence.leave_one_out import PENALTIES
from petl.evidence.principal_axes import parts
from petl.format.tensorfile import read_file, write_file
from petl.format.texts import parsed_json
from petl.version import __version__

MOST_FREEDOM = 0.5  # degrees of freedom an image: with more, cross-validation by their sum alone calls any fit perfect
STATISTICS_KEY, RIDGE_FORMAT = "petl_ridge", 1
SUFFIX = ".ridge.safetensors"
ROUNDING = 1e-11  # of the largest eigenvalue of the features' products: what float64 leaves of axes that no image has


@dataclass(frozen=True)
class RidgeHead:
    """A linear classifier from statistics: ``weight`` [C, D] and ``bias`` [C] in float64, and the ``penalty`` that was chosen.

    ``error`` is the mean squared error of an output on an image that was left out, as generalised cross-validation estimates it.
    Scores are divided by it, which makes them of a softmax's size; it is surer than it should be (docs/combining.md).
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    error: float


@dataclass(frozen=True, eq=False)
class RidgeStatistics:
    """Sums over the features of all images seen so far; never changed: ``plus`` returns new ones.

    Attributes:
        classes: names. ``counts`` int64 [C]: images of each; ``sums`` float64 [C, D]: of their features.
        gram: float64 [D, D], the sum of ``x x'`` over all images.
        trunk: what the features are of: a checksum over the backbone, its delta without the classifier, and the input pipeline.
        added: a checksum of each addition, so that none counts twice.
    """

    classes: list[str]
    counts: Tensor
    sums: Tensor
    gram: Tensor
    trunk: str
    added: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, width: int, trunk: str, classes: Sequence[str] = ()) -> RidgeStatistics:
        """Returns the statistics of no image."""
        zeros = torch.zeros(len(classes), width, dtype=torch.float64)
        gram = torch.zeros(width, width, dtype=torch.float64)
        return cls([*classes], torch.zeros(len(classes), dtype=torch.int64), zeros, gram, trunk)

    @property
    def width(self) -> int:
        return self.gram.shape[0]

    @property
    def images(self) -> int:
        return int(self.counts.sum())

    def plus(self, x: Tensor, y: Tensor, names: Sequence[str], *, again: bool = False) -> RidgeStatistics:
        """Returns the statistics with more images: features [N, D], class numbers [N], and what these are called.

        Classes without new images keep their numbers to the bit.

        Raises:
            DataError: other features, numbers that aren't finite, or the very images of an earlier addition (unless ``again``).
        """
        if x.ndim != 2 or x.shape[1] != self.width or not len(x):
            raise DataError(f"features {tuple(x.shape)}; expected [N, {self.width}] of one image or more")
        if not bool(torch.isfinite(x).all()):
            raise DataError("images have features that are not finite")
        seen = [name for number, name in enumerate(names) if bool((y == number).any())]
        mark = _checksum(x, [names[int(number)] for number in y.tolist()])
        if mark in self.added and not again:
            raise DataError(
                f"these {len(x)} images of {listing(seen)} were added before, and would count twice; again=True does that"
            )
        classes = [*self.classes, *(name for name in seen if name not in self.classes)]
        rows = torch.tensor([classes.index(name) if name in classes else -1 for name in names])[y]
        new = len(classes) - len(self.classes)
        counts = torch.cat([self.counts, self.counts.new_zeros(new)]) + torch.bincount(rows, minlength=len(classes))
        sums = torch.cat([self.sums, self.sums.new_zeros(new, self.width)])
        gram = self.gram.clone()
        for part in parts(len(x)):
            block = x[part].double()
            sums = sums.index_add(0, rows[part], block)
            gram.addmm_(block.T, block)
        return replace(self, classes=classes, counts=counts, sums=sums, gram=gram, added=[*self.added, mark])

    def head(self, penalties: Sequence[float] = PENALTIES) -> RidgeHead:
        """Returns ridge regression on one-hot targets, as `petl.evidence.leave_one_out.ridge` has it for all images at once.

        Features are centred and divided by the root of their mean variance. Single images can't be left out of sums: the penalty
        is that of the smallest generalised cross-validation error (Golub, Heath and Wahba 1979), which needs no more, among
        those that leave at most one degree of freedom to two images.

        Raises:
            DataError: fewer than two images, or two classes.
        """
        count = self.images
        if count < 2 or int((self.counts > 0).sum()) < 2:
            raise DataError(f"there are {count} images of {len(self.classes)} classes; expected two classes or more")
        mean, shares = self.sums.sum(0) / count, self.counts.double() / count
        scatter = self.gram - count * torch.outer(mean, mean)
        spread = max(float(scatter.trace()) / (count * self.width), 0.0) ** 0.5 or 1.0
        squares, axes = torch.linalg.eigh(scatter / spread**2)
        squares = squares.clamp_min(0)
        projected = axes.T @ (self.sums - self.counts.double()[:, None] * mean).T / spread
        total = count * float(1 - shares.square().sum())
        allowed = [p for p in penalties if 1 + float((squares / (squares + p)).sum()) <= MOST_FREEDOM * count]
        penalties = allowed or [max(penalties)]
        errors = [_left_out_error(squares, projected, total, count, penalty) for penalty in penalties]
        best = min(range(len(errors)), key=lambda number: (errors[number], -penalties[number]))
        weight = (axes @ (projected / (squares + penalties[best])[:, None])).T / spread
        error = max(errors[best] / len(self.classes), 1e-6)
        return RidgeHead(weight / error, (shares - weight @ mean) / error, penalties[best], error)

    def save(self, path: Path) -> Path:
        """Writes one file; of the symmetric sum the upper half.

        Raises:
            DeltaError: the file can't be written.
        """
        upper = torch.triu_indices(self.width, self.width)
        tensors = {"gram": self.gram[upper[0], upper[1]], "sums": self.sums, "counts": self.counts}
        texts = {
            "format": RIDGE_FORMAT,
            "petl": __version__,
            "classes": self.classes,
            "trunk": self.trunk,
            "added": self.added,
        }
        return write_file(path, tensors, {STATISTICS_KEY: json.dumps(texts)})

    @classmethod
    def load(cls, path: Path) -> RidgeStatistics:
        """Returns the statistics in a file.

        Raises:
            DeltaError: the file is damaged. StateError: it holds something else.
        """
        metadata, tensors = read_file(path)
        try:
            texts = parsed_json(metadata[STATISTICS_KEY])
            counts, sums, packed = (tensors[key] for key in ("counts", "sums", "gram"))
            classes, trunk, added = texts["classes"], texts["trunk"], texts["added"]
            fine = texts["format"] == RIDGE_FORMAT and all(isinstance(name, str) for name in [*classes, *added, trunk])
            width = sums.shape[1]
            fine &= sums.shape == (len(classes), width) and counts.shape == (len(classes),)
            fine &= len({*classes}) == len(classes) and packed.shape == (width * (width + 1) // 2,)
            fine &= counts.dtype == torch.int64 and sums.dtype == packed.dtype == torch.float64
            fine = fine and bool(sums.isfinite().all() and packed.isfinite().all() and (counts >= 0).all())
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
            raise StateError(f"{path} holds no statistics of petl.extend ({type(error).__name__}: {error})") from error
        if not fine:
            raise StateError(f"{path} holds no statistics that petl.extend could have written")
        gram, upper = torch.zeros(width, width, dtype=torch.float64), torch.triu_indices(width, width)
        gram[upper[0], upper[1]] = packed
        gram[upper[1], upper[0]] = packed
        return cls(classes, counts, sums, gram, trunk, added)


def _left_out_error(squares: Tensor, projected: Tensor, total: float, count: int, penalty: float) -> float:
    """Returns the mean squared error of an image's outputs together when it is left out, by generalised cross-validation.

    Both the rest and the freedom are added up from what the penalty leaves of each axis: with fewer images than features both
    come near 0, where differences of large numbers would be rounding.
    """
    there = squares > ROUNDING * squares.max()
    left = penalty / (squares[there] + penalty)
    along = projected[there].square().sum(1) / squares[there]
    beside = count - 1 - int(there.sum())  # an intercept is one more axis
    outside = max(total - float(along.sum()), 0.0) if beside > 0 else 0.0
    rest = outside + float((left.square() * along).sum())
    freedom = max(beside, 0) + float(left.sum())
    return rest * count / max(freedom, 1e-12) ** 2


def _checksum(x: Tensor, names: Sequence[str]) -> str:
    """Returns a checksum of images by their features and classes, whatever their order."""
    rows = [hashlib.sha256(row.numpy().tobytes() + name.encode()).digest() for row, name in zip(x, names, strict=True)]
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def statistics_beside(delta: Path) -> Path:
    """Returns where the statistics of a delta file are: ``pets.ridge.safetensors`` beside ``pets.safetensors``."""
    return delta.with_name(f"{delta.stem}{SUFFIX}")
