"""The arguments and options that several commands share, with their help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def delta_file(text: str | Path) -> Path:
    """Returns the path of a delta that a command line names; that of an address after its file was fetched."""
    from petl.addresses.local_file import local_file

    return local_file(text)


DeltaArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DELTA",
        help="A delta file, or its address: hf://USER/REPO/FILE, https://, s3:// ...",
        parser=delta_file,
    ),
]
DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="A folder of class folders, or of train and val; a table (pets.csv); a tar ..."
    ),
]
MethodOption = Annotated[
    list[str] | None, typer.Option("--method", "-m", help="A method; give it again to combine. [best: norm and lora]")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A method's option: KEY=VALUE or METHOD.KEY=VALUE.")]
RankOption = Annotated[int | None, typer.Option(help="The same as --set rank=N.")]
LastOption = Annotated[int | None, typer.Option(help="The same as --set last=N (blocks).")]
InChansOption = Annotated[int | None, typer.Option("--in-chans", help="The same as --set in_chans=N.")]
CreateOption = Annotated[
    list[str] | None, typer.Option("--arg", help="KEY=VALUE for timm.create_model: img_size=98 ...")
]
BackboneOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Backbone NAME, NAME:WEIGHTS_FILE or :WEIGHTS_FILE. [the delta's, with weights that timm fetches]",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote", help="Let DELTA name its backbone outside timm: hf-hub:OWNER/NAME, local-dir:FOLDER."
    ),
]
PositiveInt = Annotated[int, typer.Option(min=1)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", help="KEY=VALUE for how images are read: crop_pct=1, augment=false, class_from=path ..."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Stop at an image that can't be read, instead of leaving it out.")
]
ViewsOption = Annotated[
    str | None, typer.Option(help="Views of each image, averaged: flip (2), 5 or 10 crops. [1: the image alone]")
]


def said_views(text: str | None) -> Any:
    """Returns ``views=`` of `petl.evaluate` and `petl.predict` for the word of a command line.

    >>> said_views("5"), said_views("flip")
    (5, 'flip')
    """
    return int(text) if text and text.isdigit() else text
