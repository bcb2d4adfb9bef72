"""What wrap did to a model, kept on the model: enough to show it, save it and take it back."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import StateError, listing
from petl.methods.method import Method
from petl.wrapping.fingerprints import combined, fingerprints, held, marks, own_tensor

RECORD = "_petl_record"
_HANDLED = {"_modules", "_parameters", "_buffers", "training", RECORD}
_ABSENT = object()
_LIVE: list[weakref.ref[Record]] = []  # in the order in which they were made


@dataclass(repr=False)
class Record:
    """What ``wrap`` did.

    methods, sites: the methods with the names of their sites. head_option, head: what the user asked for, and the
    classifier's modules. tensors: per method, then for the head, the state-dict keys that are its own. backup: values of
    base tensors that train in place. frozen: key -> (owner, leaf, mark) of all others. memory: how training steps
    save memory (None: the plain layers run). base_dtype: the type that was asked for the frozen base; narrow: the keys of
    frozen tensors that have it, whose originals are in backup too; wide: why other matrices haven't. statistics: copies of frozen
    norms' statistics; samples: a few numbers of every frozen tensor; first: marks from before the model was cast; cast: the type
    that it was cast to. labels, pipeline,
    results go into the delta's header and may be set by whoever knows them.
    """

    methods: tuple[Method, ...]
    sites: list[list[str]]
    head_option: bool | str | tuple[str, ...] = True
    head: tuple[str, ...] = ()
    tensors: list[list[str]] = field(default_factory=list)
    head_tensors: list[str] = field(default_factory=list)
    backup: dict[str, Tensor] = field(default_factory=dict)
    frozen: dict[str, tuple[nn.Module, str, str]] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    modes: dict[str, bool] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    hollow: bool = False  # wrapped on the meta device, without values
    backbone: dict[str, Any] = field(default_factory=dict)
    also: list[str] = field(default_factory=list)
    memory: str | None = "lean"
    base_dtype: torch.dtype | None = None
    narrow: list[str] = field(default_factory=list)
    wide: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    samples: dict[str, Tensor] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    cast: torch.dtype | None = None
    labels: list[str] | None = None
    pipeline: dict[str, Any] | None = None
    results: dict[str, Any] | None = None
    task: str | None = None  # what the outputs mean: "classification", "multilabel", "regression"
    create_args: dict[str, Any] | None = None  # that the user gave to wrap
    structure: dict[str, str] = field(default_factory=dict)  # of the base, as petl.structure tells it
    classifier: tuple[str, ...] = ()  # the modules whose size doesn't count there

    def __repr__(self) -> str:
        """A few lines' worth; all of it is in the attributes."""
        methods = ", ".join(
            f"{method.name} at {_counted(len(sites), 'site')}"
            for method, sites in zip(self.methods, self.sites, strict=False)
        )
        base = f", base in {str(self.base_dtype).removeprefix('torch.')}" if self.base_dtype else ""
        labels = f", {_counted(len(self.labels), 'label')}" if self.labels else ""
        return (
            f"Record({methods or 'no method'}; head: {_counted(len(self.head), 'module')}; "
            f"{_counted(len(self.planned), 'tensor')} of its own, {len(self.frozen)} frozen; memory={self.memory!r}"
            f"{base}{labels})"
        )

    def __post_init__(self) -> None:
        _LIVE[:] = [ref for ref in _LIVE if ref() is not None]
        _LIVE.append(weakref.ref(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy is known as well; one that an older petl has pickled lacks what is newer."""
        vars(self).update({**vars(Record((), [])), **state})
        self.__post_init__()

    @property
    def planned(self) -> set[str]:
        """Every key that some method or the head owns."""
        return {key for keys in (*self.tensors, self.head_tensors, self.also) for key in keys}

    @property
    def digest(self) -> str:
        """One fingerprint of all frozen base tensors, as they are now; of narrow ones, of the originals."""
        tensors = zip(self.frozen, self._tensors(), strict=True)
        originals = [self.backup[key] if key in self.narrow else tensor for key, tensor in tensors]
        return combined(dict(zip(self.frozen, fingerprints(originals), strict=True)))

    def moved(self) -> list[str]:
        """Keys of frozen tensors that are no longer what they were when the model was wrapped."""
        then = [mark for _, _, mark in self.frozen.values()]
        now = zip(self.frozen, then, marks(self._tensors()), strict=True)
        return [key for key, before, after in now if not held(before, after)]

    def _tensors(self) -> list[Tensor]:
        """The frozen base tensors; an empty one for each that is gone."""
        own = [own_tensor(owner, leaf) for owner, leaf, _ in self.frozen.values()]
        return [torch.empty(0) if tensor is None else tensor for tensor in own]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def live() -> list[Record]:
    """All records that exist, in the order in which they were made: of models, of their copies."""
    return [found for ref in _LIVE if (found := ref()) is not None]


def record(model: nn.Module) -> Record | None:
    """The record of what ``wrap`` did to this model, or to the one model inside it that is wrapped; None where none is."""
    found = list(wrapped_inside(model).values())
    return vars(found[0])[RECORD] if len(found) == 1 else None


def wrapped(model: nn.Module) -> tuple[nn.Module, Record]:
    """The wrapped model, bare, and its record, or a StateError; ``model`` may hold it (an average, a detector)."""
    found = wrapped_inside(model)
    if not found:
        raise StateError(
            f"this {type(bare(model)).__name__} is not wrapped, nor is a model inside it; call petl.wrap(model, 'lora') or "
            f"petl.load(path, model)"
        )
    if len(found) > 1:
        raise StateError(
            f"this {type(bare(model)).__name__} holds {len(found)} wrapped models: {listing(found)}; pass one of them, such as "
            f"model.{next(iter(found))}"
        )
    (inner,) = found.values()
    return inner, vars(inner)[RECORD]


def wrapped_inside(model: nn.Module) -> dict[str, nn.Module]:
    """The wrapped models by their names in ``model``: itself under "", or those inside it."""
    plain = bare(model)
    if RECORD in vars(plain):
        return {"": plain}
    return {name: module for name, module in plain.named_modules() if RECORD in vars(module)}


def refuse_outside(model: nn.Module) -> None:
    """A StateError where a model that holds a wrapped one trains more than that one, which no delta would have."""
    found = wrapped_inside(model)
    inside = {parameter for module in found.values() for parameter in module.parameters()}
    others = [name for name, p in bare(model).named_parameters() if p.requires_grad and p not in inside]
    if others and found:
        name = next(iter(found))
        raise StateError(
            f"this {type(bare(model)).__name__} also trains {listing(others)} outside of the wrapped model {name!r}, which alone "
            f"a delta holds; save that one, petl.save(model.{name}, path), and keep the others yourself"
        )


def bare(model: nn.Module) -> nn.Module:
    """The model itself, under DistributedDataParallel, DataParallel, torch.compile and accelerate's wrappers."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(inner := vars(model).get("_modules", {}).get("_orig_mod"), nn.Module):  # torch.compile
            model = inner
        else:
            return model


@dataclass
class Change:
    """One thing about a module that is to be put back: its class, an attribute, or one of its three dicts."""

    module: nn.Module
    slot: str
    value: Any

    def undo(self) -> None:
        if self.slot == "__class__":
            self.module.__class__ = self.value
        elif self.slot in ("_modules", "_parameters", "_buffers"):
            there = vars(self.module)[self.slot]
            there.clear()
            there.update(self.value)
        elif self.value is _ABSENT:
            vars(self.module).pop(self.slot, None)
        else:
            vars(self.module)[self.slot] = self.value


class Snapshot:
    """The structure of a model by reference: classes, children, parameters, buffers, plain attributes; no copies."""

    def __init__(self, model: nn.Module):
        self.before = [(module, _structure(module)) for module in model.modules()]

    def changes(self) -> list[Change]:
        """What has become different since, as a list of undos."""
        return [change for module, then in self.before for change in _differences(module, then)]

    def children(self) -> list[Change]:
        """Undos of what may be replaced later, such as a classifier that the user resets after ``wrap``."""
        nested = [Change(module, "_modules", then["_modules"]) for module, then in self.before if then["_modules"]]
        top, then = self.before[0]
        return [*nested, *(Change(top, key, then[key]) for key in ("num_classes",) if key in then)]

    def restore(self) -> None:
        """Put everything back as it was."""
        for change in self.changes():
            change.undo()


class Whole:
    """All that a merge may change of a model: its structure, record, modes, flags, and which memory parameters use.

    Numbers are copied (``copies``) only where another library's code will write to them in place.
    """

    def __init__(self, model: nn.Module, *, copies: bool):
        self.model, self.structure, self.record = model, Snapshot(model), record(model)
        self.modes = [(module, module.training) for module in model.modules()]
        lists = [value for module in model.modules() for value in vars(module).values() if isinstance(value, list)]
        self.lists = [(value, [*value]) for value in lists]  # in which peft notes what it has merged
        self.tensors = [
            (p, p.detach(), p.requires_grad, p.detach().clone() if copies else None) for p in model.parameters()
        ]

    def restore(self) -> None:
        """Put everything back as it was."""
        self.structure.restore()
        for value, before in self.lists:
            value[:] = before
        for parameter, alias, flag, copy in self.tensors:
            parameter.data = alias
            parameter.requires_grad_(flag)
            if copy is not None:
                parameter.detach().copy_(copy)
        for module, mode in self.modes:
            module.training = mode
        vars(self.model)[RECORD] = self.record


def _structure(module: nn.Module) -> dict[str, Any]:
    plain = {key: value for key, value in vars(module).items() if key not in _HANDLED}
    dicts = {key: dict(vars(module)[key]) for key in ("_modules", "_parameters", "_buffers")}
    return {**plain, **dicts, "__class__": type(module)}


def _differences(module: nn.Module, then: dict[str, Any]) -> list[Change]:
    now = _structure(module)
    keys = [key for key in then if not _same(then[key], now.get(key, _ABSENT))]
    return [Change(module, key, then[key]) for key in keys] + [Change(module, k, _ABSENT) for k in now if k not in then]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(one[key] is other[key] for key in one)
    return one is other
