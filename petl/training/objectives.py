"""Objectives: what a training lowers and what is measured. No other file of the loop knows what a target is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.data.bad_files import LEFT_OUT
from petl.data.loaders import Loader
from petl.data.logits import require_logits
from petl.data.pairs import Batch, images_and_labels
from petl.training.loss_settings import LossSettings
from petl.training.losses import create_criterion, create_mix
from petl.training.metrics import Metrics, metrics_of
from petl.training.targets import refuse_targets


class Objective(Protocol):
    """Says what the targets of a task are, how large the loss of a batch is, and which metrics tell how good a model is.

    Whatever it needs beside pairs of images and targets (class weights, a mix of images, a teacher model), it holds itself.
    """

    def refuse_targets(self, loader: Loader, *, training: bool = False) -> None:
        """Raises a DataError for targets that the model can't have, as far as they are known without reading images."""
        ...

    def prepare(self, train: Loader, device: torch.device) -> None:
        """Reads what the loss needs to know of the training data, once before the first epoch, and brings it to the device."""
        ...

    def images_and_targets(self, batch: Any, model: nn.Module) -> Batch:
        """Returns images and targets [N, ...] of a batch, in the types that model and loss take, or raises a DataError."""
        ...

    def is_read(self, targets: Tensor) -> Tensor:
        """Returns for each target [N] whether its image could be read; the others count nowhere."""
        ...

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean loss of a batch, with its graph. The objective calls the net, and may change the images before."""
        ...

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        """Returns what the metrics need of each image, as tensors [N, ...]: they are gathered from all batches and ranks."""
        ...

    def metrics(self, *columns: Tensor) -> Metrics:
        """Returns the metrics of all images, from the columns of `per_image` and, as the last one, the targets."""
        ...


class CrossEntropy:
    """The objective of a classification: targets are class numbers [N], metrics are accuracy and its kin.

    Args:
        labels: The names of the classes.
        settings: Class weights, label smoothing and mixes of the training loss. Without them the objective only measures.
    """

    def __init__(self, labels: list[str], settings: LossSettings | None = None) -> None:
        self.labels, self.settings = labels, settings
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

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor) -> Tensor:
        if self.mix:
            images, targets = self.mix(images, targets)
        return self.criterion(require_logits(net(images)).float(), targets)

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        logits = require_logits(output)
        return F.cross_entropy(logits.float(), targets, reduction="none"), logits.argmax(1)

    def metrics(self, *columns: Tensor) -> Metrics:
        losses, predicted, targets = columns
        return metrics_of(losses, predicted, targets, self.labels)
