"""Files that can't be read: their errors, who handles them, and the placeholder that stands for such an image in a batch."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from petl.data.channels import Unfit
from petl.data.decoding import Unreadable

RETRIES = 10  # as timm: after so many unreadable files in a row, training ends
BAD_FILE = (Unreadable, Unfit)  # errors that are the fault of one file
LEFT_OUT = -100  # the class number of an image that can't be read: torch's cross-entropy ignores it
CALLER_HANDLES_BAD_FILES = contextvars.ContextVar("caller_handles_bad_files", default=False)


def placeholder(pipeline: Mapping[str, Any], target: Any = LEFT_OUT) -> tuple[Tensor, Any]:
    """Returns what stands in a batch for an image that can't be read: zeros [k, H, W], and `LEFT_OUT`, or NaN for no class."""
    return torch.zeros(tuple(pipeline["input_size"])), target


@contextlib.contextmanager
def raising_bad_files() -> Iterator[None]:
    """Inside, `Images` raises its errors in training too, and whoever asked for the item handles them.

    Only the outermost dataset knows which images may take the place of another: the next one of an `Images` inside a
    `Subset` may belong to the validation images.
    """
    token = CALLER_HANDLES_BAD_FILES.set(True)
    try:
        yield
    finally:
        CALLER_HANDLES_BAD_FILES.reset(token)
