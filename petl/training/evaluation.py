"""Measures a model on labelled images: `evaluate`, and the validation of each epoch of `fit`."""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from petl.data.dataset_tasks import dataset_task
from petl.data.inputs import Data, as_loader
from petl.data.loaders import on_device
from petl.data.pairs import Keys
from petl.data.replacements import marking_unreadable
from petl.data.views import Views, averaged_task, make_views, with_views
from petl.errors import DataError, PetlError
from petl.extraction.accelerator import private_accelerator, progress_bar, restored_afterwards
from petl.extraction.undisturbed import rng_restored
from petl.format.outputs import label_texts
from petl.objectives.choice import task_for, task_of
from petl.objectives.measured import TaskMetrics
from petl.objectives.protocol import Objective
from petl.training.calibrating import Calibrating, keep_temperature, refuse_calibration
from petl.training.objectives import open_objective, write_record
from petl.training.opened_data import own_names, recorded_labels, recorded_task
from petl.training.rehearsal import save_or_rescue
from petl.training.run import Run
from petl.training.run_settings import DATA_BOUNDS
from petl.training.setting_checks import refuse_keys, refuse_number
from petl.wrapping.eval_mode import in_eval
from petl.wrapping.lookup import bare

log = logging.getLogger(__name__)


def evaluate(
    model: nn.Module,
    data: Data,
    *,
    batch_size: int = 64,
    objective: Any = None,
    labels: Sequence[str] | None = None,
    keys: Keys | None = None,
    workers: int = 0,
    strict: bool = False,
    transform: Callable[..., Any] | None = None,
    views: Views = None,
    calibrate: bool | Literal["temperature"] | None = None,
    precision: Literal["no", "bf16", "fp16"] | None = None,
    progress: bool = True,
) -> TaskMetrics:
    """Returns how well a model does on images whose targets are known; modes and random generators stay as they are.

    Of a classification, these are `petl.Metrics`: loss, accuracy, balanced accuracy, precision, recall, F1 and the confusion
    matrix. Each number has its standard error, and beside it stands what an answer that needs no image reaches. Two
    evaluations on the same images are compared by ``metrics.compare(other)``.

    Args:
        model: Any model of images, wrapped or not, that returns scores, alone, as ``.logits``, or first in a tuple; it is
            taken to accelerate's device.
        data: A folder or table (its ``val`` where it has one), a Dataset or a loader, as for `petl.fit`.
        objective: What the targets mean, as for `petl.fit`; None is what the model was trained for, else what the data has.
        labels: Class names in the order of the outputs; else the wrapped model's, the data's, or the numbers.
        keys: The names or numbers of images and labels, as for `petl.fit`.
        strict: An error if a file can't be read; without it such files are named and left out.
        transform: Where ``data`` is a folder: a transform of one's own for each image, before the model's normalisation; see
            `petl.data.dataset`.
        views: Test-time augmentation: probabilities (values, of a regression) are averaged over several views of each image. None
            or 1 is the image alone; "flip" or 2 adds its mirror image, left to right; 5 is its four corners and its centre,
            each 7/8 of height and width and enlarged again; 10 these five and their mirror images; a list has functions of
            images [N, C, H, W] as the model takes them.
        calibrate: True (or "temperature") also fits the temperature that makes a classification's confidences fit these images,
            in ``metrics.calibration``, with the calibration error before and after; images that the model hasn't learned from
            are needed. A wrapped model's record gets it, so that `petl.predict` answers with it and `petl.save` keeps it; no
            weight and no label changes.

    Under several ranks each one measures its share, and all return the same metrics.

    Raises:
        DataError: the data is empty or doesn't fit the model.

    >>> import timm, torch
    >>> data = torch.utils.data.TensorDataset(torch.randn(6, 3, 64, 64), torch.arange(6) % 2)
    >>> metrics = evaluate(timm.create_model("test_resnet", num_classes=2), data)
    >>> sum(map(sum, metrics.confusion))
    6
    """
    plain, batching = bare(model), {"batch_size": batch_size, "workers": workers}
    _refuse_settings(keys, views, calibrate, objective, batching)
    known = label_texts(labels) if labels is not None else recorded_labels(plain)
    with (
        rng_restored(data),
        marking_unreadable(data),
        private_accelerator(precision) as accelerator,
        restored_afterwards(plain),
        progress_bar(accelerator, progress) as shown,
    ):
        plain.to(accelerator.device)
        options: dict[str, Any] = {"keys": keys, "strict": strict, "transform": transform, **batching}
        loader = as_loader(data, plain, classes=known, **options)
        meant = task_of(objective, recorded_task(plain), dataset_task(loader.dataset))
        opened = open_objective(accelerator, plain, loader, meant, known or own_names(loader, meant))
        opened.objective.refuse_targets(loader)
        viewed = model if views in (None, 1) else with_views(model, views, averaged_task(opened.task.task))
        batches = on_device(accelerator, loader)
        task = shown.add_task("evaluate", total=operator.length_hint(batches) or None, note="")
        objective_of_it: Any = Calibrating(opened.objective) if calibrate else opened.objective
        metrics = measure(accelerator, viewed, batches, objective_of_it, lambda: shown.advance(task))
    if calibrate:
        keep_temperature(plain, metrics)
    return metrics


