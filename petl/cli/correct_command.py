"""``petl correct``: fits a delta's classifier to the class frequencies that ``petl shift`` found."""

from __future__ import annotations

from typing import Annotated

import typer

from petl.cli.arguments import BackboneOption, DeltaArgument, OverwriteOption, TrustOption
from petl.cli.models import existing_file, load_delta, weights_file
from petl.cli.terminal import say
from petl.errors import MethodError, printable


def correct_command(
    delta: DeltaArgument,
    to: Annotated[str, typer.Option("--out", metavar="FILE", help="The delta file to write.")],
    shift: Annotated[str | None, typer.Option(metavar="FILE", help="What petl shift --out wrote.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take a correction back, bit for bit.")] = False,
    model: BackboneOption = None,
    trust_remote: TrustOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Fit a delta's classifier to new class frequencies, or take that back; no image is needed."""
    import petl
    from petl.cli.outputs import destination, try_writing

    if undo == (shift is not None):
        raise MethodError("expected one of --shift FILE (what petl shift --out wrote) and --undo")
    inputs = [existing_file(delta), *([existing_file(shift)] if shift else []), *weights_file(model)]
    path = destination(to, inputs=inputs, overwrite=overwrite)
    net, header = load_delta(delta, model, trust_remote)
    petl.correct(net, None if undo else shift)
    stored = header.get("dtype")
    try_writing(path, lambda trial: petl.save(net, trial, dtype=stored))
    petl.save(net, path, dtype=stored)
    done = "without its correction" if undo else "corrected"
    say(f"wrote {printable(str(path))}: {printable(str(delta))} {done}")
