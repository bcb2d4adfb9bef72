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
from pathlib import Path
from typing import Any, Literal

from petl.data.images import extensions
from petl.data.split_names import WORDS, kind, kinds, neutral
from petl.errors import DataError, listing

Names = tuple[str, ...]
Reading = Literal["first", "path", "last"]
READINGS = ("first", "path", "last")
SYSTEM = {  # what Synology, QNAP, macOS, Windows and others leave in folders, in lower case
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@sharebin", "@sharesnap", "#recycle", "#snapshot"),
    *("__macosx", "icon\r", "__pycache__", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "$recycle.bin", "system volume information"),
}


def order(name: str) -> tuple[list[Any], str]:
    """A key that sorts names as people do, 9 before 10, as timm does; names that differ in case only keep one order."""
    pieces = re.split(r"(\d+)", name.lower())
    return [int(piece) if i % 2 else piece for i, piece in enumerate(pieces)], name


def hidden(path: Names) -> bool:
    """Whether a file or one of the folders above it is hidden, or a system's own."""
    return any(name.startswith(".") or name.lower() in SYSTEM for name in path)


def ending(file: Names) -> str:
    """The part of a file's name that tells its format, in lower case: ``.png``, or "" for none."""
    return os.path.splitext(file[-1])[1].lower()


def by_ending(files: Iterable[Names]) -> str:
    """How many there are of each kind: ``10 .gif, 2 .txt``."""
    kinds = collections.Counter(ending(file) or "without ending" for file in files)
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
            (tree.hidden if hidden(file) else tree.images if ending(file) in known else tree.others).append(file)
        tree.seen_images()
        tree.folders = {folder for folder in folders if not hidden(folder)} | tree.full
        return tree

    def seen_images(self) -> None:
        """Count the images by folder: to be called when ``images`` has changed."""
        self.counts = collections.Counter(image[:-1] for image in self.images)
        self.full = {folder[:depth] for folder in self.counts for depth in range(1, len(folder) + 1)}

    def below(self, base: Names) -> list[str]:
        """The names of the folders in ``base`` that have images in or under them, in natural order."""
        depth = len(base)
        return sorted((f[-1] for f in self.full if len(f) == depth + 1 and f[:depth] == base), key=order)

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
        folders = sorted({f[depth] for f in self.folders if len(f) > depth and f[:depth] == base}, key=order)
        files = [*self.inside(base), *self.inside(base, self.others)]
        there = f" ({listing(folders)})" if folders else ""
        unseen = len(self.inside(base, self.hidden))
        return (
            f"found {len(folders)} folders{there} and {len(files)} files{f' ({by_ending(files)})' if files else ''}"
            f"{f', and {unseen} hidden or system files' if unseen else ''}"
        )

    def splits(self, base: Names = ()) -> dict[str, str]:
        """The folders in ``base`` that hold a split, with its kind: those that have class folders, if any has.

        Raises:
            DataError: A folder with a split's name has images but no class folders, beside folders that are no splits: it
                may be a class of that name, or images that belong to no class.
        """
        names = self.below(base)
        found = kinds(names)
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


def top(tree: Tree, base: Names, notes: list[str]) -> Names:
    """``base``, or the one folder in it that holds everything and says nothing by its name, such as ``train/images``."""
    while len(names := tree.below(base)) == 1 and not tree.direct(base):
        inner = (*base, names[0])
        here = base[-1] if base else Path(tree.root).resolve().stem  # a tar's name has an ending
        same = Path(names[0]).stem.lower() == here.lower()
        telling = not same and (not neutral(names[0]) or kind(names[0]) not in (None, kind(here)))
        if not tree.below(inner) or ((telling or tree.direct(inner)) and not kinds(tree.below(inner))):
            break
        if not same:
            notes.append(f"everything is in {tree.shown(inner)}, so that is taken")
        base = inner
    return base


