"""What a delta changes in its base: the values of the base's own tensors with the delta on it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petl.combining.opened import NamedDelta
from petl.combining.weight_matrices import grown_rank
from petl.delta.load import wrap_by_recipe
from petl.errors import DeltaError, listing
from petl.memory.base_dtype import low_precision_dtype
from petl.sites.layers import weight_names
from petl.sites.names import joined, within
from petl.wrapping.lookup import in_chans, require_record
from petl.wrapping.merge import merge, unfoldable
from petl.wrapping.own_tensors import state_tensors


@dataclass(frozen=True)
class TaskChange:
    """What one delta changes.

    Attributes:
        delta: the delta; ``weight``: how much it counts.
        tensors: the values with the delta, by key, of those of the base's tensors that it changes, without the classifier's.
        ranks: the rank that the method limits the change to, by key, of those that have one.
        head: the classifier's tensors by key, {} where the delta has none.
    """

    delta: NamedDelta
    weight: float
    tensors: Mapping[str, Tensor]
    ranks: Mapping[str, int]
    head: Mapping[str, Tensor]


def with_delta(base: nn.Module, delta: NamedDelta, *, exact: bool = False) -> nn.Module:
    """Returns a copy of the base with the delta on it; ``exact``: with the recorded ``base_dtype``, else the base keeps its type.

    Raises:
        DeltaError: the delta doesn't fit the base, or was made on other weights.
    """
    model = copy.deepcopy(base)
    low = low_precision_dtype(delta.header.base_dtype) if exact else None
    wrap_by_recipe(
        delta.path, delta.header, delta.tensors, model, True, False, memory="lean" if exact else None, base_dtype=low
    )
    return model.eval()


def change_of(base: nn.Module, delta: NamedDelta, weight: float) -> TaskChange:
    """Returns what a delta changes in a base, which stays as it is.

    Raises:
        DeltaError: the delta doesn't fit the base, or isn't a change of the base's own tensors.
    """
    model = with_delta(base, delta)
    _refuse_functions(model, delta)
    record = require_record(model)[1]
    ranks = _ranks(model)
    merge(model)
    own = {key: tensor for key, _, _, tensor in state_tensors(base)}
    after = {key: tensor.detach() for key, _, _, tensor in state_tensors(model)}
    head = {key: tensor for key, tensor in after.items() if within(key, record.head)}
    trunk = {key: tensor for key, tensor in after.items() if not within(key, (*record.head, *record.classifier))}
    _refuse_new_tensors(own, trunk, delta)
    changed = {key: tensor for key, tensor in trunk.items() if not torch.equal(tensor, own[key])}
    return TaskChange(delta, weight, changed, {key: ranks[key] for key in changed if key in ranks}, head)


def _ranks(model: nn.Module) -> dict[str, int]:
    """Returns the ranks that methods limit changes to, by key."""
    found: dict[str, int] = {}
    for name, module in model.named_modules():
        for param in weight_names(module):
            if (rank := grown_rank(module, param)) is not None:
                found[joined(name, param)] = rank
    return found


def _refuse_functions(model: nn.Module, delta: NamedDelta) -> None:
    """Raises a DeltaError for a delta that has layers of its own, or takes other images."""
    stuck = unfoldable(model)
    if stuck:
        reasons = "; ".join(sorted({*stuck.values()}))
        names = [method["name"] for method in delta.header.methods]
        raise DeltaError(
            f"{delta.path} ({listing(names)}) can't be combined: {listing(stuck, 2)} is no change of the base's weights "
            f"({reasons}), and functions can't be added. petl.Tasks runs such deltas side by side"
        )
    own, adapted = require_record(model)[1].backbone["in_chans"], in_chans(model)
    if own != adapted:
        raise DeltaError(
            f"{delta.path} takes images of {adapted} channels and its base of {own}, so its first layer is another one and "
            f"no change of the base's. petl.Tasks runs such deltas side by side"
        )


def _refuse_new_tensors(own: Mapping[str, Tensor], trunk: Mapping[str, Tensor], delta: NamedDelta) -> None:
    odd = [key for key, tensor in trunk.items() if key not in own or own[key].shape != tensor.shape]
    if odd:
        raise DeltaError(
            f"{delta.path} can't be combined: {listing(odd)} isn't a tensor of the base, or has another shape there. "
            f"petl.Tasks runs such deltas side by side"
        )
