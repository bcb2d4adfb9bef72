"""Folders and tars as sources of (file, class number), the classes read as `petl.data.tree` says."""

from __future__ import annotations

import collections
import io
import logging
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from timm.data.readers.class_map import load_class_map

from petl.data.images import opened
from petl.data.tree import (
    READINGS,
    Names,
    Reading,
    Tree,
    by_ending,
    chosen,
    classified,
    ending,
    hidden,
    order,
    refuse_empty,
)
from petl.errors import DataError, listing, near, printable

log = logging.getLogger(__name__)
TAKEN = ("class_map", "input_key", "cache_tarfiles", "cache_tarinfo")  # of timm's options; the last two do nothing here


class Reader:
    """Files with class numbers: ``samples`` are (where the file is, number), ``notes`` say what was left out.

    It has what petl asks of timm's readers too: ``class_to_idx``, items (open file, number), ``filename``.
    """

    def __init__(
        self, root: Path, samples: Sequence[tuple[Any, int]], classes: Mapping[str, int], notes: Sequence[str]
    ):
        self.root, self.samples, self.class_to_idx, self.notes = root, list(samples), dict(classes), list(notes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        path, number = self.samples[index]
        return opened(path), number

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        path = Path(self.samples[index][0])
        return path.name if basename else str(path if absolute else path.relative_to(self.root))


class TarReader(Reader):
    """The same for an uncompressed tar, and tars in it: samples are (name, first byte, bytes).

    It opens the tar anew for every file, so worker processes can share it.
    """

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        (_, start, size), number = self.samples[index]
        with open(self.root, "rb") as file:
            file.seek(start)
            return io.BytesIO(file.read(size)), number

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        name = self.samples[index][0][0]
        return name.rpartition("/")[2] if basename else name


def existing(path: Path) -> Path:
    """The path, or a DataError with names that are near."""
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = near(path.name, siblings) or f"; {path.parent} holds {listing(sorted(siblings)) or 'nothing'}"
        raise DataError(f"no such folder or file: {path}{hint}")
    return path


def reader(
    path: Path,
    *,
    split: str | None,
    class_from: Reading | None = None,
    classes: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Reader:
    """The images of a split in a folder or tar. What is left out is counted in ``notes`` and logged.

    Raises:
        DataError: There are no images, no such split, or more than one way to understand the folders.
    """
    options = dict(options or {})
    _refuse_options(options, class_from)
    tree, places = tree_of(path)
    _only(tree, options.get("input_key"))
    notes: list[str] = []
    bases = chosen(tree, split, notes)
    refuse_empty(tree, bases)
    pairs = classified(tree, bases, notes, split=split, reading=class_from, classes=classes)
    numbers = _numbers(pairs, options.get("class_map"), path, notes)
    _note_empty(tree, bases, notes)
    _note_left(tree, notes)
    for note in notes:
        log.warning("%s", printable(note))
    samples = [
        (places.get(file, "") or str(path.joinpath(*file)), numbers[name]) for file, name in pairs if name in numbers
    ]
    return (TarReader if places else Reader)(path, samples, numbers, notes)


def tree_of(path: Path) -> tuple[Tree, Mapping[Names, Any]]:
    """What is in a folder or tar, without a look into the images; for a tar also where each file is in it."""
    if path.is_file():
        found = _tar_files(path)
        return Tree.of(str(path), found), found
    walked = list(_walked(path))
    files = [(*folder, name) for folder, names in walked for name in names]
    return Tree.of(str(path), files, (folder for folder, _ in walked if folder)), {}


def _refuse_options(options: Mapping[str, Any], class_from: Any) -> None:
    odd = [name for name in options if name not in TAKEN]
    if odd:
        raise DataError(f"a folder or tar has no option {odd[0]!r}{near(odd[0], TAKEN)}; it has {', '.join(TAKEN[:2])}")
    if class_from not in (None, *READINGS):
        raise DataError(f"class_from={class_from!r}; expected one of {', '.join(map(repr, READINGS))}, or None")


def _numbers(pairs: Sequence[tuple[Names, str]], mapping: Any, path: Path, notes: list[str]) -> dict[str, int]:
    """Class numbers in the natural order of the names, or those of a class map, whose classes alone are taken then."""
    names = sorted({name for _, name in pairs}, key=order)
    if not mapping:
        _note_alike(names, notes)
        return {name: number for number, name in enumerate(names)}
    try:
        numbers = dict(load_class_map(mapping, str(path)))
    except (AssertionError, OSError, ValueError) as error:
        raise DataError(f"class_map={mapping!r}: {error}; expected a dict or a file of one name a line") from error
    left = [name for name in names if name not in numbers]
    if left:
        notes.append(f"{path}: classes that class_map doesn't name are left out: {listing(left)}")
    if len(left) == len(names):
        raise DataError(f"class_map names none of the classes of {path}: {listing(names)}")
    return numbers


def _note_alike(names: Sequence[str], notes: list[str]) -> None:
    """Say which classes differ in their case or spaces only."""
    same = collections.defaultdict(list)
    for name in names:
        same["".join(name.casefold().split())].append(name)
    for group in same.values():
        if len(group) > 1:
            notes.append(
                f"these are {len(group)} classes, although their names differ little: {listing(map(repr, group))}"
            )


def _note_empty(tree: Tree, bases: Sequence[Names], notes: list[str]) -> None:
    """Say which class folders have no image."""
    for base in bases:
        depth = len(base) + 1
        folders = {f[:depth] for f in tree.folders if len(f) >= depth and f[: depth - 1] == base}
        empty = sorted({folder[-1] for folder in folders - tree.full}, key=order)
        if empty:
            notes.append(f"{tree.shown(base)}: no images in {listing(empty)}, so there is no such class")


def _note_left(tree: Tree, notes: list[str]) -> None:
    """Count the files that are no images for petl."""
    parts = [f"{len(tree.others)} files of other kinds ({by_ending(tree.others)})"] if tree.others else []
    if tree.hidden:
        names = collections.Counter(next(n for n in file if hidden((n,))) for file in tree.hidden)
        parts.append(f"{len(tree.hidden)} hidden or system files ({listing(sorted(names), 3)})")
    if parts:
        notes.append(f"{tree.root}: left out {' and '.join(parts)}")


def _only(tree: Tree, endings: str | None) -> None:
    """timm's ``input_key``: these endings alone."""
    if endings:
        wanted = {e.strip().lower() for e in endings.split(";")}
        tree.others += [file for file in tree.images if ending(file) not in wanted]
        tree.images = [file for file in tree.images if ending(file) in wanted]
        tree.seen_images()


# What there is on disk


def _walked(root: Path) -> Iterator[tuple[Names, list[str]]]:
    """(folder, names of its files) for every folder, links followed unless they lead back up."""

    def failed(error: OSError) -> None:
        raise DataError(f"{error.filename} can't be listed: {error.strerror}; its images would be missing") from error

    for place, folders, files in os.walk(root, followlinks=True, onerror=failed):
        here = Path(place)
        folders[:] = [f for f in sorted(folders) if not (here / f).is_symlink() or not _leads_up(here, here / f)]
        yield here.relative_to(root).parts, files


def _leads_up(here: Path, link: Path) -> bool:
    there = link.resolve()
    return there == here.resolve() or there in here.resolve().parents


def _tar_files(path: Path) -> dict[Names, tuple[str, int, int]]:
    """Every file in a tar, and in tars inside it: (name, first byte, bytes), the content being as it is in the file.

    Raises:
        DataError: It is no tar, or a compressed one, in which no file can be found without reading all before it.
    """
    found: dict[Names, tuple[str, int, int]] = {}
    try:
        with open(path, "rb") as file:
            _scan_tar(file, 0, (), found)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        size = path.stat().st_size
        kind = "" if path.suffix.lower() == ".tar" else ", not a .tar"
        raise DataError(
            f"{path} has no images to read: found a file of {size} bytes{kind} ({error}); expected a folder, or a tar "
            "without compression"
        ) from error
    return found


def _scan_tar(file: Any, offset: int, above: Names, found: dict[Names, tuple[str, int, int]]) -> None:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            names = (*above, *(part for part in member.name.split("/") if part not in ("", ".")))
            if not (member.isreg() or member.islnk()) or member.issparse():
                continue
            source = archive._find_link_target(member) if member.islnk() else member  # type: ignore[attr-defined]  # as tarfile does
            if names[-1].lower().endswith(".tar") and member.isreg():
                inner = archive.extractfile(member)
                _scan_tar(inner, offset + source.offset_data, (*names[:-1], names[-1][:-4]), found)
            else:
                found[names] = ("/".join(names), offset + source.offset_data, source.size)
