"""Parameter groups, optimizer, learning-rate schedule and averaged weights, all by way of timm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import PetlError, StateError
from petl.graft.sharded import is_sharded_model
from petl.training.cycles import CycledSchedule
from petl.training.length import warmup
from petl.training.optimizer_settings import GRADIENTS, OptimizerSettings
from petl.training.rate_groups import PEAK, with_default_rates
from petl.training.ready_optimizer import refuse_foreign_parameters, top_rate
from petl.training.sharded_run import ShardAverage
from petl.training.stage_plan import cut_by_stage
from petl.wrapping.lookup import bare


def param_groups(
    model: nn.Module, *, lr: float | None = None, layer_decay: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Returns groups of trainable parameters for any torch optimizer: no weight decay on vectors, lower rates in early layers.

    Args:
        lr: learning rate of the last layers; None for the default rates: each method has its own, and the classifier, too
            (each group has ``name``: "lora", "head" ...). They are meant for AdamW.
        layer_decay: factor per layer of timm's depth order (0.65 to 0.9 for transformers); None for one rate everywhere.
        weight_decay: of matrices and kernels; biases, norms and what the model exempts get none.

    >>> import petl, timm, torch
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3)
    >>> optimizer = torch.optim.AdamW(petl.param_groups(model, layer_decay=0.5, weight_decay=0.05))
    >>> sorted({group["name"] for group in optimizer.param_groups})
    ['head', 'lora']
    """
    groups = timm_groups(model, layer_decay=layer_decay, weight_decay=weight_decay)
    if lr is None:
        groups = with_default_rates(model, groups)
    for group in groups:  # a scheduler of timm's would multiply by lr_scale once more
        group["lr"] = (group["lr"] if lr is None else lr) * group.pop("lr_scale", 1.0)
    return groups


def timm_groups(model: nn.Module, *, layer_decay: float | None, weight_decay: float) -> list[dict[str, Any]]:
    """Returns timm's own groups, with ``lr_scale`` where rates differ by layer: timm's schedulers read it."""
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    plain = bare(model)
    exempt = plain.no_weight_decay() if callable(getattr(plain, "no_weight_decay", None)) else ()  # type: ignore[operator]
    common: dict[str, Any] = {"weight_decay": weight_decay, "no_weight_decay_list": exempt}
    if layer_decay is None:
        groups = param_groups_weight_decay(plain, **common)
    else:
        groups = param_groups_layer_decay(plain, layer_decay=layer_decay, **common)
    if not groups:
        raise StateError(f"no parameter of this {type(plain).__name__} trains; call petl.wrap first")
    return groups


def create_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Returns the optimizer, with groups that timm's schedules know; without a schedule each has its own rate in ``lr``."""
    if isinstance(settings.optimizer, torch.optim.Optimizer):
        refuse_foreign_parameters(settings.optimizer, model)
        return settings.optimizer
    groups, top = _groups(model, settings)
    if settings.schedule == "none":
        for group in groups:
            group["lr"] *= group.pop("lr_scale", 1.0)
    if not isinstance(settings.optimizer, str):
        return settings.optimizer(groups)
    from timm.optim import create_optimizer_v2

    try:
        return create_optimizer_v2(groups, settings.optimizer, lr=top, weight_decay=settings.weight_decay)
    except (ValueError, AssertionError) as error:
        raise PetlError(
            f"optimizer={settings.optimizer!r}: {error}; timm.optim.list_optimizers() has the names"
        ) from error


def _groups(model: nn.Module, settings: OptimizerSettings) -> tuple[list[dict[str, Any]], float]:
    """Returns groups and highest rate. For ``layer_decay="gradients"`` each group is of one block, ``depth`` from the top."""
    by_gradients = settings.layer_decay == GRADIENTS
    decay = 0.5 if isinstance(settings.layer_decay, str) else settings.layer_decay
    groups = timm_groups(model, layer_decay=decay, weight_decay=settings.weight_decay)
    groups = groups if settings.unfreeze is None else cut_by_stage(model, groups)
    if by_gradients:  # a factor of 0.5 per layer shows how deep a group is
        groups = [{**group, "depth": round(-math.log2(group["lr_scale"])), "lr_scale": 1.0} for group in groups]
    if by_gradients or settings.one_rate is None:
        groups = with_default_rates(model, groups)
    if settings.one_rate is None:
        top = max(group["lr"] for group in groups) * settings.factor
        if settings.min_lr > top:
            raise PetlError(f"min_lr={settings.min_lr} is above {top:g}, the highest of the default rates; give less")
        return groups, top
    one = {"lr": settings.one_rate, **({"lr_scale": 1.0, PEAK: settings.one_rate} if by_gradients else {})}
    return [{**group, **one} for group in groups], settings.one_rate


def create_scheduler(optimizer: Any, settings: OptimizerSettings, updates: int, epochs: int) -> Any:
    """Returns timm's schedule, which takes a step per update, or None for "none"; with ``cycles`` one for each of them."""
    if settings.cycles and settings.schedule != "none":
        return CycledSchedule(lambda part: _one_schedule(optimizer, settings, updates, part), settings.cycles, updates)
    return _one_schedule(optimizer, settings, updates, epochs)


def _one_schedule(optimizer: Any, settings: OptimizerSettings, updates: int, epochs: int) -> Any:
    from timm.scheduler import create_scheduler_v2

    rate = top_rate(optimizer) if settings.one_rate is None else settings.one_rate
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            settings.schedule or "none",
            num_epochs=epochs,
            warmup_epochs=warmup(settings, epochs, updates),  # type: ignore[arg-type]  # timm takes parts of an epoch too
            warmup_lr=rate / 100,
            min_lr=settings.min_lr,
            step_on_epochs=False,
            updates_per_epoch=updates,
        )
    except (ValueError, AssertionError) as error:
        raise _schedule_error(settings, str(error)) from error
    if scheduler is None and settings.schedule != "none":
        raise _schedule_error(settings, "timm has no such schedule")
    return scheduler


def _schedule_error(settings: OptimizerSettings, why: str) -> PetlError:
    return PetlError(f"schedule={settings.schedule!r}: {why}; expected 'cosine', 'poly', 'tanh' or 'none'")


def create_ema(model: nn.Module, settings: OptimizerSettings, trained: Mapping[str, Tensor]) -> Any:
    """Returns timm's averages of a model, averages of ``trained`` where the model is sharded, or None where none are kept."""
    from timm.utils import ModelEmaV3

    if settings.ema is None:
        return None
    if is_sharded_model(model):
        return ShardAverage(trained, ModelEmaV3(nn.Linear(1, 1), decay=settings.ema, use_warmup=True))
    return ModelEmaV3(model, decay=settings.ema, use_warmup=True)
