"""A backbone inside another model: which part of a wrapper, a detector or an average a delta is meant for."""

from __future__ import annotations

from torch import nn

from petl.delta.header import Header
from petl.errors import DeltaError, listing
from petl.sites.meta import pretrained_cfg
from petl.sites.names import topmost


def receiving_module(model: nn.Module, header: Header) -> nn.Module:
    """Returns the module that has the recorded sites: the model itself, else the only one inside it."""
    names = _recorded(header)
    modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    if all(name in modules for name in names) and (
        names or pretrained_cfg(model) or hasattr(model, "reset_classifier")
    ):
        return model
    if names:
        fit = [top for top in modules if top and all(f"{top}.{name}" in modules for name in names)]
    else:
        fit = [name for name, module in modules.items() if name and pretrained_cfg(module)]
    fit = topmost(fit)
    if len(fit) > 1:
        raise DeltaError(
            f"this {type(model).__name__} holds {len(fit)} models that the delta could go onto: {listing(fit)}; pass one of "
            f"them: petl.load(path, model.{fit[0]})"
        )
    return modules[fit[0]] if fit else model


def _recorded(header: Header) -> list[str]:
    """The modules that the recipe names: its sites, and the classifier where it was named by hand."""
    head = header.head
    named = [head] if isinstance(head, str) else head if isinstance(head, list) else []
    return [name for names in (*header.sites, named) for name in names]
