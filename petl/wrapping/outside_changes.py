"""What other code does to a model after ``wrap``, seen at the time: casts, norms exchanged for sync-BN, base weights loaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from petl.errors import StateError, listing
from petl.graft.classes import base_class, is_held_in_eval
from petl.graft.graft import add_fast_paths, hold_in_eval
from petl.graft.kinds import FastPath
from petl.graft.sharded import is_shard
from petl.sites.layers import has_running_statistics
from petl.wrapping.fingerprints import held, mark, own_tensor, owned
from petl.wrapping.frozen_base import adopt, near, refresh, remember
from petl.wrapping.record import RECORD, Record


def follow(model: nn.Module, made: Record) -> None:
    """Let a model that is being wrapped notice what is done to it from now on."""
    remember(model, made)
    add_fast_paths(model, *([Followed, Sized] if hasattr(model, "set_input_size") else [Followed]))


class Followed(FastPath):
    """The whole model: it keeps its norms held, its base's fingerprints and its base's bits, whoever works on it."""

    around_grafts = True

    def train(self, mode: bool = True) -> Any:
        model = cast(nn.Module, self)
        made = vars(model).get(RECORD)
        if made is not None and not torch.compiler.is_compiling():
            _hold_again(model, made)
            _undo_resets(made)
        return super().train(mode)  # type: ignore[misc]  # nn.Module.train comes later in the order

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        made = vars(self).get(RECORD)
        casts = _casts(made, fn) if made is not None else {}
        if casts:
            assert made is not None
            _refuse_narrow(made, casts)
            moved = set(made.moved())
        out = super()._apply(fn, *args, **kwargs)  # type: ignore[misc]  # as above
        if casts and made is not None:
            _note_cast(made, casts, moved)
        return out

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        made = vars(self).get(RECORD)
        if made is not None:
            _take_in(cast(nn.Module, self), made, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)  # type: ignore[misc]  # as above


class Sized(FastPath):
    """A model that can be built again for another image size, which makes other base tensors."""

    around_grafts = True

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        if vars(self).get(RECORD) is not None:
            raise StateError(
                f"set_input_size on a wrapped {type(self).__name__} would change its frozen base, and deltas of it could not be "
                f"loaded; petl.unwrap(model), set_input_size, and petl.wrap again"
            )
        super().set_input_size(*args, **kwargs)  # type: ignore[misc]  # the base class's own


def _hold_again(model: nn.Module, made: Record) -> None:
    """Hold norms that were exchanged for others with the same statistics (``convert_sync_batchnorm``)."""
    there = set(model.modules())
    if all(owner in there for owner, _, _ in made.frozen.values()):
        return
    before = {key: entry[0] for key, entry in made.frozen.items()}
    refresh(model, made)
    for key, (owner, leaf, _) in made.frozen.items():
        if owner is before[key] or leaf not in ("running_mean", "running_var") or not has_running_statistics(owner):
            continue
        if isinstance(before[key], BatchNormAct2d) and base_class(owner) is nn.SyncBatchNorm:
            raise StateError(
                f"{key.rpartition('.')[0]} was a norm with an activation, which torch's convert_sync_batchnorm leaves out; "
                f"build the model anew and use timm.layers.convert_sync_batchnorm(model)"
            )
        if not is_held_in_eval(owner):
            hold_in_eval(owner)


def _undo_resets(made: Record) -> None:
    """Put held norms' statistics back where ``update_bn`` or ``reset_running_stats`` has emptied them."""
    empty = [key for key, value in made.statistics.items() if _was_reset(made, key, value)]
    for key in empty:
        owner, leaf, _ = made.frozen[key]
        cast(Tensor, own_tensor(owner, leaf)).detach().copy_(made.statistics[key])
    if empty:
        warnings.warn(
            f"statistics of norms that petl holds still had been reset ({listing(empty, 2)}); petl put them back: held norms "
            f"take none from batches, by update_bn neither; petl.BN(stats='adapt') trains them",
            stacklevel=4,
        )


def _was_reset(made: Record, key: str, kept: Tensor) -> bool:
    entry = made.frozen.get(key)
    own = None if entry is None else own_tensor(entry[0], entry[1])
    if own is None or own.is_meta or own.shape != kept.shape:
        return False
    start = 1 if key.endswith("running_var") else 0
    return bool((own == start).all()) and not bool((kept == start).all())


