"""Which images are meant by paths, patterns, folders, tars, tables, or images in memory: a list with a name for each."""

from __future__ import annotations

import glob
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from petl.data.damage import why_unreadable
from petl.data.readers import existing_path
from petl.data.scanning import scan
from petl.data.tree import natural_order, refuse_empty
from petl.errors import DataError
from petl.prediction.table_images import images_of_table, lists_images

PATTERN = "*?["  # what makes a name a pattern
Source = str | os.PathLike[str]


class TarMember(NamedTuple):
    """The bytes of one file in a tar."""

    tar: str
    start: int
    size: int


@dataclass(frozen=True)
class ImageList:
    """Images in their order: a name for each, and what to read: a path, a part of a tar, a PIL image, an array or a tensor."""

    names: Sequence[str]
    items: Sequence[Any]

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: ImageList) -> ImageList:
        return ImageList([*self.names, *other.names], [*self.items, *other.items])

    @property
    def checksum(self) -> int:
        """Returns a number that two lists of the same names in the same order share."""
        total = 0
        for name in self.names:
            total = zlib.crc32(name.encode("utf-8", "surrogateescape") + b"\0", total)
        return total

    def refuse_bad_files(self) -> None:
        """Raises a DataError for the first file that is missing, empty or cut off, after a quick look at every file."""
        for name, item in zip(self.names, self.items, strict=True):
            if isinstance(item, (str, Path)) and (why := why_unreadable(item)):
                raise DataError(f"{name}: {why}; mend or remove it, or leave out strict")


def list_images(images: Any, options: Mapping[str, Any] | None = None) -> ImageList:
    """Returns the images that a path, a pattern, a folder, a tar, a table, a list of these, or images in memory stand for.

    A folder or tar gives all images in and under it, in natural order, named relative to it; a pattern what it matches; a
    table the files in its column of paths, named as there and looked up beside it (``options`` may have the column ``path``, and
    its ``encoding``). In a list, names are whole paths.

    Raises:
        DataError: nothing is there, nothing matches, there is no image, or it is none of these.
    """
    if is_path(images):
        return _alone(os.fspath(images), options)
    if is_image(images):
        return _numbered([images])
    if isinstance(images, (Tensor, np.ndarray)):
        if images.ndim != 4:
            raise DataError(f"got {_kind(images)}; {EXPECTED}")
        return _numbered(list(images))
    if isinstance(images, (Mapping, Set)) or not isinstance(images, Iterable) or not (items := list(images)):
        raise DataError(f"got {'no images' if isinstance(images, Sequence) else _kind(images)}; {EXPECTED}")
    if all(is_path(item) for item in items):
        return _several(items)
    odd = next((item for item in items if not is_image(item)), None)
    if odd is not None:
        raise DataError(f"got a list with {_kind(odd)} in it; {EXPECTED}")
    return _numbered(items)


EXPECTED = (
    "expected a path, a pattern, a folder, a table of paths, a list of paths, PIL images, arrays [H, W, C], tensors [C, H, W], "
    "a tensor [N, C, H, W], a Dataset or a DataLoader"
)


def is_path(item: Any) -> bool:
    return isinstance(item, (str, os.PathLike))


def is_image(item: Any) -> bool:
    """Returns whether this is one image in memory: decoded, a tensor, or the bytes of an image file."""
    return (
        isinstance(item, (Image.Image, bytes))
        or hasattr(item, "read")
        or (isinstance(item, np.ndarray) and item.ndim in (2, 3))
        or (isinstance(item, Tensor) and item.ndim == 3)
    )


def _kind(item: Any) -> str:
    shape = f" of shape {tuple(item.shape)}" if isinstance(item, (np.ndarray, Tensor)) else ""
    return f"a {type(item).__name__}{shape}"


def _numbered(items: list[Any]) -> ImageList:
    if not items:
        raise DataError(f"got no images; {EXPECTED}")
    return ImageList([f"image {number}" for number in range(len(items))], items)


def _alone(source: str, options: Mapping[str, Any] | None) -> ImageList:
    """Returns the images of the only source; those of a folder, a tar or a table are named as in it."""
    if not source:
        raise DataError(f"got an empty path; {EXPECTED}")
    path = Path(source)
    if "://" in source:
        raise DataError(f"{source} is an address; download what is there, and give its path")
    if _is_pattern(source):
        return _several([source])
    if not os.path.lexists(path):
        existing_path(path)
    if path.is_dir() or _is_tar(path):
        return _tree(path)
    return table_list(path, options) if path.is_file() and lists_images(path) else ImageList([source], [source])


def _several(sources: Sequence[Source]) -> ImageList:
    """Returns the images of several sources, one after the other, named by their whole paths.

    A path that isn't there stays in the list: its file counts among those that can't be read. So does a table, which a shell's
    pattern may have brought along; alone, it is a list of images.
    """
    names: list[str] = []
    items: list[Any] = []
    for source in sources:
        for found in _matches(source) if _is_pattern(source) else [os.fspath(source)]:
            inner = _tree(Path(found)) if os.path.isdir(found) else ImageList([found], [found])
            names += [os.path.join(found, name) for name in inner.names] if os.path.isdir(found) else inner.names
            items += inner.items
    return ImageList(names, items)


def _is_pattern(source: Source) -> bool:
    return any(sign in str(source) for sign in PATTERN) and not os.path.lexists(source)


def _matches(pattern: Source) -> list[str]:
    found = sorted(glob.glob(str(pattern), recursive=True), key=natural_order)
    folders = {os.path.normpath(name) for name in found if os.path.isdir(name)}
    # "**" matches folders and what is in them: each file counts once
    kept = [name for name in found if not any(str(above) in folders for above in Path(os.path.normpath(name)).parents)]
    if not kept:
        raise DataError(f"no file matches {str(pattern)!r}; expected at least one image")
    return kept


def _is_tar(path: Path) -> bool:
    return path.suffix.lower() == ".tar" and path.is_file()


def _tree(path: Path) -> ImageList:
    tree, places = scan(path)
    refuse_empty(tree, [()])
    files = sorted(tree.images, key=lambda file: natural_order("/".join(file)))
    items = [TarMember(str(path), *places[f][1:]) if places else str(path.joinpath(*f)) for f in files]
    return ImageList(["/".join(file) for file in files], items)


def table_list(source: Any, options: Mapping[str, Any] | None = None) -> ImageList:
    """Returns the images that a table file or a frame lists."""
    images = images_of_table(source, options)
    return ImageList([image.name for image in images], [image.item for image in images])
