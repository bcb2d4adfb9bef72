"""Computes the last layer of a regression in closed form: ridge regression on what the frozen model gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from petl.data.loaders import Loader
from petl.errors import DataError
from petl.extraction.feature_source import FeatureSource
from petl.heads.number_head import NumberHead, mean_absolute_error_of, number_head
from petl.objectives.regression import NumberRegression
from petl.training.head_layers import ClassLayers, reader_of
from petl.training.head_start import HEAD_STARTED, HeadStart, HeadStarter, in_one_pass


def why_no_numbers(objective: NumberRegression, kind: str) -> str:
    """Returns why ridge regression isn't what this objective and solver ask for, or ""."""
    if objective.option.loss != "mse" or objective.quantiles is not None:
        return f"ridge regression lowers squared errors, and the loss is {objective.option.loss!r}"
    return "" if kind in ("auto", "ridge") else f"{kind} is for classes, and the targets are numbers"


def reads_blocks(layers: ClassLayers) -> bool:
    """Returns whether a layer also takes the outputs of blocks, as with ``petl.Probe(layers="all")``."""
    return any(reader_of(layer) is not None for layer in layers.layers)


class NumberStarter(HeadStarter):
    """The starter of a regression: a layer gets ridge regression of the targets, in the units that the training has them in."""

    def start(self, source: FeatureSource | None, loaders: tuple[Loader, Loader], progress: Any) -> HeadStart:
        """Computes the layer and writes it: from training images, or from the features of them that ``source`` gave."""
        features, targets = self._inputs(source, in_one_pass(loaders, self.settings), progress)
        try:
            heads = [number_head(x, targets) for x in features]
        except ValueError as error:
            raise DataError(f"the regression can't be computed from these images: {error}") from error
        bias = torch.stack([head.bias for head in heads]).mean(0)
        mean, deviation = self._scale()
        self._write([head.weight / deviation[:, None] for head in heads], [(bias - mean) / deviation] * len(heads))
        score, error = mean_absolute_error_of(heads, targets)
        line = f"leave-one-out mean absolute error {score:.4g} +- {error:.2g} on {len(targets)} images"
        if not self.plan.alone:
            return HeadStart(f"{HEAD_STARTED} a regression in closed form (ridge): {line}", written=True)
        row = {"epoch": 1, "train_loss": self._train_loss(features, heads, bias, targets), "lr": 0.0}
        row |= {"left_out_mean_absolute_error": score, "left_out_error": error}
        return HeadStart(f"the regression was computed in closed form (ridge): {line}", row)

    def _scale(self) -> tuple[Tensor, Tensor]:
        """Returns mean and deviation of the numbers that the layer gives at this point of the run (0 and 1: in units)."""
        objective: Any = self.objective
        if objective.scale is None or objective.scale.in_units:  # that of an earlier training is turned round later
            return torch.zeros(objective.count).double(), torch.ones(objective.count).double()
        return objective.mean.double().cpu(), objective.deviation.double().cpu()

    def _train_loss(
        self, features: Sequence[Tensor], heads: Sequence[NumberHead], bias: Tensor, targets: Tensor
    ) -> float:
        """Returns the mean squared error on the training images, of standardised targets where the training has them."""
        objective: Any = self.objective
        fitted = (
            torch.stack([x.double() @ head.weight.T for x, head in zip(features, heads, strict=True)]).mean(0) + bias
        )
        unit = torch.ones_like(bias) if objective.scale is None else objective.deviation.double().cpu()
        return float(((fitted - targets.double()) / unit).square().nanmean())
