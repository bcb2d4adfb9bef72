"""Finds the class scores in the output of a model, which may be a tuple, a dict or an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from petl.errors import DataError, listing


def logits(output: Any) -> Tensor | None:
    """Returns the class scores [N, classes] in a model's output, or None where petl can't tell which they are.

    The scores are the output itself, ``logits`` of an object or a dict (transformers), the only tensor of a dict, or the first
    part of a tuple: Inception, GoogLeNet and distilled DeiTs return auxiliary scores after the main ones while they train.

    >>> import torch
    >>> tuple(logits((torch.zeros(2, 5), torch.ones(2, 5))).shape)
    (2, 5)
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    if isinstance(output, Mapping):
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        return tensors[0] if len(tensors) == 1 else None
    return logits(output[0]) if isinstance(output, (tuple, list)) and output else None


def require_logits(output: Any) -> Tensor:
    """Returns the class scores in a model's output; a DataError that describes the output if there are none."""
    scores = logits(output)
    if scores is None:
        raise DataError(
            f"the model returns {describe_output(output)}; expected class scores [N, classes], alone, as .logits, as ['logits'], "
            "or first in a tuple"
        )
    return scores


def describe_output(output: Any) -> str:
    """Returns a model's output in a few words."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    keys = f" with {listing(map(str, output))}" if isinstance(output, Mapping) else ""
    return f"a {type(output).__name__}{keys}"
