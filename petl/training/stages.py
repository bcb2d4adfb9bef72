"""``unfreeze=``: a training in stages. What opens later has no gradient until then, and enters with a warm-up of its own."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.loaders import on_device
from petl.errors import StateError
from petl.extraction.decision import Decision, Loaders, RunModel
from petl.extraction.reasons import TurnedOff
from petl.training.compiling import compile_net
from petl.training.optimizer_settings import STALL
from petl.training.run import Run
from petl.training.saving import print_line
from petl.training.settings import Settings
from petl.training.stage_plan import StagePlan, refuse_mixed_groups, stage_plan
from petl.training.trained_net import features_or_images, trained_net
from petl.training.trained_state import cloned, copy_into

Values = dict[str, Tensor]


class Stages:
    """The stages of a training, and in which it is: ``number`` from 1, 0 before the first.

    ``opened`` has for each stage the epochs and updates that were done when it opened, ``said`` where its
    features were cut, or "", and a sentence about them.
    """

    def __init__(self, plan: StagePlan, settings: Settings, loaders: Loaders):
        self.plan, self.settings, self.loaders = plan, settings, loaders
        self.opened: list[tuple[int, int]] = []
        self.said: list[tuple[str, str]] = []
        self.best: tuple[Values, Values] | None = None  # of what trains and of its averages, in the best epoch so far
        self.stalled = False
        self._stage_of = plan.stage_of()
        self._whole: tuple[Any, Any, Any] | None = None  # net, train and val of the whole model on images
        self._applied = 0

    @property
    def number(self) -> int:
        return len(self.opened)

    def stage_of(self, group: Mapping[str, Any]) -> int:
        """Returns in which stage the tensors of a parameter group open."""
        return next((self._stage_of[p] for p in group["params"] if p in self._stage_of), 1)

    def state_dict(self) -> dict[str, Any]:
        return {"opened": self.opened, "said": self.said, "best": self.best, "stalled": self.stalled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.opened, self.said = [*state["opened"]], [*state["said"]]
        self.best, self.stalled = state["best"], state["stalled"]

    def begin_epoch(self, run: Run) -> None:
        """Opens the next stage if it is time; in a run that was resumed, does again what its stage did."""
        opens = self._is_due(len(run.history))
        if opens:
            if self.stalled and self.best is not None:
                run.put(self.best[0])
                copy_into(run.average, self.best[1])
            self.stalled = False
            self.opened.append((len(run.history), run.updates))
            head = f"stage {self.number} of {len(self.plan)}, from epoch {len(run.history) + 1}"
            note = f"{head}: opens {self.plan.describe(self.number)}"
            run.history.notes.append(note)
            print_line(run, note)
        if self._applied != self.number:
            self._apply()
            self._cut(run)

    def _is_due(self, epochs: int) -> bool:
        if not self.opened or self.number == len(self.plan):
            return not self.opened
        wish = self.settings.optim.unfreeze
        return epochs - self.opened[-1][0] >= wish if wish is not None and wish != STALL else self.stalled

    def after_epoch(self, run: Run, row: dict[str, Any]) -> bool:
        """Keeps the best values where a later stage may start from them. Returns whether ``patience`` ends the training."""
        history, patience = run.history, self.settings.run.patience
        if self.settings.optim.unfreeze != STALL:
            return patience is not None and history.stale >= patience
        if history.best is row:
            self.best = cloned(run.trained), cloned(run.average)
        since = len(history) - max(history.best.get("epoch", 0), self.opened[-1][0])
        self.stalled = patience is not None and since >= patience
        return self.stalled and self.number == len(self.plan)

    def _apply(self) -> None:
        """Closes what opens in later stages, and opens the rest."""
        self.leave()
        for part, modules in zip(self.plan.opening[self.number :], self.plan.modules[self.number :], strict=True):
            for parameter in part.values():
                parameter.grad = None
                parameter.requires_grad_(False)
            for module in modules:
                module.eval()
                vars(module)["train"] = _Closed(module)
        self._applied = self.number

    def leave(self) -> None:
        """Opens everything."""
        self._applied = 0
        for part, modules in zip(self.plan.opening, self.plan.modules, strict=True):
            for parameter in part.values():
                parameter.requires_grad_(True)
            for module in modules:
                vars(module).pop("train", None)

    @contextlib.contextmanager
    def all_open(self) -> Iterator[None]:
        """Inside, all that trains in any stage has ``requires_grad``."""
        closed = [p for part in self.plan.opening for p in part.values() if not p.requires_grad]
        for parameter in closed:
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in closed:
                parameter.requires_grad_(False)

    def _cut(self, run: Run) -> None:
        """Computes the features of the part below everything that is open, if they are to be used, and trains on these."""
        compiles = self.settings.loop.compile is not False
        if self._whole is None:
            self._whole = run.net, run.train, run.val
        old, run.features, (run.net, run.train, run.val) = run.features, None, self._whole
        if old is not None:
            old.close()
        if compiles:  # by now for another stage; the features are tried on the model as it is
            torch.compiler.reset()
            vars(run.model).pop("_compiled_call_impl", None)
        decision, (train, val) = self._decide(run)
        if decision.source is not None:
            run.net, run.features = (
                run.accelerator.prepare(trained_net(decision, run.model, self.settings)),
                decision.source,
            )
            run.train = on_device(run.accelerator, train)
            run.val = on_device(run.accelerator, val) if val is not None else None
        elif compiles:
            compile_net(run.model, self.settings.loop.compile)
        images = len(train.dataset) if decision.source else 0  # type: ignore[arg-type]  # of features
        self.said[self.number - 1 :] = [(decision.source.name if decision.source else "", decision.describe(images))]
        run.history.features = _features_line(self.said)

    def _decide(self, run: Run) -> tuple[Decision, Loaders]:
        """Returns what a stage trains on. ``cache=True`` asks for features in the first stage: the last may have none."""
        try:
            return features_or_images(run.accelerator, run.model, self.loaders, self.settings.features, run.progress)
        except StateError:
            if self.number == 1:
                raise
            return RunModel(TurnedOff()), self.loaders

    def forecast(self, epochs: int) -> list[str]:
        """Returns a sentence where the epochs are too few for all stages."""
        wish = self.settings.optim.unfreeze
        if wish is None or isinstance(wish, str) or (count := math.ceil(epochs / wish)) >= len(self.plan):
            return []
        least = wish * (len(self.plan) - 1) + 1
        return [
            f"unfreeze={wish}: {count} of {len(self.plan)} stages open within {epochs} epochs; epochs={least} opens all"
        ]


class _Closed:
    """In the place of a module's ``train``: the module stays in evaluation mode."""

    def __init__(self, module: nn.Module):
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        return self.module


