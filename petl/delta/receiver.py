"""Chooses the module that a delta goes onto where the backbone is inside another model: a wrapper, a detector, an average."""

from __future__ import annotations

from torch import nn

from petl.delta.header import Header
from petl.errors import DeltaError, listing
from petl.sites.meta import pretrained_cfg
from petl.sites.names import joined, topmost


def receiving_module(model: nn.Module, header: Header) -> nn.Module:
    """Returns the module that has the recorded sites: the model itself, else the only such module inside it."""
    names = _recorded(header)
    modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    if all(name in modules for name in names) and (
        names or pretrained_cfg(model) or hasattr(model, "reset_classifier")
    ):
        return model
    if names:
        candidates = [top for top in modules if top and all(joined(top, name) in modules for name in names)]
    else:
        candidates = [name for name, module in modules.items() if name and pretrained_cfg(module)]
    candidates = topmost(candidates)
    if len(candidates) > 1:
        raise DeltaError(
            f"this {type(model).__name__} holds {len(candidates)} models that the delta could go onto: {listing(candidates)}; "
            f"pass one of them: petl.load(path, model.{candidates[0]})"
        )
    return modules[candidates[0]] if candidates else model


def _recorded(header: Header) -> list[str]:
    """Returns the names of modules in the recipe: its sites, and the classifier where the user named it."""
    head = header.head
    head_names = [head] if isinstance(head, str) else head if isinstance(head, list) else []
    return [name for names in (*header.sites, head_names) for name in names]
