"""``petl shift``: what has changed in new images."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from petl.cli.arguments import (
    BackboneOption,
    DataArgument,
    DeltaArgument,
    JsonOption,
    OverwriteOption,
    StrictOption,
    TrustOption,
)
from petl.cli.models import existing_file, load_delta, weights_file
from petl.cli.terminal import note, say
from petl.errors import printable


def shift_command(
    delta: DeltaArgument,
    source: DataArgument,
    target: Annotated[
        list[str],
        typer.Argument(metavar="TARGET", help="The new images: a folder, with or without classes, a table, files ..."),
    ],
    model: BackboneOption = None,
    trust_remote: TrustOption = False,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Keep the findings as JSON, for petl correct.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Of SOURCE: val, test, train, held-out, all. [val, else held-out, else test, else all]"),
    ] = None,
    images: Annotated[int, typer.Option(help="At most so many images of each side.")] = 1000,
    level: Annotated[float, typer.Option(help="How often something is found where nothing differs.")] = 0.05,
    seen: Annotated[
        bool | None,
        typer.Option("--seen/--unseen", help="Whether the delta has learned from SOURCE. [if no split is apart]"),
    ] = None,
    seed: int = 0,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    strict: StrictOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tell what differs between training images and new ones: class frequencies, appearance, both, or nothing."""
    import petl
    from petl.cli.outputs import new_file, write_text
    from petl.findings import as_text
    from petl.training.held_out import images_to_measure

    inputs = [existing_file(delta), *weights_file(model)]
    path = new_file(out, inputs=inputs, overwrite=overwrite) if out else None
    net, header = load_delta(delta, model, trust_remote)
    labels = header["labels"]
    data, which = images_to_measure(delta, source, petl.data.pipeline(net), split=split, classes=labels)
    learned = which.startswith("all of") or split == "train" if seen is None else seen
    options: dict[str, Any] = {"images": images, "level": level, "seed": seed, "seen": learned, "strict": strict}
    new: Any = target[0] if len(target) == 1 else list(target)
    found = petl.shift(net, data, new, batch_size=batch_size, **options)
    if path is not None:
        write_text(path, as_text(found))
        note(f"wrote {printable(str(path))}")
    say(as_text(found).rstrip("\n") if as_json else f"{found}\nsource: {printable(which)}")
