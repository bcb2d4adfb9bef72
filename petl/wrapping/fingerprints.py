"""Computes fingerprints of tensors, which identify a delta's base, and checksums, which show that nothing frozen has changed."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from petl.graft.sharded import is_shard

THREADS = 4  # hashlib and zlib release the GIL, so several tensors are read at the same time
FEW = 2**22  # bytes, which one thread reads in a few milliseconds


def fingerprints(tensors: Iterable[Tensor]) -> list[str]:
    """Returns the SHA-256 of each tensor's dtype, shape and bytes; tensors on the meta device have only the first two."""
    return _side_by_side(fingerprint, list(tensors))


def fingerprint(tensor: Tensor) -> str:
    """Returns one tensor's fingerprint."""
    tensor = full_tensor(tensor)
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
    if not tensor.is_meta:
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def checksums(tensors: Iterable[Tensor]) -> list[str]:
    """Returns a checksum of each tensor: dtype, shape, and a CRC-32 of the bytes, which takes a third of a SHA-256's time."""
    return _side_by_side(checksum, list(tensors))


def is_unchanged(then: str, now: str) -> bool:
    """Returns whether two checksums are of an unchanged tensor; on the meta device only dtype and shape are compared."""
    return now == then or then == f"{now.rpartition(' ')[0]} meta"


def checksum(tensor: Tensor) -> str:
    """Returns one tensor's checksum: ``torch.float32 (8, 3) 0a1b2c3d``."""
    tensor = full_tensor(tensor)
    digits = "meta" if tensor.is_meta else f"{zlib.crc32(_bytes(tensor)):08x}"
    return f"{tensor.dtype} {tuple(tensor.shape)} {digits}"


def full_tensor(tensor: Tensor) -> Tensor:
    """Returns the tensor, gathered from all ranks where it is sharded; then every rank has to call this function."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def _side_by_side(read: Callable[[Tensor], str], tensors: list[Tensor]) -> list[str]:
    """Applies ``read`` to the tensors in threads; to sharded ones one after the other, in the same order on every rank.

    Of few bytes the threads would cost more than they save.
    """
    if any(is_shard(tensor) for tensor in tensors) or sum(tensor.nbytes for tensor in tensors) < FEW:
        return [read(tensor) for tensor in tensors]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(read, tensors))


def combined_fingerprint(prints: Mapping[str, str]) -> str:
    """Returns one fingerprint of a set of named tensors, which doesn't depend on their order."""
    lines = "\n".join(f"{name} {prints[name]}" for name in sorted(prints))
    return hashlib.sha256(lines.encode()).hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    """Returns the bytes of a tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
