"""Tables of images as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.support.image_files import picture


def images(folder: Path, count: int = 6, name: str = "im") -> list[str]:
    """The relative paths of so many small PNGs: im/0.png ..."""
    (folder / name).mkdir(exist_ok=True)
    for i in range(count):
        picture(i).save(folder / name / f"{i}.png")
    return [f"{name}/{i}.png" for i in range(count)]


def csv_of(folder: Path, header: str, rows: Sequence[str], name: str = "pets.csv") -> Path:
    """A CSV in UTF-8 with the paths of images before each row."""
    files = images(folder, len(rows))
    lines = [header, *(f"{file},{row}" for file, row in zip(files, rows, strict=True))]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name
