"""Activation memory, exactly: the bytes that a forward made and that are still alive when the backward begins.

Every storage counts, whoever keeps it: autograd's saved tensors, what selective checkpointing caches (which the hooks for
saved tensors don't see), what a custom function or a module holds. Parameters, buffers and the inputs are left out. The
number depends on the model and the shapes alone: no timing, no allocator, no device.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Storages(TorchDispatchMode):
    """The storages that operations return while the mode is on, each with its size; none is kept alive by this."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        known = self.made.get(storage._cdata)
        if known is None or known[0].expired():  # a new storage may stand where a dead one stood
            self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())

    def alive(self, but: Iterable[Tensor] = ()) -> int:
        """Bytes of the storages that still live and that none of these tensors has."""
        known = {tensor.untyped_storage()._cdata for tensor in but}
        return sum(size for key, (ref, size) in self.made.items() if key not in known and not ref.expired())


def live_bytes(model: nn.Module, forward: Callable[[], Tensor], inputs: Iterable[Tensor] = ()) -> int:
    """Bytes alive after ``forward()``, which returns the scalar loss; a backward follows, and gradients are cleared."""
    own = [*model.parameters(), *model.buffers(), *inputs]
    with Storages() as seen:
        loss = forward()
    gc.collect()
    size = seen.alive(but=own)
    if loss.requires_grad:
        loss.backward()
    model.zero_grad(set_to_none=True)
    return size


def kept(model: nn.Module, batch: Tensor) -> int:
    """Bytes that a training step's forward leaves for the backward."""
    model.train()
    return live_bytes(model, lambda: cross_entropy(model(batch), torch.zeros(len(batch), dtype=torch.long)), (batch,))
