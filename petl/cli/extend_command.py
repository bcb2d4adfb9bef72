"""``petl extend``: more classes and images for a delta's classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from petl.addresses.fetched_file import FetchedFile
from petl.cli.arguments import DataArgument, DeltaArgument, JsonOption, OverwriteOption, TrustOption
from petl.cli.combine_command import BaseOption, BatchOption, WorkersOption
from petl.cli.models import existing_file, named_base, weights_file
from petl.cli.phrases import findings_text
from petl.cli.terminal import note, say
from petl.errors import printable


def extend_command(
    delta: DeltaArgument,
    data: DataArgument,
    to: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="The delta file to write. [NAME-extended.safetensors beside DELTA]"),
    ] = None,
    statistics: Annotated[
        str | None, typer.Option(metavar="FILE", help="Those of the old images. [NAME.ridge.safetensors beside DELTA]")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Add images that were added before.")] = False,
    images: Annotated[int | None, typer.Option(min=1, help="At most so many images. [all]")] = None,
    model: BaseOption = None,
    trust_remote: TrustOption = False,
    seed: int = 0,
    batch_size: BatchOption = 64,
    workers: WorkersOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Teach a delta's classifier new classes and images, without the old images and without forgetting."""
    import petl
    from petl.cli.outputs import destination, new_file
    from petl.combining.ridge_statistics import statistics_beside

    inputs = [existing_file(delta), *([existing_file(statistics)] if statistics else []), *weights_file(model)]
    beside_it = Path() if isinstance(delta, FetchedFile) else delta.parent  # not into a cache
    out = to or str(beside_it / f"{delta.stem}-extended.safetensors")
    path = new_file(out, inputs=inputs, overwrite=overwrite)
    beside = destination(str(statistics_beside(path)), inputs=inputs, overwrite=overwrite)
    base = named_base(model, [delta], trust_remote)
    options: dict[str, Any] = {"images": images, "seed": seed, "batch_size": batch_size, "workers": workers}
    extended = petl.extend(
        delta, data, base=base, statistics=statistics, again=again, trust_remote=trust_remote, **options
    )
    extended.save(path)
    note(f"wrote {printable(str(path))} and {printable(str(beside))}")
    say(findings_text(extended, as_json))
