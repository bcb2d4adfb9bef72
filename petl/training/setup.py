"""From what ``fit`` was asked for to a Run: batches, loss, optimizer and schedule, with accelerate's hand on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.first_image import try_one_image
from petl.data.inputs import as_loader, loader_classes
from petl.data.loaders import Loader, on_device
from petl.data.pairs import Batch
from petl.data.wrappers import pipeline_of
from petl.errors import PetlError, StateError
from petl.extraction.decision import Decision, Loaders, RunModel, choose_features
from petl.extraction.npy_writer import StorageError
from petl.extraction.reasons import NoRoom
from petl.training.checkpoints import go_on, keep_small, moving, newest
from petl.training.loop import Run
from petl.training.metrics import History
from petl.training.parameter_groups import param_groups, timm_groups
from petl.training.rehearsal import rehearse
from petl.training.runs import held_out
from petl.training.settings import Settings
from petl.training.targets import class_weights, refuse_targets
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.record import record


def prepared(accelerator: Any, model: nn.Module, data: tuple[Any, Any], settings: Settings, progress: Any) -> Run:
    """Everything that the loop needs; at the point of the checkpoint, where the run resumes one."""
    model.to(accelerator.device).train()
    if record(model) is not None:
        prove_frozen(model, "not trained, because no delta could be saved")
    train, val, labels = _batches(accelerator, model, data, settings)
    criterion = _criterion(settings, train, len(labels)).to(accelerator.device)
    made = _optimizer(model, settings)
    _refuse_early(settings)
    decision, (train, val) = _on_features(accelerator, model, (train, val), settings, progress)
    net, optimizer = accelerator.prepare(decision.source.net if decision.source else model, made)
    train = on_device(accelerator, train)
    run = Run(
        accelerator=accelerator,
        settings=settings,
        model=model,
        net=net,
        train=train,
        val=on_device(accelerator, val) if val is not None else None,
        labels=labels,
        criterion=criterion,
        mix=_mix(settings, len(labels)),
        optimizer=optimizer,
        scheduler=_scheduler(optimizer, settings, -(-len(train) // settings.accumulate)),
        progress=progress,
        moving=moving(model),
        ema=_ema(model, settings),
        history=History(settings.monitor),
        road=decision.source,
        split=held_out(*data) if settings.out else None,
    )
    keep_small(accelerator, run.moving)
    accelerator.register_for_checkpointing(run)
    _resume(run)
    run.history.road = decision.describe(len(train.dataset) if decision.source else 0)
    return run


def _on_features(
    accelerator: Any, model: nn.Module, loaders: Loaders, settings: Settings, progress: Any
) -> tuple[Decision, Loaders]:
    """Computes the features if they are to be used; returns the decision, and the loaders of features or images."""
    decision = choose_features(accelerator, model, loaders, settings)
    if decision.source is None:
        return decision, loaders
    train, val = loaders
    try:
        features = decision.source.train(train, settings.views or 1, progress)
        return decision, (features, decision.source.val(val, progress) if val is not None else None)
    except BaseException as error:
        decision.source.close()
        if isinstance(error, StorageError) and not (settings.cache or settings.views):
            return RunModel(NoRoom(str(error))), loaders
        raise


def _batches(
    accelerator: Any, model: nn.Module, data: tuple[Any, Any], settings: Settings
) -> tuple[Loader, Loader | None, list[str]]:
    """Training and validation batches, looked at, and the names of the classes; the record notes what is known."""
    options: dict[str, Any] = {"batch_size": settings.batch_size, "workers": settings.workers, "keys": settings.keys}
    options["strict"] = settings.strict
    train = as_loader(data[0], model, training=True, classes=settings.names, seed=settings.seed, **options)
    known = settings.names if settings.labels is not None else loader_classes(train) or recorded(model)
    labels = named(accelerator, model, train, known)
    refuse_targets(train, labels, training=True)
    val = None if data[1] is None else as_loader(data[1], model, classes=known, **options)
    if val is not None:
        named(accelerator, model, val, known)
        refuse_targets(val, labels)
    _note(model, known, train)
    if settings.out is not None and accelerator.is_main_process:
        rehearse(model, settings.out, labels)
    return train, val, labels


def recorded(model: nn.Module) -> list[str] | None:
    """The class names in the model's record."""
    made = record(model)
    return made.labels if made else None


