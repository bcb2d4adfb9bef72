"""Shared modules run in evaluation mode: finds those that somebody has put into training mode."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from petl.errors import StateError, listing


class Watched:
    """The modules of a model as they are now, whose modes are looked at before each use."""

    def __init__(self, model: nn.Module) -> None:
        self.modules: Sequence[nn.Module] = [*model.modules()]
        self.model = model

    def refuse_training(self) -> None:
        """Raises a StateError where a module is in training mode: other tasks may run it, and dropout is random."""
        if not any(module.training for module in self.modules):
            return
        names = {module: name for name, module in self.model.named_modules()}
        found = [names.get(module, "") or "the model" for module in self.modules if module.training]
        raise StateError(
            f"{listing(found, 3)} of a model in petl.Tasks is in training mode, and tasks share their modules; tasks.eval() puts "
            "all of them back, and petl.load(path, model) gives a model of its own to train"
        )

    def eval(self) -> None:
        """Puts all of the modules into evaluation mode."""
        for module in self.modules:
            module.training = False
