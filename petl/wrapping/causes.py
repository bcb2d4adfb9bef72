"""Explains why a frozen tensor has changed, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from petl.errors import listing
from petl.methods.statistics import STATISTICS
from petl.wrapping.own_tensors import own_tensor
from petl.wrapping.record import Record
from petl.wrapping.rounding import equal_up_to_rounding, some_numbers

TO_PUT_BACK = "petl.rebase(model, base) with a fresh backbone puts the old values back"
TO_KEEP = "petl.rebase(model) takes the values as they are now for the base"

# cause -> what happened, what to do
CAUSES = {
    "cast": (
        "{were} now {are} (cast in parts, or to a smaller type and on)",
        f"cast the whole model at once; {TO_KEEP}",
    ),
    "gone": (
        "gone, or of another shape (set_input_size, another layer in their place)",
        f"do that before petl.wrap; {TO_KEEP}",
    ),
    "statistics": (
        "statistics of norms that petl holds still: something let them move (sync-BN, a part's .train(), update_bn)",
        f"petl.BN(stats='adapt') trains them; {TO_PUT_BACK}",
    ),
    "averaged": (
        "moved by very little, as averages over all weights do (ModelEmaV2, AveragedModel), and no model that is still there has "
        "the old bits",
        TO_PUT_BACK,
    ),
    "loaded": (
        "most of the base: other base weights were loaded, or all of it was unfrozen",
        f"{TO_KEEP}; {TO_PUT_BACK}",
    ),
    "written": (
        "written to: loaded, or unfrozen by hand, trained and frozen again",
        f"what still has requires_grad=True is saved; {TO_KEEP}; {TO_PUT_BACK}",
    ),
}


def explain_changes(record: Record, moved: Sequence[str]) -> str:
    """Explains, cause by cause, which tensors have changed, why, and what to do."""
    groups: dict[str, list[str]] = {}
    for key in moved:
        groups.setdefault(_cause(record, key, many=2 * len(moved) > len(record.frozen)), []).append(key)
    parts = []
    for cause, keys in groups.items():
        happened, remedy = CAUSES[cause]
        parts.append(f"{listing(keys)}: {happened.format(**_types(record, keys[0]))}; {remedy}")
    return ". ".join(parts)


def _cause(record: Record, key: str, *, many: bool) -> str:
    """Returns the key of CAUSES for one tensor; ``many``: most of the base has changed."""
    owner, leaf, recorded = record.frozen[key]
    tensor, sample = own_tensor(owner, leaf), record.samples.get(key)
    if tensor is None or str(tuple(tensor.shape)) not in recorded:
        return "gone"
    if not recorded.startswith(f"{tensor.dtype} ") or record.checksums_before_cast:
        return "cast"
    if sample is not None and not tensor.is_meta:
        current = some_numbers(tensor)
        if equal_up_to_rounding(current, sample) and not torch.equal(current, sample):
            return "averaged"
    if leaf in STATISTICS:
        return "statistics"
    return "loaded" if many else "written"


def _types(record: Record, key: str) -> dict[str, Any]:
    """Returns the dtypes that the text of the cause "cast" names."""
    owner, leaf, recorded = record.frozen[key]
    tensor = own_tensor(owner, leaf)
    return {
        "were": f"were {record.checksums_before_cast.get(key, recorded).partition(' ')[0]},",
        "are": "" if tensor is None else tensor.dtype,
    }
