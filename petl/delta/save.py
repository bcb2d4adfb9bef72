"""save: writes the trained tensors, and nothing else, to one safetensors file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.delta.description import reset_classifier_names
from petl.delta.file import Paths, path_to_write, write_delta
from petl.delta.header import Header
from petl.delta.storage import stored_as, stored_type_name
from petl.delta.tensors import as_stored, delta_tensors
from petl.errors import StateError, listing
from petl.graft.sharded import gathered
from petl.sites.names import within
from petl.wrapping.frozen_base import follow_exchanged_layers, prove_unchanged
from petl.wrapping.lookup import bare, refuse_training_outside, require_record
from petl.wrapping.record import Record


def save(
    model: nn.Module,
    path: Paths,
    *,
    labels: Iterable[Any] | None = None,
    task: str | None = None,
    units: str | Sequence[str] | None = None,
    thresholds: Sequence[float] | None = None,
    results: Mapping[str, Any] | None = None,
    dtype: torch.dtype | str | None = None,
) -> Path:
    """Writes the trained tensors, and nothing else, to one ``.safetensors`` file.

    Args:
        model: wrapped; may be compiled, distributed or prepared by accelerate. Where FSDP has sharded it, every rank calls this:
            all gather, and rank 0 writes.
        path: of the file, which appears whole or not at all. A file that is replaced keeps its permissions.
        labels: class names in the order of the outputs, one for each; whole numbers become texts.
        task: what the outputs mean: "classification" (a softmax over them; the default, except for a model with one output),
            "multilabel" (a sigmoid of each), "regression" (numbers as they are), "ordinal" (levels in order), or "metric"
            (features). `petl.fit` has written its own into the model's record, and it is taken from there.
        units: of a regression's outputs: a text, such as "years", or one for each.
        thresholds: of a multilabel task: the probability for each label from which on an image has it.
        results: anything worth keeping, as JSON values.
        dtype: store floating-point tensors in this type: "bfloat16" or "float16" (half the file), "int8" (a quarter), "int4" or
            "int3" (an eighth and less of large tensors), or a torch.dtype. Outputs after a reload are then near those of the
            model, not equal; the header says so under ``approximate``. What is small or counts stays exact: see docs/trust.md.

    Raises:
        StateError: the model isn't wrapped, or a frozen tensor has moved (the error names it).
        DeltaError: labels, task, results or dtype that no delta can have, or a path that can't be written. Nothing is written.

    >>> import petl, timm, tempfile, os
    >>> model = petl.wrap(timm.create_model("test_vit"), "lora", num_classes=3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = petl.save(model, os.path.join(folder, "pets.safetensors"), labels=["cat", "dog", "eel"])
    ...     petl.read(path)["labels"]
    ['cat', 'dog', 'eel']
    """
    to = path_to_write(path)
    meaning = {"labels": labels, "task": task, "units": units, "thresholds": thresholds}
    with gathered(bare(model)) as is_writer:
        header, tensors = delta_of(model, dtype=dtype, results=results, **meaning)
        return write_delta(to, tensors, header) if is_writer else to


def delta_of(
    model: nn.Module, *, dtype: torch.dtype | str | None = None, **meaning: Any
) -> tuple[Header, dict[str, Tensor]]:
    """Returns the header and the tensors that ``save`` writes; ``meaning``: its labels, task, units, thresholds and results.

    The tensors may share the memory of the model's.
    """
    stored_type_name(dtype)
    plain, record = require_record(model)
    refuse_training_outside(model)
    follow_exchanged_layers(plain, record)
    tensors, also = delta_tensors(plain, record)
    _refuse_strangers(plain, record, also)
    record = _without(record, also)
    prove_unchanged(record, "not saved, because the delta would not give this model back")
    header = Header.of(plain, record, also, **meaning)
    return stored_as(header, {key: as_stored(key, tensor, None) for key, tensor in tensors.items()}, dtype)


def _without(record: Record, also: Sequence[str]) -> Record:
    """Returns a copy of the record in which the keys in ``also`` don't count as frozen, so that they need no proof."""
    return Record(**{**vars(record), "frozen": {k: v for k, v in record.frozen.items() if k not in also}})


def _refuse_strangers(model: nn.Module, record: Record, also: Sequence[str]) -> None:
    """Raises a StateError for parameters that were added after ``wrap`` and that ``load`` couldn't rebuild."""
    known = {*record.frozen, *record.owned_keys}
    strange = [key for key in also if key not in known]
    if strange:
        heads = reset_classifier_names(model, record)
        strange = [key for key in strange if not within(key, heads)]
    if strange:
        raise StateError(
            f"not saved: {listing(strange)} came to this {type(model).__name__} after petl.wrap (another library's layers, or "
            f"modules put in by hand), and petl.load couldn't make them again; change the model before petl.wrap, or name the "
            f"other library's method there: petl.wrap(model, ['lora', 'peft:LoHa'])"
        )
