"""``petl combine``: several deltas on one backbone become one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from petl.cli.arguments import JsonOption, OverwriteOption, TrustOption, delta_file
from petl.cli.models import existing_file, named_base, weights_file
from petl.cli.phrases import findings_text
from petl.cli.terminal import note, say
from petl.errors import MethodError, printable

BaseOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="Backbone NAME, NAME:WEIGHTS_FILE or :WEIGHTS_FILE. [the delta's, which timm fetches]"
    ),
]
ImagesOption = Annotated[int, typer.Option(min=1, help="At most so many images.")]
BatchOption = Annotated[int, typer.Option(min=1)]
WorkersOption = Annotated[int, typer.Option(min=0, help="Processes that read images.")]


def combine_command(
    deltas: Annotated[
        list[str], typer.Argument(metavar="DELTA...", help="Delta files; 'base' is the backbone as it is.")
    ],
    to: Annotated[str, typer.Option("--out", metavar="FILE", help="The delta file to write.")],
    weights: Annotated[
        list[str] | None,
        typer.Option(help="A number for each: --weights .7 .3, or .7,-.3; or auto, chosen on --data. [even]"),
    ] = None,
    how: Annotated[str, typer.Option(help="mean, ties or iso.")] = "mean",
    rank: Annotated[str | None, typer.Option(help="Of weights' changes: a number, or full. [what they need]")] = None,
    density: Annotated[float, typer.Option(help="The share of each change that ties keeps.")] = 0.2,
    heads: Annotated[
        str | None, typer.Option(help="mean, apart, refit, or the name of a delta. [mean, or apart; refit with --data]")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Images for classifiers: DATA, or NAME=DATA for each delta, again for more."),
    ] = None,
    images: ImagesOption = 1000,
    model: BaseOption = None,
    trust_remote: TrustOption = False,
    seed: int = 0,
    batch_size: BatchOption = 64,
    workers: WorkersOption = 0,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add, average or subtract deltas on one backbone: one delta comes out."""
    import petl
    from petl.cli.outputs import new_file

    files, numbers = split_weights(deltas, weights)
    items = [file if file == "base" else existing_file(delta_file(file)) for file in files]
    there = [item for item in items if item != "base"]
    path = new_file(to, inputs=[*there, *weights_file(model)], overwrite=overwrite)
    base = named_base(model, there, trust_remote)
    options: dict[str, Any] = {"images": images, "seed": seed, "batch_size": batch_size, "workers": workers}
    options |= {"how": how, "density": density, "heads": heads, "rank": said_rank(rank), "data": said_data(data)}
    combined = petl.combine(items, weights=numbers, model=base, trust_remote=trust_remote, **options)
    combined.save(path)
    note(f"wrote {printable(str(path))}")
    say(findings_text(combined, as_json))


def split_weights(words: list[str], given: list[str] | None) -> tuple[list[str], Any]:
    """Returns files and weights: after ``--weights`` several numbers may stand, of which the command line knows the first alone.

    >>> split_weights(["a", "b", ".3"], [".7"])
    (['a', 'b'], [0.7, 0.3])
    >>> split_weights(["a", "b"], ["1,-.5"])
    (['a', 'b'], [1.0, -0.5])
    """
    if not given:
        return words, None
    texts = [text for word in given for text in word.split(",") if text]
    if texts == ["auto"]:
        return words, "auto"
    loose = [word for word in words if _number(word) is not None and not Path(word).exists()]
    numbers = [_number(text) for text in (*texts, *loose)]
    if None in numbers:
        raise MethodError(f"--weights {' '.join(texts)}; expected numbers, such as --weights .5 .5, or auto")
    return [word for word in words if word not in loose], numbers


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def said_rank(text: str | None) -> Any:
    """Returns ``rank=`` for the word of a command line.

    >>> said_rank("8"), said_rank("full"), said_rank(None)
    (8, 'full', None)
    """
    return int(text) if text and text.isdigit() else text


def said_data(words: list[str] | None) -> Any:
    """Returns ``data=``: one place, or places by the names of deltas.

    >>> said_data(["pets"]), said_data(["a=pets", "b=birds"])
    ('pets', {'a': 'pets', 'b': 'birds'})
    """
    if not words:
        return None
    pairs = [word.partition("=") for word in words]
    if len(words) == 1 and (not pairs[0][1] or Path(words[0]).exists()):
        return words[0]
    if odd := [word for word, (_, sign, _) in zip(words, pairs, strict=True) if not sign]:
        raise MethodError(f"--data {odd[0]}; expected one DATA for all, or NAME=DATA for each delta")
    return {name: place for name, _, place in pairs}
