"""The commands that work on images: ``petl train``, ``petl eval`` and ``petl predict``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from petl.cli.arguments import (
    BackboneOption,
    CreateOption,
    DataArgument,
    DataOption,
    DeltaArgument,
    InChansOption,
    JsonOption,
    LastOption,
    MethodOption,
    OverwriteOption,
    PositiveInt,
    RankOption,
    SetOption,
    StrictOption,
    TrustOption,
    ViewsOption,
    said_views,
)
from petl.cli.data_options import (
    DATASET,
    LISTED,
    PIPELINE,
    TRAINING,
    data_keywords,
    refuse_two_sizes,
    training_and_validation,
)
from petl.cli.key_values import keyword_arguments, number_or_word, parse_pairs
from petl.cli.models import build_methods, existing_file, load_delta, named_backbone, weights_file
from petl.cli.phrases import as_json_text
from petl.cli.terminal import say
from petl.errors import printable

NOT_BY_FIT_OPTION = (
    "model",
    "train",
    "val",
    "out",
    "labels",
    "on_epoch",
    "callbacks",
    "scheduler",
    "transform",
)  # of fit: they have options of their own, or need Python


def train_command(
    data: DataArgument,
    model: Annotated[str, typer.Option(help="Backbone NAME (timm fetches its weights) or NAME:WEIGHTS_FILE.")],
    to: Annotated[str, typer.Option("--out", metavar="FILE", help="The delta file to write.")],
    method: MethodOption = None,
    settings: SetOption = None,
    rank: RankOption = None,
    last: LastOption = None,
    in_chans: InChansOption = None,
    args: CreateOption = None,
    val: Annotated[str | None, typer.Option(help="Validation images. [DATA's own, else a fifth of DATA]")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs. [as many as suit the images]")] = None,
    minutes: Annotated[float | None, typer.Option(help="As many epochs as fit into this time.")] = None,
    lr: Annotated[
        str | None, typer.Option(help="Learning rate: a number, find, or x0.5. [each method's own]", show_default=False)
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(help="What the targets mean: ordinal, metric, regression ... [what DATA has, else classes]"),
    ] = None,
    units: Annotated[
        str | None, typer.Option(help="Of the numbers of a regression: years, or one for each: kg,cm")
    ] = None,
    batch_size: PositiveInt = 32,
    memory: Annotated[str, typer.Option(help="Of training steps: fast, lean, or min.")] = "lean",
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images. [the backbone's; ViTs take --arg img_size=N]")
    ] = None,
    seed: int = 0,
    strict: StrictOption = False,
    reading: DataOption = None,
    more: Annotated[list[str] | None, typer.Option("--fit", help="KEY=VALUE for petl.fit: patience=3 ...")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Adapt a backbone to images and save the delta of the epoch that does best on the validation images."""
    import torch

    import petl
    from petl.cli.objectives import chosen_objective, named_outputs
    from petl.cli.outputs import training_output, try_writing

    options: dict[str, Any] = {"epochs": epochs, "minutes": minutes, "lr": number_or_word(lr), "batch_size": batch_size}
    options |= {"seed": seed, "keep": "best", "strict": strict}
    options |= keyword_arguments(petl.fit, more, but=NOT_BY_FIT_OPTION)
    options["objective"] = chosen_objective(objective, units, options.get("objective"))
    reading_options = data_keywords(reading, known=PIPELINE | DATASET | TRAINING)
    refuse_two_sizes(size, reading_options)
    path = training_output(to, options, inputs=[data, *filter(None, [val]), *weights_file(model)], overwrite=overwrite)
    net, extra = named_backbone(model, parse_pairs(args)), parse_pairs(args)
    methods = build_methods(method, settings, net, rank=rank, last=last, in_chans=in_chans)
    images = petl.data.dataset(data, petl.data.pipeline(net), **reading_options.dataset, **reading_options.training)
    classes = getattr(images, "target_names", images.classes)
    torch.manual_seed(seed)  # the new classifier is random
    labels = named_outputs(classes, options["objective"], extra)
    petl.wrap(net, methods, num_classes=labels and len(labels), create_args=extra, memory=memory)  # type: ignore[arg-type]  # wrap looks at it
    pipeline = petl.record(net).pipeline = petl.data.pipeline(net, **{"size": size, **reading_options.pipeline})  # type: ignore[union-attr]  # just wrapped
    training, validation = training_and_validation(data, val, pipeline, reading_options, classes=classes, seed=seed)
    try_writing(path, lambda trial: petl.save(net, trial, labels=labels))
    history = petl.fit(net, training, validation, out=path, labels=labels, **options)
    say(f"{petl.summary(net)}\n{history}\nwrote {printable(str(path))}: {path.stat().st_size:,} bytes")


