"""The command line: each command reads its arguments, calls the library and shows what it answers."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from typer.core import TyperGroup

import petl
from petl import demo as material
from petl.arguments import (
    AsJson,
    Base,
    Channels,
    Count,
    Create,
    Data,
    Delta,
    Last,
    Methods,
    Rank,
    Settings,
    backbone,
    chosen,
    existing,
    keywords,
    loaded,
    pairs,
)
from petl.errors import PetlError

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # click's UsageError, which newer typers carry inside
CPU = torch.device("cpu")
out = Console()


class Commands(TyperGroup):
    """Shows what a user can mend as one line on stderr, with exit code 2; everything else keeps its traceback."""

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        try:
            code = super().main(*args, standalone_mode=False, **kwargs)
        except USAGE_ERROR as error:
            _refuse(error.format_message() or "see petl --help")  # type: ignore[attr-defined]  # click's has it
        except (PetlError, OSError) as error:
            _refuse(str(error))
        except (KeyboardInterrupt, typer.Abort):
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)


def _refuse(message: str) -> NoReturn:
    typer.echo(f"petl: {' '.join(message.split())}", err=True)
    sys.exit(2)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Parameter-efficient transfer learning for the vision models of timm.",
    epilog="Example: petl demo",
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(petl.__version__)


@app.command(epilog="Example: petl train pets --model resnet50 --method lora --rank 8 --out pets.safetensors")
def train(
    data: Data,
    model: Annotated[str, typer.Option(help="Backbone NAME (timm fetches its weights) or NAME:WEIGHTS_FILE.")],
    to: Annotated[Path, typer.Option("--out", help="The delta file to write.")],
    method: Methods = None,
    settings: Settings = None,
    rank: Rank = None,
    last: Last = None,
    in_chans: Channels = None,
    args: Create = None,
    val: Annotated[str | None, typer.Option(help="Validation images. [DATA's own, else a fifth of DATA]")] = None,
    epochs: Count = 10,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    batch_size: Count = 32,
    memory: Annotated[str, typer.Option(help="Of training steps: fast, lean, or min.")] = "lean",
    size: Annotated[
        int | None, typer.Option(help="Side of the images. [the backbone's; ViTs take --arg img_size=N]")
    ] = None,
    seed: int = 0,
    more: Annotated[list[str] | None, typer.Option("--fit", help="KEY=VALUE for petl.fit: patience=3 ...")] = None,
) -> None:
    """Adapt a backbone to images and save the delta of the epoch that does best on the validation images."""
    options = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed, "keep": "best"}
    options |= keywords(petl.fit, more)
    net, extra = backbone(model, pairs(args)), pairs(args)
    methods = chosen(method, settings, rank=rank, last=last, in_chans=in_chans)
    classes = petl.data.dataset(data, petl.data.pipeline(net)).classes
    torch.manual_seed(seed)  # the new classifier is random
    petl.wrap(net, methods, num_classes=len(classes), create_args=extra, memory=memory)  # type: ignore[arg-type]  # wrap looks at it
    pipeline = petl.data.pipeline(net, size=size)
    petl.record(net).pipeline = pipeline  # type: ignore[union-attr]  # just wrapped
    training = petl.data.dataset(data, pipeline, training=True, classes=classes)
    if val or "val" in petl.data.splits(data):
        validation = petl.data.dataset(val or data, pipeline, split=None if val else "val", classes=classes)
    else:
        training, validation = petl.data.holdout(training, seed=seed)
    history = petl.fit(net, training, validation, out=to, labels=classes, **options)
    typer.echo(f"{petl.summary(net)}\n{history}\nwrote {to}: {to.stat().st_size:,} bytes")


@app.command("eval", epilog="Example: petl eval pets.safetensors pets")
def evaluate(
    delta: Delta,
    data: Data,
    model: Base = None,
    split: Annotated[str | None, typer.Option(help="Split or sub-folder. [val, where DATA has one]")] = None,
    batch_size: Count = 64,
    as_json: AsJson = False,
) -> None:
    """Accuracy, balanced accuracy and figures per class on labelled images."""
    net, header = loaded(delta, model)
    split = split or ("val" if "val" in petl.data.splits(data) else None)
    images = petl.data.dataset(data, petl.data.pipeline(net), split=split, classes=header["labels"])
    metrics = petl.evaluate(net, images, batch_size=batch_size)
    typer.echo(json.dumps(dataclasses.asdict(metrics)) if as_json else metrics)


@app.command(epilog="Example: petl predict pets.safetensors cat.jpg dog.jpg --top 3")
def predict(
    delta: Delta,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files.")],
    model: Base = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels for each image.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Print labels and confidences of images."""
    net, header = loaded(delta, model)
    pipeline = petl.data.pipeline(net)
    table, answers = Table("image", "label", "confidence"), []
    for path in images:
        image = petl.data.image(path, pipeline)
        with torch.inference_mode():
            confidence, order = net.eval()(image[None])[0].softmax(0).sort(descending=True)
        best = [
            {"label": _label(header, int(k)), "confidence": float(c)}
            for k, c in zip(order[:top], confidence[:top], strict=True)
        ]
        answers.append({"image": str(path), "predictions": best})
        for row in best:
            table.add_row(str(path), row["label"], f"{row['confidence']:.1%}")
    typer.echo(json.dumps(answers)) if as_json else out.print(table)


