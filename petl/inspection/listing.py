"""`ls`: the deltas in a folder, as a table. Headers alone are read."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petl.addresses.address import address_of, shown_address
from petl.delta.file import read_recipe
from petl.delta.header import Header
from petl.delta.recorded_results import figure_text, recorded_figures, recorded_images
from petl.errors import MethodError, PetlError, StateError, near, printable, shortened
from petl.methods.default import method_text
from petl.methods.registry import method_from_json
from petl.tables import html_table, table

ENDING = ".safetensors"
LONGEST_REASON = 200
LISTING_HEAD = ("file", "base", "methods", "classes", "bytes", "result", "images", "date")
ORDERS = ("file", "base", "methods", "classes", "bytes", "result", "date")


@dataclass(frozen=True, kw_only=True)
class DeltaFile:
    """One file: what its header says, or in ``why`` why it can't be read.

    Attributes:
        file: Its path below the folder. ``bytes``: its size. ``date``: of its last change, as 2026-11-27 08:30.
        base: The backbone, timm's name with its tag; None where the base has none.
        methods: As text, with the options that aren't their defaults.
        task: What the outputs mean; ``classes``: how many there are.
        metric: The result that a model is judged by, with ``value``, its standard error ``error``, on ``images`` images; each
            is None where the header doesn't say it.
    """

    file: str
    bytes: int = 0
    date: str = ""
    base: str | None = None
    methods: str = ""
    task: str | None = None
    classes: int | None = None
    metric: str | None = None
    value: float | None = None
    error: float | None = None
    images: int | None = None
    why: str = ""

    def cells(self) -> tuple[str, ...]:
        """Returns the row as text, in the order of the table's head."""
        if self.why:
            return (self.file, "not read", "", "", f"{self.bytes:,}", "", "", self.date)
        figure = "" if self.value is None else f"{self.metric} {figure_text(self.value, self.error)}"
        numbers = ("" if number is None else f"{number:,}" for number in (self.classes, self.images))
        classes, images = numbers
        return (self.file, self.base or "?", self.methods, classes, f"{self.bytes:,}", figure, images, self.date)


class DeltaFiles(tuple[DeltaFile, ...]):
    """The deltas of a folder; prints as a table, with the reasons why files can't be read below it."""

    def __repr__(self) -> str:
        if not self:
            return f"no {ENDING} file"
        lines = table([LISTING_HEAD, *(row.cells() for row in self)], left=(0, 1, 2, 5, 7))
        return "\n".join([lines, *self.reasons])

    def _repr_html_(self) -> str:
        return html_table([LISTING_HEAD, *(row.cells() for row in self)], self.reasons, left=(0, 1, 2, 5, 7))

    @property
    def reasons(self) -> list[str]:
        """Returns a sentence for each file that can't be read."""
        return [f"not read: {printable(row.file)}: {row.why}" for row in self if row.why]

    def to_json(self) -> list[dict[str, Any]]:
        """Returns the rows as plain values."""
        return [dataclasses.asdict(row) for row in self]


def ls(folder: str | os.PathLike[str] = ".", *, recursive: bool = False, sort: str = "file") -> DeltaFiles:
    """Returns the deltas in a folder as rows that print as a table: base, methods, classes, size, result, date.

    Headers alone are read. A file that can't be read has its reason in its row, and the others are listed.

    Args:
        folder: whose ``.safetensors`` files are listed; or one such file.
        recursive: look into the folders in it, too, but not behind links.
        sort: "file", "base", "methods", "classes", "bytes" and "result" (the largest first), or "date" (the newest first).

    Raises:
        StateError: there is no such folder.
        MethodError: there is no such order.

    >>> import petl, timm, tempfile
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = petl.save(model, f"{folder}/pets.safetensors", results={"accuracy": 0.9, "images": 50})
    ...     [row] = petl.ls(folder)
    >>> row.file, row.base, row.methods, row.classes, row.metric, row.value, row.images
    ('pets.safetensors', 'test_vit.r160_in1k', 'lora', 3, 'accuracy', 0.9, 50)
    """
    if sort not in ORDERS:
        raise MethodError(f"sort={sort!r}; expected one of {', '.join(ORDERS)}{near(str(sort), ORDERS)}")
    if address_of(folder) is not None:
        raise StateError(
            f"{shown_address(str(folder))} is an address, and folders here alone are listed; petl.read(address) reads one delta"
        )
    place = Path(folder)
    if place.is_file():
        return DeltaFiles([_row(place, place.name)])
    if not place.is_dir():
        raise StateError(f"{shortened(printable(str(folder)), 300)} is no folder; give one with {ENDING} files")
    rows = [*_rows(place, recursive)]
    return DeltaFiles(sorted(sorted(rows, key=lambda row: row.file), key=functools.partial(_rank, sort)))


def _rank(sort: str, row: DeltaFile) -> Any:
    """Returns what a row is sorted by; what isn't known comes last."""
    value = row.value if sort == "result" else getattr(row, sort)
    if row.why or value is None:
        return (1, 0)
    if sort == "date":
        return (0, [-ord(letter) for letter in row.date])
    return (0, -value if sort in ("bytes", "classes", "result") else value)


def _rows(place: Path, recursive: bool) -> Iterator[DeltaFile]:
    """Yields a row for each file, and for each folder that can't be looked into."""
    closed: list[OSError] = []
    for above, folders, names in os.walk(place, onerror=closed.append):
        folders[:] = sorted(folders) if recursive else []
        for name in sorted(names):
            if name.endswith(ENDING):
                path = Path(above) / name
                yield _row(path, path.relative_to(place).as_posix())
    for error in closed:
        yield DeltaFile(file=os.path.relpath(error.filename, place), why=error.strerror or str(error))


def _row(path: Path, name: str) -> DeltaFile:
    try:
        about = path.stat()
    except OSError as error:  # a link to nowhere, or a file that has just gone
        return DeltaFile(file=name, why=error.strerror or str(error))
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(about.st_mtime))
    common: dict[str, Any] = {"file": name, "bytes": about.st_size, "date": date}
    try:
        return DeltaFile(**common, **_said(read_recipe(path)))
    except PetlError as error:
        said = str(error).removeprefix(f"{path}: ").removeprefix(f"{path} ")
        return DeltaFile(**common, why=shortened(" ".join(said.split()), LONGEST_REASON))


def _said(header: Header) -> dict[str, Any]:
    """Returns what a header says, by the names of a row's fields."""
    figures = recorded_figures(header.results)
    main: dict[str, Any] = figures[0]._asdict() if figures else {"name": None, "value": None, "error": None}
    return {
        "base": header.backbone.get("name"),
        "methods": " + ".join(_method(json.dumps(values)) for values in header.methods),
        "task": header.task,
        "classes": header.backbone.get("num_classes") or len(header.labels or ()) or None,
        "metric": main["name"],
        "value": main["value"],
        "error": main["error"],
        "images": recorded_images(header.results),
    }


@functools.lru_cache(maxsize=256)
def _method(values: str) -> str:
    """Returns a recorded method as text."""
    recorded = json.loads(values)
    try:
        return method_text(method_from_json(recorded))
    except Exception:  # another library's method, which isn't installed here
        return str(recorded["name"])
