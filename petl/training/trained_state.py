"""The tensors of a model that training changes: named, copied, and written back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from petl.errors import StateError, listing


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Returns what training changes, by name: trainable parameters, and running statistics of modules in training mode.

    The tensors are the model's own: their values change while it trains, and writing into them changes it.
    """
    tensors: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, module in model.named_modules():
        if module.training and any(leaf.startswith("running_") for leaf in module._buffers):
            statistics = {f"{name}.{leaf}".lstrip("."): tensor for leaf, tensor in module._buffers.items()}
            tensors.update({key: tensor for key, tensor in statistics.items() if tensor is not None})
    return tensors


def cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns copies without gradient history."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def copy_into(tensors: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Writes values into a model's own tensors.

    Raises:
        StateError: the names or shapes of the values are not those of the tensors; nothing is written.
    """
    wrong = sorted(tensors.keys() ^ values.keys()) or [k for k in tensors if tensors[k].shape != values[k].shape]
    if wrong:
        raise StateError(
            f"the checkpoint is of another model or method: {listing(wrong)} differ; wrap the model as it was wrapped then"
        )
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
