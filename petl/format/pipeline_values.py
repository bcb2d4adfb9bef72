"""Checks an input pipeline in a delta's header: its sizes, statistics and crops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from petl.format.texts import short_repr

KNOWN_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random")
KNOWN_CROPS = ("center", "squash", "border")
KNOWN_WINDOWS, KNOWN_TIFF_LIBRARIES = ("file", "full"), ("tifffile", "rasterio")
READING = {
    "window": "'file', 'full', or the centre and width of a window, such as (40, 400)",
    "frame": "the number of a frame, or 'middle'",
    "tiff": "'tifffile' or 'rasterio'",
}
LARGEST_IMAGE = 2**28  # numbers in one image: a gigabyte


def is_pipeline(value: Any) -> bool:
    """Returns whether the value is a valid input pipeline."""
    return isinstance(value, dict) and not pipeline_fault(value)


def pipeline_fault(value: Mapping[str, Any]) -> str:
    """Returns what is wrong with an input pipeline, or ""; keys that petl doesn't know are ignored."""
    size, crop = value.get("input_size") or [], value.get("crop_pct", 1.0)
    if not _numbers(size, 3) or not all(type(n) is int and n >= 1 for n in size) or math.prod(size) > LARGEST_IMAGE:
        return f"input_size={short_repr(size)}"
    if not _number(crop) or not 0 < crop <= 100 or math.prod(size) > LARGEST_IMAGE * crop**2:
        return f"crop_pct={short_repr(crop)}"
    for key in ("mean", "std"):
        if key in value and not (_numbers(value[key]) and len(value[key]) in (1, 3, size[0])):
            return f"{key}={short_repr(value[key])}"
    if not all(1e-12 <= n <= 1e12 for n in value.get("std", ())):
        return f"std={short_repr(value['std'])}"
    for key, known in (("interpolation", KNOWN_INTERPOLATIONS), ("crop_mode", KNOWN_CROPS)):
        if value.get(key, known[0]) not in known:
            return f"{key}={short_repr(value[key])}"
    return next(
        (f"{key}={short_repr(value[key])}" for key in READING if key in value and reading_fault(key, value[key])), ""
    )


def reading_fault(key: str, value: Any) -> str:
    """Returns what was expected of an option for reading files, or "" if the value can be; see `petl.data.reading.Reading`."""
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_number, value)) and value[1] > 0
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
    good = {
        "window": (isinstance(value, str) and value in KNOWN_WINDOWS) or pair,
        "frame": (isinstance(value, str) and value == "middle") or whole,
        "tiff": isinstance(value, str) and value in KNOWN_TIFF_LIBRARIES,
    }
    return "" if good[key] else READING[key]


def _number(value: Any) -> bool:
    """Returns whether the value is a number of a reasonable size."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12


def _numbers(value: Any, count: int | None = None) -> bool:
    """Returns whether the value is a list of numbers; ``count``: of that many."""
    return isinstance(value, list) and count in (None, len(value)) and all(_number(item) for item in value)
