"""The commands that work on a delta file: ``petl inspect`` and ``petl merge``."""

from __future__ import annotations

from typing import Annotated

import typer

from petl.cli.arguments import BackboneOption, DeltaArgument, JsonOption, OverwriteOption
from petl.cli.models import existing_file, load_delta, weights_file
from petl.cli.phrases import as_json_text, short_json
from petl.cli.terminal import say, show
from petl.errors import printable


def inspect_command(delta: DeltaArgument, as_json: JsonOption = False) -> None:
    """Show a delta's header: backbone, methods, labels, input pipeline, results."""
    import petl

    header = petl.read(existing_file(delta))
    if as_json:
        return say(as_json_text(header))
    rows = [("bytes", f"{delta.stat().st_size:,}")]
    rows += [(key, short_json(value)) for key, value in {**header, "sites": [len(s) for s in header["sites"]]}.items()]
    return show(("", str(delta)), rows)


def merge_command(
    delta: DeltaArgument,
    to: Annotated[
        str, typer.Argument(metavar="OUT", help="The file to write: .safetensors, or anything for torch's format.")
    ],
    model: BackboneOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a plain timm checkpoint, which timm.create_model(NAME, checkpoint_path=OUT) loads."""
    import petl
    from petl.cli.outputs import destination, make_parent
    from petl.delta.merged_checkpoint import write_merged

    path = destination(to, inputs=[delta, *weights_file(model)], overwrite=overwrite)
    net, header = load_delta(delta, model)
    base, channels = header["backbone"], petl.in_chans(net)
    merged = petl.merge(net).state_dict()
    make_parent(path)
    write_merged(path, merged, header)
    options = {**base["args"], "num_classes": base["num_classes"], "in_chans": channels, "checkpoint_path": str(path)}
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    say(f"wrote {printable(str(path))}; timm.create_model({base['name']!r}, {given})")
