"""Weights that torch computes before each use: by pruning, weight norm and spectral norm, old style and new.

A graft adds to what they compute. Merging ends the computing: the parameter is the layer's own again, with the adapted value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from petl.errors import SiteError


class _Hook(NamedTuple):
    """One of torch's old ways: a hook that computes the parameter before each forward."""

    kind: type[Any]
    name: str  # the hook's attribute that holds the parameter's name
    end: Callable[[Any, str], Any]


HOOKS = (
    _Hook(prune.BasePruningMethod, "_tensor_name", prune.remove),
    _Hook(WeightNorm, "name", remove_weight_norm),
    _Hook(SpectralNorm, "name", remove_spectral_norm),
)


def check_known(module: nn.Module, param: str) -> None:
    """A SiteError where something unknown computes the parameter: a graft on it could never be folded."""
    if param in module._parameters or _is_parametrized(module, param) or _hooks(module, param):
        return
    raise SiteError(
        f"the {param} of this {type(module).__name__} is no parameter, and nothing of torch's computes it (pruning, weight norm, "
        f"spectral norm, parametrize), so a change of it could not be kept; leave the layer out by where=, or make it a parameter"
    )


def compute_in_eval(module: nn.Module, param: str) -> None:
    """Compute the parameter as the next forward in evaluation mode would."""
    before, module.training = module.training, False
    try:
        for hook in _hooks(module, param):
            hook(module, ())
    finally:
        module.training = before


def make_own(module: nn.Module, param: str, value: Tensor) -> None:
    """Make the parameter the module's own, with this value; whatever computed it is gone."""
    own = module._parameters.get(param)
    for hook in _hooks(module, param):
        next(way for way in HOOKS if isinstance(hook, way.kind)).end(module, param)
    if _is_parametrized(module, param):
        parametrize.remove_parametrizations(module, param, leave_parametrized=True)
    own = module._parameters.get(param) if own is None else own
    module._buffers.pop(param, None)  # what torch makes of a computed weight without a gradient
    vars(module).pop(param, None)
    module._parameters[param] = nn.Parameter(value, requires_grad=own is not None and own.requires_grad)


def spectral_norm_keys(module: nn.Module, name: str) -> list[tuple[str, str]]:
    """(original weight, a vector that follows it in training mode): the keys of each spectral norm that this module runs."""
    if isinstance(module, _SpectralNorm):
        return [(f"{name.rpartition('.')[0]}.original", f"{name}._u")]
    hooks = [hook.name for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
    return [(f"{name}.{param}_orig".lstrip("."), f"{name}.{param}_u".lstrip(".")) for param in hooks]


def has_weight_hooks(model: nn.Module) -> bool:
    """Whether hooks of torch's compute weights in the model; a copy without hooks is another model then."""
    kinds = tuple(way.kind for way in HOOKS)
    return any(isinstance(hook, kinds) for module in model.modules() for hook in module._forward_pre_hooks.values())


def _is_parametrized(module: nn.Module, param: str) -> bool:
    found = getattr(module, "parametrizations", None)
    return isinstance(found, nn.ModuleDict) and param in found


def _hooks(module: nn.Module, param: str) -> list[Any]:
    every = module._forward_pre_hooks.values()
    return [hook for hook in every for way in HOOKS if isinstance(hook, way.kind) and getattr(hook, way.name) == param]
