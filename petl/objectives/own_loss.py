"""A loss of the user's own: any callable."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from petl.data.bad_files import LEFT_OUT
from petl.data.loaders import Loader, all_parts
from petl.data.pairs import Batch, images_and_targets
from petl.errors import DataError, PetlError
from petl.evidence.intervals import standard_error
from petl.objectives.measured import TaskMetrics, known
from petl.objectives.protocol import Aux, LossOptions, Objective, Setting, Task

WITH_BATCH = 3  # arguments of a loss that takes the batch, too
SAME = 1e-4  # relative difference up to which the mean of the images' losses is the loss of the batch


@dataclass(frozen=True)
class OwnLoss(Task):
    """A loss of your own: pass ``petl.fit(..., objective=petl.OwnLoss(loss))``, or the callable itself.

    Args:
        loss: ``loss(outputs, targets)`` or ``loss(outputs, targets, batch)``, which returns the mean loss of a batch as a tensor
            of one number: a function, or a module such as ``torch.nn.MSELoss()``. ``outputs`` is what the model returns,
            ``targets`` class numbers int64 [N] or numbers float32 [N] or [N, K], ``batch`` what the loader gave. A loss that
            takes the batch sees the images, so no features are cached for it.
        measure: the objective whose targets and metrics these are: "classification", "regression", ``petl.Multilabel()`` ...;
            it checks the targets, measures, and says in the delta what the outputs mean. None: the loss alone is measured, and
            the delta doesn't say its task.

    >>> OwnLoss(torch.nn.MSELoss()).monitor
    'loss'
    """

    name: ClassVar[str] = "a loss of your own"
    numbered: ClassVar[bool] = False
    loss: Callable[..., Any]
    measure: Any = None

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise PetlError(f"loss={self.loss!r}; expected a function of (outputs, targets)")
        argument_count(self.loss)

    def create(self, setting: Setting) -> Objective:
        return CalledLoss(self, setting)

    def refuse_losses(self, losses: LossOptions, aux: Aux) -> None:
        super().refuse_losses(losses, aux)
        if aux not in ("first", 0):
            raise PetlError(f"aux={aux!r}: a loss of your own gets all that the model returns, and weighs it itself")

    def images_needed(self, aux: Aux) -> str:
        return "a loss that takes the batch" if argument_count(self.loss) == WITH_BATCH else ""


def argument_count(loss: Callable[..., Any]) -> int:
    """Returns whether a loss takes 2 or 3 arguments, or raises a PetlError where it takes neither number."""
    called = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # a builtin
        return 2
    parameters = [p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in parameters)
    if needed == WITH_BATCH or (needed <= WITH_BATCH <= len(parameters) and parameters[2].name == "batch"):
        return WITH_BATCH
    spread = any(p.kind == p.VAR_POSITIONAL for p in signature.parameters.values())
    if needed <= 2 <= len(parameters) or spread:  # outputs and targets
        return 2
    raise PetlError(
        f"the loss takes {needed} arguments; expected loss(outputs, targets) or loss(outputs, targets, batch)"
    )


@dataclass(frozen=True, repr=False)
class LossMetrics(TaskMetrics):
    """The mean loss of a user's own over images. Its standard error is known where the loss is a mean over images."""

    metric_names: ClassVar[tuple[str, ...]] = ("loss",)
    loss: float


class CalledLoss:
    """The objective of a callable that measures nothing but itself."""

    def __init__(self, option: OwnLoss, setting: Setting) -> None:
        self.call, self.takes_batch = option.loss, argument_count(option.loss) == WITH_BATCH
        self.batch: Any = None  # that is being measured

    def refuse_targets(self, loader: Loader, *, training: bool = False) -> None:
        """Takes all targets: what they mean is the callable's affair."""

    def prepare(self, train: Loader, device: torch.device) -> None:
        if isinstance(self.call, nn.Module):
            self.call.to(device)

    def images_and_targets(self, batch: Any, model: nn.Module) -> Batch:
        self.batch = all_parts(batch)
        return images_and_targets(batch, model)

    def is_read(self, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            return ~targets.isnan().reshape(len(targets), -1).all(1)
        return targets.reshape(len(targets), -1)[:, 0] != LEFT_OUT

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor, batch: Any = None) -> Tensor:
        return self._called(net(images), targets, (images, targets) if batch is None else batch)

    def _called(self, outputs: Any, targets: Tensor, batch: Any) -> Tensor:
        loss = self.call(outputs, targets, batch) if self.takes_batch else self.call(outputs, targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise DataError(f"the loss returned {what}; expected the mean loss of the batch, a tensor of one number")
        return loss.reshape(())

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        """Returns each image's loss and whether these are what the batch's is the mean of; else the batch's for each."""
        read = self.is_read(targets)
        if not bool(read.any()):
            return torch.zeros(len(targets), device=targets.device), read
        whole = self._called(selected(output, read), targets[read], selected(self.batch, read))
        with warnings.catch_warnings():
            alone = self._alone(output, targets, read, whole)
        valid = torch.full((len(targets),), alone is not None, device=targets.device)
        return (whole.float().expand(len(targets)).clone() if alone is None else alone), valid

    def _alone(self, output: Any, targets: Tensor, read: Tensor, whole: Tensor) -> Tensor | None:
        losses = torch.zeros(len(targets), device=targets.device)
        warnings.simplefilter("ignore")  # what a loss of several images says about one is of no interest
        for index in read.nonzero()[:, 0].tolist():
            one = torch.arange(index, index + 1, device=targets.device)
            try:
                losses[index] = self._called(selected(output, one), targets[one], selected(self.batch, one)).float()
            except (RuntimeError, ValueError, IndexError, TypeError, PetlError):
                return None  # a loss of pairs, say, which needs several images
        mean = losses[read].mean()
        return losses if bool((mean - whole).abs() <= SAME * whole.abs().clamp(min=SAME)) else None

    def metrics(self, *columns: Tensor) -> LossMetrics:
        losses, alone, targets = columns
        known_error = bool(alone.all())
        errors = known({"loss": standard_error(losses) if known_error else math.nan})
        found = LossMetrics(losses.double().mean().item(), images=len(losses), standard_errors=errors)
        return found.with_per_image("loss, negated", -losses, targets) if known_error else found


def selected(part: Any, index: Tensor) -> Any:
    """Returns some images of a batch, an output or a part of one: tensors whose first axis is the images'."""
    if isinstance(part, Tensor):
        return part[index.to(part.device)] if part.ndim else part
    if isinstance(part, Mapping):
        return type(part)({key: selected(value, index) for key, value in part.items()})  # type: ignore[call-arg]
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return type(part)(*(selected(value, index) for value in part))
    if isinstance(part, (list, tuple)):
        return type(part)(selected(value, index) for value in part)
    return part
