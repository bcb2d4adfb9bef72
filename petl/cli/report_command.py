"""The command that draws the page of a delta: ``petl report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    TrustOption,
)
from petl.cli.data_options import DATASET, PIPELINE, data_keywords
from petl.cli.models import existing_file, load_delta, weights_file
from petl.cli.phrases import findings_text
from petl.cli.terminal import say


def report_command(
    delta: DeltaArgument,
    data: DataArgument,
    out: Annotated[str, typer.Option("--out", metavar="FILE.html", help="The page; its numbers go to FILE.json.")],
    model: BackboneOption = None,
    trust_remote: TrustOption = False,
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
    from petl.cli.outputs import destination

    inputs = [existing_file(delta), *weights_file(model)]
    page = destination(out, inputs=inputs, overwrite=overwrite)
    destination(str(page.with_suffix(".json")), inputs=inputs, overwrite=overwrite)
    reading_options = data_keywords(reading, known=PIPELINE | DATASET)
    net, header = load_delta(delta, model, trust_remote)
    pipeline = petl.data.pipeline(net, **reading_options.pipeline)
    chosen, which = _chosen_images(delta, data, split, pipeline, header, reading_options.dataset)
    options: dict[str, Any] = {"base": base, "delta": delta, "images": images, "seed": seed, "batch_size": batch_size}
    options |= {"findings": [Path(place) for place in findings or ()], "strict": strict, "overwrite": overwrite}
    options["title"] = title or f"{delta.stem}: {Path(data).name or data}"
    found = petl.report(net, chosen, page, about=which.replace(data, Path(data).name or data), **options)
    say(findings_text(found, as_json))


def _chosen_images(
    delta: Path, data: str, split: str | None, pipeline: Any, header: Any, options: Any
) -> tuple[Any, str]:
    """Returns the images to report on, and a description of them: those that ``petl eval`` measures, or images alone."""
    from petl.cli.measured_columns import columns_of_labels, measured_classes
    from petl.data.unlabelled import flat_folder
    from petl.training.held_out import images_to_measure

    if split is None and flat_folder(data) is not None:
        return data, f"the images of {data}, which have no labels"
    columns = columns_of_labels(header, data, options)
    return images_to_measure(delta, data, pipeline, split=split, classes=measured_classes(header), **columns)
