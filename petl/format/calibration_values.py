"""Checks what a header says of confidences: a temperature, and the correction of the classifier's bias."""

from __future__ import annotations

from typing import Any

from petl.format.texts import is_finite_number

LONGEST_CORRECTION = 10**6
CORRECTION_KEYS = ("source", "target", "scale", "offset", "before")


def is_temperature(value: Any) -> bool:
    """Returns whether the value is a finite number above 0.

    >>> is_temperature(1.5), is_temperature(0), is_temperature(True)
    (True, False, False)
    """
    return is_finite_number(value) and value > 0


def is_correction(value: Any) -> bool:
    """Returns whether the value is what `petl.correct` records.

    Lists of one number for each class: ``source`` and ``target`` (frequencies), ``offset`` (what was added to the bias), and
    ``before`` (the biases by their names, as they were); ``scale``; ``temperature`` (that from before, or None).
    """
    if not isinstance(value, dict) or any(key not in value for key in CORRECTION_KEYS):
        return False
    before, lists = value["before"], [value[key] for key in ("source", "target", "offset")]
    if not isinstance(before, dict) or not before or not all(isinstance(name, str) for name in before):
        return False
    lists += [*before.values()]
    if not all(isinstance(one, list) and all(is_finite_number(number) for number in one) for one in lists):
        return False
    same = len({len(one) for one in lists}) == 1 and 0 < len(lists[0]) <= LONGEST_CORRECTION
    kept = value.get("temperature")
    return same and is_temperature(value["scale"]) and (kept is None or is_temperature(kept))
