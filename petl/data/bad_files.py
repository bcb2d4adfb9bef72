"""What is known about files that can't be read: their errors, and the placeholder that stands for them in a batch."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from petl.data.channels import Unfit
from petl.data.decoding import Unreadable

RETRIES = 10  # as timm: more unreadable files in a row end the training
BAD_FILE = (Unreadable, Unfit)  # a file's own fault, which costs nothing but this file
LEFT_OUT = -100  # the class number of an image that can't be read: torch's cross-entropy leaves it out by itself
CALLER_HANDLES_BAD_FILES = contextvars.ContextVar("loader_cares", default=False)


def placeholder(pipeline: Mapping[str, Any]) -> tuple[Tensor, int]:
    """What stands in a batch for an image that can't be read."""
    return torch.zeros(tuple(pipeline["input_size"])), LEFT_OUT


@contextlib.contextmanager
def raising_bad_files() -> Iterator[None]:
    """Inside, `Images` raises `Unreadable` in training too: who asks for the item does what is to be done.

    Only the outermost dataset knows which images may take the place of another: the next one of an `Images` inside a
    `Subset` may belong to the validation images.
    """
    token = CALLER_HANDLES_BAD_FILES.set(True)
    try:
        yield
    finally:
        CALLER_HANDLES_BAD_FILES.reset(token)
