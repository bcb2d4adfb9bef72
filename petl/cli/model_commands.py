"""The commands that need neither images nor a delta: ``petl plan``, ``petl methods`` and ``petl demo``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from petl.cli.arguments import (
    CreateOption,
    InChansOption,
    LastOption,
    MethodOption,
    OverwriteOption,
    RankOption,
    SetOption,
)
from petl.cli.key_values import parse_pairs
from petl.cli.models import build_methods, named_backbone
from petl.cli.phrases import kilobytes
from petl.cli.terminal import note, say, show

REPORTED = 2  # of the demo's trials: LoRA, whose changes in every block are shown


def plan_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm model's name; no weights are needed.")],
    method: MethodOption = None,
    settings: SetOption = None,
    rank: RankOption = None,
    last: LastOption = None,
    in_chans: InChansOption = None,
    args: CreateOption = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Classes of the new task. [the backbone's]")] = None,
    sites: Annotated[bool, typer.Option("--sites", help="Name every site too.")] = False,
) -> None:
    """Show what training would change, before anything does."""
    import petl

    net = named_backbone(model, parse_pairs(args), pretrained=False)
    petl.wrap(
        net, build_methods(method, settings, net, rank=rank, last=last, in_chans=in_chans), num_classes=num_classes
    )
    say(petl.summary(net))
    record = petl.record(net)
    for one, names in zip(record.methods, record.sites, strict=True) if record and sites else ():
        say("\n".join([f"\n{one.name}:", *(f"  {name}" for name in names)]))


def methods_command() -> None:
    """List the methods and their options."""
    import petl

    rows = []
    for name, cls in sorted(petl.methods().items()):
        options = [f"{f.name}={f.default!r}" for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING]
        rows.append((name, (cls.__doc__ or "").strip().split("\n")[0].replace("``", ""), ", ".join(options)))
    show(("name", "what", "options"), rows)


def demo_command(
    to: Annotated[Path, typer.Option("--out", help="Folder for the deltas.")] = Path("petl-demo"),
    quick: Annotated[
        bool, typer.Option("--quick", help="One short epoch each: shows that it runs, not what it reaches.")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Adapt ImageNet's EfficientNet-Lite0 to scanned digits in four ways, save each delta, and report on one."""
    import torch

    from petl.cli import demo_trials as material
    from petl.cli.outputs import destination, try_writing

    places = [destination(str(to / trial.file), overwrite=overwrite) for trial in material.DEMO_TRIALS]
    for suffix in (".html", ".json"):  # of the report
        destination(str(places[REPORTED].with_suffix(suffix)), overwrite=overwrite)
    try_writing(places[0], lambda trial: trial.write_bytes(bytes(material.DELTAS_BYTES)))
    results = []
    for trial in material.DEMO_TRIALS:
        note(f"{trial.name} ...")
        results.append(material.run_trial(trial, to, quick=quick))
    rows = [(r.name, f"{r.trainable:,}", kilobytes(r.path), f"{r.accuracy:.1%}", f"{r.seconds:.0f}") for r in results]
    head = ("method", "trainable", "delta", "accuracy", "seconds")
    show(head, rows, title="EfficientNet-Lite0 on scikit-learn's digits")
    equal = torch.equal(material.logits_of_new_process(results[-1]), results[-1].logits)
    say(f"{results[-1].path}, reloaded in a fresh process: its logits {'are bit-equal' if equal else 'DIFFER'}")
    note("report ...")
    page = material.write_demo_report(material.DEMO_TRIALS[REPORTED], results[REPORTED], quick=quick)
    say(f"the report of {results[REPORTED].name}, a page to open in a browser: {page}")
    raise typer.Exit(0 if equal else 1)