def _label(header: dict[str, Any], number: int) -> str:
    return header["labels"][number] if header["labels"] else str(number)


@app.command(epilog="Example: petl plan resnet50 --method input --method lora --in-chans 1 --rank 8")
def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm model's name; no weights are needed.")],
    method: Methods = None,
    settings: Settings = None,
    rank: Rank = None,
    last: Last = None,
    in_chans: Channels = None,
    args: Create = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Classes of the new task. [the backbone's]")] = None,
    sites: Annotated[bool, typer.Option("--sites", help="Name every site too.")] = False,
) -> None:
    """Show what training would change, before anything does."""
    net = backbone(model, pairs(args), pretrained=False)
    petl.wrap(net, chosen(method, settings, rank=rank, last=last, in_chans=in_chans), num_classes=num_classes)
    typer.echo(petl.summary(net))
    record = petl.record(net)
    for one, names in zip(record.methods, record.sites, strict=True) if record and sites else ():
        typer.echo("\n".join([f"\n{one.name}:", *(f"  {name}" for name in names)]))


@app.command(epilog="Example: petl inspect pets.safetensors")
def inspect(delta: Delta, as_json: AsJson = False) -> None:
    """Show a delta's header: backbone, methods, labels, input pipeline, results."""
    header = petl.read(existing(delta))
    if as_json:
        return typer.echo(json.dumps(header))
    table = Table("", str(delta))
    table.add_row("bytes", f"{delta.stat().st_size:,}")
    for key, value in {**header, "sites": [len(names) for names in header["sites"]]}.items():
        table.add_row(key, json.dumps(value))
    out.print(table)


@app.command(epilog="Example: petl merge pets.safetensors merged.safetensors")
def merge(
    delta: Delta,
    to: Annotated[
        Path, typer.Argument(metavar="OUT", help="The file to write: .safetensors, or anything for torch's format.")
    ],
    model: Base = None,
) -> None:
    """Write a plain timm checkpoint, which timm.create_model(NAME, checkpoint_path=OUT) loads."""
    net, header = loaded(delta, model)
    base, channels = header["backbone"], petl.in_chans(net)
    state = {key: tensor.contiguous().clone() for key, tensor in petl.merge(net).state_dict().items()}
    to.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, to) if to.suffix == ".safetensors" else torch.save(state, to)
    options = {**base["args"], "num_classes": base["num_classes"], "in_chans": channels, "checkpoint_path": str(to)}
    typer.echo(
        f"wrote {to}; timm.create_model({base['name']!r}, {', '.join(f'{k}={v!r}' for k, v in options.items())})"
    )


@app.command("methods", epilog="Example: petl methods")
def list_methods() -> None:
    """List the methods and their options."""
    table = Table("name", "what", "options")
    for name, cls in sorted(petl.methods().items()):
        options = "\n".join(
            f"{f.name}={f.default!r}" for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING
        )
        table.add_row(name, (cls.__doc__ or "").strip().split("\n")[0], options, end_section=True)
    out.print(table)


@app.command(epilog="Example: petl demo --out my-deltas")
def demo(
    to: Annotated[Path, typer.Option("--out", help="Folder for the deltas.")] = Path("petl-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="One short epoch each: shows that it runs, not what it reaches.")
    ] = False,
) -> None:
    """Adapt ImageNet's EfficientNet-Lite0 to scanned digits in four ways, save each delta, and reload one elsewhere."""
    to.mkdir(parents=True, exist_ok=True)
    table = Table(
        "method", "trainable", "delta", "accuracy", "seconds", title="EfficientNet-Lite0 on scikit-learn's digits"
    )
    for trial in material.TRIALS:
        typer.echo(f"{trial.name} ...", err=True)
        result = material.attempt(trial, to, quick=quick)
        size = f"{result.path.stat().st_size / 1000:,.0f} kB"
        table.add_row(result.name, f"{result.trainable:,}", size, f"{result.accuracy:.1%}", f"{result.seconds:.0f}")
    out.print(table)
    equal = torch.equal(material.elsewhere(result), result.logits)
    typer.echo(f"{result.path}, reloaded in a fresh process: its logits {'are bit-equal' if equal else 'DIFFER'}")
    raise typer.Exit(0 if equal else 1)