def evaluate_command(
    delta: DeltaArgument,
    data: DataArgument,
    model: BackboneOption = None,
    trust_remote: TrustOption = False,
    split: Annotated[
        str | None,
        typer.Option(
            help="val, test, train, a sub-folder, all, or held-out: what the training kept apart. [val, else held-out]"
        ),
    ] = None,
    batch_size: PositiveInt = 64,
    views: ViewsOption = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Fit the temperature of confidences and keep it in DELTA, for petl predict."),
    ] = False,
    strict: StrictOption = False,
    reading: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Figures of the delta's task on labelled images: accuracy and figures per class, errors of numbers ..."""
    import petl
    from petl.addresses.fetched_file import refuse_fetched
    from petl.cli.measured_columns import columns_of_labels, measured_classes, refuse_other_tasks
    from petl.delta.kept_temperature import keep_temperature_in
    from petl.training.held_out import images_to_measure

    if calibrate:
        refuse_fetched(delta, "a temperature")
    reading_options = data_keywords(reading, known=PIPELINE | DATASET)
    net, header = load_delta(delta, model, trust_remote)
    columns = columns_of_labels(header, data, reading_options.dataset)
    pipeline = petl.data.pipeline(net, **reading_options.pipeline)
    images, which = images_to_measure(delta, data, pipeline, split=split, classes=measured_classes(header), **columns)
    refuse_other_tasks(header, getattr(net, "num_classes", None), images, data)
    options: dict[str, Any] = {"views": said_views(views), "calibrate": calibrate, "strict": strict}
    metrics = petl.evaluate(net, images, batch_size=batch_size, **options)
    if calibrate:
        keep_temperature_in(delta, metrics.calibration.temperature)
    say(
        as_json_text({**dataclasses.asdict(metrics), "measured": which})
        if as_json
        else f"{metrics}\nmeasured: {printable(which)}"
    )


def predict_command(
    delta: DeltaArgument,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES", help="Image files, folders, patterns in quotes, or a table with a column path."
        ),
    ],
    model: BackboneOption = None,
    trust_remote: TrustOption = False,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write to a .csv, .jsonl or .parquet file while images are read.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="How many labels for each image. [1; those above .5 of a multi-label delta]"),
    ] = None,
    every: Annotated[
        bool | None, typer.Option("--all/--no-all", help="The probabilities of all labels. [in files: yes]")
    ] = None,
    batch_size: PositiveInt = 32,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images.")] = 0,
    views: ViewsOption = None,
    strict: StrictOption = False,
    reading: DataOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print or write labels and confidences of images, or values where the delta's task is a regression."""
    from petl.cli.predictions import images_to_predict, predict_images, predictions_output, report_predictions
    from petl.data.pipelines import pipeline
    from petl.prediction.streaming import PassSettings

    reading_options = data_keywords(reading, known=PIPELINE | LISTED)
    inputs = [existing_file(delta), *images, *map(Path, weights_file(model))]
    path = predictions_output(out, inputs=inputs, overwrite=overwrite)
    found = images_to_predict(images, reading_options.dataset, strict=strict)
    net, header = load_delta(delta, model, trust_remote)
    settings = PassSettings(
        batch_size=batch_size,
        workers=workers,
        top=top,
        strict=strict,
        views=said_views(views),
        progress=len(found) > batch_size,
        pipeline=pipeline(net, **reading_options.pipeline),
    )
    written = path is not None if every is None else every
    predictions = predict_images(net, found, header, settings, every=written, out=path)
    report_predictions(predictions, top=top, every=bool(every), as_json=as_json)
