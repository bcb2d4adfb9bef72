"""What is in a folder or a tar: its images, other files and folders.

All of this is decided by names relative to the root (a file is a tuple of names, ``("train", "cat", "1.png")``), but for files
without a suffix, which may be DICOMs.
"""

from __future__ import annotations

import collections
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
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
    """Returns a key that sorts names as people and timm do: 9 before 10. Names that differ only in case have a fixed order."""
    pieces = re.split(r"(\d+)", name.lower())
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], name


def is_hidden(path: Names) -> bool:
    """Returns whether a file, or a folder above it, is hidden or was left by an operating system."""
    return any(name.startswith(".") or name.lower() in SYSTEM_FILES for name in path)


def suffix(file: Names) -> str:
    """Returns the suffix of a file's name in lower case, such as ``.png``, or ""."""
    return os.path.splitext(file[-1])[1].lower()


def count_suffixes(files: Iterable[Names]) -> str:
    """Returns the number of files of each suffix, as text: ``10 .gif, 2 .txt``."""
    counts = collections.Counter(suffix(file) or "without ending" for file in files)
    return listing(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@dataclass
class Tree:
    """The files under ``root`` (a name for messages), and all folders, also those without files."""

    root: str
    images: list[Names] = field(default_factory=list)
    others: list[Names] = field(default_factory=list)
    hidden: list[Names] = field(default_factory=list)
    folders: set[Names] = field(default_factory=set)
    with_images: set[Names] = field(default_factory=set)  # the folders with images in or under them
    counts: collections.Counter[Names] = field(default_factory=collections.Counter)  # of images directly in a folder

    @classmethod
    def of(
        cls,
        root: str,
        files: Iterable[Names],
        folders: Iterable[Names] = (),
        *,
        is_image: Callable[[Names], bool] = lambda file: False,
    ) -> Tree:
        """Returns the tree of these files: images, others and hidden ones. ``is_image`` looks into those of unknown suffixes."""
        tree, readable = cls(root), extensions()
        for file in files:
            seen = not is_hidden(file) and (suffix(file) in readable or is_image(file))
            (tree.images if seen else tree.hidden if is_hidden(file) else tree.others).append(file)
        tree.update_counts()
        tree.folders = {folder for folder in folders if not is_hidden(folder)} | tree.with_images
        return tree

    def update_counts(self) -> None:
        """Counts the images by folder; to be called when ``images`` has changed."""
        self.counts = collections.Counter(image[:-1] for image in self.images)
        self.with_images = {folder[:depth] for folder in self.counts for depth in range(1, len(folder) + 1)}

    def subfolders(self, base: Names) -> list[str]:
        """Returns the names of the folders in ``base`` that have images in or under them, in natural order."""
        depth = len(base)
        return sorted((f[-1] for f in self.with_images if len(f) == depth + 1 and f[:depth] == base), key=natural_order)

    def files_under(self, base: Names, files: Sequence[Names] | None = None) -> list[Names]:
        """Returns the images (or those of ``files``) in and under ``base``."""
        return [f for f in (self.images if files is None else files) if f[: len(base)] == base]

    def count_in(self, base: Names) -> int:
        """Returns how many images lie directly in ``base``."""
        return self.counts[base]

    def advice(self, **options: Any) -> str:
        """Returns the line that reads this folder with these options, in Python and on the command line."""
        words = "".join(f", {name}={value!r}" for name, value in options.items())
        spelt = " ".join(f"--data {shlex.quote(f'{k}={v}' if v else f'{k}=null')}" for k, v in options.items())
        measured = {".": " (petl eval, shift, report: --split .)", None: " (petl eval, shift, report: --split all)"}
        also = measured.get(options["split"], "") if "split" in options else ""
        return f"petl.data.dataset({self.root!r}, petl.data.pipeline(model){words}), or petl train ... {spelt}{also}"

    def path_to(self, base: Names) -> str:
        """Returns the path of a folder as the user would write it."""
        return "/".join([self.root, *base])

    def contents(self, base: Names = ()) -> str:
        """Returns what is in ``base``, for messages: ``found 2 folders (cats, dogs) and 12 files (10 .gif, 2 .txt)``."""
        depth = len(base)
        folders = sorted({f[depth] for f in self.folders if len(f) > depth and f[:depth] == base}, key=natural_order)
        files = [*self.files_under(base), *self.files_under(base, self.others)]
        names = f" ({listing(folders)})" if folders else ""
        hidden = len(self.files_under(base, self.hidden))
        return (
            f"found {len(folders)} folders{names} and {len(files)} files{f' ({count_suffixes(files)})' if files else ''}"
            f"{f', and {hidden} hidden or system files' if hidden else ''}"
        )

    def splits(self, base: Names = ()) -> dict[str, str]:
        """Returns {folder: train, val or test} for the splits in ``base``: if any has class folders, those that have.

        Raises:
            DataError: A folder with a split's name has images but no class folders, beside folders that are no splits: it
                may be a class of that name, or images that belong to no class.
        """
        names = self.subfolders(base)
        splits = splits_among(names)
        flat = [name for name in splits if not self.subfolders((*base, name))]
        if not flat or len(flat) < len(splits) or len(splits) == len(names):
            return splits
        others = [name for name in names if name not in splits]
        raise DataError(
            f"{self.path_to(base)}: {listing(map(repr, flat))} looks like a split, but has no class folders in it and lies "
            f"beside {listing(others)}. If it isn't a class, move it out; if it is: {self.advice(split='.')}"
        )


def refuse_empty(tree: Tree, bases: Sequence[Names]) -> None:
    """Raises a DataError if there is no image in the folders ``bases``."""
    if not any(tree.files_under(base) for base in bases):
        raise DataError(
            f"{tree.path_to(bases[0])} has no images (.png, .jpg and {len(extensions()) - 2} other kinds) to read: "
            f"{tree.contents(bases[0])}"
        )
