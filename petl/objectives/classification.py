"""One label for each image: cross-entropy on class numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.data.bad_files import LEFT_OUT
from petl.data.loaders import Loader
from petl.data.logits import require_logits
from petl.data.pairs import Batch, images_and_labels
from petl.objectives.aux_outputs import loss_of_outputs
from petl.objectives.losses import create_criterion, create_mix
from petl.objectives.metrics import METRIC_NAMES, Metrics, metrics_of
from petl.objectives.protocol import Aux, LossOptions, Objective, Setting, Task
from petl.objectives.targets import refuse_targets


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One of several classes for each image: targets are class numbers [N], the model returns class scores [N, classes]."""

    name: ClassVar[str] = "classification"
    task: ClassVar[str | None] = "classification"
    metrics: ClassVar[tuple[str, ...]] = METRIC_NAMES
    monitor: ClassVar[str] = "accuracy"

    def create(self, setting: Setting) -> Objective:
        return CrossEntropy(setting.labels, setting.losses, aux=setting.aux)

    def refuse_losses(self, losses: LossOptions, aux: Aux) -> None:
        """All of fit's options are meant for a classification."""


class CrossEntropy:
    """The objective of a classification: targets are class numbers [N], metrics are accuracy and its kin.

    Args:
        labels: The names of the classes.
        settings: Class weights, label smoothing and mixes of the training loss. Without them the objective only measures.
        aux: Whether auxiliary scores of the model are trained on, see `aux_weight`.
    """

    def __init__(self, labels: list[str], settings: LossOptions | None = None, *, aux: Aux = "first") -> None:
        self.labels, self.settings, self.aux = labels, settings, aux
        self.criterion: nn.Module = nn.CrossEntropyLoss()
        self.mix: Callable[[Tensor, Tensor], Batch] | None = None

    def refuse_targets(self, loader: Loader, *, training: bool = False) -> None:
        refuse_targets(loader, self.labels, training=training)

    def prepare(self, train: Loader, device: torch.device) -> None:
        if self.settings is not None:
            self.criterion = create_criterion(self.settings, train, len(self.labels)).to(device)
            self.mix = create_mix(self.settings, len(self.labels))

    def images_and_targets(self, batch: Any, model: nn.Module) -> Batch:
        return images_and_labels(batch, model, len(self.labels))

    def is_read(self, targets: Tensor) -> Tensor:
        return targets != LEFT_OUT

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor, batch: Any = None) -> Tensor:
        if self.mix:
            images, targets = self.mix(images, targets)
        return loss_of_outputs(net(images), self.aux, lambda scores: self.criterion(scores, targets))

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        logits = require_logits(output)
        return F.cross_entropy(logits.float(), targets, reduction="none"), logits.argmax(1)

    def metrics(self, *columns: Tensor) -> Metrics:
        losses, predicted, targets = columns
        return metrics_of(losses, predicted, targets, self.labels)
