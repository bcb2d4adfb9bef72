"""A training under way: what trains, on what, how, and how far it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.sharded import reshard
from petl.training.callback_calls import CallbackCalls
from petl.training.history import History
from petl.training.length import updates_per_epoch
from petl.training.own_scheduler import OwnScheduler
from petl.training.sharded_run import ShardAverage
from petl.training.trained_state import cloned, copy_into
from petl.wrapping.lookup import record

if TYPE_CHECKING:
    from accelerate import Accelerator
    from rich.progress import Progress
    from timm.scheduler.scheduler import Scheduler
    from timm.utils import ModelEmaV3
    from torch.optim import Optimizer

    from petl.data.loaders import Loader
    from petl.extraction.feature_source import FeatureSource
    from petl.objectives.protocol import Objective
    from petl.objectives.standardisation import Standardisation
    from petl.training.objectives import OpenObjective
    from petl.training.settings import Settings


@dataclass
class Run:
    """One training: what trains (``net``: all of ``model``, or the part above its cached features), on what, and how far it is.

    ``trained`` has the model's own tensors that the training changes, ``split`` the images that were held out for ``val``,
    ``epochs`` is the number of epochs, the user's or the one that was chosen. ``solved`` is the first half of the only epoch's
    row, where the classifier was computed and nothing trains.
    What changes during the training and is neither the model's nor the optimizer's is in ``state_dict``.
    """

    accelerator: Accelerator
    settings: Settings
    model: nn.Module
    net: nn.Module
    train: Loader
    val: Loader | None
    opened: OpenObjective
    optimizer: Optimizer
    scheduler: Scheduler | OwnScheduler | None
    progress: Progress
    trained: dict[str, Tensor]
    split: dict[str, Any] | None = None
    features: FeatureSource | None = None
    ema: ModelEmaV3 | ShardAverage | None = None
    stages: Any = None  # the `Stages` of a training with ``unfreeze``, which knows runs itself
    callbacks: CallbackCalls = field(default_factory=CallbackCalls)
    history: History = field(default_factory=History)
    updates: int = 0
    epochs: int = 0
    lr: float | None = None  # of the last update
    skipped: int = 0  # steps in a row that the gradient scaler of fp16 has skipped
    best: dict[str, Tensor] = field(default_factory=dict)
    solved: dict[str, Any] | None = None
    starts_from_probe: bool = False  # the classifier was computed before the first update

    @property
    def updates_per_epoch(self) -> int:
        return updates_per_epoch(self.train, self.settings.optim)

    @property
    def updates_planned(self) -> int:
        """Returns the number of updates of the whole training."""
        return self.epochs * self.updates_per_epoch

    @property
    def objective(self) -> Objective:
        return self.opened.objective

    @property
    def labels(self) -> list[str] | None:
        """Returns what a delta calls the model's outputs."""
        return self.opened.labels

    @property
    def scale(self) -> Standardisation | None:
        """Returns the standardisation of a regression, whose model is trained on standardised targets."""
        return getattr(self.objective, "scale", None)

    @property
    def average(self) -> dict[str, Tensor]:
        """Returns the averaged values of the tensors in ``trained``."""
        state = self.ema.module.state_dict() if self.ema else {}
        return {name: state[name] for name in self.trained if name in state}

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": vars(self.history),
            "updates": self.updates,
            "best": self.best,
            "average": cloned(self.average),
            "stages": self.stages.state_dict() if self.stages else None,
            "scheduler": self.scheduler.state_dict() if isinstance(self.scheduler, OwnScheduler) else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own, then = isinstance(self.scheduler, OwnScheduler), state.get("scheduler")  # None before there were any
        if own != (then is not None):
            raise StateError(
                f"the checkpoint is of a training {'without' if own else 'with'} scheduler=; pass it as then"
            )
        if isinstance(self.scheduler, OwnScheduler):
            self.scheduler.load_state_dict(state["scheduler"])
        if (self.stages is not None) != (state.get("stages") is not None):
            raise StateError(
                f"the checkpoint is of a training {'without' if self.stages else 'with'} unfreeze=; pass it as then"
            )
        if self.stages:
            self.stages.load_state_dict(state["stages"])
        self.history, self.updates, self.best = History(**state["history"]), state["updates"], state["best"]
        copy_into(self.average, state["average"])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Gives the model inside the values that are measured and saved, and its own ones afterwards.

        These are averaged values, where averages are kept, and answer in the user's units, where targets are standardised.
        """
        own = cloned(self.trained) if self.ema else {}
        if self.ema:
            self.put(self.average)
        try:
            with self.scale.folded() if self.scale else contextlib.nullcontext():
                yield
        finally:
            if self.ema:
                self.put(own)

    def put(self, values: dict[str, Tensor]) -> None:
        """Writes values into the model's own tensors."""
        reshard(self.model)
        copy_into(self.trained, values)

    def all_open(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, all that trains has ``requires_grad``, also what opens in a later stage: a delta holds it."""
        return self.stages.all_open() if self.stages else contextlib.nullcontext()

    def finish(self) -> None:
        """Leaves the model in evaluation mode with the values that ``keep`` asks for, and writes the results into its record."""
        if self.stages:
            self.stages.leave()
        keeps_best = self.settings.run.keep == "best"
        if keeps_best and self.best:
            self.put(self.best)
        else:
            if self.ema and self.updates:
                self.put(self.average)
            if self.scale:
                self.scale.fold()
        wrapped = record(self.model)
        if wrapped is not None and self.history.rows:
            wrapped.results = self.history.best if keeps_best else self.history.rows[-1]
            wrapped.thresholds = wrapped.results.get("thresholds", wrapped.thresholds)
        if keeps_best or self.settings.run.patience is not None:
            self.history.note_choice()
        self.model.eval()
        if self.features:
            self.features.close()

    def without_trunk(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, the net can run: where it trains on cached features, the frozen part below it is skipped."""
        return self.features.skipping() if self.features else contextlib.nullcontext()
