"""Images without labels: the files of a folder without class folders, a list of files, or a table of paths alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petl.data.datasets import Images
from petl.data.hugging_face import is_hub_dict
from petl.data.readers import Reader, existing_path
from petl.data.scanning import scan
from petl.data.table_columns import find_roles
from petl.data.table_rows import choose_rows, row_files
from petl.data.table_source import TableReader
from petl.data.table_sources import image_table, splits_of_table
from petl.data.table_targets import Targets
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


def unlabelled_table(source: Any, pipeline: Mapping[str, Any], split: str | None) -> Images | None:
    """Returns the images of a table in which nothing but paths, splits, groups and weights stands; else None.

    ``split`` None is its ``val`` or ``test`` where it has one, as `petl.evaluate` reads it, else all.
    """
    if split is None:
        there = splits_of_table(source)
        split = next(
            (kind for kind in ("val", "test") if kind in there), there[0] if is_hub_dict(source) and there else "."
        )
    table, options = image_table(source, {}, split)
    roles = find_roles(table, options, need_targets=False)
    if {*table.columns} - {roles.path, roles.split, roles.group, roles.weight}:
        return None
    rows = choose_rows(table, roles, None if is_hub_dict(source) else split)
    files, notes = row_files(table, roles, rows, None), []
    return Images(
        TableReader(table, files, Targets("classification", [ONLY_CLASS], [0] * len(rows)), rows, notes), pipeline
    )
