"""What ``petl predict`` shows and writes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from petl.cli.outputs import destination, try_writing
from petl.cli.phrases import as_json_text, prediction_text
from petl.cli.terminal import note, say, show
from petl.errors import printable
from petl.prediction.image_lists import ImageList
from petl.prediction.predict import is_first_rank, predict_described
from petl.prediction.results import Predictions
from petl.prediction.streaming import PassSettings, find_images
from petl.prediction.writers import refuse_output

MOST_NAMED = 100  # files that were left out


def predictions_output(name: str | None, *, inputs: Sequence[Path], overwrite: bool) -> Path | None:
    """Returns the file to write, or raises a StateError where it can't be written, isn't to be replaced, or is an input."""
    if name is None:
        return None
    path = destination(name, inputs=inputs, overwrite=overwrite)
    if is_first_rank():
        try_writing(path, Path.touch)
        refuse_output(path)
    return path


def images_to_predict(sources: Sequence[Path], options: Mapping[str, Any], *, strict: bool) -> ImageList:
    """Returns the images of the command line; with ``strict``, a file that looks bad is an error before the model is built."""
    images: ImageList = find_images(str(sources[0]) if len(sources) == 1 else [*sources], options)
    if strict:
        images.refuse_bad_files()
    return images


def predict_images(
    model: nn.Module,
    images: ImageList,
    header: Mapping[str, Any],
    settings: PassSettings,
    *,
    every: bool,
    out: Path | None,
) -> Predictions:
    """Returns the predictions of every rank, and ends the group of processes."""
    if not is_first_rank():
        logging.getLogger("petl").setLevel(logging.ERROR)  # the first rank says it
    try:
        return predict_described(model, images, header, settings, every=every, out=out)
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def report_predictions(predictions: Predictions, *, top: int | None, every: bool, as_json: bool) -> None:
    """Prints the predictions, or where they are, and names the files that were skipped."""
    if not is_first_rank():
        return
    if predictions.out is not None:
        _report_file(predictions, as_json)
    else:
        _report_rows(predictions, len(predictions.labels) if every else top, as_json)
    for name, why in predictions.skipped[:MOST_NAMED]:
        note(f"skipped {name}: {why}")
    if skipped := len(predictions.skipped):
        more = ", the first of which are named above" * (skipped > MOST_NAMED)
        note(f"skipped {skipped} of {len(predictions) + skipped} images{more}")


def _report_file(predictions: Predictions, as_json: bool) -> None:
    if as_json:
        skipped = [{"image": name, "reason": why} for name, why in predictions.skipped]
        return say(as_json_text({"file": str(predictions.out), "images": len(predictions), "skipped": skipped}))
    return say(f"wrote {printable(str(predictions.out))}: {len(predictions):,} images")


def _report_rows(predictions: Predictions, top: int | None, as_json: bool) -> None:
    described = predictions.described(top)
    if as_json:
        return say(as_json_text([{"image": name, "predictions": rows} for name, rows in described]))
    lines = [
        (name, row.get("label", ""), prediction_text(row) if row else "below the thresholds")
        for name, rows in described
        for row in rows or [{}]
    ]
    kinds = {"regression": "value", "metric": "embedding"}
    return show(("image", "label", kinds.get(predictions.task, "confidence")), lines)
