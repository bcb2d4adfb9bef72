"""The command that draws the page of a delta: ``petl report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from petl.cli.arguments import (
    BackboneOption,
    DataArgument,
    DataOption,
    DeltaArgument,
    JsonOption,
    OverwriteOption,
    PositiveInt,
    StrictOption,
)
from petl.cli.data_options import DATASET, PIPELINE, data_keywords
from petl.cli.models import existing_file, load_delta, weights_file
from petl.cli.terminal import say


def report_command(
    delta: DeltaArgument,
    data: DataArgument,
    out: Annotated[str, typer.Option("--out", metavar="FILE.html", help="The page; its numbers go to FILE.json.")],
    model: BackboneOption = None,
    findings: Annotated[
        list[str] | None,
        typer.Option(help="What petl rank, advise, compare and shift kept: JSON files, or a folder."),
    ] = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Compare with the backbone before adaptation.")] = True,
    images: Annotated[int, typer.Option(min=1, help="At most so many images, every class in its share.")] = 500,
    split: Annotated[
        str | None,
        typer.Option(
            help="val, test, train, a sub-folder, all, or held-out: what the training kept apart. [val, else held-out]"
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The heading. [backbone and data]")] = None,
    seed: int = 0,
    batch_size: PositiveInt = 64,
    strict: StrictOption = False,
    reading: DataOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw a page that shows how a delta does and why: mistakes, maps, depth, detail, cost; it opens without a network."""
    import petl
    from petl.cli.measured_columns import columns_of_labels, measured_classes
    from petl.cli.outputs import destination
    from petl.data.unlabelled import flat_folder
    from petl.findings import as_text
    from petl.training.held_out import images_to_measure

    existing_file(delta)
    page = destination(out, inputs=[delta, *weights_file(model)], overwrite=overwrite)
    destination(str(page.with_suffix(".json")), inputs=[delta], overwrite=overwrite)
    reading_options = data_keywords(reading, known=PIPELINE | DATASET)
    net, header = load_delta(delta, model)
    pipeline = petl.data.pipeline(net, **reading_options.pipeline)
    if split is None and flat_folder(data) is not None:  # images alone
        chosen, which = data, f"the images of {data}, which have no labels"
    else:
        columns = columns_of_labels(header, data, reading_options.dataset)
        chosen, which = images_to_measure(
            delta, data, pipeline, split=split, classes=measured_classes(header), **columns
        )
    found = petl.report(
        net,
        chosen,
        page,
        base=base,
        findings=[Path(place) for place in findings or ()],
        delta=delta,
        images=images,
        seed=seed,
        title=title or f"{delta.stem}: {Path(data).name or data}",
        about=_without_folders(which, data),
        batch_size=batch_size,
        strict=strict,
        overwrite=overwrite,
    )
    say(as_text(found) if as_json else str(found))


def _without_folders(which: str, data: str) -> str:
    """Returns the words for the images with the data's name instead of its path: the page is passed on."""
    return which.replace(str(data), Path(data).name or str(data))
