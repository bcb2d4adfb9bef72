"""One of several levels in order for each image, such as grades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from petl.data.bad_files import LEFT_OUT
from petl.data.loaders import Loader
from petl.data.logits import require_logits
from petl.data.pairs import Batch, images_and_labels
from petl.evidence.bootstrap import bootstrap_errors
from petl.evidence.intervals import accuracy_error, standard_error
from petl.format.ordinal_outputs import ordinal_levels
from petl.objectives.aux_outputs import loss_of_outputs
from petl.objectives.measured import TaskMetrics, edge_errors, known
from petl.objectives.protocol import Objective, Setting, Task, refuse_choice
from petl.objectives.targets import refuse_targets

ORDINAL_NAMES = ("loss", "mean_absolute_error", "quadratic_kappa", "accuracy")


@dataclass(frozen=True, kw_only=True)
class Ordinal(Task):
    """One of K levels in order (grades, stages, ratings): pass it as ``petl.fit(..., objective=petl.Ordinal())``, or "ordinal".

    Targets are level numbers [N] from 0 to K - 1. The model is an ordinary classifier with K outputs: their softmax is the
    probability of each level, and the median of these is the answer (`petl.format.ordinal_outputs`). No number of outputs
    other than K is needed, as by CORAL or CORN; what makes it ordinal is the loss, which a far miss costs more than a near one.

    Args:
        loss: "cumulative": the binary cross-entropy of "above level k", summed up from the softmax, mean over the K - 1 levels;
            "squared": their squared error (ranked probability score; the squared earth mover's distance of Hou et al. 2016,
            arXiv:1611.05916).

    >>> Ordinal(loss="squared").task
    'ordinal'
    """

    name: ClassVar[str] = "ordinal"
    task: ClassVar[str | None] = "ordinal"
    metrics: ClassVar[tuple[str, ...]] = ORDINAL_NAMES
    monitor: ClassVar[str] = "quadratic_kappa"

    loss: str = "cumulative"

    def __post_init__(self) -> None:
        refuse_choice("loss", self.loss, ("cumulative", "squared"))

    def create(self, setting: Setting) -> Objective:
        return OrderedLevels(self, setting)


def cumulative_losses(outputs: Tensor, targets: Tensor, *, squared: bool = False) -> Tensor:
    """Returns the loss of each image [N] for outputs [N, K] and level numbers [N]: see `Ordinal`."""
    logs = outputs.log_softmax(1)
    up_to = logs.logcumsumexp(1)[:, :-1]
    above = logs.flip(1).logcumsumexp(1).flip(1)[:, 1:]
    is_above = targets[:, None] > torch.arange(outputs.shape[1] - 1, device=outputs.device)
    if squared:
        return (above.exp() - is_above.float()).square().mean(1)
    return -torch.where(is_above, above, up_to).mean(1)


@dataclass(frozen=True, repr=False)
class OrdinalMetrics(TaskMetrics):
    """How well a model finds the level of an image; prints as a table.

    mean_absolute_error is in levels, quadratic_kappa Cohen's kappa with quadratic weights (1 is perfect, 0 chance), accuracy
    the share of exactly right levels, loss the mean of the training loss. ``confusion[i][j]`` counts the images of level i
    for which level j was answered. ``baseline`` is what always answering the median level reaches.
    """

    metric_names: ClassVar[tuple[str, ...]] = ORDINAL_NAMES
    loss: float
    mean_absolute_error: float
    quadratic_kappa: float
    accuracy: float
    labels: list[str] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [(label, *map(str, row)) for label, row in zip(self.labels, self.confusion, strict=True)]
        return [("level / answered", *self.labels), *rows] if len(rows) <= 12 else []  # a terminal's width


class OrderedLevels:
    """The objective of ordinal levels: targets are level numbers [N]."""

    def __init__(self, option: Ordinal, setting: Setting) -> None:
        self.option, self.aux, self.labels = option, setting.aux, setting.labels

    def refuse_targets(self, loader: Loader, *, training: bool = False) -> None:
        refuse_targets(loader, self.labels, training=training)

    def prepare(self, train: Loader, device: torch.device) -> None:
        """Needs to know nothing of the data."""

    def images_and_targets(self, batch: Any, model: nn.Module) -> Batch:
        return images_and_labels(batch, model, len(self.labels))

    def is_read(self, targets: Tensor) -> Tensor:
        return targets != LEFT_OUT

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor, batch: Any = None) -> Tensor:
        return loss_of_outputs(net(images), self.aux, lambda scores: self._losses(scores, targets).mean())

    def _losses(self, scores: Tensor, targets: Tensor) -> Tensor:
        return cumulative_losses(scores, targets.clamp(min=0), squared=self.option.loss == "squared")

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        scores = require_logits(output).float()
        return self._losses(scores, targets), ordinal_levels(scores)

    def metrics(self, *columns: Tensor) -> OrdinalMetrics:
        return ordinal_metrics(*columns, self.labels)  # type: ignore[call-arg]  # three columns


def ordinal_metrics(losses: Tensor, predicted: Tensor, targets: Tensor, labels: Sequence[str]) -> OrdinalMetrics:
    """Returns the metrics for the loss, the predicted and the true level of each image [N], and the names of all levels."""
    count, images = len(labels), len(targets)
    pairs = targets * count + predicted
    confusion = torch.bincount(pairs, minlength=count * count).reshape(count, count)
    away = (predicted - targets).abs().double()
    accuracy = float((away == 0).double().mean())
    median = int(targets.sort().values[(images - 1) // 2])
    errors = {
        "loss": standard_error(losses),
        "mean_absolute_error": standard_error(away),
        "quadratic_kappa": _kappa_error(pairs, count),
        "accuracy": accuracy_error(accuracy, images),
    }
    return OrdinalMetrics(
        losses.double().mean().item(),
        float(away.mean()),
        quadratic_kappa(confusion),
        accuracy,
        labels=list(labels),
        confusion=confusion.tolist(),
        images=images,
        standard_errors=known(errors),
        baseline=_constant_level(targets, median),
        baseline_rule=f"always {labels[median]}",
    ).with_per_image("mean absolute error, negated", -away, targets)


def _kappa_error(pairs: Tensor, count: int) -> float:
    """Returns the standard error of kappa for the numbers of the cells of the confusion matrix that the images are in [N]."""

    def kappa(drawn: Tensor) -> Tensor:
        table = torch.bincount(pairs[drawn], minlength=count * count).reshape(count, count)
        return torch.tensor([quadratic_kappa(table)], dtype=torch.float64)

    errors = bootstrap_errors(kappa, len(pairs))
    return edge_errors({"kappa": errors[0]}, len(pairs))["kappa"]


def _constant_level(targets: Tensor, level: int) -> dict[str, float]:
    away = (targets - level).abs().double()
    exact = float((away == 0).double().mean())
    return {"mean_absolute_error": float(away.mean()), "quadratic_kappa": 0.0, "accuracy": exact}


def quadratic_kappa(confusion: Tensor) -> float:
    """Returns Cohen's kappa with quadratic weights for a confusion matrix [K, K] (Cohen 1968); nan for one level alone."""
    table = confusion.double()
    levels = torch.arange(len(table), dtype=torch.float64)
    weights = (levels[:, None] - levels).square()
    by_chance = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    expected = float((weights * by_chance).sum())
    return 1 - float((weights * table).sum()) / expected if expected > 0 else float("nan")
