"""Runs a model in evaluation mode for a while, and drops what some models compute and keep there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


def drop_eval_caches(model: nn.Module) -> None:
    """Drops what some models compute from parameters and keep in eval mode (levit's attention biases); modes stay as they are."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()  # timm's models drop it there
    for module, mode in modes:
        module.training = mode


@contextlib.contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Puts the model into evaluation mode inside the block; afterwards each module has its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
