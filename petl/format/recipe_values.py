"""Checks the parts of a recipe in a delta's header: sites, head, names of tensors, labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from petl.format.texts import are_texts, is_text

Shapes = Mapping[str, tuple[int, ...]]


def is_summary(value: Any) -> bool:
    """Returns whether the value says how many frozen tensors there are, and what their names come to."""
    return isinstance(value, dict) and type(value.get("tensors")) is int and is_text(value.get("names"))


def are_sites(value: Any) -> bool:
    """Returns whether the value is a list of lists of names, no name twice in one list."""
    return isinstance(value, list) and all(are_texts(names) and len({*names}) == len(names) for names in value)


def is_head(value: Any) -> bool:
    """Returns whether the value is what ``wrap`` takes as ``head``."""
    return isinstance(value, bool) or is_text(value) or are_texts(value)


def lost_keys(values: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """Lists the keys that the header names as unfrozen by hand and that the file lacks, the first of them at most."""
    lost = [key for key in values.get("also") or () if key not in shapes]
    return [f"also ({lost[0]}, which isn't in the file)"] if lost else []


def labels_off(values: Mapping[str, Any], shapes: Shapes) -> list[str]:
    """Says where there are too many or too few labels for ``num_classes``, or for the classifier in the file."""
    labels, classes = values.get("labels"), values["backbone"].get("num_classes")
    if labels is None or classes is None or len(labels) == classes:
        return []
    rows = {shape[0] for shape in shapes.values() if shape}
    if values["head"] and len(labels) in rows and classes not in rows:  # the user has exchanged the classifier by hand
        return []
    return [f"labels ({len(labels)} for {classes} classes)"]
