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
from petl.delta.tensors import delta_checksum
from petl.delta.versions import FORMAT, refuse_newer
from petl.errors import DeltaError, MethodError, listing
from petl.format.backbone_values import FLOAT_TYPES, backbone_fault, is_backbone
from petl.format.calibration_values import is_correction, is_temperature
from petl.format.method_values import are_methods, oversized
from petl.format.outputs import are_shares, description_faults, is_units, labels_for, results_table
from petl.format.packing import PACKED_TYPES, is_packing, packing_faults, unpacked_shapes
from petl.format.pipeline_values import is_pipeline, pipeline_fault
from petl.format.recipe_values import Shapes, are_sites, is_head, is_summary, labels_off, lost_keys
from petl.format.texts import are_texts, is_table_of_texts, is_text, parsed_json
from petl.methods.registry import check_method_values
from petl.version import __version__
from petl.wrapping.record import Record

Check = Callable[[Any], bool]
STORED_TYPES = (*FLOAT_TYPES, *PACKED_TYPES)


def _checked(check: Check, *, optional: bool = False) -> dict[str, Check]:
    """Returns the metadata of a field: the check of its value; an optional key is None in files that lack it."""
    return {"check": (lambda value: value is None or check(value)) if optional else check}


@dataclass(frozen=True)
class Header:
    """The header of one delta; docs/format.md says what each key means. ``unknown`` holds the keys of other versions of petl."""

    format: int = field(metadata=_checked(lambda value: type(value) is int and value >= 1))
    version: str = field(metadata=_checked(is_text))
    backbone: dict[str, Any] = field(metadata=_checked(is_backbone))
    digest: str = field(metadata=_checked(is_text))
    structure: dict[str, str] | None = field(metadata=_checked(is_table_of_texts, optional=True))
    frozen: dict[str, Any] | None = field(metadata=_checked(is_summary, optional=True))
    methods: list[dict[str, Any]] = field(metadata=_checked(are_methods))
    sites: list[list[str]] = field(metadata=_checked(are_sites))
    base_dtype: str | None = field(metadata=_checked(lambda value: value in ("bfloat16", "float16"), optional=True))
    head: bool | str | list[str] = field(metadata=_checked(is_head))
    also: list[str] | None = field(metadata=_checked(are_texts, optional=True))
    dtype: str | None = field(metadata=_checked(lambda value: value in STORED_TYPES, optional=True))
    packed: dict[str, Any] | None = field(metadata=_checked(is_packing, optional=True))
    approximate: str | None = field(metadata=_checked(lambda value: value in STORED_TYPES, optional=True))
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
    needs: dict[str, str] | None = field(metadata=_checked(is_table_of_texts, optional=True))
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
    ) -> Header:
        """Builds the header of a wrapped model, for tensors as they are; ``also`` are the keys that were unfrozen by hand.

        Raises:
            DeltaError: labels, task or results that no delta can have.
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
            dtype=None,  # stored_as() sets what depends on the types in the file
            packed=None,
            approximate=record.approximate,
            labels=names,
            **described_outputs(record, classes or len(names or ()), task, units, thresholds),
            pipeline=record.pipeline or pipeline_by_timm(model),
            results=results_table(results) if results is not None else record.results,
            checksum=None,  # sealed() sets the checksum, from the tensors as they are stored
            needs=None,
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
            values = parsed_json(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise DeltaError(
                f"can't write {path}: labels, results and create_args must be JSON values ({error})"
            ) from None
        if wrong := faults(values, shapes):
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
        refuse_newer(path, values)
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
    if unfit := packing_faults(values.get("packed"), shapes):
        return unfit
    whole = unpacked_shapes(values.get("packed"), shapes)
    off = [*lost_keys(values, whole), *labels_off(values, whole), *description_faults(values)]
    return [*off, *oversized(values["methods"], whole)]


def _explained(key: str, value: Any) -> str:
    """Returns the key, with the reason where one is known."""
    reason: Any = {"backbone": backbone_fault, "pipeline": pipeline_fault}.get(key)
    return f"{key} ({reason(value)})" if reason and isinstance(value, dict) else key
