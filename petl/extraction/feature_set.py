"""`Features`: what a model's classifier takes, for each image of a dataset, with the labels and what else was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from petl.errors import DataError, listing, printable
from petl.format.atomic_files import open_atomically

HEADER, FILE_FORMAT = "petl.features", 1
BLOCK = "block "  # before a block's name, in a file


@dataclass(frozen=True, repr=False, eq=False)
class Features:
    """What a model's classifier takes, for each of N images; `petl.features` computes it. It prints as a few sentences.

    Args:
        x: float32 [N, D] on the CPU: the classifier's inputs.
        y: int64 [N], class numbers; float32 [N] or [N, k] for number targets and several labels; None without labels.
        classes: The names of the classes in the order of their numbers ([] without classes).
        blocks: The pooled outputs of the model's blocks by name, in depth order, float32 [N, d]; None unless asked for.
        inputs: The images at a few pixels, float32 [N, channels, side, side], as before normalisation; None unless asked for.
        files: The path of each image; None where the images are no files, or their order isn't known.
        unreadable: The files that couldn't be read and are left out, with the reasons.
        model: The model's name, for people.
        cached: Whether it was read from the cache.

    ``len(f)`` is N. ``f[indices]`` is a part: a slice, numbers, or a mask [N].

    >>> f = Features(torch.eye(4), torch.tensor([0, 1, 0, 1]), ["cat", "dog"])
    >>> len(f), f[1:3].y.tolist(), f[f.y == 1].x.shape
    (4, [1, 0], torch.Size([2, 4]))
    """

    x: Tensor
    y: Tensor | None = None
    classes: list[str] = field(default_factory=list)
    blocks: dict[str, Tensor] | None = None
    inputs: Tensor | None = None
    files: list[str] | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    model: str = "model"
    cached: bool = False

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, key: Any) -> Features:
        """Returns the features of some images: of a slice, of numbers, or of a mask [N]; a single number gives one image.

        Raises:
            IndexError: there is no such image.
        """
        rows = _rows(key, len(self))
        return replace(
            self,
            x=self.x[rows],
            y=None if self.y is None else self.y[rows],
            blocks=None if self.blocks is None else {name: table[rows] for name, table in self.blocks.items()},
            inputs=None if self.inputs is None else self.inputs[rows],
            files=None if self.files is None else [self.files[row] for row in rows.tolist()],
        )

    def __repr__(self) -> str:
        return " ".join(
            part for part in (self._about_x(), self._about_y(), self._about_more(), self._about_files()) if part
        )

    def _about_x(self) -> str:
        where = "read from the cache" if self.cached else "computed"
        width = self.x.shape[1]
        return (
            f"Features of {len(self)} images, {width} numbers each: what the classifier of {self.model} takes, {where}."
        )

    def _about_y(self) -> str:
        if self.y is None:
            return "The images have no labels."
        if self.y.is_floating_point() or self.y.ndim > 1:
            width = self.y.shape[1] if self.y.ndim > 1 else 1
            return f"The targets are {width} number{'s' * (width != 1)} for each image."
        counts = list(self.per_class.values())
        spread = f"{min(counts)}" if len({*counts}) == 1 else f"{min(counts)} to {max(counts)}"
        return f"{len(counts)} classes ({listing(self.per_class)}) with {spread} images each."

    def _about_more(self) -> str:
        parts = []
        if self.blocks is not None:
            widths = [table.shape[1] for table in self.blocks.values()]
            parts.append(f"Outputs of {len(widths)} blocks, {min(widths)} to {max(widths)} numbers each.")
        if self.inputs is not None:
            parts.append(f"The images at {' x '.join(map(str, self.inputs.shape[1:]))} values.")
        return " ".join(parts)

    def _about_files(self) -> str:
        if not self.unreadable:
            return ""
        named = listing(f"{Path(file).name} ({why})" for file, why in self.unreadable.items())
        count = len(self.unreadable)
        return f"Left out: {count} file{'s' * (count != 1)} that can't be read, {printable(named)}."

    @property
    def per_class(self) -> dict[str, int]:
        """Returns how many images each class has; {} without class numbers."""
        if self.y is None or self.y.is_floating_point() or self.y.ndim > 1:
            return {}
        counts = torch.bincount(self.y, minlength=len(self.classes)).tolist()
        names = [*self.classes, *(str(number) for number in range(len(self.classes), len(counts)))]
        return dict(zip(names, counts, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the tensors' values, as values for JSON."""
        return {
            "images": len(self),
            "width": self.x.shape[1],
            "model": self.model,
            "targets": None if self.y is None else "numbers" if self.y.is_floating_point() else "classes",
            "classes": list(self.classes),
            "per_class": self.per_class,
            "blocks": None if self.blocks is None else {name: table.shape[1] for name, table in self.blocks.items()},
            "inputs": None if self.inputs is None else list(self.inputs.shape[1:]),
            "files": self.files,
            "unreadable": dict(self.unreadable),
            "cached": self.cached,
        }

    def save(self, path: str | Path) -> Path:
        """Writes everything into one safetensors file, which `Features.load` reads, and returns its path.

        Raises:
            DeltaError: the file can't be written.
        """
        optional = {"y": self.y, "inputs": self.inputs}
        tensors = {"x": self.x, **{name: tensor for name, tensor in optional.items() if tensor is not None}}
        tensors |= {f"{BLOCK}{name}": table for name, table in (self.blocks or {}).items()}
        header = {"format": FILE_FORMAT, **self.to_json()}
        contents = safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, {HEADER: json.dumps(header)}
        )
        with open_atomically(Path(path)) as file:
            file.write(contents)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Features:
        """Returns the features in a file that `Features.save` wrote.

        Raises:
            DataError: there is no such file, or it holds something else.
        """
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})[HEADER])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
            return _from_parts(cls, header, tensors)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} holds no features that this petl can read ({error}); the save method of petl.Features writes them"
            ) from error


