"""Guards the frozen base of a wrapped model against what other code does to the model after wrap."""

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
    """Lets a model that is being wrapped notice what other code does to it from now on."""
    remember_frozen(model, record)
    add_fast_paths(model, *([GuardedModel, FixedInputSize] if hasattr(model, "set_input_size") else [GuardedModel]))


class GuardedModel(FastPath):
    """A wrapped model that reacts to ``train()``, casts and ``load_state_dict``: its norms stay frozen, its record stays true."""

    around_grafts = True

    def train(self, mode: bool = True) -> Any:
        model = cast(nn.Module, self)
        record = vars(model).get(RECORD)
        if record is not None and not torch.compiler.is_compiling():
            _hold_again(model, record)
            _undo_resets(record)
        return super().train(mode)  # type: ignore[misc]  # nn.Module.train comes later in the order

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        record = vars(self).get(RECORD)
        casts = dtype_changes(record, fn) if record is not None else {}
        if casts:
            assert record is not None
            refuse_second_cast(record, casts)
            moved = set(record.moved())
        out = super()._apply(fn, *args, **kwargs)  # type: ignore[misc]  # as above
        if casts and record is not None:
            note_cast(record, casts, moved)
        return out

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        record = vars(self).get(RECORD)
        if record is not None:
            sort_loaded_values(cast(nn.Module, self), record, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)  # type: ignore[misc]  # as above


class FixedInputSize(FastPath):
    """A wrapped model whose ``set_input_size``, which would make other base tensors, is refused."""

    around_grafts = True

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        if vars(self).get(RECORD) is not None:
            raise StateError(
                f"set_input_size on a wrapped {type(self).__name__} would change its frozen base, and deltas of it could not be "
                f"loaded; petl.unwrap(model), set_input_size, and petl.wrap again"
            )
        super().set_input_size(*args, **kwargs)  # type: ignore[misc]  # the base class's own


def _hold_again(model: nn.Module, record: Record) -> None:
    """Holds norms in evaluation mode that were exchanged for others with the same statistics (``convert_sync_batchnorm``)."""
    there = set(model.modules())
    if all(owner in there for owner, _, _ in record.frozen.values()):
        return
    before = {key: entry[0] for key, entry in record.frozen.items()}
    follow_exchanged_layers(model, record)
    for key, (owner, leaf, _) in record.frozen.items():
        if owner is before[key] or leaf not in ("running_mean", "running_var") or not has_running_statistics(owner):
            continue
        if isinstance(before[key], BatchNormAct2d) and base_class(owner) is nn.SyncBatchNorm:
            raise StateError(
                f"{key.rpartition('.')[0]} was a norm with an activation, which torch's convert_sync_batchnorm leaves out; "
                f"build the model anew and use timm.layers.convert_sync_batchnorm(model)"
            )
        if not is_held_in_eval(owner):
            hold_in_eval(owner)


def _undo_resets(record: Record) -> None:
    """Puts the statistics of frozen norms back where ``update_bn`` or ``reset_running_stats`` has emptied them."""
    empty = [key for key, value in record.statistics.items() if _was_reset(record, key, value)]
    for key in empty:
        owner, leaf, _ = record.frozen[key]
        cast(Tensor, own_tensor(owner, leaf)).detach().copy_(record.statistics[key])
    if empty:
        warnings.warn(
            f"statistics of norms that petl holds still had been reset ({listing(empty, 2)}); petl put them back: held norms "
            f"take none from batches, by update_bn neither; petl.BN(stats='adapt') trains them",
            stacklevel=4,
        )


def _was_reset(record: Record, key: str, kept: Tensor) -> bool:
    entry = record.frozen.get(key)
    own = None if entry is None else own_tensor(entry[0], entry[1])
    if own is None or own.is_meta or own.shape != kept.shape:
        return False
    start = 1 if key.endswith("running_var") else 0
    return bool((own == start).all()) and not bool((kept == start).all())
