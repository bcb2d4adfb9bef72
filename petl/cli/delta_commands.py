"""The commands that work on a delta file: ``petl inspect``, ``petl convert`` and ``petl merge``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from petl.cli.arguments import BackboneOption, DeltaArgument, JsonOption, OverwriteOption, TrustOption
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
    shown = {**header, "sites": [len(s) for s in header["sites"]], "packed": _packing_in_short(header["packed"])}
    rows += [(key, short_json(value)) for key, value in shown.items()]
    if header["approximate"]:
        rows.append(
            ("note", f"numbers were rounded to {header['approximate']}: outputs are near those of the trained model")
        )
    return show(("", str(delta)), rows)


def _packing_in_short(packing: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns how tensors are packed, with their number in place of their names."""
    return packing and {**packing, "tensors": len(packing["tensors"])}


def convert_command(
    delta: DeltaArgument,
    to: Annotated[str, typer.Argument(metavar="OUT", help="The delta file to write.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, int8, int4 or int3.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Write a delta again with its numbers in another type, such as a smaller one; no backbone is needed."""
    from petl.cli.outputs import destination, make_parent
    from petl.delta.converted import convert_delta
    from petl.delta.storage import stored_type_name

    stored_type_name(dtype)
    path = destination(to, inputs=[existing_file(delta)], overwrite=overwrite)
    make_parent(path)
    convert_delta(delta, path, dtype)
    say(f"wrote {printable(str(path))}: {path.stat().st_size:,} bytes, {delta.stat().st_size:,} before")


def merge_command(
    delta: DeltaArgument,
    to: Annotated[
        str, typer.Argument(metavar="OUT", help="The file to write: .safetensors, or anything for torch's format.")
    ],
    model: BackboneOption = None,
    trust_remote: TrustOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a plain timm checkpoint, which timm.create_model(NAME, checkpoint_path=OUT) loads."""
    import petl
    from petl.cli.outputs import destination, make_parent
    from petl.delta.merged_checkpoint import write_merged

    path = destination(to, inputs=[delta, *weights_file(model)], overwrite=overwrite)
    net, header = load_delta(delta, model, trust_remote)
    base, channels = header["backbone"], petl.in_chans(net)
    merged = petl.merge(net).state_dict()
    make_parent(path)
    write_merged(path, merged, header)
    options = {**base["args"], "num_classes": base["num_classes"], "in_chans": channels, "checkpoint_path": str(path)}
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    say(f"wrote {printable(str(path))}; timm.create_model({base['name']!r}, {given})")
