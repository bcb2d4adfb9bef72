"""Protects the frozen base of a wrapped model against what other code does to the model after wrap."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from petl.errors import StateError, listing
from petl.graft.classes import base_class, is_held_in_eval
from petl.graft.graft import add_fast_paths, hold_in_eval
from petl.graft.kinds import FastPath
from petl.sites.layers import has_running_statistics
from petl.wrapping.casts import dtype_changes, note_cast, refuse_second_cast
from petl.wrapping.frozen_base import follow_exchanged_layers, remember_frozen
from petl.wrapping.loaded_values import sort_loaded_values
from petl.wrapping.own_tensors import own_tensor
from petl.wrapping.record import Record
from petl.wrapping.snapshot import RECORD


def guard_base(model: nn.Module, record: Record) -> None:
    """Adds to a model that is being wrapped the classes that notice what other code does to it."""
    remember_frozen(model, record)
    add_fast_paths(model, *([GuardedModel, FixedInputSize] if hasattr(model, "set_input_size") else [GuardedModel]))


class GuardedModel(FastPath):
    """A wrapped model that reacts to ``train()``, casts and ``load_state_dict``: norms stay frozen, the record stays correct."""

    around_grafts = True

    def train(self, mode: bool = True) -> Any:
        model = cast(nn.Module, self)
        record = vars(model).get(RECORD)
        if record is not None and not torch.compiler.is_compiling():
            _hold_again(model, record)
            _undo_resets(record)
        return super().train(mode)  # type: ignore[misc]  # nn.Module.train comes later in the MRO

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        record = vars(self).get(RECORD)
        casts = dtype_changes(record, fn) if record is not None else {}
        if casts:
            assert record is not None
            refuse_second_cast(record, casts)
            moved = set(record.moved())
        out = super()._apply(fn, *args, **kwargs)  # type: ignore[misc]  # nn.Module's method comes later in the MRO
        if casts and record is not None:
            note_cast(record, casts, moved)
        return out

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        record = vars(self).get(RECORD)
        if record is not None:
            sort_loaded_values(cast(nn.Module, self), record, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)  # type: ignore[misc]  # nn.Module's method comes later in the MRO


class FixedInputSize(FastPath):
    """A wrapped model that refuses ``set_input_size``, which would replace tensors of the base."""

    around_grafts = True

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        if vars(self).get(RECORD) is not None:
            raise StateError(
                f"set_input_size on a wrapped {type(self).__name__} would change its frozen base, and deltas of it could not be "
                f"loaded; petl.unwrap(model), set_input_size, and petl.wrap again"
            )
        super().set_input_size(*args, **kwargs)  # type: ignore[misc]  # timm's class has the method


def _hold_again(model: nn.Module, record: Record) -> None:
    """Keeps norms in evaluation mode that replaced frozen ones with the same statistics (``convert_sync_batchnorm``)."""
    modules = set(model.modules())
    if all(owner in modules for owner, _, _ in record.frozen.values()):
        return
    old_owners = {key: entry[0] for key, entry in record.frozen.items()}
    follow_exchanged_layers(model, record)
    for key, (owner, leaf, _) in record.frozen.items():
        if owner is old_owners[key] or leaf not in ("running_mean", "running_var") or not has_running_statistics(owner):
            continue
        if isinstance(old_owners[key], BatchNormAct2d) and base_class(owner) is nn.SyncBatchNorm:
            raise StateError(
                f"{key.rpartition('.')[0]} was a norm with an activation, which torch's convert_sync_batchnorm leaves out; "
                f"build the model anew and use timm.layers.convert_sync_batchnorm(model)"
            )
        if not is_held_in_eval(owner):
            hold_in_eval(owner)


def _undo_resets(record: Record) -> None:
    """Restores the statistics of frozen norms where ``update_bn`` or ``reset_running_stats`` has reset them."""
    reset_keys = [key for key, value in record.statistics.items() if _was_reset(record, key, value)]
    for key in reset_keys:
        owner, leaf, _ = record.frozen[key]
        cast(Tensor, own_tensor(owner, leaf)).detach().copy_(record.statistics[key])
    if reset_keys:
        warnings.warn(
            f"statistics of norms that petl holds still had been reset ({listing(reset_keys, 2)}); petl put them back: held "
            f"norms take none from batches, by update_bn neither; petl.BN(stats='adapt') trains them",
            stacklevel=4,
        )


def _was_reset(record: Record, key: str, kept: Tensor) -> bool:
    """Returns whether a statistic has its initial value although its copy, ``kept``, has not."""
    entry = record.frozen.get(key)
    tensor = None if entry is None else own_tensor(entry[0], entry[1])
    if tensor is None or tensor.is_meta or tensor.shape != kept.shape:
        return False
    initial = 1 if key.endswith("running_var") else 0
    return bool((tensor == initial).all()) and not bool((kept == initial).all())
