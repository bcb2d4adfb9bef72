"""Files that can't be read: their errors, who handles them, and the placeholder that stands for such an image in a batch."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petl.data.channels import Unfit
from petl.data.decoding import Unreadable

RETRIES = 10  # as timm: after so many unreadable files in a row, training ends
BAD_FILE = (Unreadable, Unfit)  # errors that are the fault of one file
LEFT_OUT = -100  # the class number of an image that can't be read: torch's cross-entropy ignores it
CALLER_HANDLES_BAD_FILES = contextvars.ContextVar("caller_handles_bad_files", default=False)


def placeholder(pipeline: Mapping[str, Any], like: Any = 0) -> tuple[Tensor, Any]:
    """Returns what stands in a batch for an image that can't be read: zeros [k, H, W], and a target that counts nowhere.

    ``like`` is the target of another image of the same data.
    """
    return torch.zeros(tuple(pipeline["input_size"])), left_out(like)


def left_out(like: Any) -> Any:
    """Returns the target of an image that can't be read, of the kind of ``like``: `LEFT_OUT` for a class number, else NaN.

    Of a vector every number is NaN, which is how data says that it doesn't know a number.

    >>> left_out(3), left_out(0.5), left_out(torch.tensor([0.0, 1.0])).tolist()
    (-100, nan, [nan, nan])
    """
    if isinstance(like, (list, tuple)):
        return [float("nan")] * len(like)
    if isinstance(like, np.ndarray):
        return np.full(like.shape, np.nan, dtype=np.float32)
    if isinstance(like, float) or (getattr(like, "dtype", None) is not None and _is_float_or_vector(like)):
        shape = tuple(getattr(like, "shape", ()))
        return torch.full(shape, float("nan"), dtype=torch.float32) if hasattr(like, "dtype") else float("nan")
    return LEFT_OUT


def _is_float_or_vector(like: Any) -> bool:
    number = torch.as_tensor(like)
    return number.is_floating_point() or number.ndim > 0


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
