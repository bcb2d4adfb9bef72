"""Memory for a value that lives for one layer's forward, used again as soon as nobody holds the value any more.

An adapted weight is as large as the layer's own. Fresh memory of that size costs more on a CPU than what is computed in it:
the system gives every page anew, and clears it.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor, nn

REUSE_FROM_BYTES = 2**20  # bytes from which torch's allocator asks the system
BLOCKS_PER_THREAD = 2  # blocks that a thread keeps, each as large as the largest value that it was asked for


class _ThreadBlocks(threading.local):
    """This thread's blocks."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []


_THREAD_BLOCKS = _ThreadBlocks()


def reusable_buffer(like: Tensor) -> Tensor | None:
    """Contiguous memory in the shape and type of ``like`` for ``out=``, its numbers undefined; None where torch takes its own.

    Nobody else reads or writes it: a block is given out again only when no tensor shares its memory but the block itself.
    """
    size = math.prod(like.shape) * like.element_size()
    if size < REUSE_FROM_BYTES or not _writes_directly(like):
        return None
    at = next((i for i, block in enumerate(_THREAD_BLOCKS.kept) if _is_free(block)), len(_THREAD_BLOCKS.kept))
    if at == BLOCKS_PER_THREAD:
        return None
    if at == len(_THREAD_BLOCKS.kept) or _THREAD_BLOCKS.kept[at].untyped_storage().nbytes() < size:
        _THREAD_BLOCKS.kept[at : at + 1] = [_new_block(size)]
    return _THREAD_BLOCKS.kept[at][:size].view(like.dtype).view(like.shape)


def _new_block(size: int) -> Tensor:
    with torch.inference_mode(False):  # such a tensor may be written to in every mode
        return torch.empty(size, dtype=torch.uint8, device="cpu")


def _is_free(block: Tensor) -> bool:
    """Whether the block alone, and the storage object that asks here, hold its memory."""
    storage = block.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) == 2  # type: ignore[attr-defined]  # no public name


def _writes_directly(like: Tensor) -> bool:
    """Whether an operation on it writes into memory at once: nothing records, traces, compiles, transforms or fakes it."""
    if like.device.type != "cpu" or type(like) not in (Tensor, nn.Parameter) or torch.is_grad_enabled():
        return False
    if torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch.jit.is_tracing():
        return False
    above = torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack()
    return not above and torch.autograd.forward_ad._current_level < 0