def named(accelerator: Any, model: nn.Module, loader: Loader, known: Sequence[str] | None) -> list[str]:
    """The names of the model's classes, or their numbers; the first image has then been tried."""
    classes = try_one_image(accelerator, model, loader, known)
    return list(known) if known else [str(number) for number in range(classes)]


def _note(model: nn.Module, labels: list[str] | None, train: Loader) -> None:
    """Class names and input pipeline belong in the delta."""
    made = record(model)
    if made is not None:
        made.labels = labels or made.labels
        made.pipeline = made.pipeline or pipeline_of(train.dataset)


def _criterion(settings: Settings, train: Loader, classes: int) -> nn.Module:
    """Cross-entropy; mixes bring soft targets, which are smoothed already."""
    weights = class_weights(settings.class_weights, train, classes)
    smoothing = 0.0 if settings.mixes else settings.label_smoothing
    return nn.CrossEntropyLoss(weights, label_smoothing=smoothing)


def _mix(settings: Settings, classes: int) -> Callable[[Tensor, Tensor], Batch] | None:
    """timm's mixup and cutmix; it takes even batches only, an odd one gets soft targets without a mix."""
    if not settings.mixes:
        return None
    from timm.data.mixup import Mixup, mixup_target

    smoothing = settings.label_smoothing
    mixed = Mixup(settings.mixup, settings.cutmix, label_smoothing=smoothing, num_classes=classes)

    def mix(images: Tensor, targets: Tensor) -> Batch:
        if len(images) % 2:
            return images, mixup_target(targets, classes, smoothing=smoothing)
        return mixed(images, targets)

    return mix


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"layer_decay": settings.layer_decay, "weight_decay": settings.weight_decay}
    if settings.schedule == "none":
        groups = param_groups(model, lr=settings.lr, **options)
    else:
        groups = [{**group, "lr": settings.lr} for group in timm_groups(model, **options)]
    if not isinstance(settings.optimizer, str):
        return settings.optimizer(groups)
    from timm.optim import create_optimizer_v2

    try:
        return create_optimizer_v2(groups, settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay)
    except (ValueError, AssertionError) as error:
        raise PetlError(
            f"optimizer={settings.optimizer!r}: {error}; timm.optim.list_optimizers() has the names"
        ) from error


def _scheduler(optimizer: Any, settings: Settings, updates: int) -> Any:
    """timm's schedule, a step per update."""
    from timm.scheduler import create_scheduler_v2

    warmup = settings.epochs / 10 if settings.warmup_epochs is None else settings.warmup_epochs
    try:
        made, _ = create_scheduler_v2(
            optimizer,
            settings.schedule,
            num_epochs=settings.epochs,
            warmup_epochs=warmup,  # type: ignore[arg-type]  # a part of an epoch is as good as a whole one
            warmup_lr=settings.lr / 100,
            min_lr=settings.min_lr,
            step_on_epochs=False,
            updates_per_epoch=updates,
        )
    except (ValueError, AssertionError) as error:
        raise _no_schedule(settings, str(error)) from error
    if made is None and settings.schedule != "none":
        raise _no_schedule(settings, "timm has no such schedule")
    return made


def _refuse_early(settings: Settings) -> None:
    """What would be found out only after the features were computed: no such schedule, nothing to resume."""
    _scheduler(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.lr), settings, 1)
    if isinstance(settings.resume, (str, Path)) and newest(Path(settings.resume)) is None:
        raise StateError(
            f"resume={str(settings.resume)!r} holds no training checkpoint; it is the folder given to checkpoint="
        )


def _no_schedule(settings: Settings, why: str) -> PetlError:
    return PetlError(f"schedule={settings.schedule!r}: {why}; expected 'cosine', 'poly', 'tanh' or 'none'")


def _ema(model: nn.Module, settings: Settings) -> Any:
    from timm.utils import ModelEmaV3

    return None if settings.ema is None else ModelEmaV3(model, decay=settings.ema, use_warmup=True)


def _resume(run: Run) -> None:
    """Go on from the newest checkpoint of the folder; with ``resume=True`` there need not be one yet."""
    resume, folder = run.settings.resume, run.settings.checkpoint
    place = None if not resume else Path(folder or "") if resume is True else Path(resume)
    found = newest(place) if place else None
    if found:
        go_on(run.accelerator, found, run.moving)  # the learning rates come with the optimizer
