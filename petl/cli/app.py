"""The command line: each command reads its arguments, calls the library and shows what it answers.

``petl --version`` and ``--help`` are asked for often and need nothing: torch, timm and the library come with the command.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from petl.cli.arguments import (
    AsJson,
    Base,
    Channels,
    Count,
    Create,
    Data,
    Delta,
    Last,
    Methods,
    Overwrite,
    Rank,
    Reading,
    Settings,
    Strict,
    backbone,
    chosen,
    existing,
    keywords,
    loaded,
    pairs,
    weights_file,
)
from petl.cli.data_words import DATASET, PIPELINE, TRAINING, asked, to_train
from petl.cli.phrases import as_json_text, brief, figure, kilobytes
from petl.cli.terminal import Commands, note, say, show
from petl.errors import MethodError, printable
from petl.version import __version__

OWN = ("model", "train", "val", "out", "labels", "on_epoch")  # of fit: they have options of their own, or need Python

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Parameter-efficient transfer learning for the vision models of timm.",
    epilog="Example: petl demo",
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        say(__version__)
    elif context.invoked_subcommand is None:
        say(context.get_help())


@app.command(epilog="Example: petl train pets --model resnet50 --method lora --rank 8 --out pets.safetensors")
def train(
    data: Data,
    model: Annotated[str, typer.Option(help="Backbone NAME (timm fetches its weights) or NAME:WEIGHTS_FILE.")],
    to: Annotated[str, typer.Option("--out", metavar="FILE", help="The delta file to write.")],
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
        int | None, typer.Option(min=1, help="Side of the images. [the backbone's; ViTs take --arg img_size=N]")
    ] = None,
    seed: int = 0,
    strict: Strict = False,
    reading: Reading = None,
    more: Annotated[list[str] | None, typer.Option("--fit", help="KEY=VALUE for petl.fit: patience=3 ...")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Adapt a backbone to images and save the delta of the epoch that does best on the validation images."""
    import torch

    import petl
    from petl.cli.outputs import for_training, tried

    options = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seed": seed, "keep": "best", "strict": strict}
    options |= keywords(petl.fit, more, but=OWN)
    said = asked(reading, known=PIPELINE | DATASET | TRAINING)
    if size and "size" in said.pipeline:
        raise MethodError(f"got --size {size} and --data size={said.pipeline['size']}; expected one of them")
    path = for_training(to, options, inputs=[data, *filter(None, [val]), *weights_file(model)], overwrite=overwrite)
    net, extra = backbone(model, pairs(args)), pairs(args)
    methods = chosen(method, settings, rank=rank, last=last, in_chans=in_chans)
    classes = petl.data.dataset(data, petl.data.pipeline(net), **said.dataset, **said.training).classes
    torch.manual_seed(seed)  # the new classifier is random
    petl.wrap(net, methods, num_classes=len(classes), create_args=extra, memory=memory)  # type: ignore[arg-type]  # wrap looks at it
    pipeline = petl.data.pipeline(net, **{"size": size, **said.pipeline})
    petl.record(net).pipeline = pipeline  # type: ignore[union-attr]  # just wrapped
    training, validation = to_train(data, val, pipeline, said, classes=classes, seed=seed)
    tried(path, lambda trial: petl.save(net, trial, labels=classes))
    history = petl.fit(net, training, validation, out=path, labels=classes, **options)
    say(f"{petl.summary(net)}\n{history}\nwrote {printable(str(path))}: {path.stat().st_size:,} bytes")


