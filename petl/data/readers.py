"""Folders and tars as sources of (file, class number), the classes read as `petl.data.tree` says."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from timm.data.readers.class_map import load_class_map

from petl.data.class_folders import CLASS_FROM, ClassFrom, classify
from petl.data.decoding import open_file
from petl.data.reader_notes import note_empty_classes, note_other_files, note_similar_names
from petl.data.scanning import scan
from petl.data.split_choice import choose_split
from petl.data.tree import Names, Tree, natural_order, refuse_empty, suffix
from petl.errors import DataError, listing, near, printable

log = logging.getLogger(__name__)
FOLDER_OPTIONS = (
    "class_map",
    "input_key",
    "cache_tarfiles",
    "cache_tarinfo",
)  # of timm's options; the last two do nothing here


class Reader:
    """Image files with class numbers: ``samples`` are (path of the file, number), ``notes`` say what was left out.

    A Reader has what petl also uses of timm's readers: ``class_to_idx``, items (open file, number), ``filename``.
    """

    def __init__(
        self, root: Path, samples: Sequence[tuple[Any, int]], classes: Mapping[str, int], notes: Sequence[str]
    ):
        self.root, self.samples, self.class_to_idx, self.notes = root, list(samples), dict(classes), list(notes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        path, number = self.samples[index]
        return open_file(path), number

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        path = Path(self.samples[index][0])
        return path.name if basename else str(path if absolute else path.relative_to(self.root))


class TarReader(Reader):
    """Image files in an uncompressed tar, and in tars inside of it: samples are ((name, first byte, bytes), number).

    The tar is opened anew for every file, so that worker processes can share a reader.
    """

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        (_, start, size), number = self.samples[index]
        with open(self.root, "rb") as file:
            file.seek(start)
            return io.BytesIO(file.read(size)), number

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        name = self.samples[index][0][0]
        return name.rpartition("/")[2] if basename else name


def existing_path(path: Path) -> Path:
    """Returns the path if there is something; else raises a DataError with similar names."""
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = near(path.name, siblings) or f"; {path.parent} holds {listing(sorted(siblings)) or 'nothing'}"
        raise DataError(f"no such folder or file: {path}{hint}")
    return path


def make_reader(
    path: Path,
    *,
    split: str | None,
    class_from: ClassFrom | None = None,
    classes: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Reader:
    """Returns the images of a split in a folder or tar. What is left out is counted in ``notes`` and logged.

    Raises:
        DataError: there are no images, there is no such split, or the folders can be read in two ways.
    """
    options = dict(options or {})
    _refuse_options(options, class_from)
    tree, places = scan(path)
    _keep_suffixes(tree, options.get("input_key"))
    notes: list[str] = []
    bases = choose_split(tree, split, notes)
    refuse_empty(tree, bases)
    pairs = classify(tree, bases, notes, split=split, reading=class_from, classes=classes)
    numbers = _class_numbers(pairs, options.get("class_map"), path, notes)
    note_empty_classes(tree, bases, notes)
    note_other_files(tree, notes)
    for note in notes:
        log.warning("%s", printable(note))
    samples = [
        (places.get(file, "") or str(path.joinpath(*file)), numbers[name]) for file, name in pairs if name in numbers
    ]
    return (TarReader if places else Reader)(path, samples, numbers, notes)


def _refuse_options(options: Mapping[str, Any], class_from: Any) -> None:
    odd = [name for name in options if name not in FOLDER_OPTIONS]
    if odd:
        raise DataError(
            f"a folder or tar has no option {odd[0]!r}{near(odd[0], FOLDER_OPTIONS)}; it has {', '.join(FOLDER_OPTIONS[:2])}"
        )
    if class_from not in (None, *CLASS_FROM):
        raise DataError(f"class_from={class_from!r}; expected one of {', '.join(map(repr, CLASS_FROM))}, or None")


def _class_numbers(pairs: Sequence[tuple[Names, str]], mapping: Any, path: Path, notes: list[str]) -> dict[str, int]:
    """Returns {class: number}: in the natural order of the names, or as in a class map, which may leave out classes."""
    names = sorted({name for _, name in pairs}, key=natural_order)
    if not mapping:
        note_similar_names(names, notes)
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


def _keep_suffixes(tree: Tree, wanted: str | None) -> None:
    """Keeps only the images with these suffixes: timm's option ``input_key``."""
    if wanted:
        suffixes = {part.strip().lower() for part in wanted.split(";")}
        tree.others += [file for file in tree.images if suffix(file) not in suffixes]
        tree.images = [file for file in tree.images if suffix(file) in suffixes]
        tree.update_counts()
