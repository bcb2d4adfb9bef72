"""Measures a model on labelled images: `evaluate`, and the validation of each epoch of `fit`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from petl.data.batches import marking
from petl.data.datasets import LEFT_OUT
from petl.data.inputs import Data, classes_of, feed, pair
from petl.data.loaders import Keys, on_device
from petl.data.logits import scores
from petl.errors import DataError, PetlError
from petl.format.header import class_names
from petl.training.accelerator import private_accelerator, progress_bar, restored_afterwards
from petl.training.metrics import Metrics, metrics_of
from petl.training.rehearsal import save_or_rescue
from petl.training.run import Run
from petl.training.settings import WHOLE_NUMBERS, refuse_keys, refuse_number
from petl.training.setup import output_names, recorded_labels
from petl.wrapping.modes import in_eval
from petl.wrapping.record import bare

log = logging.getLogger(__name__)


def evaluate(
    model: nn.Module,
    data: Data,
    *,
    batch_size: int = 64,
    labels: Sequence[str] | None = None,
    keys: Keys | None = None,
    workers: int = 0,
    strict: bool = False,
    precision: Literal["no", "bf16", "fp16"] | None = None,
    progress: bool = True,
) -> Metrics:
    """Loss, accuracy, balanced accuracy, precision, recall, F1 and the confusion matrix; each module keeps its mode.

    Args:
        model: Any classifier of images, wrapped or not, that returns class scores, alone, as ``.logits``, or first in a tuple;
            it is taken to accelerate's device.
        data: A folder (its ``val`` where it has one), a Dataset or a loader, as for `petl.fit`.
        labels: Class names in the order of the outputs; else the wrapped model's, the data's, or the numbers.
        keys: The names or numbers of images and labels, as for `petl.fit`.
        strict: An error if a file can't be read; without it such files are named and left out.

    Under several ranks each one measures its share, and all get the same answer.

    Raises:
        DataError: the data is empty or doesn't fit the model.

    >>> import timm, torch
    >>> data = torch.utils.data.TensorDataset(torch.randn(6, 3, 64, 64), torch.arange(6) % 2)
    >>> metrics = evaluate(timm.create_model("test_resnet", num_classes=2), data)
    >>> sum(map(sum, metrics.confusion))
    6
    """
    plain = bare(model)
    refuse_keys(keys)
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        refuse_number(name, value, Integral, WHOLE_NUMBERS[name])
    known = class_names(labels) if labels is not None else recorded_labels(plain)
    with (
        marking(data),
        private_accelerator(precision) as accelerator,
        restored_afterwards(plain),
        progress_bar(accelerator, progress) as shown,
    ):
        plain.to(accelerator.device)
        loader = feed(data, plain, classes=known, keys=keys, strict=strict, batch_size=batch_size, workers=workers)
        names = output_names(accelerator, plain, loader, known or classes_of(loader))
        prepared = on_device(accelerator, loader)
        task = shown.add_task("evaluate", total=len(prepared) if hasattr(loader, "__len__") else None, note="")
        return measure(accelerator, model, prepared, names, lambda: shown.advance(task))


log = logging.getLogger(__name__)


def validate(run: Run) -> dict[str, float]:
    if run.val is None:
        return {}
    with run.skipping():
        return measure(run.accelerator, run.net, run.val, run.labels).scalars


def validate_or_save(run: Run, row: dict[str, Any]) -> dict[str, float]:
    """The same; where it fails before any delta is kept, this epoch's is."""
    try:
        return validate(run)
    except Exception:
        if run.settings.out and not run.history.best and run.accelerator.is_main_process:
            with contextlib.suppress(PetlError):
                save_or_rescue(run.model, run.settings.out, run.labels, row)
                log.warning("validation failed; %s holds epoch %d as it was trained", run.settings.out, row["epoch"])
        raise


@torch.no_grad()
def measure(accelerator: Any, net: nn.Module, loader: Any, labels: list[str], tick: Callable[[], Any] = int) -> Metrics:
    """The net's metrics on all batches of all ranks."""
    parts = []
    with in_eval(net):
        for batch in loader:
            images, targets = pair(batch, net, len(labels))
            with accelerator.autocast():
                answers = scores(net(images))
            losses = F.cross_entropy(answers.float(), targets, reduction="none")
            found = accelerator.gather_for_metrics((losses, answers.argmax(1), targets))
            parts.append([part.cpu() for part in found])
            tick()
    if not parts:
        raise DataError("the data gave no image to measure the model on; a loader has to start anew each time")
    losses, predicted, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    read = targets != LEFT_OUT  # the others are files that couldn't be read
    if not read.any():
        raise DataError(f"none of the {len(read)} images can be read; the log names each with its reason")
    return metrics_of(losses[read], predicted[read], targets[read], labels)
