"""The header of a delta."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from petl.format.backbone_values import FLOAT_TYPES, backbone_fault, is_backbone
from petl.format.method_values import are_methods, oversized
from petl.format.pipeline_values import pipeline_fault
from petl.format.texts import are_texts, is_table_of_texts, is_text
from petl.wrapping.fingerprints import combined_fingerprint
from petl.wrapping.record import Record


def faults(header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is wrong with a header, in a few words each; ``shapes`` are those of the tensors beside it.

    >>> faults({"format": 1}, {})[:3]
    ['version', 'backbone', 'digest']
    """
    wrong = [key for key, fits in SCHEMA.items() if not fits(header.get(key))]
    number = header.get("format")
    wrong += ["format"] if type(number) is not int or number < 1 else []
    if wrong:
        return [_explained(key, header.get(key)) for key in wrong]
    if len(header["methods"]) != len(header["sites"]):
        return ["sites (as many lists as methods)"]
    return [*_lost(header, shapes), *_labels_off(header, shapes), *oversized(header["methods"], shapes)]


def _explained(key: str, value: Any) -> str:
    """The key, with the reason where there is one to give."""
    if key == "backbone" and isinstance(value, dict):
        return f"backbone ({backbone_fault(value)})"
    if key == "pipeline" and isinstance(value, dict):
        return f"pipeline ({pipeline_fault(value)})"
    return key


def _unique(names: list[str]) -> bool:
    return len({*names}) == len(names)


SCHEMA: dict[str, Callable[[Any], bool]] = {
    "version": is_text,
    "backbone": is_backbone,
    "digest": is_text,
    "frozen": lambda value: (
        value is None or (isinstance(value, dict) and type(value.get("tensors")) is int and is_text(value.get("names")))
    ),
    "methods": are_methods,
    "sites": lambda value: isinstance(value, list) and all(are_texts(names) and _unique(names) for names in value),
    "head": lambda value: isinstance(value, bool) or is_text(value) or are_texts(value),
    "also": lambda value: value is None or are_texts(value),
    "base_dtype": lambda value: value is None or value in ("bfloat16", "float16"),
    "dtype": lambda value: value is None or value in FLOAT_TYPES,
    "labels": lambda value: value is None or are_texts(value),
    "task": lambda value: value is None or is_text(value),
    "pipeline": lambda value: value is None or (isinstance(value, dict) and not pipeline_fault(value)),
    "results": lambda value: value is None or isinstance(value, dict),
    "structure": lambda value: value is None or is_table_of_texts(value),
    "checksum": lambda value: value is None or is_text(value),
}


def _lost(header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Keys that the header speaks of and the file doesn't hold."""
    lost = [key for key in header.get("also") or () if key not in shapes]
    return [f"also ({lost[0]}, which isn't in the file)"] if lost else []


def _labels_off(header: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Too many or too few labels: for the classes by timm's word, or the outputs of the classifier in the file."""
    labels, classes = header.get("labels"), header["backbone"].get("num_classes")
    if labels is None or classes is None or len(labels) == classes:
        return []
    rows = {shape[0] for shape in shapes.values() if shape}
    if header["head"] and len(labels) in rows and classes not in rows:  # a classifier that was put in by hand
        return []
    return [f"labels ({len(labels)} for {classes} classes)"]


def frozen_names(made: Record) -> dict[str, Any]:
    """How many frozen tensors there are, and one fingerprint of their names: for the header."""
    return {"tensors": len(made.frozen), "names": combined_fingerprint(dict.fromkeys(made.frozen, ""))}
