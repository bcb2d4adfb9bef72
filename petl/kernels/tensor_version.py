"""The version counter of a saved tensor: autograd counts every write to a tensor's memory."""

from __future__ import annotations

from torch import Tensor


def check_version(tensor: Tensor, version: int) -> None:
    """Raises autograd's own RuntimeError if ``tensor``, which the backward needs, was written to since ``version``."""
    if tensor._version != version:
        raise RuntimeError(
            f"one of the variables needed for gradient computation has been modified by an inplace operation: a tensor of shape "
            f"{tuple(tensor.shape)} is at version {tensor._version}; expected version {version}. Run the backward before the "
            f"optimizer's step, or write to a copy"
        )
