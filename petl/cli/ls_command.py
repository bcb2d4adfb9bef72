"""The command that lists deltas: ``petl ls``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petl.cli.arguments import JsonOption
from petl.cli.phrases import as_json_text
from petl.cli.terminal import note, say, show


def ls_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with deltas. [this one]")] = Path("."),
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Look into the folders in it, too.")] = False,
    sort: Annotated[str, typer.Option(help="By file, base, methods, classes, bytes, result or date.")] = "file",
    as_json: JsonOption = False,
) -> None:
    """List the deltas in a folder: base, methods, classes, size, result, date."""
    import petl
    from petl.inspection.listing import LISTING_HEAD

    found = petl.ls(folder, recursive=recursive, sort=sort)
    if as_json:
        return say(as_json_text(found.to_json()))
    if not found:
        return say(repr(found))
    show(LISTING_HEAD, [row.cells() for row in found])
    for reason in found.reasons:
        note(reason)
