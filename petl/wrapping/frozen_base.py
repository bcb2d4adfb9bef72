"""Proves that nothing frozen has changed since wrap; tensors that have changed by rounding alone are restored."""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from petl.errors import StateError, listing
from petl.graft.sharded import gathered, is_shard
from petl.methods.statistics import STATISTICS
from petl.wrapping.causes import explain_changes
from petl.wrapping.fingerprints import checksum
from petl.wrapping.lookup import require_record
from petl.wrapping.own_tensors import own_tensor, state_entries
from petl.wrapping.record import Record, living_records
from petl.wrapping.rounding import equal_up_to_rounding, some_numbers


def remember_frozen(model: nn.Module, record: Record) -> None:
    """Records what explains a later change of a frozen tensor: statistics of norms, a few numbers of every tensor."""
    tensors = {key: own_tensor(owner, leaf) for key, (owner, leaf, _) in record.frozen.items()}
    with_values = {key: tensor for key, tensor in tensors.items() if tensor is not None and not tensor.is_meta}
    statistics = {key: t for key, t in with_values.items() if key.rpartition(".")[2] in STATISTICS}
    record.statistics = {key: t.detach().clone() for key, t in statistics.items()}
    record.samples = {key: some_numbers(t) for key, t in with_values.items()}


def prove_frozen(model: nn.Module, what: str) -> None:
    """Raises a StateError where a frozen tensor has changed; the error names the tensors, the cause, and what to do.

    A tensor that has changed by rounding alone, as in averages over all weights, is restored with a warning where a living
    model still has its bits.
    """
    plain, record = require_record(model)
    with gathered(model):
        follow_exchanged_layers(plain, record)
        prove_unchanged(record, what)


def prove_unchanged(record: Record, what: str) -> None:
    """Does the same as ``prove_frozen``, for a record that ``follow_exchanged_layers`` has already updated."""
    moved = record.moved()
    restored = [key for key in moved if _put_back(record, key)]
    if restored:
        warnings.warn(
            f"{listing(restored, 3)} had moved by rounding, as frozen tensors do where averages are taken over all weights; petl "
            f"put the old bits back",
            stacklevel=4,
        )
    changed = [key for key in moved if key not in restored]
    if changed:
        raise StateError(f"{what}: changed since wrap although frozen: {explain_changes(record, changed)}")


def follow_exchanged_layers(model: nn.Module, record: Record) -> None:
    """Updates the record for layers that were exchanged since ``wrap``: new tensors have to equal the old ones of the same names.

    New layers that train are left out, since ``save`` writes their tensors; so is a classifier that was reset, since the header
    has its size.
    """
    modules = set(model.modules())
    gone = {key: entry for key, entry in record.frozen.items() if entry[0] not in modules}
    current = {key: (owner, leaf) for key, owner, leaf in state_entries(model)} if gone else {}
    was_reset = getattr(model, "num_classes", None) != record.backbone.get("num_classes")
    for key, (old, leaf, recorded) in gone.items():
        if key not in current and not was_reset and leaf != "num_batches_tracked":
            record.frozen[key] = (nn.Module(), leaf, recorded)
        elif key in current and (_is_same(old, leaf, current[key][0]) or not _trains(current[key][0])):
            record.frozen[key] = (*current[key], recorded)


def _is_same(old: nn.Module, leaf: str, new: nn.Module) -> bool:
    """Returns whether both modules share the tensor ``leaf``."""
    return own_tensor(old, leaf) is own_tensor(new, leaf)


def _trains(layer: nn.Module) -> bool:
    """Returns whether any of the layer's own parameters trains."""
    return any(p.requires_grad for p in layer.parameters(recurse=False))


def _put_back(record: Record, key: str) -> bool:
    """Restores a frozen tensor that changed by rounding; returns whether a living model still had its bits."""
    owner, leaf, recorded = record.frozen[key]
    tensor = own_tensor(owner, leaf)
    if tensor is None or tensor.is_meta or is_shard(tensor):
        return False
    for other in _candidates(record, key, recorded):
        value = other.detach().to(tensor.device)
        if other is not tensor and equal_up_to_rounding(tensor.detach(), value) and checksum(value) == recorded:
            tensor.detach().copy_(value)
            return True
    return False


def _candidates(record: Record, key: str, recorded: str) -> list[Tensor]:
    """Returns tensors that may still have the bits: copied statistics, and tensors of copies of this model."""
    copies = [record.statistics[key]] if key in record.statistics else []
    entries = [other.frozen[key] for other in living_records() if key in other.frozen]
    tensors = [own_tensor(owner, leaf) for owner, leaf, other_checksum in entries if other_checksum == recorded]
    return [*copies, *(t for t in tensors if t is not None and not t.is_meta and not is_shard(t))]
