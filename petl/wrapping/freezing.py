"""Freezes what no method tunes: sets requires_grad of parameters, and keeps norms in evaluation mode."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from petl.errors import SiteError
from petl.graft.computed_weights import spectral_norm_keys
from petl.graft.graft import hold_in_eval
from petl.sites.layers import has_running_statistics
from petl.sites.names import joined, within
from petl.wrapping.record import Record


def set_requires_grad(model: nn.Module, record: Record, base_ids: set[int]) -> None:
    """Sets ``requires_grad`` to True for what methods and head own, else False; new tensors that a method froze stay frozen."""
    owned_keys = record.owned_keys
    for name, parameter in model.named_parameters():
        may_train = id(parameter) in base_ids or parameter.requires_grad
        parameter.requires_grad_(name in owned_keys and parameter.is_floating_point() and may_train)
    if not owned_keys:
        raise SiteError(
            f"{', '.join(m.name for m in record.methods)} with head={record.head_option} leaves nothing to train on "
            f"{type(model).__name__}; give num_classes= for a new classifier, or another method"
        )


def hold_untuned(model: nn.Module, record: Record) -> None:
    """Keeps norms whose statistics no method tunes in evaluation mode; where the head alone trains, every other module."""
    owned_keys = record.owned_keys
    if all(within(key, record.head) for key in owned_keys):
        return _hold_all_but(model, "", record.head)
    for name, module in model.named_modules():
        is_tuned = any(joined(name, leaf) in owned_keys for leaf in ("running_mean", "running_var"))
        if has_running_statistics(module) and not is_tuned:
            hold_in_eval(module)
        if any(vector not in owned_keys for _, vector in spectral_norm_keys(module, name)):
            _hold_norm(module, name, owned_keys)


def _hold_norm(module: nn.Module, name: str, owned_keys: Collection[str]) -> None:
    """Keeps a spectral norm in evaluation mode, or raises a SiteError where the weight under the norm would train."""
    trains = [original for original, _ in spectral_norm_keys(module, name) if original in owned_keys]
    if trains:
        raise SiteError(
            f"{trains[0]} would train under a spectral norm, whose vectors follow it and would not be saved; take the norm off "
            f"first (torch.nn.utils.parametrize.remove_parametrizations, remove_spectral_norm), or choose a method such as 'lora'"
        )
    hold_in_eval(module)


def _hold_all_but(module: nn.Module, name: str, head: Sequence[str]) -> None:
    """Keeps every module in evaluation mode that isn't in the head and doesn't contain the head."""
    for leaf, child in module.named_children():
        path = joined(name, leaf)
        if any(within(top, [path]) for top in head) and not within(path, head):
            _hold_all_but(child, path, head)
        elif not within(path, head):
            hold_in_eval(child)
