"""``petl extract``: the delta in a fine-tuned checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from petl.cli.arguments import JsonOption, OverwriteOption
from petl.cli.combine_command import BatchOption, ImagesOption, WorkersOption, said_rank
from petl.cli.models import existing_file, named_backbone, weights_file
from petl.cli.phrases import findings_text
from petl.cli.terminal import note, say
from petl.errors import printable


def extract_command(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="The backbone from before: NAME, NAME:WEIGHTS_FILE or demo.")
    ],
    tuned: Annotated[Path, typer.Argument(metavar="TUNED", help="The checkpoint: .safetensors, .pth ...")],
    to: Annotated[str, typer.Argument(metavar="OUT", help="The delta file to write.")],
    rank: Annotated[str, typer.Option(help="Of each weight's change: a number, auto or full.")] = "8",
    energy: Annotated[
        float | None, typer.Option(help="In place of --rank: the share of each change to keep, such as .99.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Names of the classes: cat,dog,eel.")] = None,
    data: Annotated[str | None, typer.Option(help="Images to compare the accuracies on.")] = None,
    images: ImagesOption = 1000,
    seed: int = 0,
    batch_size: BatchOption = 64,
    workers: WorkersOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a small delta of a whole fine-tuned checkpoint, and say what it loses."""
    import petl
    from petl.cli.outputs import new_file

    path = new_file(to, inputs=[existing_file(tuned), *weights_file(base)], overwrite=overwrite)
    options: dict[str, Any] = {"images": images, "seed": seed, "batch_size": batch_size, "workers": workers}
    names = [name.strip() for name in labels.split(",")] if labels else None
    wish = said_rank(rank)
    found = petl.extract(named_backbone(base, {}), tuned, rank=wish, energy=energy, labels=names, data=data, **options)
    found.save(path)
    note(f"wrote {printable(str(path))}")
    say(findings_text(found, as_json))
