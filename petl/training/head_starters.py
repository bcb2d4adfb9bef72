"""Chooses what computes the classifier in closed form for an objective, or says why nothing can."""

from __future__ import annotations

from typing import Any

from torch import nn

from petl.data.first_image import one_image
from petl.data.loaders import Loader
from petl.errors import StateError
from petl.objectives.regression import NumberRegression
from petl.training.head_layers import ClassLayers, class_layers, moving_statistics
from petl.training.head_plan import HINT, HeadPlan
from petl.training.head_start import HeadStarter
from petl.training.number_start import NumberStarter, reads_blocks, why_no_numbers
from petl.training.objectives import CrossEntropy, Objective
from petl.training.settings import Settings

MOST_STARTED_UNASKED = 50_000  # whose features a training computes and keeps in memory unasked, to start from them


def head_starter(
    accelerator: Any, model: nn.Module, plan: HeadPlan, settings: Settings, objective: Objective, train: Loader
) -> HeadStarter | str:
    """Returns what computes the classifier that the plan asks for, or the reason why it can't be computed.

    Raises:
        StateError: it can't be, and has to.
    """
    kind, found = _starter_and_layers(accelerator, model, plan, objective, train)
    if isinstance(found, ClassLayers) and not plan.alone and (name := moving_statistics(model, found)):
        found = f"{name} normalises the classifier's input by statistics that the training moves"
    if not (plan.alone or plan.required) and len(train) * settings.run.batch_size > MOST_STARTED_UNASKED:
        found = f"there are more than {MOST_STARTED_UNASKED:,} images; start='probe' computes it from any number"
    if not isinstance(found, str):
        return kind(accelerator, model, plan, settings, objective, found)
    if plan.required:
        asked = "start='probe'" if settings.optim.start == "probe" else f"petl.Probe(solver={plan.kind!r})"
        raise StateError(
            f"{asked}: the classifier can't be computed in closed form: {found}{HINT if plan.alone else ''}"
        )
    return found


def _starter_and_layers(
    accelerator: Any, model: nn.Module, plan: HeadPlan, objective: Objective, train: Loader
) -> tuple[type[HeadStarter], ClassLayers | str]:
    """Returns what computes a classifier for an objective, and the layers that it writes, or why there are none."""
    numbers = isinstance(objective, NumberRegression)
    if not numbers and not isinstance(objective, CrossEntropy):
        name = getattr(getattr(objective, "option", None), "name", "a loss of your own")
        return HeadStarter, f"that is for classes and for numbers, and the objective is {name}"
    if isinstance(objective, NumberRegression) and (why := why_no_numbers(objective, plan.kind)):
        return NumberStarter, why
    x, _ = objective.images_and_targets(one_image(train), model)
    outputs = objective.count if isinstance(objective, NumberRegression) else len(objective.labels)
    found = class_layers(accelerator, model, x.to(accelerator.device), outputs)
    if numbers and isinstance(found, ClassLayers) and reads_blocks(found):
        return NumberStarter, "layers='all' is for classes, and the targets are numbers"
    return NumberStarter if numbers else HeadStarter, found
