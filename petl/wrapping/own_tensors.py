"""Lists the parameters and buffers in a model's state dict, with the modules that own them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn

from petl.graft.sharded import plain_name
from petl.sites.names import joined


def state_entries(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yields (state-dict key, owner, leaf) of every parameter and persistent buffer, shared ones once."""
    seen_ids: set[int] = set()
    for name, module in model.named_modules():
        buffers = [leaf for leaf in module._buffers if leaf not in module._non_persistent_buffers_set]
        for leaf in (*module._parameters, *buffers):
            tensor = own_tensor(module, leaf)
            if tensor is not None and id(tensor) not in seen_ids:
                seen_ids.add(id(tensor))
                yield plain_name(joined(name, leaf)), module, leaf


def own_tensor(module: nn.Module, leaf: str) -> Tensor | None:
    """Returns the module's own parameter or buffer of that name, without any graft."""
    return module._parameters[leaf] if leaf in module._parameters else module._buffers.get(leaf)


def state_tensors(model: nn.Module) -> list[tuple[str, nn.Module, str, Tensor]]:
    """Returns (key, owner, leaf, tensor) of every parameter and persistent buffer."""
    return [(key, owner, leaf, cast(Tensor, own_tensor(owner, leaf))) for key, owner, leaf in state_entries(model)]
