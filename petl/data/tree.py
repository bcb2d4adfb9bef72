"""What is in a folder or a tar: the images, the folders that are splits, and the class of each image.

All of this is decided on names alone, relative to the root: a file is a tuple of names, ``("train", "cat", "1.png")``.
"""

from __future__ import annotations

import collections
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from petl.data.decoding import extensions
from petl.data.split_names import splits_among
from petl.errors import DataError, listing

Names = tuple[str, ...]
SYSTEM_FILES = {  # what Synology, QNAP, macOS, Windows and others leave in folders, in lower case
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "@sharesnap", "#recycle", "#snapshot"),
    *("__macosx", "icon\r", "__pycache__", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information"),
}


def natural_order(name: str) -> tuple[list[Any], str]:
    """A key that sorts names as people do, 9 before 10, as timm does; names that differ in case only keep one order."""
    pieces = re.split(r"(\d+)", name.lower())
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], name


def is_hidden(path: Names) -> bool:
    """Whether a file or one of the folders above it is hidden, or a system's own."""
    return any(name.startswith(".") or name.lower() in SYSTEM_FILES for name in path)


def suffix(file: Names) -> str:
    """The part of a file's name that tells its format, in lower case: ``.png``, or "" for none."""
    return os.path.splitext(file[-1])[1].lower()


def count_suffixes(files: Iterable[Names]) -> str:
    """How many there are of each kind: ``10 .gif, 2 .txt``."""
    kinds = collections.Counter(suffix(file) or "without ending" for file in files)
    return listing(f"{count} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


@dataclass
class Tree:
    """The files under ``root`` (its name is for messages), and the folders, also those without files."""

    root: str
    images: list[Names] = field(default_factory=list)
    others: list[Names] = field(default_factory=list)
    hidden: list[Names] = field(default_factory=list)
    folders: set[Names] = field(default_factory=set)
    full: set[Names] = field(default_factory=set)  # those with images in or under them
    counts: collections.Counter[Names] = field(default_factory=collections.Counter)  # images right in a folder

    @classmethod
    def of(cls, root: str, files: Iterable[Names], folders: Iterable[Names] = ()) -> Tree:
        """Sort the files into images, others and hidden ones."""
        tree, known = cls(root), extensions()
        for file in files:
            (tree.hidden if is_hidden(file) else tree.images if suffix(file) in known else tree.others).append(file)
        tree.seen_images()
        tree.folders = {folder for folder in folders if not is_hidden(folder)} | tree.full
        return tree

    def seen_images(self) -> None:
        """Count the images by folder: to be called when ``images`` has changed."""
        self.counts = collections.Counter(image[:-1] for image in self.images)
        self.full = {folder[:depth] for folder in self.counts for depth in range(1, len(folder) + 1)}

    def below(self, base: Names) -> list[str]:
        """The names of the folders in ``base`` that have images in or under them, in natural order."""
        depth = len(base)
        return sorted((f[-1] for f in self.full if len(f) == depth + 1 and f[:depth] == base), key=natural_order)

    def inside(self, base: Names, files: Sequence[Names] | None = None) -> list[Names]:
        """The images (or other files) in and under ``base``."""
        return [f for f in (self.images if files is None else files) if f[: len(base)] == base]

    def direct(self, base: Names) -> int:
        """How many images lie in ``base`` itself."""
        return self.counts[base]

    def advice(self, **options: Any) -> str:
        """The line that reads this folder with an option, in Python and on the command line."""
        words = "".join(f", {name}={value!r}" for name, value in options.items())
        spelt = " ".join(f"--data {shlex.quote(f'{k}={v}' if v else f'{k}=null')}" for k, v in options.items())
        return f"petl.data.dataset({self.root!r}, petl.data.pipeline(model){words}), or petl train ... {spelt}"

    def shown(self, base: Names) -> str:
        """The folder as the user would write it."""
        return "/".join([self.root, *base])

    def contents(self, base: Names = ()) -> str:
        """What is there, for messages: ``found 2 folders (cats, dogs) and 12 files (10 .gif, 2 .txt)``."""
        depth = len(base)
        folders = sorted({f[depth] for f in self.folders if len(f) > depth and f[:depth] == base}, key=natural_order)
        files = [*self.inside(base), *self.inside(base, self.others)]
        there = f" ({listing(folders)})" if folders else ""
        unseen = len(self.inside(base, self.hidden))
        return (
            f"found {len(folders)} folders{there} and {len(files)} files{f' ({count_suffixes(files)})' if files else ''}"
            f"{f', and {unseen} hidden or system files' if unseen else ''}"
        )

    def splits(self, base: Names = ()) -> dict[str, str]:
        """The folders in ``base`` that hold a split, with its kind: those that have class folders, if any has.

        Raises:
            DataError: A folder with a split's name has images but no class folders, beside folders that are no splits: it
                may be a class of that name, or images that belong to no class.
        """
        names = self.below(base)
        found = splits_among(names)
        flat = [name for name in found if not self.below((*base, name))]
        if not flat or len(flat) < len(found) or len(found) == len(names):
            return found
        others = [name for name in names if name not in found]
        raise DataError(
            f"{self.shown(base)}: {listing(map(repr, flat))} looks like a split, but has no class folders in it and lies "
            f"beside {listing(others)}. If it isn't a class, move it out; if it is: {self.advice(split='.')}"
        )


def refuse_empty(tree: Tree, bases: Sequence[Names]) -> None:
    """An error where there is no image."""
    if not any(tree.inside(base) for base in bases):
        raise DataError(
            f"{tree.shown(bases[0])} has no images (.png, .jpg and {len(extensions()) - 2} other kinds) to read: "
            f"{tree.contents(bases[0])}"
        )