def _casts(made: Record, fn: Callable[[Tensor], Tensor]) -> dict[torch.dtype, torch.dtype]:
    """The types of frozen tensors that ``fn`` would change, with what they become."""
    own = [own_tensor(owner, leaf) for owner, leaf, _ in made.frozen.values()]
    places = {tensor.dtype: tensor.device for tensor in own if tensor is not None}
    try:
        found = {kind: fn(torch.empty(0, dtype=kind, device=device)).dtype for kind, device in places.items()}
    except Exception:  # a function of somebody's that wants whole tensors; a cast by it is found by its marks
        return {}
    return {kind: new for kind, new in found.items() if new != kind}


def _refuse_narrow(made: Record, casts: Mapping[torch.dtype, torch.dtype]) -> None:
    if made.narrow:
        kinds = ", ".join(sorted(str(new) for new in casts.values()))
        raise StateError(
            f"a model with base_dtype={made.base_dtype} can't be cast to {kinds}: its frozen base is kept in that type already; "
            f"petl.unwrap(model), cast it, and petl.wrap it again, or leave out base_dtype"
        )


def _note_cast(made: Record, casts: Mapping[torch.dtype, torch.dtype], moved: set[str]) -> None:
    """New marks for what was cast from the type that it had at ``wrap``, or from one that held all of its bits."""
    for key, (owner, leaf, then) in made.frozen.items():
        own, kind = own_tensor(owner, leaf), _dtype(then)
        if own is None or key in moved or casts.get(kind) != own.dtype:
            continue
        first = made.first.setdefault(key, then)
        rounded = torch.promote_types(_dtype(first), kind) != kind or first.startswith(f"{own.dtype} ")
        seen = first if rounded else _meta_mark(own, then) if then.endswith(" meta") else mark(own)
        made.frozen[key] = (owner, leaf, seen)
        if seen != first:
            continue
        if held(first, mark(own)):
            del made.first[key]
    made.cast = next(iter(casts.values()))
    made.backbone["dtype"] = str(made.cast).removeprefix("torch.")
    made.samples = {key: t.to(casts.get(t.dtype, t.dtype)) for key, t in made.samples.items()}
    made.statistics = {key: t.to(casts.get(t.dtype, t.dtype)) for key, t in made.statistics.items()}


def _dtype(seen: str) -> torch.dtype:
    return getattr(torch, seen.partition(" ")[0].removeprefix("torch."))


def _meta_mark(own: Tensor, then: str) -> str:
    return f"{own.dtype} {then.partition(' ')[2]}"


def _take_in(model: nn.Module, made: Record, state: Any, prefix: str) -> None:
    """Look at values that are about to be loaded: averages of the base leave its bits, other weights become the base."""
    refresh(model, made)
    names = {(owner, leaf): f"{prefix}{key}" for key, owner, leaf in owned(model)}
    fresh = []
    for key, (owner, leaf, then) in made.frozen.items():
        name, own = names.get((owner, leaf), ""), own_tensor(owner, leaf)
        if name not in state and f"{prefix}{key}" in state:  # peft has given it another name
            state[name] = state.pop(f"{prefix}{key}")
        value = state.get(name)
        if own is None or own.is_meta or is_shard(own) or not isinstance(value, Tensor) or value.shape != own.shape:
            continue
        before = made.backup[key] if key in made.narrow else own.detach()
        new = value.detach().to(before.device, before.dtype)
        if torch.equal(new, before):
            continue
        if near(new, before) and mark(own) == then:  # not what was on the meta device: it has no bits of its own
            state[name] = before.clone()
        else:
            fresh.append(key)
    _take_base(
        made, fresh, state, {key: names.get((made.frozen[key][0], made.frozen[key][1]), "") for key in fresh}, prefix
    )


def _take_base(made: Record, fresh: list[str], state: Any, names: Mapping[str, str], prefix: str) -> None:
    for key in fresh:
        adopt(made, key, state[names[key]])
    if not fresh:
        return
    for key, kept in made.backup.items():  # what trains in place starts, and is given back, as the new base has it
        value = state.get(f"{prefix}{key}")
        if key not in made.narrow and isinstance(value, Tensor) and value.shape == kept.shape:
            made.backup[key] = value.detach().to("cpu", kept.dtype, copy=True)
    warnings.warn(
        f"{len(fresh)} frozen tensors got other values by load_state_dict ({listing(fresh, 3)}): petl takes them for the base "
        f"from now on, and deltas of this model go onto that one",
        stacklevel=5,
    )
