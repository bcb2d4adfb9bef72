"""Defines the record: what wrap did to a model, stored on the model; enough to show, save and undo the changes."""

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

_LIVE: list[weakref.ref[Record]] = []  # in the order in which the records were created


@dataclass(repr=False)
class Record:
    """What ``wrap`` did to a model.

    Attributes:
        methods, sites: the methods, and for each method the names of its sites.
        head_option, head: the user's ``head=``, and the names of the classifier's modules.
        tensors, head_tensors: for each method, and for the head, the state-dict keys of the tensors that it owns.
        unfrozen_by_hand: keys that train although neither a method nor the head owns them.
        originals: values from before ``wrap`` of base tensors that train in place or are kept in ``base_dtype``.
        frozen: key -> (owner, leaf, checksum) of all other base tensors.
        requires_grad, training_modes, changes, on_meta: what ``unwrap`` needs to restore the model.
        memory: how training steps save memory; None: the plain layers run.
        base_dtype: the user's dtype of the frozen base; low_precision_keys: the frozen tensors that have this dtype;
            full_precision_reasons: why other matrices keep their own.
        statistics, samples: copies of frozen norms' statistics, and a few numbers of every frozen tensor.
        checksums_before_cast, cast_to: checksums of frozen tensors from before a cast of the model, and the dtype of the cast.
        backbone, structure, classifier, create_args: how to rebuild the base, and its modules and their attributes.
        labels, pipeline, results, task, units, thresholds, quantiles, temperature, correction, approximate: values for the
            delta's header, which other code may set.
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
    task: str | None = None  # what the outputs mean: a name of `petl.format.outputs.TASKS`, "" for none of them
    units: str | list[str] | None = None  # of a regression's outputs
    thresholds: list[float] | None = None  # on the probability of each label
    quantiles: list[float] | None = None  # of a regression's outputs
    temperature: float | None = None  # that a classification's scores are divided by for confidences
    correction: dict[str, Any] | None = None  # of the classifier's bias, by `petl.correct`
    approximate: str | None = None  # the type that the delta's numbers were rounded to in a file, such as "int8"
    create_args: dict[str, Any] | None = None  # wrap's argument
    structure: dict[str, str] = field(default_factory=dict)  # of the base, as wrapping.structure describes it
    classifier: tuple[str, ...] = ()  # the modules whose size doesn't count there
    new_head: dict[str, str] = field(default_factory=dict)  # checksums of a classifier that wrap made, as it was then
    ridge: Any = None  # `petl.extend`'s statistics of the classifier; in no delta

    def __repr__(self) -> str:
        """Returns a summary in one line."""
        methods = ", ".join(
            f"{method.name} at {_quantity(len(sites), 'site')}"
            for method, sites in zip(self.methods, self.sites, strict=False)
        )
        base = f", base in {str(self.base_dtype).removeprefix('torch.')}" if self.base_dtype else ""
        labels = f", {_quantity(len(self.labels), 'label')}" if self.labels else ""
        return (
            f"Record({methods or 'no method'}; head: {_quantity(len(self.head), 'module')}; "
            f"{_quantity(len(self.owned_keys), 'tensor')} of its own, {len(self.frozen)} frozen; memory={self.memory!r}"
            f"{base}{labels})"
        )

    def __post_init__(self) -> None:
        _LIVE[:] = [ref for ref in _LIVE if ref() is not None]
        _LIVE.append(weakref.ref(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores a copied or pickled record; attributes that an older petl didn't have get their defaults."""
        vars(self).update({**vars(Record((), [])), **state})
        self.__post_init__()

    @property
    def owned_keys(self) -> set[str]:
        """The set of all keys that a method or the head owns, or that were unfrozen by hand."""
        return {key for keys in (*self.tensors, self.head_tensors, self.unfrozen_by_hand) for key in keys}

    @property
    def digest(self) -> str:
        """The fingerprint of all frozen base tensors' current values; for tensors in ``base_dtype``, of their originals."""
        tensors = zip(self.frozen, self._tensors(), strict=True)
        originals = [self.originals[key] if key in self.low_precision_keys else tensor for key, tensor in tensors]
        return combined_fingerprint(dict(zip(self.frozen, fingerprints(originals), strict=True)))

    def moved(self) -> list[str]:
        """Returns the keys of frozen tensors that have changed since the model was wrapped."""
        recorded = [checksum for _, _, checksum in self.frozen.values()]
        pairs = zip(self.frozen, recorded, checksums(self._tensors()), strict=True)
        return [key for key, before, after in pairs if not is_unchanged(before, after)]

    def _tensors(self) -> list[Tensor]:
        """Returns the frozen base tensors, with an empty tensor for each that no longer exists."""
        tensors = [own_tensor(owner, leaf) for owner, leaf, _ in self.frozen.values()]
        return [torch.empty(0) if tensor is None else tensor for tensor in tensors]


def _quantity(number: int, what: str) -> str:
    """Returns a number with its noun, in the plural where needed."""
    return f"{number} {what}{'s' * (number != 1)}"


def living_records() -> list[Record]:
    """Returns all records that exist, of models and of their copies, in the order in which they were created."""
    return [record for ref in _LIVE if (record := ref()) is not None]
