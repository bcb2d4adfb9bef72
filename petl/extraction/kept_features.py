"""Where `petl.features` keeps what it computed: in a folder of the user's, or until the process ends in files without a name."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from petl.data.datasets import Images
from petl.extraction.entry import entry_name
from petl.extraction.npy_writer import StorageError
from petl.extraction.provenance import function_fingerprint, provenance
from petl.extraction.store import GIGA, Store, tensor_bytes
from petl.sites.names import within
from petl.wrapping.fingerprints import fingerprint

About = dict[str, Any]
SMALL = 1 << 20  # bytes of a table that stays in memory: an open file costs more
MOST_TABLES = 256  # in a session: each may be an open file
NO_LABELS = torch.int8  # the type of the entry that says that there are none


class FolderKeep:
    """Tables of features in a folder of the user's, for later processes."""

    def __init__(self, folder: str | Path, limit: float):
        self.store = Store(folder, limit)

    def get(self, about: About) -> Tensor | None:
        stored = self.store.get(about)
        return None if stored is None else stored[0].clone()

    def put(self, about: About, table: Tensor) -> None:
        self.store.get_or_compute(about, len(table), iter([(table, _zeros(table))]), needed=tensor_bytes(table))

    def described(self) -> Iterator[About]:
        return self.store.described()


class SessionKeep:
    """Tables of features for this process, in files without a name, which are gone when it ends; the oldest go first."""

    def __init__(self) -> None:
        self.tables: OrderedDict[str, tuple[About, Tensor]] = OrderedDict()
        self.limit = 10.0 * GIGA

    def get(self, about: About) -> Tensor | None:
        name = _table_name(about)
        if name not in self.tables:
            return None
        self.tables.move_to_end(name)
        return self.tables[name][1].clone()  # what is mapped stays as it was, whatever the caller does

    def put(self, about: About, table: Tensor) -> None:
        size = tensor_bytes(table)
        if size > self.limit:
            raise StorageError(f"{size / GIGA:.1f} GB of features are more than cache_limit={self.limit / GIGA:g}")
        while self.tables and (
            len(self.tables) >= MOST_TABLES
            or size + sum(tensor_bytes(kept) for _, kept in self.tables.values()) > self.limit
        ):
            self.tables.popitem(last=False)
        self.tables[_table_name(about)] = about, table.clone() if size < SMALL else _on_disk(about, table)

    def described(self) -> Iterator[About]:
        return iter([about for about, _ in self.tables.values()])


def _on_disk(about: About, table: Tensor) -> Tensor:
    """Returns the table, mapped from a file that has no name any more."""
    store = Store(None, tensor_bytes(table))
    try:
        return store.get_or_compute(about, len(table), iter([(table, _zeros(table))]))[0]
    finally:
        store.close()


SESSION = SessionKeep()
Keep = FolderKeep | SessionKeep


def opened_keep(cache: bool | str | Path | None, limit: float) -> Keep | None:
    """Returns where features are kept, or None for ``cache=False``; ``limit`` is in bytes.

    Raises:
        StorageError: the folder can't be made or read.
    """
    if cache is False:
        return None
    if cache is None or cache is True:
        SESSION.limit = limit
        return SESSION
    return FolderKeep(cache, limit)


def is_known(keep: Keep, about: About) -> bool:
    """Returns whether anything is kept that differs from ``about`` in nothing but the images."""
    return any({**other, "data": None} == {**about, "data": None} for other in keep.described())


def model_about(accelerator: Any, model: nn.Module, names: list[str], **more: Any) -> About:
    """Returns what features depend on besides the images: all of the model but the classifier's tensors, and hooks' code."""
    about = provenance(accelerator, model, "petl.features", lambda name: not within(name, names))
    about = {**about, "classifier": names, "hooks": _hooks_fingerprint(model), **more}
    return json.loads(json.dumps(about, default=str))  # as it is read from an entry: JSON has no tuples


def _hooks_fingerprint(model: nn.Module) -> str:
    """Returns a fingerprint of the code of forward hooks, and of tensors that they hold."""
    lines = []
    for name, module in model.named_modules():
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
            lines.append(f"{name} {_hook_text(hook)}")
    return hashlib.sha256("\n".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


def _hook_text(hook: Any) -> str:
    """Returns a hook's code, and what it holds of tensors, fractions and texts; whole numbers may be counters."""
    function = getattr(hook, "__func__", getattr(hook, "func", hook))
    code = getattr(function, "__code__", None)
    owner = getattr(hook, "__self__", None if code is not None else hook)
    values = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_filled(cell)]
    values += [*(getattr(function, "__defaults__", None) or ()), *getattr(hook, "args", ())]
    values += [*getattr(hook, "keywords", {}).values(), *(vars(owner).values() if hasattr(owner, "__dict__") else ())]
    name = getattr(function, "__qualname__", type(hook).__qualname__)
    return f"{name} {function_fingerprint(code) if code is not None else ''} {[_held(value) for value in values]}"


def _held(value: Any) -> Any:
    if isinstance(value, (Tensor, np.ndarray)):
        return fingerprint(torch.as_tensor(value))
    if isinstance(value, nn.Module):
        return [fingerprint(tensor) for tensor in value.state_dict().values() if isinstance(tensor, Tensor)]
    return value if isinstance(value, (float, str, bool)) else None


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that has no value yet
        return False


def is_cheap(dataset: Any) -> bool:
    """Returns whether a dataset's fingerprint needs no image to be read: image files, and tensors in memory."""
    if type(dataset) is Subset:
        return is_cheap(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return all(map(is_cheap, dataset.datasets))
    if type(dataset) is Images:
        samples = getattr(dataset.source, "samples", None)
        return not dataset.random and bool(samples) and isinstance(samples[0][0], (str, Path))
    return type(dataset) in (list, tuple, TensorDataset)


def as_table(value: Any) -> Tensor:
    """Returns a JSON value as a tensor of one row, to be kept like features."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)[None].clone()


def from_table(table: Tensor) -> Any:
    """Returns the JSON value that `as_table` made a tensor of."""
    return json.loads(bytes(table[0].tolist()))


def _zeros(table: Tensor) -> Tensor:
    return torch.zeros(len(table), dtype=torch.int64)


def _table_name(about: Mapping[str, Any]) -> str:
    return entry_name(json.dumps(about, sort_keys=True, default=str))
