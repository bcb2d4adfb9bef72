"""Models and their tensors, compared: copies of a state dict, what differs between two, and by how much."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the whole state dict."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Keys that are in one alone, or whose bits, types or shapes differ."""
    both = one.keys() & other.keys()
    moved = [k for k in both if one[k].dtype != other[k].dtype or not torch.equal(one[k], other[k])]
    return sorted([*(one.keys() ^ other.keys()), *moved])


def relative(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference, in units of each tensor's norm."""
    assert one.keys() == other.keys()
    return max(float((one[k] - other[k]).norm() / other[k].norm()) for k in one)


def portrait(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that petl promises to leave or to give back, to be compared with ==."""
    return {
        "classes": {name: type(module) for name, module in model.named_modules()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "order": list(model.state_dict()),
        "bits": {
            k: (v.dtype, v.shape, v.detach().cpu().double().flatten().tolist()) for k, v in model.state_dict().items()
        },
        "ids": {name: id(p) for name, p in model.named_parameters()},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
        "num_classes": getattr(model, "num_classes", None),
    }


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether both have the same keys with the same values."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def gap(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of any two elements."""
    return max((one[key].float() - other[key].float()).abs().max().item() for key in one)
