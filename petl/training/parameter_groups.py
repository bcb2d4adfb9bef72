"""Parameter groups for an optimizer, by way of timm's own grouping."""

from __future__ import annotations

from typing import Any

from torch import nn

from petl.errors import StateError
from petl.wrapping.lookup import bare


def param_groups(
    model: nn.Module, *, lr: float, layer_decay: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters for any torch optimizer: no weight decay on vectors, lower rates in earlier layers.

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
    """timm's own groups, with ``lr_scale`` where rates differ by layer: for timm's schedulers, which read it."""
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
