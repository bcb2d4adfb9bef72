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
    """A class of torch's hooks that compute a parameter before each forward."""

    kind: type[Any]
    name: str  # the hook's attribute that holds the parameter's name
    remove: Callable[[Any, str], Any]


HOOKS = (
    _Hook(prune.BasePruningMethod, "_tensor_name", prune.remove),
    _Hook(WeightNorm, "name", remove_weight_norm),
    _Hook(SpectralNorm, "name", remove_spectral_norm),
)


def check_known(module: nn.Module, param: str) -> None:
    """Raises a SiteError where something unknown computes the parameter: a graft on it could never be folded."""
    if param in module._parameters or _is_parametrized(module, param) or _hooks(module, param):
        return
    raise SiteError(
        f"the {param} of this {type(module).__name__} is no parameter, and nothing of torch's computes it (pruning, weight norm, "
        f"spectral norm, parametrize), so a change of it could not be kept; leave the layer out by where=, or make it a parameter"
    )


def compute_in_eval(module: nn.Module, param: str) -> None:
    """Computes the parameter as the next forward in evaluation mode would."""
    before, module.training = module.training, False
    try:
        for hook in _hooks(module, param):
            hook(module, ())
    finally:
        module.training = before


def make_own(module: nn.Module, param: str, value: Tensor) -> None:
    """Makes the parameter the module's own, with this value; whatever computed it is removed."""
    own = module._parameters.get(param)
    for hook in _hooks(module, param):
        next(known for known in HOOKS if isinstance(hook, known.kind)).remove(module, param)
    if _is_parametrized(module, param):
        parametrize.remove_parametrizations(module, param, leave_parametrized=True)
    own = module._parameters.get(param) if own is None else own
    module._buffers.pop(param, None)  # torch keeps a computed weight without a gradient there
    vars(module).pop(param, None)
    module._parameters[param] = nn.Parameter(value, requires_grad=own is not None and own.requires_grad)


def spectral_norm_keys(module: nn.Module, name: str) -> list[tuple[str, str]]:
    """For each spectral norm that this module runs, the keys of the original weight and of the vector that training moves."""
    if isinstance(module, _SpectralNorm):
        return [(f"{name.rpartition('.')[0]}.original", f"{name}._u")]
    hooks = [hook.name for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
    return [(f"{name}.{param}_orig".lstrip("."), f"{name}.{param}_u".lstrip(".")) for param in hooks]


def has_weight_hooks(model: nn.Module) -> bool:
    """Returns whether hooks of torch's compute weights in the model; a copy without hooks is another model then."""
    kinds = tuple(known.kind for known in HOOKS)
    return any(isinstance(hook, kinds) for module in model.modules() for hook in module._forward_pre_hooks.values())


def _is_parametrized(module: nn.Module, param: str) -> bool:
    parametrized = getattr(module, "parametrizations", None)
    return isinstance(parametrized, nn.ModuleDict) and param in parametrized


def _hooks(module: nn.Module, param: str) -> list[Any]:
    every = module._forward_pre_hooks.values()
    known = [(hook, kind) for hook in every for kind in HOOKS if isinstance(hook, kind.kind)]
    return [hook for hook, kind in known if getattr(hook, kind.name) == param]
