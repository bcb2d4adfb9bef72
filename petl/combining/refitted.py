"""Computes classifiers in closed form on the features of a changed backbone: ridge regression, calibrated by left-out images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from petl.combining.task_data import Passes, TaskData
from petl.errors import DataError, StateError
from petl.extraction.accelerator import private_accelerator
from petl.heads.closed_form import fitted_head
from petl.heads.linear_head import LinearHead
from petl.sites.survey import survey_model
from petl.training.head_layers import class_layers, reader_of


@dataclass(frozen=True)
class RefittedTask:
    """A task's new classifier, and its accuracy on the images that it was computed from, each left out."""

    name: str
    labels: list[str]
    images: int
    accuracy: float
    error: float
    head: LinearHead


def refit(model: nn.Module, tasks: Sequence[TaskData], passes: Passes) -> list[RefittedTask]:
    """Computes a classifier for each task from the model's features, and writes all of them into the model, side by side.

    The model's classifier has as many outputs as all tasks together have classes.

    Raises:
        StateError: the classifier isn't one linear layer. DataError: features that aren't finite.
    """
    layer = linear_classifier(model, sum(len(task.labels) for task in tasks))
    found = [refitted(model, task, passes, layer) for task in tasks]
    weights = torch.cat([one.head.weight for one in found])
    biases = torch.cat([one.head.bias for one in found])
    with torch.no_grad():
        layer.weight.copy_(weights.reshape(layer.weight.shape))  # type: ignore[operator, union-attr, arg-type]  # a linear layer
        layer.bias.copy_(biases)  # type: ignore[operator, union-attr]  # as above
    return found


def refitted(model: nn.Module, task: TaskData, passes: Passes, layer: nn.Module | None = None) -> RefittedTask:
    """Returns the classifier of one task on the model's features, which is not written anywhere."""
    x, y = passes.read(model, task.train, task.labels)
    width = layer.weight[0].numel() if layer is not None else x.shape[1]  # type: ignore[index, union-attr]  # as above
    if x.shape[1] != width:
        raise StateError(
            f"the classifier takes {width} numbers, and what comes before it gives {x.shape[1]}; use heads="
        )
    try:
        head = fitted_head(x, y, len(task.labels), "ridge")
    except ValueError as error:
        raise DataError(f"the classifier can't be computed from these images: {error}") from error
    return RefittedTask(task.name, task.labels, len(y), head.accuracy(y), head.error(y), head)


def linear_classifier(model: nn.Module, classes: int) -> nn.Module:
    """Returns the one linear layer that returns the model's class scores.

    Raises:
        StateError: there is none.
    """
    survey = survey_model(model)
    parameter = next(model.parameters())
    image = torch.rand(1, *survey.image, generator=torch.Generator().manual_seed(0))
    with private_accelerator(None) as accelerator:
        found: Any = class_layers(accelerator, model, image.to(parameter.device, parameter.dtype), classes)
    if isinstance(found, str):
        raise StateError(f"a classifier can't be computed: {found}")
    if len(found.layers) > 1:
        raise StateError(
            f"a classifier can't be computed: the model has {len(found.layers)} layers that give class scores"
        )
    if reader_of(found.layers[0]) is not None:
        raise StateError("a classifier can't be computed: this one reads the outputs of all blocks (layers='all')")
    return found.layers[0]


def right(scores: Tensor, y: Tensor) -> Tensor:
    """Returns 1.0 for each image whose class has the highest score [N], else 0.0."""
    return (scores.argmax(1) == y).double()
