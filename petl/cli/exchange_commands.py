"""The commands that hand deltas to other libraries and take theirs: ``petl to-peft``, ``petl from-peft`` and ``petl export``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from petl.cli.arguments import BackboneOption, CreateOption, DeltaArgument, JsonOption, OverwriteOption, TrustOption
from petl.cli.key_values import parse_pairs
from petl.cli.models import load_delta, named_backbone, weights_file
from petl.cli.phrases import as_json_text
from petl.cli.terminal import say
from petl.errors import MethodError, StateError, printable

AdapterArgument = Annotated[
    str, typer.Argument(metavar="FOLDER", help="A folder with adapter_config.json and adapter_model.safetensors.")
]


def to_peft_command(
    delta: DeltaArgument,
    folder: AdapterArgument,
    model: BackboneOption = None,
    trust_remote: TrustOption = False,
    whole_layers: Annotated[
        bool,
        typer.Option(
            help="Write layers whole whose change peft would compute otherwise. [or refuse]", show_default=True
        ),
    ] = True,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a delta as an adapter of peft's, which PeftModel.from_pretrained loads onto the timm model."""
    import petl

    if os.path.lexists(Path(folder) / "adapter_config.json") and not overwrite:
        raise StateError(f"{folder} holds an adapter; name another folder, or pass --overwrite to replace it")
    net, _ = load_delta(delta, model, trust_remote)
    written = petl.to_peft(net, folder, whole_layers=whole_layers)
    say(as_json_text(written.to_json()) if as_json else written)


def from_peft_command(
    folder: AdapterArgument,
    to: Annotated[str, typer.Argument(metavar="OUT", help="The delta to write, a .safetensors file.")],
    model: BackboneOption = None,
    args: CreateOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write an adapter that peft has trained on a timm model as a delta of petl's."""
    import petl
    from petl.cli.outputs import destination, try_writing
    from petl.exchange.peft_folder import read_adapter

    adapter = Path(folder) / "adapter_model.safetensors"
    path = destination(to, inputs=[adapter, *weights_file(model)], overwrite=overwrite)
    if not model:
        raise MethodError(
            "which timm model was the adapter trained on? Name it: --model NAME, or --model NAME:WEIGHTS_FILE"
        )
    read_adapter(folder)  # an error of the folder comes before timm fetches weights
    net = petl.from_peft(named_backbone(model, parse_pairs(args)), folder)
    try_writing(path, lambda trial: petl.save(net, trial))
    petl.save(net, path)
    record = petl.record(net)
    say(f"wrote {printable(str(path))}, {path.stat().st_size:,} bytes: {record}")


def export_command(
    delta: DeltaArgument,
    to: Annotated[str, typer.Argument(metavar="OUT", help="The file to write: .onnx, or .pt2 (torch.export).")],
    model: BackboneOption = None,
    trust_remote: TrustOption = False,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Answer with probabilities. [logits]")] = False,
    size: Annotated[str | None, typer.Option(help="Side of the images, or HEIGHTxWIDTH. [the pipeline's]")] = None,
    any_size: Annotated[bool, typer.Option("--any-size", help="Let height and width vary.")] = False,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write the model with its delta as an ONNX file or a program of torch.export, checked by running it."""
    import petl
    from petl.cli.outputs import destination

    path = destination(to, inputs=[delta, *weights_file(model)], overwrite=overwrite)
    sides = _image_sides(size)
    net, _ = load_delta(delta, model, trust_remote)
    written = petl.export(net, path, probabilities=probabilities, size=sides, fixed_size=not any_size)
    say(as_json_text(written.to_json()) if as_json else written)


def _image_sides(text: str | None) -> int | tuple[int, int] | None:
    """Returns ``size=`` of `petl.export` for the word of a command line.

    >>> _image_sides("224"), _image_sides("160x320")
    (224, (160, 320))
    """
    if text is None:
        return None
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isascii() and number.isdigit() and int(number) for number in numbers):
        raise MethodError(f"--size {text}; expected a side, such as 224, or HEIGHTxWIDTH, such as 160x320")
    sides = [int(number) for number in numbers]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
