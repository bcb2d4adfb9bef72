"""The record: what wrap did to a model, kept on the model; enough to show it, save it and take it back."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from petl.methods.method import Method
from petl.wrapping.fingerprints import checksums, combined_fingerprint, fingerprints, is_unchanged
from petl.wrapping.own_tensors import own_tensor
from petl.wrapping.snapshot import Undo

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
    originals: dict[str, Tensor] = field(default_factory=dict)
    frozen: dict[str, tuple[nn.Module, str, str]] = field(default_factory=dict)
    requires_grad: dict[str, bool] = field(default_factory=dict)
    training_modes: dict[str, bool] = field(default_factory=dict)
    changes: list[Undo] = field(default_factory=list)
    on_meta: bool = False  # wrapped on the meta device, without values
    backbone: dict[str, Any] = field(default_factory=dict)
    unfrozen_by_hand: list[str] = field(default_factory=list)
    memory: str | None = "lean"
    base_dtype: torch.dtype | None = None
    low_precision_keys: list[str] = field(default_factory=list)
    full_precision_reasons: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    samples: dict[str, Tensor] = field(default_factory=dict)
    checksums_before_cast: dict[str, str] = field(default_factory=dict)
    cast_to: torch.dtype | None = None
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
            f"{_counted(len(self.owned_keys), 'tensor')} of its own, {len(self.frozen)} frozen; memory={self.memory!r}"
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
    def owned_keys(self) -> set[str]:
        """Every key that some method or the head owns."""
        return {key for keys in (*self.tensors, self.head_tensors, self.unfrozen_by_hand) for key in keys}

    @property
    def digest(self) -> str:
        """One fingerprint of all frozen base tensors, as they are now; of narrow ones, of the originals."""
        tensors = zip(self.frozen, self._tensors(), strict=True)
        originals = [self.originals[key] if key in self.low_precision_keys else tensor for key, tensor in tensors]
        return combined_fingerprint(dict(zip(self.frozen, fingerprints(originals), strict=True)))

    def moved(self) -> list[str]:
        """Keys of frozen tensors that are no longer what they were when the model was wrapped."""
        then = [mark for _, _, mark in self.frozen.values()]
        now = zip(self.frozen, then, checksums(self._tensors()), strict=True)
        return [key for key, before, after in now if not is_unchanged(before, after)]

    def _tensors(self) -> list[Tensor]:
        """The frozen base tensors; an empty one for each that is gone."""
        own = [own_tensor(owner, leaf) for owner, leaf, _ in self.frozen.values()]
        return [torch.empty(0) if tensor is None else tensor for tensor in own]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def living_records() -> list[Record]:
    """All records that exist, in the order in which they were record: of models, of their copies."""
    return [found for ref in _LIVE if (found := ref()) is not None]
