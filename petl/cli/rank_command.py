"""``petl rank``: which backbone suits a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from petl.cli.arguments import DataArgument, DataOption, JsonOption, OverwriteOption, PositiveInt, StrictOption
from petl.cli.data_options import DATASET, PIPELINE, SPLIT, data_keywords, refuse_two_sizes
from petl.cli.models import named_backbone, weights_file
from petl.cli.terminal import say
from petl.wrapping.named_backbones import DEMO


def rank_command(
    data: DataArgument,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A candidate: NAME, NAME:WEIGHTS_FILE, demo, or a pattern; give it again for more. [a diverse few]"
        ),
    ] = None,
    max_params: Annotated[str | None, typer.Option(help="The most parameters: 30M.")] = None,
    max_gmacs: Annotated[str | None, typer.Option(help="The most billions of multiply-adds an image: 5.")] = None,
    max_side: Annotated[
        int | None, typer.Option(min=1, help="The largest side of a backbone's images, in pixels.")
    ] = None,
    licence: Annotated[
        list[str] | None, typer.Option("--licence", "--license", help="open, or a licence's name; again for more.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="At most so many images are read.")] = 1000,
    most: Annotated[int, typer.Option(min=1, help="Candidates at most, of a pattern or a filter.")] = 8,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the images. [each backbone's own]")] = None,
    batch_size: PositiveInt = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    seed: int = 0,
    strict: StrictOption = False,
    reading: DataOption = None,
    out: Annotated[str | None, typer.Option(metavar="FILE.json", help="Keep what was found as JSON.")] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Which backbone: each candidate's accuracy on a few of your images, what ties, and what each costs."""
    import petl
    from petl.cli.outputs import new_file, write_text
    from petl.findings import as_text

    said = data_keywords(reading, known=PIPELINE | DATASET | SPLIT)
    refuse_two_sizes(size, said)
    changes = {key: value for key, value in said.pipeline.items() if key != "size"}
    files = [Path(file) for name in model or () for file in weights_file(name)]
    path = new_file(out, inputs=[data, *files], overwrite=overwrite) if out else None
    options: dict[str, Any] = {
        "max_params": max_params,
        "max_gmacs": max_gmacs,
        "max_side": max_side,
        "licence": licence,
    }
    options |= {"images": images, "most": most, "size": size or said.pipeline.get("size"), "pipeline": changes}
    options |= {"batch_size": batch_size, "workers": workers, "seed": seed, "strict": strict}
    candidates = [(name, named_backbone(name, {})) if name == DEMO else name for name in model or ()]
    ranking = petl.rank(candidates or None, data, **options, **said.dataset, **said.training)
    text = as_text(ranking)
    if path:
        write_text(path, text)
    say(text.rstrip("\n") if as_json else ranking)