def chosen(tree: Tree, split: str | None, notes: list[str]) -> list[Names]:
    """The folders whose sub-folders are classes: the split's; for None all splits that there are, as asked.

    ``split`` is train, val or test in any spelling, or the path of a sub-folder; "." takes the root without a look for splits.

    Raises:
        DataError: There is no such split, or more than one folder may be meant.
    """
    refuse_empty(tree, [()])
    if split == ".":
        return [top(tree, (), notes)]
    asked = tuple(part for part in (split or "").replace("\\", "/").split("/") if part not in ("", "."))
    if asked and asked in tree.folders and (tree.below(asked) or not kind(asked[-1])):
        _said_left(tree, asked, notes)
        return [top(tree, asked, notes)]
    base = top(tree, (), notes)
    there = tree.splits(base)
    if split is None:
        return [top(tree, (*base, name), notes) for name in there] or [base]
    if asked and (*base, *asked) in tree.folders and not kind(asked[-1]):
        return [top(tree, (*base, *asked), notes)]
    sort = kind(split)
    names = [name for name in there if there[name] == sort] if sort else []
    if not names:
        if sort == "train" and not there:
            return [base]
        raise DataError(_no_split(tree, base, split, there))
    name = one_of(tree, base, names, sort or "")
    _said_left(tree, (*base, name), notes)
    return [top(tree, (*base, name), notes)]


def _no_split(tree: Tree, base: Names, split: str, there: dict[str, str]) -> str:
    looked = ", ".join(WORDS.get(kind(split) or "", (split,)))
    found = f"; its splits are {listing(there)}" if there else ""
    others = [name for name in tree.below(base) if name not in there] if there else []
    name = f"name one (split={'/'.join((*base, others[0]))!r}), " if others else ""
    return (
        f"{tree.shown(base)} has no folder for split {split!r} (looked for {looked}, in any spelling){found}: "
        f"{tree.contents(base)}; make one, {name}or pass split=None for the whole folder, or split the training images "
        "with petl.data.holdout"
    )


def one_of(tree: Tree, base: Names, names: Sequence[str], sort: str) -> str:
    """The one that is meant: timm's names first, in its order."""
    best = [word for word in WORDS[sort] if word in names]
    if best or len(names) == 1:
        return (best or list(names))[0]
    raise DataError(
        f"{tree.shown(base)} has several folders that may be split {sort!r}: {listing(names)}; say which one: "
        f"{tree.advice(split=names[0])}"
    )


def _said_left(tree: Tree, base: Names, notes: list[str]) -> None:
    """Note the folders beside a split that belong to no other split: the same split in another spelling, or no split."""
    splits = kinds(tree.below(base[:-1]))
    mine = splits.get(base[-1])
    for name in tree.below(base[:-1]) if mine else ():
        if name != base[-1] and splits.get(name) in (None, mine):
            beside = (*base[:-1], name)
            notes.append(f"{tree.shown(beside)} ({len(tree.inside(beside))} images) is left out, {base[-1]!r} is taken")
    if mine and (count := tree.direct(base[:-1])):
        notes.append(f"{count} images right in {tree.shown(base[:-1])} are left out, {base[-1]!r} is taken")


def classified(
    tree: Tree,
    bases: Sequence[Names],
    notes: list[str],
    *,
    split: str | None,
    reading: Reading | None,
    classes: Sequence[str] | None,
) -> list[tuple[Names, str]]:
    """Every image under ``bases`` with the name of its class, in the natural order of the paths.

    Args:
        reading: "first", the first folder under the base; "path", all folders under it; "last", the innermost. None is
            the first one, unless a folder of the same name lies under several of them.
        classes: Names that the classes should have: they decide between readings.
        split: What was asked of `chosen`: None and "." allow folders inside that look like splits.

    Raises:
        DataError: Folders could be read in two ways, or look like splits.
    """
    files = sorted((f for base in bases for f in tree.inside(base)), key=lambda f: order("/".join(f)))
    folders = [_folder(file, bases) for file in files]
    if any(not folder for folder in folders):
        where = next(base for base in bases if tree.direct(base))
        raise DataError(
            f"{tree.shown(where)} has images outside of class folders: {tree.contents(where)}; one sub-folder per class"
        )
    if split is None:  # splits may be merged, as was asked
        folders = [tuple(n for i, n in enumerate(f) if not i or not kind(n)) for f in folders]
    elif split != ".":
        _refuse_inner_splits(tree, bases[0], folders)
    if reading is None:
        reading = _by_names(folders, classes) or _by_folders(tree, bases[0], folders, notes)
    return [(file, label(folder, reading)) for file, folder in zip(files, folders, strict=True)]


