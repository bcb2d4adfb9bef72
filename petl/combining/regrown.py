"""Gives a wrapped model a linear classifier of other size, by its delta: the same recipe with other numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.combining.opened import unwrapped_copy
from petl.combining.refitted import linear_classifier
from petl.delta.load import wrap_by_recipe
from petl.delta.save import delta_of
from petl.errors import StateError
from petl.memory.base_dtype import low_precision_dtype
from petl.wrapping.lookup import require_record


@torch.inference_mode(False)
def with_classifier(model: nn.Module, weight: Tensor, bias: Tensor, labels: Sequence[str]) -> nn.Module:
    """Returns a copy of a wrapped model with a classifier of this weight [C, D] and bias [C]; the model isn't changed.

    What a delta says of the old classifier's outputs (temperature, correction, results) is left out.

    Raises:
        StateError: the classifier isn't one linear layer in the delta.
    """
    plain, record = require_record(model)
    header, tensors = delta_of(plain)
    if not header.head:
        raise StateError("the delta has no classifier of its own (head=False), so there is none to change")
    layer = linear_classifier(plain, int(header.backbone["num_classes"]))
    name = next(name for name, module in plain.named_modules() if module is layer)
    if f"{name}.weight" not in tensors:
        raise StateError(f"the classifier {name} isn't in the delta: wrap the model with head=True")
    shape = (len(labels), *tensors[f"{name}.weight"].shape[1:])
    new = {f"{name}.weight": weight.reshape(shape), f"{name}.bias": bias}
    values: dict[str, Any] = {"labels": [*labels], "task": "classification", "results": None}
    values |= dict.fromkeys(("units", "thresholds", "quantiles", "temperature", "correction"))
    header = replace(header, backbone={**header.backbone, "num_classes": len(labels)}, **values)
    result = unwrapped_copy(plain)
    low = low_precision_dtype(header.base_dtype)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()} | {
        key: value.to(tensors[key].dtype).cpu().contiguous() for key, value in new.items()
    }
    path = Path("the model with its new classifier")
    wrap_by_recipe(path, header, tensors, result, True, False, memory=record.memory, base_dtype=low)
    return result.eval()
