"""Models that FSDP has sharded: who asks for a weight, which rank writes a file, and whole tensors for it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

FSDP = "torch.distributed.fsdp"
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")  # around modules, in their names


def fsdp_asks() -> bool:
    """Returns whether it is FSDP that asks for a weight: it needs what it keeps there, a shard or a view, not the adapted weight.

    ``fully_shard`` looks at its parameters by ``getattr(module, name)`` before the first forward and after every ``.to``, FSDP1
    wherever it exchanges them. Called by the weight's property; the question is who has called that property.
    """
    return not torch.compiler.is_compiling() and str(sys._getframe(2).f_globals.get("__name__")).startswith(FSDP)


def is_sharded_model(model: nn.Module) -> bool:
    """Returns whether FSDP (1 or 2) or tensor parallelism holds parts of the model's tensors."""
    names = {cls.__name__ for module in model.modules() for cls in type(module).__mro__}
    return bool(names & {"FSDPModule", "FullyShardedDataParallel"}) or any(is_shard(p) for p in model.parameters())


def is_shard(tensor: Tensor | None) -> bool:
    """Returns whether ranks hold parts of the tensor (a DTensor)."""
    return hasattr(tensor, "full_tensor")


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[bool]:
    """Inside, the model's tensors are whole (FSDP1) or DTensors that are up to date (FSDP2).

    Yields whether this rank writes the file. Every rank has to call it; none leaves it before the file is written.
    """
    if not dist.is_available() or not dist.is_initialized() or not is_sharded_model(model):
        yield True
        return
    from torch.distributed.fsdp import FullyShardedDataParallel

    reshard(model)
    old = any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    whole = FullyShardedDataParallel.summon_full_params(model, writeback=False) if old else contextlib.nullcontext()
    try:
        with whole:
            yield dist.get_rank() == 0
    finally:
        dist.barrier()


def reshard(model: nn.Module) -> None:
    """Lets FSDP2's modules forget their whole tensors, which they gathered for a forward: what is written into shards counts.

    After an evaluation, the root still has them.
    """
    if not dist.is_available() or not dist.is_initialized():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def write_whole(own: Tensor, value: Tensor) -> None:
    """Writes a whole value into a tensor, or into this rank's shard of it."""
    value = value.to(own.device, own.dtype)
    if is_shard(own):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(own, DTensor)
        value = distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)
    own.detach().copy_(value)


def plain_name(name: str) -> str:
    """Returns a module's or tensor's name without the parts that FSDP, checkpointing and torch.compile put into it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
