"""What an objective is: the loop asks it, and knows nothing of targets itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from petl.data.loaders import Loader
from petl.data.pairs import Batch
from petl.errors import PetlError, near
from petl.objectives.measured import TaskMetrics

Aux = str | float


class LossOptions(Protocol):
    """What an objective reads of the settings of ``fit`` (`LossSettings` in training has it)."""

    @property
    def label_smoothing(self) -> float: ...

    @property
    def mixup(self) -> float: ...

    @property
    def cutmix(self) -> float: ...

    @property
    def class_weights(self) -> Any: ...

    @property
    def mixes(self) -> bool: ...


class Objective(Protocol):
    """Says what the targets of a task are, how large the loss of a batch is, and which metrics tell how good a model is.

    Whatever it needs beside pairs of images and targets (class weights, a mix of images, a teacher model), it holds itself.
    """

    def refuse_targets(self, loader: Loader, *, training: bool = False) -> None:
        """Raises a DataError for targets that the model can't have, as far as they are known before the training."""
        ...

    def prepare(self, train: Loader, device: torch.device) -> None:
        """Reads what the loss needs to know of the training data, once before the first epoch, and brings it to the device."""
        ...

    def images_and_targets(self, batch: Any, model: nn.Module) -> Batch:
        """Returns images and targets [N, ...] of a batch, in the types that model and loss take, or raises a DataError."""
        ...

    def is_read(self, targets: Tensor) -> Tensor:
        """Returns for each target [N, ...] whether its image could be read; the others count nowhere."""
        ...

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor, batch: Any = None) -> Tensor:
        """Returns the mean loss of a batch, with its graph. The objective calls the net, and may change the images before.

        ``batch`` is what the loader gave, for losses that need more than images and targets.
        """
        ...

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        """Returns what the metrics need of each image, as tensors [N, ...]: they are gathered from all batches and ranks."""
        ...

    def metrics(self, *columns: Tensor) -> TaskMetrics:
        """Returns the metrics of all images, from the columns of `per_image` and, as the last one, the targets."""
        ...


@dataclass(frozen=True)
class Setting:
    """What an objective is made for: a model with so many outputs, their names (None: not known), and what ``fit`` was told.

    ``recorded`` holds what the model's record says of an earlier training: units, thresholds, quantiles.
    """

    model: nn.Module
    outputs: int
    names: list[str] | None = None
    losses: LossOptions | None = None
    aux: Aux = "first"
    recorded: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """Returns the names of the outputs, else their numbers."""
        return list(self.names) if self.names else [str(number) for number in range(self.outputs)]


@dataclass(frozen=True)
class Task:
    """A kind of target with its options: what is passed as ``objective=``. Subclasses are frozen dataclasses.

    ``name`` is the text that stands for the defaults, ``task`` what the header of a delta says of the outputs (None: nothing),
    ``metrics`` and ``monitor`` the names of the numbers that are measured, and of the one that is watched by default.
    """

    name: ClassVar[str] = ""
    task: ClassVar[str | None] = None
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    monitor: ClassVar[str] = "loss"
    label_per_output: ClassVar[bool] = True
    numbered: ClassVar[bool] = True  # whether a delta says "0", "1", "2" where the outputs have no names
    advice: ClassVar[Mapping[str, str]] = {}  # option of fit -> what to use instead of it

    def create(self, setting: Setting) -> Objective:
        """Returns the objective for one model."""
        raise NotImplementedError

    def refuse_losses(self, losses: LossOptions, aux: Aux) -> None:
        """Raises a PetlError for options of ``fit`` that mean nothing for this kind of target."""
        for name, off in (("label_smoothing", 0), ("mixup", 0), ("cutmix", 0), ("class_weights", None)):
            value = getattr(losses, name)
            if value is not off and not (off == 0 and value == 0):
                raise PetlError(
                    f"{name}= is for a classification, and the objective is {self.name}; leave it out{self.advice.get(name, '')}"
                )

    def refuse_kind(self, targets: Tensor, dataset: Any) -> None:
        """Raises a DataError for targets that can't be of this task, whatever the model is."""

    def output_names(self, names: list[str] | None, outputs: int) -> list[str] | None:
        """Returns the names of the model's outputs, from those that the user or the data gave."""
        return names

    def images_needed(self, aux: Aux) -> str:
        """Returns which option needs the whole model in every step, so that no features can be cached; "" where none does."""
        return "" if aux in ("first", 0) else f"aux={aux!r}"

    def checked_monitor(self, monitor: str | None) -> str:
        """Returns the name of the number to watch, or raises a PetlError where this objective doesn't measure it."""
        if monitor is None:
            return self.monitor
        if monitor not in self.metrics:
            hint = near(monitor, self.metrics) if isinstance(monitor, str) else ""
            raise PetlError(f"monitor={monitor!r}; expected one of {', '.join(self.metrics)}{hint} ({self.name})")
        return monitor


def refuse_choice(option: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises a PetlError for a value that isn't among the choices."""
    if value not in choices:
        hint = near(value, choices) if isinstance(value, str) else ""
        raise PetlError(f"{option}={value!r}; expected {' or '.join(map(repr, choices))}{hint}")


def refuse_outside(option: str, value: Any, low: float, high: float, words: str) -> None:
    """Raises a PetlError for what is no number between ``low`` and ``high``, both excluded."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
        raise PetlError(f"{option}={value!r}; expected {words}")
