"""``optimizer=``: a ready optimizer of torch's, checked against what trains in the model."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from petl.errors import PetlError, listing

log = logging.getLogger(__name__)


def refuse_foreign_parameters(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raises a PetlError for an optimizer of parameters that aren't the model's, or don't train; warns of those it leaves out."""
    trains = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    frozen = {id(p): name for name, p in model.named_parameters() if not p.requires_grad}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    kind, advice = type(optimizer).__name__, "make it after petl.wrap, of petl.trainable(model).values()"
    if still := [frozen[id(p)] for p in held if id(p) in frozen]:
        raise PetlError(f"optimizer={kind} has parameters that don't train: {listing(still)}; {advice}")
    if foreign := [p for p in held if id(p) not in trains]:
        raise PetlError(
            f"optimizer={kind} has {len(foreign)} of {len(held)} parameters that aren't this model's; {advice}"
        )
    ids = {id(p) for p in held}
    if left := [name for key, name in trains.items() if key not in ids]:
        log.warning("optimizer=%s doesn't have %s: they keep their values", kind, listing(left))


def top_rate(optimizer: Any) -> float:
    """Returns the largest learning rate of an optimizer's groups, as it was before any schedule."""
    return max(float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups)
