"""Fingerprints of tensors: which base a delta belongs to, and the proof that nothing frozen has moved."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from petl.graft.sharded import is_shard, plain_name

THREADS = 4  # hashlib and zlib let go of the interpreter lock, so tensors are read side by side


def owned(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(state-dict key, owner, leaf) of every parameter and persistent buffer, shared ones once."""
    seen: set[int] = set()
    for name, module in model.named_modules():
        buffers = [leaf for leaf in module._buffers if leaf not in module._non_persistent_buffers_set]
        for leaf in (*module._parameters, *buffers):
            tensor = own_tensor(module, leaf)
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield plain_name(f"{name}.{leaf}").lstrip("."), module, leaf


def own_tensor(module: nn.Module, leaf: str) -> Tensor | None:
    """The module's own parameter or buffer of that name, without any graft."""
    return module._parameters[leaf] if leaf in module._parameters else module._buffers.get(leaf)


def fingerprints(tensors: Iterable[Tensor]) -> list[str]:
    """SHA-256 of each tensor's dtype, shape and bytes; tensors on the meta device have only the first two."""
    return _side_by_side(fingerprint, list(tensors))


def fingerprint(tensor: Tensor) -> str:
    tensor = whole(tensor)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    if not tensor.is_meta:
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def marks(tensors: Iterable[Tensor]) -> list[str]:
    """What tells whether a tensor has moved: dtype, shape, and a CRC-32 of its bytes, a third of a SHA-256's time."""
    return _side_by_side(mark, list(tensors))


def held(then: str, now: str) -> bool:
    """Whether a tensor is what it was; one that had no values yet, on the meta device, may have been given some."""
    return now == then or then == f"{now.rpartition(' ')[0]} meta"


def mark(tensor: Tensor) -> str:
    """One tensor's mark."""
    tensor = whole(tensor)
    seen = "meta" if tensor.is_meta else f"{zlib.crc32(_bytes(tensor)):08x}"
    return f"{tensor.dtype} {tuple(tensor.shape)} {seen}"


def whole(tensor: Tensor) -> Tensor:
    """The tensor, gathered from all ranks where FSDP2 or tensor parallelism has sharded it: then every rank has to call this."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def _side_by_side(read: Callable[[Tensor], str], tensors: list[Tensor]) -> list[str]:
    """The tensors read in threads; sharded ones one after the other, in the same order on every rank."""
    if any(is_shard(tensor) for tensor in tensors):
        return [read(tensor) for tensor in tensors]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(read, tensors))


def combined(prints: Mapping[str, str]) -> str:
    """One fingerprint of a set of named tensors, whatever their order."""
    lines = "\n".join(f"{name} {prints[name]}" for name in sorted(prints))
    return hashlib.sha256(lines.encode()).hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