def _folder(file: Names, bases: Sequence[Names]) -> Names:
    """The folders between the base and the file."""
    depth = max(len(base) for base in bases if file[: len(base)] == base)
    return file[depth:-1]


def label(folder: Names, reading: str) -> str:
    """The class that a folder stands for.

    Example:
        >>> [label(("church", "outdoor"), reading) for reading in READINGS]
        ['church', 'church/outdoor', 'outdoor']
    """
    return folder[0] if reading == "first" else folder[-1] if reading == "last" else "/".join(folder)


def _by_names(folders: Sequence[Names], classes: Sequence[str] | None) -> Reading | None:
    """The one reading whose classes are all expected ones."""
    expected = {*(classes or ())}
    for reading in READINGS if expected else ():
        if all(label(folder, reading) in expected for folder in set(folders)):
            return reading
    return None


def _by_folders(tree: Tree, base: Names, folders: Sequence[Names], notes: list[str]) -> Reading:
    """The first folder, where nothing speaks for another reading."""
    firsts: dict[str, set[str]] = collections.defaultdict(set)
    for folder in folders:
        firsts[folder[-1]].add(folder[0])
    twice = sorted((leaf for leaf, above in firsts.items() if len(above) > 1), key=order)
    deep = sum(len(folder) > 1 for folder in set(folders))
    first, path = ({label(folder, reading) for folder in folders} for reading in ("first", "path"))
    if twice:
        raise DataError(_two_readings(tree, base, twice[0], (first, path), folders))
    if deep:
        notes.append(
            f"the classes are the {len(first)} folders in {tree.shown(base)} ({_few(first)}), not the {deep} folders inside "
            f"them; class_from='path' (petl train: --data class_from=path) takes those"
        )
    return "first"


def _two_readings(tree: Tree, base: Names, leaf: str, ways: tuple[set[str], set[str]], folders: Sequence[Names]) -> str:
    first, path = ways
    one = "/".join((*base, sorted(first, key=order)[0]))
    examples = sorted({"/".join(f) for f in folders if f[-1] == leaf}, key=order)
    return (
        f"{tree.shown(base)} has {leaf!r} under several folders ({listing(examples, 2)}), so the classes can be read in two "
        f"ways: class_from='first' gives {len(first)} ({_few(first)}), class_from='path' gives {len(path)} ({_few(path)}); say "
        f"which: {tree.advice(class_from='first')}. If the first folders are splits, name one: split={one!r}"
    )


def _few(names: Iterable[str]) -> str:
    return listing(sorted(names, key=order), 3)


def _refuse_inner_splits(tree: Tree, base: Names, folders: Sequence[Names]) -> None:
    """An error where folders inside of the classes, or the classes, look like different splits."""
    for depth in range(max(map(len, folders), default=0)):
        level = {folder[depth]: folder for folder in sorted(set(folders)) if len(folder) > depth}
        found = {kind(name): folder[: depth + 1] for name, folder in level.items() if kind(name)}
        if len(found) > 1:
            raise DataError(
                f"{listing(tree.shown((*base, *folder)) for folder in found.values())} look like splits, below the folders "
                f"that would be classes; they are not merged unasked. Put the splits above the classes (train/cat, test/cat), "
                f"or take all images together: {tree.advice(split=None)}"
            )