def stages_for(model: nn.Module, settings: Settings, loaders: Loaders, optimizer: Any) -> Stages | None:
    """Returns the stages of a training on these loaders of images, or None where it has none.

    Raises:
        PetlError: the optimizer is one of the user's whose groups mix stages.
    """
    if settings.optim.unfreeze is None:
        return None
    stages = Stages(stage_plan(model), settings, loaders)
    refuse_mixed_groups(stages.plan, optimizer)
    return stages


def _features_line(said: Sequence[tuple[str, str]]) -> str:
    """Returns the line for the history on where the features of stages were cut, and why others ran the whole model."""
    cut, lines = [f"{name} in stage {number}" for number, (name, _) in enumerate(said, 1) if name], []
    if cut:
        lines.append(f"trained on features that each stage computed once, from {', '.join(cut)} on")
    for reason in dict.fromkeys(line for name, line in said if line and not name):
        numbers = [str(number) for number, (name, line) in enumerate(said, 1) if line == reason]
        lines.append(f"stage {', '.join(numbers)}: {reason}")
    return "; ".join(lines)


def begin_stage(run: Run) -> None:
    """Opens the next stage before an epoch, if it is time."""
    if run.stages:
        run.stages.begin_epoch(run)


def note_closed(run: Run) -> None:
    """Notes at the end which stages didn't open, where nobody could know it before."""
    stages = run.stages
    if stages and stages.number < len(stages.plan) and (run.history.stopped or stages.settings.optim.unfreeze == STALL):
        run.history.notes.append(
            f"{stages.number} of {len(stages.plan)} stages were open when the training ended, after epoch {len(run.history)}"
        )
