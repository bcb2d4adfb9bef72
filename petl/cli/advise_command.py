"""``petl advise``: which method, and whether pretraining helps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from petl.cli.arguments import (
    CreateOption,
    DataArgument,
    DataOption,
    JsonOption,
    OverwriteOption,
    PositiveInt,
    TrustOption,
)
from petl.cli.data_options import DATASET, PIPELINE, SPLIT, data_keywords, refuse_two_sizes
from petl.cli.key_values import parse_pairs
from petl.cli.models import load_delta, named_backbone, weights_file
from petl.cli.phrases import findings_text
from petl.cli.terminal import note, say
from petl.errors import MethodError

if TYPE_CHECKING:
    from torch import nn


def advise_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Backbone NAME (timm fetches its weights), NAME:WEIGHTS_FILE, or a delta."
        ),
    ],
    data: DataArgument,
    new: Annotated[
        str | None,
        typer.Option(help="Images that the model will be used on, with labels or without: a folder, a table."),
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="At most so many images are read by the model.")] = 1000,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images. [the backbone's; ViTs take --arg img_size=N]")
    ] = None,
    seed: int = 0,
    args: CreateOption = None,
    reading: DataOption = None,
    batch_size: PositiveInt = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="Also write everything as JSON.")] = None,
    trust_remote: TrustOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what the images are like, whether pretraining helps, and which methods to try."""
    import petl
    from petl.cli.outputs import new_file, write_text
    from petl.findings import as_text

    said = data_keywords(reading, known=PIPELINE | DATASET | SPLIT)
    refuse_two_sizes(size, said)
    inputs = [data, *filter(None, [new]), *([model] if Path(model).is_file() else weights_file(model))]
    path = new_file(out, inputs=inputs, overwrite=overwrite) if out else None
    net = _named(model, parse_pairs(args), trust_remote)
    pipeline = petl.data.pipeline(net, **{"size": size, **said.pipeline})
    options: dict[str, Any] = {"images": images, "seed": seed, "batch_size": batch_size, "workers": workers}
    advice = petl.advise(net, data, new, pipeline=pipeline, **options, **said.dataset, **said.training)
    if path is not None:
        write_text(path, as_text(advice))
        note(f"wrote {path}")
    say(findings_text(advice, as_json))


def _named(model: str, args: dict[str, Any], trust_remote: bool) -> nn.Module:
    """Returns the backbone of this name, or the model of this delta file."""
    if Path(model).is_file():
        if args:
            raise MethodError(f"--arg is for a backbone, and {model} is a file, whose backbone is known; leave it out")
        return load_delta(model, None, trust_remote)[0]
    return named_backbone(model, args).eval()
