"""Writes a delta again with its numbers in another type; no backbone is needed."""

from __future__ import annotations

from pathlib import Path

import torch

from petl.delta.file import Paths, as_path, path_to_write, read_delta, write_delta
from petl.delta.storage import stored_as


def convert_delta(path: Paths, to: Paths, dtype: torch.dtype | str) -> Path:
    """Writes the delta in ``path`` to ``to`` with its numbers stored as ``dtype``, as `petl.save` does.

    A conversion to a wider type doesn't bring back what an earlier one has rounded; the header keeps saying so.

    Raises:
        DeltaError: there is no such type, it can't hold the numbers, or a file can't be read or written.
    """
    target = path_to_write(to)
    header, tensors = read_delta(as_path(path))
    header, tensors = stored_as(header, tensors, dtype)
    return write_delta(target, tensors, header)
