"""Settings and tasks in words."""

from __future__ import annotations

from typing import Any

from petl.delta.header import Header
from petl.methods.default import option_values
from petl.methods.method import Method

TASK_WORDS = {
    "classification": "classifying images",
    "multilabel": "images that may have several labels",
    "regression": "reading numbers off images",
    "ordinal": "levels in order",
    "metric": "comparing images by their features",
}


def classes_in_words(header: Header) -> str:
    """Returns ``, 3 classes``, or what the outputs are."""
    count = header.backbone.get("num_classes") or len(header.labels or ())
    if not count or header.task == "metric":
        return ""
    noun = {"multilabel": "label", "regression": "number", "ordinal": "level"}.get(header.task or "", "class")
    plural = {"class": "classes"}.get(noun, f"{noun}s")
    units = header.units if isinstance(header.units, str) else ", ".join(header.units or ())
    return f" ({count} {noun if count == 1 else plural}{f', in {units}' if units and units.isprintable() else ''})"


def settings_in_words(method: Method) -> str:
    """Returns a method's settings in words.

    >>> import petl
    >>> settings_in_words(petl.LoRA(rank=4))
    'Settings: where linear, conv; rank 4; alpha 8; rslora no; dora no; freeze down no; slices none.'
    """
    said = [f"{name.replace('_', ' ')} {_value(value)}" for name, value in option_values(method).items()]
    return f"Settings: {'; '.join(said)}." if said else "It has no settings."


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "" or value == ():
        return "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