def _from_parts(kind: type[Features], header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Features:
    """Returns features from the parts of a file; a ValueError where they don't belong together."""
    if header["format"] != FILE_FORMAT:
        raise ValueError(f"its format is {header['format']}")
    files, count = header["files"], len(tensors["x"])
    if tensors["x"].ndim != 2 or any(len(t) != count for t in tensors.values()) or (files and len(files) != count):
        raise ValueError("its tables have different numbers of images")
    blocks = None if header["blocks"] is None else {name: tensors[f"{BLOCK}{name}"] for name in header["blocks"]}
    texts = {"classes": list(header["classes"]), "files": files, "unreadable": dict(header["unreadable"])}
    return kind(
        tensors["x"], tensors.get("y"), blocks=blocks, inputs=tensors.get("inputs"), model=str(header["model"]), **texts
    )


def _rows(key: Any, count: int) -> Tensor:
    """Returns the numbers of rows, int64, that an index means."""
    if isinstance(key, slice):
        return torch.arange(count)[key]
    if isinstance(key, (Sequence, np.ndarray, Tensor)) and not isinstance(key, str):
        rows = torch.as_tensor(key if not isinstance(key, (list, tuple, range)) else np.asarray(key)).cpu().reshape(-1)
        rows = rows.long() if not rows.numel() else rows
    elif isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        rows = torch.tensor([int(key)])
    else:
        raise IndexError(
            f"{key!r:.60} is no index of features; expected a number, a slice, numbers, or a mask [{count}]"
        )
    if rows.dtype == torch.bool:
        if len(rows) != count:
            raise IndexError(f"a mask of {len(rows)} values for {count} images")
        return rows.nonzero()[:, 0]
    if rows.is_floating_point() or (rows.numel() and not -count <= int(rows.min()) <= int(rows.max()) < count):
        raise IndexError(f"{key!r:.60}: expected numbers of images, whole and below {count}")
    return rows.long() % max(count, 1)
