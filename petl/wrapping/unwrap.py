"""unwrap: restores a model to its state before wrap."""

from __future__ import annotations

import torch

from petl.errors import PetlError
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.interrupts import uninterrupted
from petl.wrapping.lookup import Model, refuse_shared, require_record
from petl.wrapping.undo import drop_record, undo


@torch.inference_mode(False)
def unwrap(model: Model) -> Model:
    """Restores the model to its state before ``wrap``: classes, keys, ``requires_grad``, training modes and every bit.

    Raises:
        StateError: the model isn't wrapped, or frozen tensors have been changed from outside, so the bits are lost.

    >>> import petl, timm
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora")
    >>> any("lora" in key for key in petl.unwrap(model).state_dict())
    False
    """
    plain, record = require_record(model)
    refuse_shared(plain, "unwrap")
    prove_frozen(plain, "unwrap can't give the base back")
    try:
        undo(plain, record, record.changes)
        drop_record(plain, record)
    except PetlError:  # raised before any change
        raise
    except BaseException:  # Ctrl-C: undo is run once more from the start, which is safe
        with uninterrupted():
            undo(plain, record, record.changes)
            drop_record(plain, record)
        raise
    return model
