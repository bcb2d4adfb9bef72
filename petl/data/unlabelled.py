"""Images without labels: the files of a folder without class folders, or a list of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petl.data.datasets import Images
from petl.data.readers import Reader, existing_path
from petl.data.scanning import scan
from petl.data.tree import natural_order

ONLY_CLASS = "image"  # the one class of a dataset that has none: its number says only whether the file could be read


def flat_folder(path: str | Path) -> list[Path] | None:
    """Returns a folder's images in natural order if all lie directly in it, so that no folder names a class; else None."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    tree, _ = scan(folder)
    if not tree.images or any(len(file) > 1 for file in tree.images):
        return None
    return [folder.joinpath(*file) for file in sorted(tree.images, key=lambda file: natural_order("/".join(file)))]


def unlabelled_images(files: Sequence[str | Path], pipeline: Mapping[str, Any]) -> Images:
    """Returns a dataset of these files, in this order; the class number of each is 0 and means nothing.

    Raises:
        DataError: one of the files isn't there.
    """
    paths = [str(existing_path(Path(file))) for file in files]
    return Images(Reader(Path(), [(path, 0) for path in paths], {ONLY_CLASS: 0}, []), pipeline)