def _refuse_settings(keys: Any, views: Any, calibrate: Any, objective: Any, batching: dict[str, Any]) -> None:
    """Raises a PetlError for settings that can't be, before any data is read."""
    refuse_keys(keys)
    make_views(views)
    refuse_calibration(calibrate)
    for name, value in batching.items():
        refuse_number(name, value, DATA_BOUNDS[name])
    task_for(objective)


def validate(run: Run) -> dict[str, Any]:
    """Returns the metrics of the run's validation data by name, with their errors; none without such data.

    What the validation has chosen (thresholds) goes into the model's record.
    """
    if run.val is None:
        return {}
    with run.without_trunk():
        metrics = measure(run.accelerator, run.net, run.val, run.objective)
    write_record(run.model, run.opened)
    return metrics.row


def validate_or_save(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    """Returns the same. If the validation fails before any delta is saved, that of this epoch is saved before the error."""
    try:
        return validate(run)
    except Exception:
        if run.settings.run.out and not run.history.best and run.accelerator.is_main_process:
            with contextlib.suppress(PetlError), run.all_open():
                save_or_rescue(run.model, run.settings.run.out, run.labels, row)
                log.warning(
                    "validation failed; %s holds epoch %d as it was trained", run.settings.run.out, row["epoch"]
                )
        raise


def _output(net: nn.Module, images: Tensor) -> Any:
    """Returns the model's output; objectives that measure something else have an ``answer`` of their own."""
    return net(images)


@torch.no_grad()
def measure(
    accelerator: Any,
    net: nn.Module,
    loader: Iterable[Any],
    objective: Objective,
    after_batch: Callable[[], object] | None = None,
) -> TaskMetrics:
    """Returns the metrics of a net on all batches of all ranks."""
    parts, answer = [], getattr(objective, "answer", _output)
    with in_eval(net):
        for batch in loader:
            images, targets = objective.images_and_targets(batch, net)
            with accelerator.autocast():
                output = answer(net, images)
            fine = torch.isfinite(images.flatten(1)).all(1)
            columns = accelerator.gather_for_metrics((*objective.per_image(output, targets), targets, fine))
            parts.append([column.cpu() for column in columns])
            if after_batch is not None:
                after_batch()
    if not parts:
        raise DataError("the data gave no image to measure the model on; a loader has to start anew each time")
    *columns, fine = [torch.cat(column) for column in zip(*parts, strict=True)]
    read = _read_rows(objective, columns[-1], fine)
    return objective.metrics(*(column[read] for column in columns))


def _read_rows(objective: Objective, targets: Tensor, fine: Tensor) -> Tensor:
    """Returns which images count [N]: those that could be read, and have no pixels that are NaN or infinite.

    Raises:
        DataError: none of them.
    """
    known = objective.is_read(targets)
    if count := int((known & ~fine).sum()):
        log.warning("%d of %d images have pixels that are NaN or infinite, and aren't counted", count, len(known))
    if not (known & fine).any():
        numbers = targets.is_floating_point()
        raise DataError(
            f"none of the {len(known)} images {'has a target that is known (all are NaN), or none ' * numbers}can be read; the "
            "log names each that can't, with its reason"
        )
    return known & fine
