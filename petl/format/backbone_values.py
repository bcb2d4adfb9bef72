"""Checks the description of a backbone in a delta's header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from petl.format import create_args
from petl.format.texts import short_repr

FLOAT_TYPES = ("float32", "float16", "bfloat16", "float64")
TIMM_NAME = re.compile(r"[A-Za-z0-9_]{1,100}(\.[A-Za-z0-9_]{1,100})?")
REMOTE_NAME = re.compile(r"(hf-hub|hf_hub|local-dir):[^\x00-\x1f]{1,1000}")  # accepted only with trust_remote=True
MOST_CLASSES = 2**24


def is_remote(backbone: Mapping[str, Any]) -> bool:
    """Returns whether the backbone's name sends timm to a repository on the hub or to a local folder."""
    return ":" in (backbone.get("name") or "")


def is_backbone(value: Any) -> bool:
    """Returns whether the value is a valid description of a backbone."""
    return isinstance(value, dict) and not backbone_fault(value)


def backbone_fault(value: Mapping[str, Any]) -> str:
    """Returns what is wrong with the description of a backbone, or "" where nothing is."""
    name, classes, channels = value.get("name"), value.get("num_classes", "missing"), value.get("in_chans")
    if name is not None and not (isinstance(name, str) and (TIMM_NAME.fullmatch(name) or REMOTE_NAME.fullmatch(name))):
        return f"name {short_repr(name)}, which is no name of a timm model"
    if classes is not None and not (type(classes) is int and 0 <= classes <= MOST_CLASSES):
        return f"num_classes={short_repr(classes)}"
    if channels is not None and not (type(channels) is int and 1 <= channels <= create_args.LARGEST_NUMBER):
        return f"in_chans={short_repr(channels)}"
    if value.get("dtype", "float32") not in FLOAT_TYPES:
        return f"dtype={short_repr(value['dtype'])}"
    if not isinstance(value.get("unrecorded", ""), str):
        return f"unrecorded={short_repr(value['unrecorded'])}"
    return create_args.fault(value.get("args", {}))
