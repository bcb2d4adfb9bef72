"""Puts a model into evaluation mode for a block, and drops what some models cache in evaluation mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


def drop_eval_caches(model: nn.Module) -> None:
    """Drops what some models cache in evaluation mode (levit's attention biases); training modes stay as they are."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()  # here timm's models drop their caches
    for module, mode in modes:
        module.training = mode


@contextlib.contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """A context that puts the model into evaluation mode; afterwards each module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
