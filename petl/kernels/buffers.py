"""Buffers for tensors that live for one layer's forward, such as adapted weights, reused when no tensor uses them any more.

An adapted weight is as large as the layer's own. New memory of that size costs more time on a CPU than the computation in
it: the system has to provide and to clear every page.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor, nn

REUSE_FROM_BYTES = 2**20  # torch's allocator asks the system for memory of this size and more
BLOCKS_PER_THREAD = 2  # each as large as the largest tensor that the thread has asked it for


class _ThreadBlocks(threading.local):
    """The blocks of memory that this thread keeps."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []


_THREAD_BLOCKS = _ThreadBlocks()


def reusable_buffer(like: Tensor) -> Tensor | None:
    """Returns a contiguous tensor for ``out=`` with the shape and dtype of ``like``, uninitialised.

    Returns None where torch should allocate: for small tensors, outside a CPU, and where both blocks are in use. No other
    code reads or writes the buffer: a block is reused only when no tensor but the block itself shares its memory.
    """
    size, blocks = math.prod(like.shape) * like.element_size(), _THREAD_BLOCKS.kept
    if size < REUSE_FROM_BYTES or not _writes_directly(like):
        return None
    at = next((index for index, block in enumerate(blocks) if _is_free(block)), len(blocks))
    if at == BLOCKS_PER_THREAD:
        return None
    if at == len(blocks) or blocks[at].untyped_storage().nbytes() < size:
        blocks[at : at + 1] = [_new_block(size)]
    return blocks[at][:size].view(like.dtype).view(like.shape)


def _new_block(size: int) -> Tensor:
    with torch.inference_mode(False):  # such a tensor may be written to in every mode
        return torch.empty(size, dtype=torch.uint8, device="cpu")


def _is_free(block: Tensor) -> bool:
    """Returns whether no other tensor uses the block's memory: its count of uses is one for the block and one for ``storage``."""
    storage = block.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) == 2  # type: ignore[attr-defined]  # no public name


def _writes_directly(like: Tensor) -> bool:
    """Returns whether an operation on the tensor runs at once: it isn't recorded, traced, compiled or transformed."""
    if like.device.type != "cpu" or type(like) not in (Tensor, nn.Parameter) or torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return False
    is_transformed = torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack()
    return not is_transformed and torch.autograd.forward_ad._current_level < 0