@app.command("eval", epilog="Example: petl eval pets.safetensors pets")
def evaluate(
    delta: Delta,
    data: Data,
    model: Base = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="val, test, train, a sub-folder, all, or held-out: what the training kept apart. [val, else held-out]"
        ),
    ] = None,
    batch_size: Count = 64,
    strict: Strict = False,
    reading: Reading = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy, balanced accuracy and figures per class on labelled images."""
    import petl
    from petl.cli.answers import refuse_other_tasks
    from petl.training.runs import to_measure

    said = asked(reading, known=PIPELINE | DATASET)
    net, header = loaded(delta, model)
    refuse_other_tasks(header, getattr(net, "num_classes", None))
    pipeline = petl.data.pipeline(net, **said.pipeline)
    images, which = to_measure(delta, data, pipeline, split=split, classes=header["labels"], **said.dataset)
    metrics = petl.evaluate(net, images, batch_size=batch_size, strict=strict)
    say(
        as_json_text({**dataclasses.asdict(metrics), "measured": which})
        if as_json
        else f"{metrics}\nmeasured: {printable(which)}"
    )


@app.command(epilog="Example: petl predict pets.safetensors cat.jpg dog.jpg --top 3")
def predict(
    delta: Delta,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files.")],
    model: Base = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="How many labels for each image. [1; those above .5 of a multi-label delta]"),
    ] = None,
    strict: Strict = False,
    reading: Reading = None,
    as_json: AsJson = False,
) -> None:
    """Print labels and confidences of images, or values where the delta's task is a regression."""
    from petl.cli.answers import answers
    from petl.data.pipelines import pipeline

    said = asked(reading, known=PIPELINE)
    net, header = loaded(delta, model)
    seen = pipeline(net, **said.pipeline)
    answered = answers(net, header, images, top, pipeline=seen, strict=strict)
    found = [{"image": str(path), "predictions": best} for path, best in answered]
    if as_json:
        return say(as_json_text(found))
    rows = [(one["image"], row["label"], figure(row)) for one in found for row in one["predictions"]]
    values = any("value" in row for one in found for row in one["predictions"])
    return show(("image", "label", "value" if values else "confidence"), rows)


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
    import petl

    net = backbone(model, pairs(args), pretrained=False)
    petl.wrap(net, chosen(method, settings, rank=rank, last=last, in_chans=in_chans), num_classes=num_classes)
    say(petl.summary(net))
    record = petl.record(net)
    for one, names in zip(record.methods, record.sites, strict=True) if record and sites else ():
        say("\n".join([f"\n{one.name}:", *(f"  {name}" for name in names)]))


@app.command(epilog="Example: petl inspect pets.safetensors")
def inspect(delta: Delta, as_json: AsJson = False) -> None:
    """Show a delta's header: backbone, methods, labels, input pipeline, results."""
    import petl

    header = petl.read(existing(delta))
    if as_json:
        return say(as_json_text(header))
    rows = [("bytes", f"{delta.stat().st_size:,}")]
    rows += [(key, brief(value)) for key, value in {**header, "sites": [len(s) for s in header["sites"]]}.items()]
    return show(("", str(delta)), rows)


@app.command(epilog="Example: petl merge pets.safetensors merged.safetensors")
def merge(
    delta: Delta,
    to: Annotated[
        str, typer.Argument(metavar="OUT", help="The file to write: .safetensors, or anything for torch's format.")
    ],
    model: Base = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a plain timm checkpoint, which timm.create_model(NAME, checkpoint_path=OUT) loads."""
    import petl
    from petl.cli.outputs import destination, folder
    from petl.delta.merged_checkpoint import write_merged

    path = destination(to, inputs=[delta, *weights_file(model)], overwrite=overwrite)
    net, header = loaded(delta, model)
    base, channels = header["backbone"], petl.in_chans(net)
    merged = petl.merge(net).state_dict()
    folder(path)
    write_merged(path, merged, header)
    options = {**base["args"], "num_classes": base["num_classes"], "in_chans": channels, "checkpoint_path": str(path)}
    given = ", ".join(f"{key}={value!r}" for key, value in options.items())
    say(f"wrote {printable(str(path))}; timm.create_model({base['name']!r}, {given})")


@app.command("methods", epilog="Example: petl methods")
def list_methods() -> None:
    """List the methods and their options."""
    import petl

    rows = []
    for name, cls in sorted(petl.methods().items()):
        options = [f"{f.name}={f.default!r}" for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING]
        rows.append((name, (cls.__doc__ or "").strip().split("\n")[0].replace("``", ""), ", ".join(options)))
    show(("name", "what", "options"), rows)


@app.command(epilog="Example: petl demo --out my-deltas")
def demo(
    to: Annotated[Path, typer.Option("--out", help="Folder for the deltas.")] = Path("petl-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="One short epoch each: shows that it runs, not what it reaches.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Adapt ImageNet's EfficientNet-Lite0 to scanned digits in four ways, save each delta, and reload one elsewhere."""
    import torch

    from petl import demo as material
    from petl.cli.outputs import destination, tried

    places = [destination(str(to / trial.file), overwrite=overwrite) for trial in material.TRIALS]
    tried(places[0], lambda trial: trial.write_bytes(bytes(material.ROOM)))
    results = []
    for trial in material.TRIALS:
        note(f"{trial.name} ...")
        results.append(material.attempt(trial, to, quick=quick))
    rows = [(r.name, f"{r.trainable:,}", kilobytes(r.path), f"{r.accuracy:.1%}", f"{r.seconds:.0f}") for r in results]
    head = ("method", "trainable", "delta", "accuracy", "seconds")
    show(head, rows, title="EfficientNet-Lite0 on scikit-learn's digits")
    equal = torch.equal(material.elsewhere(results[-1]), results[-1].logits)
    say(f"{results[-1].path}, reloaded in a fresh process: its logits {'are bit-equal' if equal else 'DIFFER'}")
    raise typer.Exit(0 if equal else 1)
