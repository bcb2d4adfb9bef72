"""The proof that nothing frozen has moved since wrap; what has moved by rounding alone is put back."""

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
    """Keeps on the record what tells later how a frozen tensor has moved: statistics of norms, a few numbers of every tensor."""
    tensors = {key: own_tensor(owner, leaf) for key, (owner, leaf, _) in record.frozen.items()}
    still = {key: tensor for key, tensor in tensors.items() if tensor is not None and not tensor.is_meta}
    statistics = {key: t for key, t in still.items() if key.rpartition(".")[2] in STATISTICS}
    record.statistics = {key: t.detach().clone() for key, t in statistics.items()}
    record.samples = {key: some_numbers(t) for key, t in still.items()}


def prove_frozen(model: nn.Module, what: str) -> None:
    """Raises a StateError where something frozen has moved, which names what has, why, and what to do.

    What has moved by rounding alone, as in averages over all weights, is put back where a model that is still there has the
    bits, with a warning.
    """
    plain, record = require_record(model)
    with gathered(model):
        follow_exchanged_layers(plain, record)
        prove_unchanged(record, what)


def prove_unchanged(record: Record, what: str) -> None:
    """Does the same as ``prove_frozen``, for a record whose layers have been followed already."""
    moved = record.moved()
    back = [key for key in moved if _put_back(record, key)]
    if back:
        warnings.warn(
            f"{listing(back, 3)} had moved by rounding, as frozen tensors do where averages are taken over all weights; petl "
            f"put the old bits back",
            stacklevel=4,
        )
    left = [key for key in moved if key not in back]
    if left:
        raise StateError(f"{what}: changed since wrap although frozen: {explain_changes(record, left)}")


def follow_exchanged_layers(model: nn.Module, record: Record) -> None:
    """Lets the record point to layers put in since ``wrap``: their tensors have to equal those of the same names before.

    Layers that train are left out, as ``save`` keeps them, and a classifier that was taken away, as the header says so.
    """
    there = set(model.modules())
    gone = {key: entry for key, entry in record.frozen.items() if entry[0] not in there}
    now = {key: (owner, leaf) for key, owner, leaf in state_entries(model)} if gone else {}
    reset = getattr(model, "num_classes", None) != record.backbone.get("num_classes")
    for key, (old, leaf, then) in gone.items():
        if key not in now and not reset and leaf != "num_batches_tracked":
            record.frozen[key] = (nn.Module(), leaf, then)
        elif key in now and (_is_same(old, leaf, now[key][0]) or not _trains(now[key][0])):
            record.frozen[key] = (*now[key], then)


def _is_same(old: nn.Module, leaf: str, new: nn.Module) -> bool:
    return own_tensor(old, leaf) is own_tensor(new, leaf)


def _trains(layer: nn.Module) -> bool:
    return any(p.requires_grad for p in layer.parameters(recurse=False))


def _put_back(record: Record, key: str) -> bool:
    """Gives a frozen tensor that moved by rounding its old bits, and returns whether a living model still had them."""
    owner, leaf, then = record.frozen[key]
    own = own_tensor(owner, leaf)
    if own is None or own.is_meta or is_shard(own):
        return False
    for other in _candidates(record, key, then):
        there = other.detach().to(own.device)
        if other is not own and equal_up_to_rounding(own.detach(), there) and checksum(there) == then:
            own.detach().copy_(there)
            return True
    return False


def _candidates(record: Record, key: str, then: str) -> list[Tensor]:
    """Tensors that may still have the bits: copies of statistics, and those of models that were copied from, or to, this one."""
    kept = [record.statistics[key]] if key in record.statistics else []
    same = [other.frozen[key] for other in living_records() if key in other.frozen and other.frozen[key][2] == then]
    tensors = [own_tensor(owner, leaf) for owner, leaf, _ in same]
    return [*kept, *(t for t in tensors if t is not None and not t.is_meta and not is_shard(t))]
