"""Parameter groups, optimizer, learning-rate schedule and averaged weights, all by way of timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import PetlError, StateError
from petl.graft.sharded import is_sharded_model
from petl.training.optimizer_settings import OptimizerSettings
from petl.training.ready_optimizer import refuse_foreign_parameters, top_rate
from petl.training.sharded_run import ShardAverage
from petl.wrapping.lookup import bare


def param_groups(
    model: nn.Module, *, lr: float, layer_decay: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Returns groups of trainable parameters for any torch optimizer: no weight decay on vectors, lower rates in early layers.

    Args:
        lr: learning rate of the last layers.
        layer_decay: factor per layer of timm's depth order (0.65 to 0.9 for transformers); None for one rate everywhere.
        weight_decay: of matrices and kernels; biases, norms and what the model exempts get none.

    >>> import petl, timm, torch
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3)
    >>> optimizer = torch.optim.AdamW(petl.param_groups(model, lr=1e-3, layer_decay=0.5, weight_decay=0.05))
    >>> min(group["lr"] for group in optimizer.param_groups) < 1e-4
    True
    """
    groups = timm_groups(model, layer_decay=layer_decay, weight_decay=weight_decay)
    for group in groups:  # a scheduler of timm's would multiply by lr_scale once more
        group["lr"] = lr * group.pop("lr_scale", 1.0)
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
    if isinstance(settings.optimizer, torch.optim.Optimizer):
        refuse_foreign_parameters(settings.optimizer, model)
        return settings.optimizer
    options: dict[str, Any] = {"layer_decay": settings.layer_decay, "weight_decay": settings.weight_decay}
    if settings.schedule == "none":
        groups = param_groups(model, lr=settings.lr, **options)  # type: ignore[arg-type]  # only a ready one has none
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


def create_scheduler(optimizer: Any, settings: OptimizerSettings, updates: int) -> Any:
    """Returns timm's schedule, which takes a step per update, or None for "none"."""
    from timm.scheduler import create_scheduler_v2

    warmup = settings.epochs / 10 if settings.warmup_epochs is None else settings.warmup_epochs
    rate = top_rate(optimizer) if settings.lr is None else settings.lr
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer,
            settings.schedule or "none",
            num_epochs=settings.epochs,
            warmup_epochs=warmup,  # type: ignore[arg-type]  # timm takes parts of an epoch too
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
