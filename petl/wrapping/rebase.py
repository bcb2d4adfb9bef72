"""rebase: replaces the base of a wrapped model."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from petl.errors import StateError, listing
from petl.wrapping.fingerprints import checksum, checksums, is_unchanged
from petl.wrapping.frozen_base import follow_exchanged_layers, remember_frozen
from petl.wrapping.lookup import Model, refuse_shared, require_record
from petl.wrapping.own_tensors import own_tensor
from petl.wrapping.record import Record
from petl.wrapping.rounding import some_numbers


def rebase(model: Model, base: nn.Module | Mapping[str, Tensor] | None = None) -> Model:
    """Replaces the base of a wrapped model by its current frozen values, or by those of ``base``; trained tensors stay.

    Args:
        model: wrapped; changed in place.
        base: a plain model, or its ``state_dict``, with the same names and shapes: its values become the frozen ones. None: the
            current values of ``model`` do, for base weights that were loaded after ``wrap`` without ``load_state_dict``.

    Returns:
        The same object. Deltas saved afterwards belong to the new base, and ``unwrap`` restores the new base; only tensors that
        train in place, and a classifier that was replaced, get back their values from before ``wrap``.

    Raises:
        StateError: the model isn't wrapped, or ``base`` lacks a tensor or has another shape; the model is unchanged.

    >>> import petl, timm, torch
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3)
    >>> pretrained = timm.create_model("test_vit")
    >>> _ = petl.rebase(model, pretrained)
    >>> torch.equal(model.patch_embed.proj.weight, pretrained.patch_embed.proj.weight)
    True
    """
    plain, record = require_record(model)
    refuse_shared(plain, "rebase")
    follow_exchanged_layers(plain, record)
    if base is not None:
        _write_base(record, base.state_dict() if isinstance(base, nn.Module) else base)
    elif record.low_precision_keys:
        _update_originals(record)
    entries = {
        key: (owner, leaf) for key, (owner, leaf, _) in record.frozen.items() if own_tensor(owner, leaf) is not None
    }
    sums = checksums(own_tensor(owner, leaf) for owner, leaf in entries.values())  # type: ignore[misc]  # none is None
    record.frozen = {key: (*entry, new) for (key, entry), new in zip(entries.items(), sums, strict=True)}
    record.checksums_before_cast.clear()
    remember_frozen(plain, record)
    return model


def adopt_value(record: Record, key: str, value: Tensor) -> None:
    """Records that the frozen tensor ``key`` will get this value, as part of another base."""
    owner, leaf, _ = record.frozen[key]
    tensor = own_tensor(owner, leaf)
    if key in record.low_precision_keys:
        record.originals[key] = value.detach().to("cpu", record.originals[key].dtype, copy=True)
    new = value.detach() if tensor is None else value.detach().to(tensor.dtype)
    record.frozen[key] = (owner, leaf, checksum(new))
    record.samples[key] = some_numbers(new)
    if key in record.statistics:
        record.statistics[key] = new.clone()


def _write_base(record: Record, values: Mapping[str, Tensor]) -> None:
    """Writes these values into the frozen tensors, or raises a StateError, before any is written, where one doesn't fit."""
    tensors = {key: own_tensor(owner, leaf) for key, (owner, leaf, _) in record.frozen.items()}
    wrong = [key for key, t in tensors.items() if t is None or key not in values or values[key].shape != t.shape]
    if wrong:
        raise StateError(
            f"the base that rebase got lacks {listing(wrong)} in the model's shape; build it as the wrapped model was built"
        )
    for key, tensor in tensors.items():
        if key in record.low_precision_keys:
            record.originals[key] = values[key].detach().to("cpu", record.originals[key].dtype, copy=True)
        if tensor is not None:
            tensor.detach().copy_(values[key].detach())


def _update_originals(record: Record) -> None:
    """Replaces the originals of tensors in ``base_dtype`` whose values have changed by the current values."""
    for key in record.low_precision_keys:
        owner, leaf, recorded = record.frozen[key]
        tensor = own_tensor(owner, leaf)
        if tensor is not None and not is_unchanged(recorded, checksum(tensor)):
            record.originals[key] = tensor.detach().to("cpu", record.originals[key].dtype, copy=True)
