"""rebase: gives a wrapped model another base."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from petl.errors import StateError, listing
from petl.wrapping.fingerprints import checksum, checksums, is_unchanged
from petl.wrapping.frozen_base import follow_exchanged_layers, remember_frozen
from petl.wrapping.lookup import Model, require_record
from petl.wrapping.own_tensors import own_tensor
from petl.wrapping.record import Record
from petl.wrapping.rounding import some_numbers


def rebase(model: Model, base: nn.Module | Mapping[str, Tensor] | None = None) -> Model:
    """Gives a wrapped model another base: the frozen values that it has now, or those of ``base``; what trains stays.

    Args:
        model: wrapped; changed in place.
        base: a plain model, or its ``state_dict``, with the same names and shapes: its values become the frozen ones. None: the
            values that ``model`` has now do, for base weights that were loaded after ``wrap`` by a way that petl can't see.

    Returns:
        The same object. Deltas saved from now on belong to the new base, and ``unwrap`` gives that one back; tensors that train
        in place, and a classifier that was replaced, get their values from before ``wrap`` again.

    Raises:
        StateError: the model isn't wrapped, or ``base`` lacks a tensor or has another shape; nothing has changed.

    >>> import petl, timm, torch
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3)
    >>> pretrained = timm.create_model("test_vit")
    >>> _ = petl.rebase(model, pretrained)
    >>> torch.equal(model.patch_embed.proj.weight, pretrained.patch_embed.proj.weight)
    True
    """
    plain, record = require_record(model)
    follow_exchanged_layers(plain, record)
    if base is not None:
        _write_base(record, base.state_dict() if isinstance(base, nn.Module) else base)
    elif record.low_precision_keys:
        _update_originals(record)
    there = {key: entry for key, entry in record.frozen.items() if own_tensor(entry[0], entry[1]) is not None}
    sums = checksums(own_tensor(owner, leaf) for owner, leaf, _ in there.values())  # type: ignore[misc]  # none is None
    record.frozen = {key: (owner, leaf, now) for (key, (owner, leaf, _)), now in zip(there.items(), sums, strict=True)}
    record.checksums_before_cast.clear()
    remember_frozen(plain, record)
    return model


def adopt_value(record: Record, key: str, value: Tensor) -> None:
    """Notes on the record that the frozen tensor ``key`` is about to get this value, as part of another base."""
    owner, leaf, _ = record.frozen[key]
    own = own_tensor(owner, leaf)
    if key in record.low_precision_keys:
        record.originals[key] = value.detach().to("cpu", record.originals[key].dtype, copy=True)
    frozen = value.detach() if own is None else value.detach().to(own.dtype)
    record.frozen[key] = (owner, leaf, checksum(frozen))
    record.samples[key] = some_numbers(frozen)
    if key in record.statistics:
        record.statistics[key] = frozen.clone()


def _write_base(record: Record, values: Mapping[str, Tensor]) -> None:
    """Writes these values into the frozen tensors, once all are known to fit."""
    own = {key: own_tensor(owner, leaf) for key, (owner, leaf, _) in record.frozen.items()}
    wrong = [key for key, t in own.items() if t is None or key not in values or values[key].shape != t.shape]
    if wrong:
        raise StateError(
            f"the base that rebase got lacks {listing(wrong)} in the model's shape; build it as the wrapped model was built"
        )
    for key, tensor in own.items():
        if key in record.low_precision_keys:
            record.originals[key] = values[key].detach().to("cpu", record.originals[key].dtype, copy=True)
        if tensor is not None:
            tensor.detach().copy_(values[key].detach())


def _update_originals(record: Record) -> None:
    """Where a tensor in ``base_dtype`` has got other numbers, these are the original's from now on."""
    for key in record.low_precision_keys:
        owner, leaf, then = record.frozen[key]
        own = own_tensor(owner, leaf)
        if own is not None and not is_unchanged(then, checksum(own)):
            record.originals[key] = own.detach().to("cpu", record.originals[key].dtype, copy=True)
