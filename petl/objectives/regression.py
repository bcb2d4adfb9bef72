"""One or more numbers for each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.data.bad_files import LEFT_OUT
from petl.data.loaders import Loader
from petl.data.logits import require_logits
from petl.data.pairs import Batch, images_and_targets
from petl.data.wrappers import petl_datasets
from petl.errors import DataError, PetlError, listing
from petl.format.outputs import quantile_list, unit_texts
from petl.objectives.aux_outputs import loss_of_outputs
from petl.objectives.protocol import Objective, Setting, Task, refuse_choice, refuse_outside
from petl.objectives.regression_metrics import REGRESSION_NAMES, RegressionMetrics, regression_metrics
from petl.objectives.standardisation import Standardisation, moments, named
from petl.objectives.targets import all_targets, are_of_folders, refuse_infinite, unknown_note


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """One or more numbers for each image: pass it as ``petl.fit(..., objective=petl.Regression())``, or "regression".

    Targets are a number, or [K] numbers for each image; NaN where one isn't known. The model has one output for each, and
    returns it in the targets' own units: whoever calls, merges or loads it gets years, not standard deviations.

    Args:
        loss: "mse", "huber" (squares up to ``delta``, linear beyond: less moved by outliers), or "quantile".
        quantiles: of a quantile regression, such as (0.1, 0.5, 0.9): the model has one output for each target and quantile, in
            the order [target 1's quantiles, target 2's ...]. The one nearest to 0.5 counts as the prediction.
        delta: of the Huber loss, in standard deviations of the target (in its units where ``standardize`` is off).
        standardize: train on targets of mean 0 and deviation 1, which makes learning rates fit whatever the units are. It
            needs a linear layer at the end of the model, which takes up mean and deviation exactly; where there is none, the
            training goes on without and `History.notes` says so.
        units: for the delta's header: one text, or one for each target.

    >>> Regression(loss="quantile", quantiles=(0.1, 0.5, 0.9), units="years").task
    'regression'
    """

    name: ClassVar[str] = "regression"
    task: ClassVar[str | None] = "regression"
    metrics: ClassVar[tuple[str, ...]] = REGRESSION_NAMES
    monitor: ClassVar[str] = "r2"
    numbered: ClassVar[bool] = False

    loss: str = "mse"
    quantiles: Sequence[float] | None = None
    delta: float = 1.0
    standardize: bool = True
    units: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        refuse_choice("loss", self.loss, ("mse", "huber", "quantile"))
        refuse_outside("delta", self.delta, 0, torch.inf, "a number above 0")
        if (self.loss == "quantile") != (self.quantiles is not None):
            raise PetlError(
                f"loss={self.loss!r} with quantiles={self.quantiles!r}; a quantile regression has both: "
                "petl.Regression(loss='quantile', quantiles=(0.1, 0.5, 0.9))"
            )
        quantile_list(self.quantiles)
        unit_texts(self.units)

    def create(self, setting: Setting) -> Objective:
        return NumberRegression(self, setting)

    def refuse_kind(self, targets: Tensor, dataset: Any) -> None:
        if are_of_folders(targets, dataset):
            raise DataError(
                "the targets are class numbers of folders, which are no quantities; pass a Dataset of (image, number), or "
                "objective='ordinal' for classes that are in order"
            )

    def output_names(self, names: list[str] | None, outputs: int) -> list[str] | None:
        """Returns a name for each target and quantile, such as ``age q0.5``."""
        if not self.quantiles or (names is not None and len(names) == outputs):
            return names
        if names is None and len(self.quantiles) != outputs:
            return None
        return [f"{name} q{quantile:g}".strip() for name in names or [""] for quantile in self.quantiles]


class NumberRegression:
    """The objective of a regression: targets are numbers [N, K], NaN where one isn't known."""

    notes: Sequence[str] = ()  # for the history
    scale: Standardisation | None = None  # set by the run, where the model's last layer can hold it

    def __init__(self, option: Regression, setting: Setting) -> None:
        self.option, self.aux = option, setting.aux
        quantiles = quantile_list(
            option.quantiles if option.quantiles is not None else setting.recorded.get("quantiles")
        )
        self.levels, self.quantiles = quantiles, torch.tensor(quantiles) if quantiles else None
        per_target = len(quantiles or (1,))
        if setting.outputs % per_target:
            raise DataError(
                f"{per_target} quantiles for a model of {setting.outputs} outputs; wrap it with num_classes= the number of "
                f"targets times {per_target}"
            )
        self.count = setting.outputs // per_target
        names = setting.labels[::per_target]
        self.labels = [name.rpartition(" q")[0] or "target" if quantiles else name for name in names]
        self.units = unit_texts(option.units if option.units is not None else setting.recorded.get("units"))
        if isinstance(self.units, list) and len(self.units) != self.count:
            raise PetlError(
                f"units has {len(self.units)} texts for {self.count} targets; expected one, or one for each"
            )
        self.mean, self.deviation = torch.zeros(self.count), torch.ones(self.count)
        self.marks_numbers = False  # whether whole numbers hold LEFT_OUT where an image can't be read
        self._seen: Tensor | None = None

    @property
    def standardizes(self) -> bool:
        return self.option.standardize

    def refuse_targets(self, loader: Loader, *, training: bool = False) -> None:
        self.marks_numbers = bool(petl_datasets(loader.dataset))
        if training:
            targets = self._checked(all_targets(loader, nn.Identity()))
            refuse_infinite(targets, self.labels)
            self._seen, self.notes = targets, unknown_note(targets)
            self._refuse_equal(targets)

    def _refuse_equal(self, targets: Tensor) -> None:
        never = targets.isnan().all(0)
        if bool(never.any()):
            raise DataError(
                f"target {listing(named(self.labels, never))} is NaN for every training image; leave it out"
            )
        _, deviation = moments(targets)
        size = targets.double().abs().nan_to_num(0).amax(0)
        same = deviation <= 1e-12 * size
        if bool(same.any()):
            value = float(targets[:, same][~targets[:, same].isnan()][0])
            what = "targets" if self.count == 1 else f"targets {listing(named(self.labels, same))}"
            raise DataError(f"all {what} of the training images are {value:g}, so there is nothing to learn")

    def prepare(self, train: Loader, device: torch.device) -> None:
        if self._seen is None:
            return
        self.mean, self.deviation = moments(self._seen)
        self._seen = None

    def images_and_targets(self, batch: Any, model: nn.Module) -> Batch:
        images, targets = images_and_targets(batch, model)
        targets = self._checked(targets)
        if bool(targets.isinf().any()):
            refuse_infinite(targets, self.labels)
        return images, targets

    def _checked(self, targets: Tensor) -> Tensor:
        """Returns the targets as float32 [N, K], or raises a DataError."""
        if not targets.is_floating_point() and self.marks_numbers:
            targets = torch.where(targets == LEFT_OUT, torch.nan, targets.float())
        targets = targets[:, None] if targets.ndim == 1 else targets
        if targets.shape[1] != self.count:
            levels = len(self.levels or (1,))
            each = f", {levels} quantiles for each number" if levels > 1 else ""
            raise DataError(
                f"got {targets.shape[1]} number{'s' * (targets.shape[1] > 1)} for each image, and the model has "
                f"{self.count * levels} outputs{each}; wrap it with num_classes={targets.shape[1] * levels}"
            )
        return targets.float()

    def is_read(self, targets: Tensor) -> Tensor:
        return ~targets.isnan().all(1)

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor, batch: Any = None) -> Tensor:
        if self.scale is not None:
            targets = ((targets - self.mean.to(targets.device)) / self.deviation.to(targets.device)).float()
        known = ~targets.isnan()
        return loss_of_outputs(
            net(images), self.aux, lambda scores: (self._losses(scores, targets) * known).sum() / known.sum()
        )

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of each target [N, K]; whatever it is where a target isn't known, its gradient is 0."""
        targets = torch.where(targets.isnan(), self._point(outputs.detach()), targets)
        if self.option.loss == "huber":
            return F.huber_loss(outputs, targets, delta=self.option.delta, reduction="none")
        if self.quantiles is None:
            return (outputs - targets).square()
        gaps, quantiles = targets[:, :, None] - self._by_quantile(outputs), self.quantiles.to(targets.device)
        return torch.maximum(quantiles * gaps, (quantiles - 1) * gaps).mean(2)

    def _by_quantile(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(len(outputs), self.count, -1)

    def _point(self, outputs: Tensor) -> Tensor:
        """Returns the predicted numbers [N, K]: of quantiles, the one nearest to the median."""
        middle = 0 if self.quantiles is None else int((self.quantiles - 0.5).abs().argmin())
        return self._by_quantile(outputs)[:, :, middle]

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        outputs, known = require_logits(output).float(), ~targets.isnan()
        each = (self._point(outputs) - targets).square() if self.quantiles is None else self._losses(outputs, targets)
        losses = torch.where(known, each, 0.0).sum(1) / known.sum(1).clamp(min=1)
        parts = self._by_quantile(outputs)
        covered = (targets >= parts.amin(2)) & (targets <= parts.amax(2))
        return losses, self._point(outputs), covered

    def metrics(self, *columns: Tensor) -> RegressionMetrics:
        losses, predicted, covered, targets = columns
        units = [self.units] * self.count if isinstance(self.units, str) else self.units or []
        return regression_metrics(
            losses, predicted, targets, self.labels, units, covered if self.quantiles is not None else None
        )

    def described(self) -> Mapping[str, Any]:
        """Returns what a delta's header says beside the task."""
        return {"units": self.units, "quantiles": self.levels}
