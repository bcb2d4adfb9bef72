"""Builds the header of a delta from a wrapped model, checks it, writes it as JSON, and reads it.

A new key needs a field of Header with its check, a line in ``Header.of``, and a row in docs/format.md. The order of the fields is
the order of the keys in the JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from petl.delta.description import (
    backbone_now,
    described_outputs,
    frozen_names,
    header_classes,
    pipeline_by_timm,
    structure_now,
)
from petl.delta.sealed_text import KEY, SEAL, seal_of, sealed_values
from petl.delta.tensors import delta_checksum, float_type_name
from petl.errors import DeltaError, MethodError, listing
from petl.format.backbone_values import FLOAT_TYPES, backbone_fault, is_backbone
from petl.format.calibration_values import is_correction, is_temperature
from petl.format.method_values import are_methods, oversized
from petl.format.outputs import are_shares, description_faults, is_units, labels_for, results_table
from petl.format.pipeline_values import is_pipeline, pipeline_fault
from petl.format.texts import are_texts, is_table_of_texts, is_text
from petl.methods.registry import check_method_values
from petl.version import __version__
from petl.wrapping.record import Record

FORMAT = 1

Check = Callable[[Any], bool]
Shapes = Mapping[str, tuple[int, ...]]


def _checked(check: Check, *, optional: bool = False) -> dict[str, Check]:
    """Returns the metadata of a field: the check of its value; an optional key is None in files that lack it."""
    return {"check": (lambda value: value is None or check(value)) if optional else check}


def _is_summary(value: Any) -> bool:
    """Returns whether the value is what ``frozen_names`` returns."""
    return isinstance(value, dict) and type(value.get("tensors")) is int and is_text(value.get("names"))


def _are_sites(value: Any) -> bool:
    """Returns whether the value is a list of lists of names, no name twice in one list."""
    return isinstance(value, list) and all(are_texts(names) and len({*names}) == len(names) for names in value)


def _is_head(value: Any) -> bool:
    """Returns whether the value is what ``wrap`` takes as ``head``."""
    return isinstance(value, bool) or is_text(value) or are_texts(value)


@dataclass(frozen=True)
class Header:
    """The header of one delta; docs/format.md says what each key means. ``unknown`` holds the keys of other versions of petl."""

    format: int = field(metadata=_checked(lambda value: type(value) is int and value >= 1))
    version: str = field(metadata=_checked(is_text))
    backbone: dict[str, Any] = field(metadata=_checked(is_backbone))
    digest: str = field(metadata=_checked(is_text))
    structure: dict[str, str] | None = field(metadata=_checked(is_table_of_texts, optional=True))
    frozen: dict[str, Any] | None = field(metadata=_checked(_is_summary, optional=True))
    methods: list[dict[str, Any]] = field(metadata=_checked(are_methods))
    sites: list[list[str]] = field(metadata=_checked(_are_sites))
    base_dtype: str | None = field(metadata=_checked(lambda value: value in ("bfloat16", "float16"), optional=True))
    head: bool | str | list[str] = field(metadata=_checked(_is_head))
    also: list[str] | None = field(metadata=_checked(are_texts, optional=True))
    dtype: str | None = field(metadata=_checked(lambda value: value in FLOAT_TYPES, optional=True))
    labels: list[str] | None = field(metadata=_checked(are_texts, optional=True))
    task: str | None = field(metadata=_checked(is_text, optional=True))
    units: str | list[str] | None = field(metadata=_checked(is_units, optional=True))
    thresholds: list[float] | None = field(metadata=_checked(are_shares, optional=True))
    quantiles: list[float] | None = field(metadata=_checked(are_shares, optional=True))
    temperature: float | None = field(metadata=_checked(is_temperature, optional=True))
    correction: dict[str, Any] | None = field(metadata=_checked(is_correction, optional=True))
    pipeline: dict[str, Any] | None = field(metadata=_checked(is_pipeline, optional=True))
    results: dict[str, Any] | None = field(metadata=_checked(lambda value: isinstance(value, dict), optional=True))
    checksum: str | None = field(metadata=_checked(is_text, optional=True))
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        record: Record,
        also: list[str],
        *,
        labels: Iterable[Any] | None = None,
        task: str | None = None,
        units: str | list[str] | None = None,
        thresholds: list[float] | None = None,
        results: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Header:
        """Builds the header of a wrapped model; ``also`` are the keys that were unfrozen by hand.

        Raises:
            DeltaError: labels, task, results or dtype that no delta can have.
        """
        classes, outputs = header_classes(model, record)
        names = labels_for(outputs, labels if labels is not None else record.labels)
        return cls(
            format=FORMAT,
            version=__version__,
            backbone=backbone_now(model, record, classes),
            digest=record.digest,
            structure=structure_now(model, record),
            frozen=frozen_names(record),
            methods=[method.to_json() for method in record.methods],
            sites=record.sites,
            base_dtype=str(record.base_dtype).removeprefix("torch.") if record.low_precision_keys else None,
            # also True where the user has exchanged the classifier after wrap
            head=cast(Any, record.head_option) or classes != record.backbone["num_classes"],
            also=also,
            dtype=float_type_name(dtype),
            labels=names,
            **described_outputs(record, classes or len(names or ()), task, units, thresholds),
            pipeline=record.pipeline or pipeline_by_timm(model),
            results=results_table(results) if results is not None else record.results,
            checksum=None,  # sealed() sets the checksum, from the tensors as they are stored
        )

    def sealed(self, tensors: Mapping[str, Tensor]) -> Header:
        """Returns the header with the checksum of the tensors in the same file."""
        return replace(self, checksum=delta_checksum(tensors))

    def to_dict(self) -> dict[str, Any]:
        """Returns every key with its value, as ``petl.read`` does: None for keys that the file lacks."""
        return {**{key: getattr(self, key) for key in SCHEMA}, **self.unknown}

    def to_metadata(self, path: Path | str, shapes: Shapes) -> dict[str, str]:
        """Returns the header as the metadata of a safetensors file, after the same checks as when a file is read."""
        try:
            text = json.dumps(self.to_dict())
        except (TypeError, ValueError, RecursionError) as error:
            raise DeltaError(
                f"can't write {path}: labels, results and create_args must be JSON values ({error})"
            ) from None
        if wrong := faults(json.loads(text), shapes):
            raise DeltaError(
                f"can't write {path}: {listing(wrong)} can't stand in a delta's header, and no petl could load it"
            )
        return {KEY: text, SEAL: seal_of(text)}

    @classmethod
    def from_metadata(cls, path: Path, metadata: Mapping[str, str], shapes: Shapes) -> Header:
        """Reads and checks the header in the metadata of a safetensors file whose tensors have these shapes.

        Raises:
            DeltaError: the header is missing, damaged, of a newer format, or has values that no delta can have.
        """
        values = sealed_values(path, metadata)
        if type(number := values["format"]) is int and number > FORMAT:
            raise DeltaError(
                f"{path} has format {number}, and petl {__version__} reads up to {FORMAT}; upgrade petl-vision"
            )
        if wrong := faults(values, shapes):
            raise DeltaError(
                f"{path}: its header lacks or misstates {listing(wrong)}; the file is damaged, or not to be trusted"
            )
        try:
            for method in values["methods"]:
                check_method_values(method)
        except MethodError as error:
            raise DeltaError(f"{path}: its recipe asks for what petl doesn't do: {error}") from None
        known: dict[str, Any] = {key: values.get(key) for key in SCHEMA}  # None for keys that older files lack
        return cls(**known, unknown={key: value for key, value in values.items() if key not in known})


SCHEMA: dict[str, Check] = {key.name: key.metadata["check"] for key in fields(Header) if "check" in key.metadata}


def faults(values: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """Lists what is wrong with a header's values, in a few words each; ``shapes`` are those of the tensors in the same file.

    >>> faults({"format": 1}, {})[:3]
    ['version', 'backbone', 'digest']
    """
    wrong = [key for key, check in SCHEMA.items() if not check(values.get(key))]
    if wrong:
        return [_explained(key, values.get(key)) for key in wrong]
    if len(values["methods"]) != len(values["sites"]):
        return ["sites (as many lists as methods)"]
    off = [*_lost(values, shapes), *_labels_off(values, shapes), *description_faults(values)]
    return [*off, *oversized(values["methods"], shapes)]


def _explained(key: str, value: Any) -> str:
    """Returns the key, with the reason where one is known."""
    reason: Any = {"backbone": backbone_fault, "pipeline": pipeline_fault}.get(key)
    return f"{key} ({reason(value)})" if reason and isinstance(value, dict) else key


def _lost(values: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """Lists the keys that the header names as unfrozen by hand and that the file lacks, the first of them at most."""
    lost = [key for key in values.get("also") or () if key not in shapes]
    return [f"also ({lost[0]}, which isn't in the file)"] if lost else []


def _labels_off(values: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """Says where there are too many or too few labels for ``num_classes``, or for the classifier in the file."""
    labels, classes = values.get("labels"), values["backbone"].get("num_classes")
    if labels is None or classes is None or len(labels) == classes:
        return []
    rows = {shape[0] for shape in shapes.values() if shape}
    if values["head"] and len(labels) in rows and classes not in rows:  # the user has exchanged the classifier by hand
        return []
    return [f"labels ({len(labels)} for {classes} classes)"]
