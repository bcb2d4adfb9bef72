"""Fingerprints of tensors: which base a delta belongs to, and the proof that nothing frozen has moved."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from petl.graft.sharded import is_shard

THREADS = 4  # hashlib and zlib let go of the interpreter lock, so tensors are read side by side


def fingerprints(tensors: Iterable[Tensor]) -> list[str]:
    """SHA-256 of each tensor's dtype, shape and bytes; tensors on the meta device have only the first two."""
    return _side_by_side(fingerprint, list(tensors))


def fingerprint(tensor: Tensor) -> str:
    tensor = full_tensor(tensor)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    if not tensor.is_meta:
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def checksums(tensors: Iterable[Tensor]) -> list[str]:
    """What tells whether a tensor has moved: dtype, shape, and a CRC-32 of its bytes, a third of a SHA-256's time."""
    return _side_by_side(checksum, list(tensors))


def is_unchanged(then: str, now: str) -> bool:
    """Whether a tensor is what it was; one that had no values yet, on the meta device, may have been given some."""
    return now == then or then == f"{now.rpartition(' ')[0]} meta"


def checksum(tensor: Tensor) -> str:
    """One tensor's mark."""
    tensor = full_tensor(tensor)
    seen = "meta" if tensor.is_meta else f"{zlib.crc32(_bytes(tensor)):08x}"
    return f"{tensor.dtype} {tuple(tensor.shape)} {seen}"


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor, gathered from all ranks where FSDP2 or tensor parallelism has sharded it: then every rank has to call this."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def _side_by_side(read: Callable[[Tensor], str], tensors: list[Tensor]) -> list[str]:
    """The tensors read in threads; sharded ones one after the other, in the same order on every rank."""
    if any(is_shard(tensor) for tensor in tensors):
        return [read(tensor) for tensor in tensors]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(read, tensors))


def combined_fingerprint(prints: Mapping[str, str]) -> str:
    """One fingerprint of a set of named tensors, whatever their order."""
    lines = "\n".join(f"{name} {prints[name]}" for name in sorted(prints))
    return hashlib.sha256(lines.encode()).hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
