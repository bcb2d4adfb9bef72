"""What is decided between building a run and its first update: rates, number of epochs, schedule. A resumed run keeps it."""

from __future__ import annotations

from petl.training.gradient_rates import scale_by_gradients
from petl.training.optimizer_settings import FIND, GRADIENTS
from petl.training.optimizers import create_scheduler
from petl.training.rate_groups import lower_head_rate, multiply_all, rates_by_name
from petl.training.rate_search import search_rates
from petl.training.run import Run
from petl.training.saving import print_line
from petl.training.stage_plan import epochs_for
from petl.training.time_budget import epochs_in
from petl.wrapping.rates import started_head_rate


def prepare_training(run: Run) -> None:
    """Sets the rates, the number of epochs and the schedule of a run, and notes in its history what was chosen."""
    fresh = not run.updates
    if fresh:
        _choose_rates(run)
    _choose_epochs(run)
    if not fresh and run.settings.optim.one_rate is not None:
        for group in run.optimizer.param_groups:  # the checkpoint's may have been another number
            group["initial_lr"] = run.settings.optim.one_rate
    if fresh and run.stages:
        run.history.notes += run.stages.forecast(run.epochs)
    values = [group["lr"] for group in run.optimizer.param_groups]
    if run.settings.optim.scheduler is None:
        run.scheduler = create_scheduler(run.optimizer, run.settings.optim, run.updates_per_epoch, run.epochs)
    if not fresh:
        for group, value in zip(run.optimizer.param_groups, values, strict=True):
            group["lr"] = value
    if fresh and not run.solved:
        run.history.rates = rates_by_name(run.optimizer)
    for note in run.history.notes if fresh else ():
        print_line(run, note)


def _choose_rates(run: Run) -> None:
    optim = run.settings.optim
    if run.starts_from_probe and optim.has_default_rates and optim.scheduler is None:
        lower_head_rate(run.optimizer, started_head_rate(run.model))
    if optim.factor != 1:
        multiply_all(run.optimizer, optim.factor)
    if optim.layer_decay == GRADIENTS:
        run.history.notes.append(scale_by_gradients(run))
    if optim.lr == FIND:
        found = search_rates(run)
        run.history.rate_search = found.to_json()
        run.history.notes.append(repr(found))
        multiply_all(run.optimizer, found.factor)


def _choose_epochs(run: Run) -> None:
    """Sets the number of epochs: the user's, else that of the checkpoint, else what fits the minutes, else what suits the set."""
    optim, chosen = run.settings.optim, run.history.epochs
    if optim.epochs is not None:
        run.epochs = optim.epochs
    elif chosen is not None:
        run.epochs = chosen
    elif optim.minutes is not None:
        run.epochs, said = epochs_in(run, optim.minutes)
        run.history.notes.append(said)
    else:
        run.epochs = epochs_for(run.model, optim, run.updates_per_epoch, run.settings.run.patience)
        updates = f"{run.updates_per_epoch} update{'s' * (run.updates_per_epoch != 1)}"
        run.history.notes.append(f"{run.epochs} epochs of {updates}, as suits this set")
    run.history.epochs = run.epochs
