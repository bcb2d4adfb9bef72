"""``petl start``: the whole way from a folder of images to a delta and its report."""

from __future__ import annotations

from typing import Annotated

import typer

from petl.cli.arguments import DataArgument, DataOption, JsonOption, OverwriteOption
from petl.cli.data_options import DATASET, SPLIT, data_keywords
from petl.cli.phrases import findings_text
from petl.cli.terminal import say


def start_command(
    data: DataArgument,
    minutes: Annotated[float, typer.Option(help="About how long all of it may take.")] = 10.0,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="A backbone: NAME, NAME:WEIGHTS_FILE or demo; again for more. [those on this computer]"
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="NAME", help="The files' name without suffixes. [DATA's own, beside it]")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the images. [the backbone's]")] = None,
    seed: int = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    reading: DataOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go from images to a delta: rank backbones, advise and compare methods, train the winner, and write its report."""
    import petl

    said = data_keywords(reading, known=DATASET | SPLIT)
    common = {"models": model, "minutes": minutes, "out": out, "size": size, "seed": seed, "workers": workers}
    started = petl.start(data, overwrite=overwrite, **common, **said.dataset, **said.training)  # type: ignore[arg-type]  # each has its type
    say(findings_text(started, as_json))
