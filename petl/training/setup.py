"""Builds a Run from the arguments of ``fit``: batches, objective, optimizer and schedule, prepared by accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl.data.loaders import Loader, on_device
from petl.errors import StateError
from petl.extraction.decision import Decision, Loaders, RunModel
from petl.extraction.reasons import TurnedOff
from petl.training.callback_calls import CallbackCalls
from petl.training.callbacks import as_callbacks
from petl.training.checkpoints import load_checkpoint, newest_checkpoint, save_trained_only
from petl.training.head_plan import HeadPlan, head_plan
from petl.training.head_start import HeadStart, HeadStarter, as_evaluated
from petl.training.head_starters import head_starter
from petl.training.held_out import held_out_files
from petl.training.history import History
from petl.training.known_heads import head_start
from petl.training.length import updates_per_epoch
from petl.training.objectives import Objective, standardise
from petl.training.opened_data import open_data
from petl.training.optimizers import create_ema, create_optimizer, create_scheduler
from petl.training.own_scheduler import OwnScheduler, own_scheduler
from petl.training.run import Run
from petl.training.settings import Settings
from petl.training.sharded_run import refuse_sharded_checkpoints
from petl.training.stage_plan import epochs_for
from petl.training.stages import stages_for
from petl.training.trained_net import features_or_images, trained_net
from petl.training.trained_state import trained_state
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.lookup import record


def build_run(accelerator: Any, model: nn.Module, data: tuple[Any, Any], settings: Settings, progress: Any) -> Run:
    """Returns the run that the loop needs, at the point of its checkpoint where it resumes one."""
    plan = _prepared(accelerator, model, settings)
    train, val, opened = open_data(accelerator, model, data, settings)
    notes = _prepared_objective(accelerator, model, opened.objective, train)
    optimizer, scheduler = _optimizer_and_scheduler(accelerator, model, train, settings)
    starter, settings, train = _starter(accelerator, model, (plan, settings), opened.objective, train)
    decision, (train, val), head = _features_and_head(accelerator, model, (train, val), (settings, starter), progress)
    net, optimizer = accelerator.prepare(trained_net(decision, model, settings), optimizer)
    trained = trained_state(model)
    run = Run(
        accelerator=accelerator,
        settings=settings,
        model=model,
        net=net,
        train=on_device(accelerator, train),
        val=on_device(accelerator, val) if val is not None else None,
        opened=opened,
        optimizer=optimizer,
        scheduler=scheduler,
        progress=progress,
        trained=trained,
        ema=create_ema(model, settings.optim, trained),
        callbacks=CallbackCalls(as_callbacks(settings.loop.callbacks), settings.run.on_epoch),
        history=History(opened.task.checked_monitor(settings.run.monitor), head=head.line, notes=notes),
        solved=head.row,
        starts_from_probe=head.written,
        features=decision.source,
        stages=stages_for(model, settings, (train, val), optimizer),
        split=held_out_files(*data) if settings.run.out else None,
    )
    _resume(run)
    run.history.features = decision.describe(len(train.dataset) if decision.source else 0)  # type: ignore[arg-type]  # of features
    return run


def _prepared_objective(accelerator: Any, model: nn.Module, objective: Objective, train: Loader) -> list[str]:
    """Lets the objective look at the training images, and standardises targets; returns what to note about that."""
    objective.prepare(train, accelerator.device)
    return standardise(accelerator, model, objective, train)


def _optimizer_and_scheduler(
    accelerator: Any, model: nn.Module, train: Loader, settings: Settings
) -> tuple[torch.optim.Optimizer, OwnScheduler | None]:
    """Returns the optimizer, and the scheduler of ``scheduler=``, made before accelerate wraps the optimizer, or None.

    What can't be is refused here: features may take long to compute.
    """
    optimizer, wish = create_optimizer(model, settings.optim), settings.optim.scheduler
    _refuse_early(settings)
    refuse_sharded_checkpoints(accelerator, settings)
    if wish is None:
        return optimizer, None
    updates = updates_per_epoch(on_device(accelerator, train), settings.optim)  # of this process's share of the batches
    epochs = settings.optim.epochs or epochs_for(model, settings.optim, updates, settings.run.patience)
    return optimizer, own_scheduler(wish, optimizer, epochs * updates)


def _prepared(accelerator: Any, model: nn.Module, settings: Settings) -> HeadPlan:
    """Returns the plan for the classifier; the model is then ready to train."""
    plan = head_plan(model, settings)
    model.to(accelerator.device).train()
    if record(model) is not None:
        prove_frozen(model, "not trained, because no delta could be saved")
    return plan


def _starter(
    accelerator: Any, model: nn.Module, plans: tuple[HeadPlan, Settings], objective: Objective, train: Loader
) -> tuple[HeadStarter | str, Settings, Loader]:
    """Returns what computes the classifier (or why that can't be, or ""), and the settings and images of the training.

    A classifier that is thereby finished has one epoch, and images as at evaluation.
    """
    plan, settings = plans
    starter = head_starter(accelerator, model, plan, settings, objective, train) if plan.kind else ""
    if isinstance(starter, str) or not plan.alone:
        return starter, settings, train
    return starter, plan.settings(settings), as_evaluated(train, settings)


def _features_and_head(
    accelerator: Any, model: nn.Module, loaders: Loaders, how: tuple[Settings, HeadStarter | str], progress: Any
) -> tuple[Decision, Loaders, HeadStart]:
    """Computes the features if they are to be used, and then the classifier where it is to be computed."""
    settings, starter = how
    if settings.optim.unfreeze is None:
        decision, (train, val) = features_or_images(accelerator, model, loaders, settings.features, progress)
    else:  # each stage computes its own
        decision, (train, val) = RunModel(TurnedOff()), loaders
    if isinstance(starter, str) or _resumed_from(settings) is not None:  # a checkpoint has the classifier
        line = f"the classifier trained by gradient: {starter}" if isinstance(starter, str) and starter else ""
        return decision, (train, val), HeadStart(line)
    try:
        head = head_start(starter, lambda: starter.start(decision.source, (loaders[0], train), progress))
        return decision, (train, val), head
    except BaseException:
        if decision.source is not None:
            decision.source.close()
        raise


def _refuse_early(settings: Settings) -> None:
    """Refuses an unknown schedule and a missing checkpoint before features are computed, which may take long."""
    create_scheduler(
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), settings.optim, 1, settings.optim.epochs or 1
    )
    if isinstance(settings.run.resume, (str, Path)) and newest_checkpoint(Path(settings.run.resume)) is None:
        raise StateError(
            f"resume={str(settings.run.resume)!r} holds no training checkpoint; it is the folder given to checkpoint="
        )


def _resume(run: Run) -> None:
    """Loads the newest checkpoint of the folder; with ``resume=True`` there need not be one yet."""
    save_trained_only(run.accelerator, run.trained)
    run.accelerator.register_for_checkpointing(run)
    newest = _resumed_from(run.settings)
    if newest:
        load_checkpoint(run.accelerator, newest, run.trained)  # the learning rates come with the optimizer
    elif run.scale and run.scale.in_units:
        run.scale.unfold()


def _resumed_from(settings: Settings) -> Path | None:
    """Returns the checkpoint to go on from, or None."""
    resume, folder = settings.run.resume, settings.run.checkpoint
    place = None if not resume else Path(folder or "") if resume is True else Path(resume)
    return newest_checkpoint(place) if place else None
